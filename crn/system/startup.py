"""Settings that make the program start, train and exit faster; none is needed.

``python -m benchmarks.startup`` measures what they save; the times below are from two cores.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


def let_idle_threads_sleep() -> None:
    """Make waiting OpenMP threads sleep earlier; to be called before torch is imported.

    GNU's OpenMP, which torch uses on Linux, lets a waiting thread spin 300,000 times; on a busy
    machine this takes the cores from the threads it waits for. With ten other processes on two
    cores, 40 steps of the demo took 92 s before and take 11 s now. LLVM's OpenMP yields while it
    waits and needs no such setting.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "2000"


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection during imports (about 1 s faster).

    The million objects that they make are frozen, so that later collections skip them (up to 1.7 s
    of 12 s of the demo).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        # Extensions report frozen objects as leaked when the interpreter ends.
        atexit.register(gc.unfreeze)
        gc.enable()


def leave(status: int) -> NoReturn:
    """End the process at once, which skips 1.2 to 2.1 s of unloading torch and its imports.

    If the program was started from Python, as by a profiler, it exits normally.
    """
    is_started_directly = sys._getframe(1).f_back is None
    if not is_started_directly:
        sys.exit(status)
    # Everything is done: Ctrl-C has nothing left to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # A stream without a reader raises an error.
        with suppress(OSError):
            stream.flush()
    os._exit(status)
