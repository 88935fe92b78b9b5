"""Work that several threads share."""

import signal

import pytest

from crn.system.hardware import in_threads


def test_results_come_in_order():
    assert in_threads(lambda index: index * index, 100, threads=3) == [n * n for n in range(100)]
    assert in_threads(str, 0, threads=3) == []


def test_an_error_comes_when_all_calls_have_ended():
    begun, ended = [], []

    def act(index: int) -> None:
        begun.append(index)
        if index == 3:
            raise ValueError(index)
        ended.append(index)

    with pytest.raises(ValueError, match="3"):
        in_threads(act, 1000, threads=2)
    assert sorted(begun) == sorted([*ended, 3])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="the system has no such masks")
def test_ctrl_c_comes_to_the_main_thread_alone():
    def blocked(_: int = 0) -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert in_threads(blocked, 10, threads=2) == [True] * 10
    assert not blocked()
