"""What processes that train together exchange: weights once, then one all-reduce in every step."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed

from crn.errors import UserError
from crn.training.processes import STARTED_BY

T = TypeVar("T")

# Ctrl-C, `kill`, a cluster that announces the end of a job, and a terminal that is closed.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)  # Windows has only the first two
)

# How long a process may take to end after the training has ended, in seconds.
_PATIENCE = 60


class UnwrappedDDPStrategy(pl.strategies.DDPStrategy):
    """Lightning's DDP without torch's wrapper around the model.

    In a step, two of N units have gradients. The wrapper would send the gradients of all N, most of
    them zeros, and keep buffers as large as the model. Instead, the training step averages the
    gradients of the two with `average_`.
    """

    def configure_ddp(self) -> None:
        """Start all processes from the weights of process 0.

        Raises:
            UserError: this process has other options or another checkpoint.
        """
        assert self.lightning_module is not None
        model: Any = self.lightning_module
        mine = (model.config, model.step)
        if self.broadcast(mine) != mine:
            raise UserError(
                "the processes that train together were given different options or checkpoints"
            )
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, src=0)


def is_several() -> bool:
    """Whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


@torch.no_grad()
def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over all processes, with one all-reduce."""
    means = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(means)
    means /= distributed.get_world_size()
    parts = means.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def gather(value: T) -> list[T]:
    """The values of all processes, by their rank."""
    if not is_several():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def seed_dropout(seed: int, step: int) -> None:
    """Seed dropout differently in every process, from seed and step alone.

    A single process keeps its generator, whose state is in the checkpoint.
    """
    if is_several():
        draw = random.Random(f"dropout {seed} {step} {distributed.get_rank()}")
        torch.manual_seed(draw.getrandbits(63))


class StopRequest:
    """A signal that one process receives and on which all stop after the same step.

    It travels with the averages of a step, so the others learn of it after the next step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.is_at_once = False
        self._flags: Tensor | None = None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let even the first signal stop the work inside, of which nothing would be saved."""
        self.is_at_once = True
        try:
            yield
        finally:
            self.is_at_once = False

    def flags(self, device: torch.device) -> Tensor:
        """Which of `STOP_SIGNALS` this process has received, to be averaged in place."""
        # Made on the device: a copy from the host would wait for the GPU's queue.
        self._flags = torch.zeros(len(STOP_SIGNALS), device=device)
        if self.received is not None:
            self._flags[STOP_SIGNALS.index(self.received)].fill_(1)
        return self._flags

    @property
    def agreed(self) -> int | None:
        """The signal that has reached any process and that all processes know of."""
        if not is_several():
            return self.received
        if self._flags is None:
            return None
        shares = zip(STOP_SIGNALS, self._flags.tolist(), strict=True)
        return next((number for number, share in shares if share), None)


@contextmanager
def no_process_left(trainer: pl.Trainer, *agreed: type[BaseException]) -> Iterator[None]:
    """Wait at the end for the processes that Lightning has started, or kill them on an error.

    Args:
        trainer: its `fit` is what runs inside.
        agreed: exceptions that all processes raise after the same step, so that each ends by
            itself; subclasses do not count.
    """
    together = False
    os.environ[STARTED_BY] = str(os.getpid())
    try:
        yield
        together = True
    except agreed as exception:
        together = type(exception) in agreed
        raise
    finally:
        del os.environ[STARTED_BY]
        for process in getattr(trainer.strategy.launcher, "procs", ()):
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE if together else 0)
            process.kill()  # does nothing where it has ended
            process.wait()
