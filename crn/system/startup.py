"""What makes the program start, train and end sooner, each with what it gained when measured.

On two cores, medians of paired runs, quiet and busy; ``python -m benchmarks.startup`` measures
anew. The program does the same without any of it, and none of it may stop a run.
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
    """Let OpenMP's threads sleep soon where they wait for each other; before torch is imported.

    GNU's library, that of torch on Linux, has them spin 300,000 times by default, and on a busy
    machine they take the cores from those that they wait for: with ten other processes on two cores
    40 steps of the demo took 92 s (69 to 119), and take 11 (10 to 20). Intel's, of LLVM's sources,
    yields while it waits; a shorter KMP_BLOCKTIME gains no more than chance (27, 35; 26, 23 s).
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "2000"


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Not to look for garbage among the million objects that imports make saves 0.7 to 1.1 s.

    Nor to look at them again later: freezing them saves 0.2 to 1.7 s of 12 s of the demo, on a busy
    machine, in each of five pairs.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        # Extensions report as leaked what is still frozen when the interpreter ends.
        atexit.register(gc.unfreeze)
        gc.enable()


def leave(status: int) -> NoReturn:
    """End the process at once: to take all that torch imports apart takes 1.2 to 2.1 s.

    Who runs the program from Python, such as a profiler, gets it back instead.
    """
    is_started_directly = sys._getframe(1).f_back is None
    run_exit_functions = getattr(atexit, "_run_exitfuncs", None)
    if not is_started_directly or run_exit_functions is None:
        sys.exit(status)
    # All is done: Ctrl-C has nothing left to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_exit_functions()
    for stream in (sys.stdout, sys.stderr):
        # One that nobody reads breaks.
        with suppress(OSError):
            stream.flush()
    os._exit(status)
