"""Work that several threads share."""

import signal
import threading
import time

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


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_waits_until_the_threads_have_started(monkeypatch):
    """A pool does not wait for one that it is interrupted in starting."""
    start, ended = threading.Thread.start, []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        signal.raise_signal(signal.SIGINT)

    def act(index: int) -> None:
        time.sleep(0.01)
        ended.append(index)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_threads(act, 10, threads=2)
    assert sorted(ended) == [*range(10)]
