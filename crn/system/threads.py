"""Work that several threads share."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def in_threads(act: Callable[[int], T], count: int, threads: int) -> list[T]:
    """The results of ``act(0)`` to ``act(count - 1)``, in this order.

    An error, or Ctrl-C, goes on to the caller when the calls under way have ended.
    """
    with ThreadPoolExecutor(threads) as pool:
        with _without_ctrl_c():
            results = pool.map(act, range(count))
        return list(results)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Keep Ctrl-C waiting while threads start: a pool does not wait for one that it interrupts.

    The threads keep it waiting for good, so it comes to the main thread.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
