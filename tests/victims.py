"""Processes that run the program and can be killed; none of them has to import torch.

They are forked from a server that has imported everything and run nothing. It has no threads of
torch, and with OMP_NUM_THREADS=1, which conftest.py sets, its children need none.
"""

import ctypes
import multiprocessing
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from conftest import REPOSITORY

# The program, what it imports later, and what multiprocessing imports in a child if pytest was
# started by its script.
_IMPORTED = (
    "train", "crn.train", "crn.infer", "sklearn.metrics", "torchvision.utils",
    "torch._dynamo", "PIL.JpegImagePlugin", "pytest", "victims",
)  # fmt: skip

# A process that is silent for so many seconds hangs.
PATIENCE = 120


class Ended(NamedTuple):
    """How a process ended: its exit status, -N if signal N killed it, and its output."""

    status: int
    err: str


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED])
    paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))
    with patch.dict(os.environ, PYTHONPATH=paths):
        forkserver.ensure_running()
    return context


class Victim:
    """A process that runs a function in a folder.

    Attributes:
        folder: where it runs.
        err: what it has written to both streams, as far as it has been read.
    """

    def __init__(self, folder: Path, act: Callable[..., int | None], *arguments: Any) -> None:
        """Start it; the result of ``act(*arguments)`` is its exit status."""
        folder.mkdir(exist_ok=True)
        context = _server()
        self.folder, self.err = folder, ""
        self._read, write = context.Pipe(duplex=False)
        self._process = context.Process(target=_act, args=(folder, write, act, arguments))
        self._process.start()
        write.close()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, *numbers: int) -> None:
        """Send signals, unless the process has ended."""
        for number in numbers:
            if self.is_alive:
                os.kill(self._process.pid, number)

    def wait_for(self, text: str, times: int = 1) -> bool:
        """Wait until the process has written a text several times; False if it ended before."""
        while self.err.count(text) < times:
            if not self._hear():
                return False
        return True

    def end(self) -> Ended:
        """Wait until it has ended."""
        while self._hear():
            pass
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None
        return Ended(self._process.exitcode, self.err)

    def succeed(self) -> str:
        """Wait until it has ended with status 0, and return its output."""
        status, err = self.end()
        assert status == 0, err
        return err

    def _hear(self) -> bool:
        """Read a piece of its output; False at the end."""
        ready, _, _ = select.select([self._read], [], [], PATIENCE)
        assert ready, f"silent for {PATIENCE} s after:\n{self.err}"
        piece = os.read(self._read.fileno(), 1 << 16)
        self.err += piece.decode(errors="replace")
        return bool(piece)


def _act(folder: Path, err: Any, act: Callable[..., int | None], arguments: tuple) -> None:
    """Run in the process."""
    os.dup2(err.fileno(), 1)
    os.dup2(err.fileno(), 2)
    err.close()
    os.chdir(folder)
    # As a shell starts programs, whatever the parents of this process ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        status = act(*arguments)
        # Signals are for the program, and for nothing after it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # the program had just returned
        status = 128 + signal.SIGINT
    sys.stdout.flush()
    os._exit(status)


def run_program(
    words: Sequence[Any],
    saves_every_step: bool = False,
    file_size: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run the program; the ``act`` of a `Victim`.

    Args:
        words: its command line.
        saves_every_step: write last.ckpt at every step instead of every ten minutes.
        file_size: the largest size of a file, in bytes.
        environment: variables to set first.
    """
    from crn.training import callbacks
    from train import main

    os.environ.update(environment or {})
    if saves_every_step:
        callbacks.SECONDS_BETWEEN_CHECKPOINTS = 0
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    return main([str(word) for word in words])


def run_and_measure(words: Sequence[Any], is_privileged: bool = True) -> int:
    """Run the program, and write its peak memory in bytes to the file "memory".

    Args:
        words: its command line.
        is_privileged: False to deny root, too, files without permission.
    """
    if not is_privileged and sys.platform == "linux":
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
        ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())
    status = run_program(words)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path("memory").write_text(str(most if sys.platform == "darwin" else most * 1024))
    return status
