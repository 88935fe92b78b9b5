"""Batches for training, as index operations on images in memory."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from datasets.reader import normalize


@dataclass(frozen=True)
class TrainingBatches:
    """The training batches between two validations, in an order that depends on the seed alone.

    Every epoch is a new permutation. Batches run over its end into the next one, so all have the
    same size. A batch depends only on the seed and the number of its step, so a resumed training
    sees the batches that an uninterrupted one would have seen.

    Attributes:
        pixels: (N, 3, S, S), 0..255.
        batch_size: images in a batch; N if there are fewer images.
        seed: decides the order.
        next_step: returns the number of steps done, where iteration starts.
        interval: iteration ends when the number of steps is a multiple of it ...
        last_step: ... or has reached this.
        device: where the batches go.
        share: the part of every batch that this process takes.
    """

    pixels: Tensor
    batch_size: int
    seed: int
    next_step: Callable[[], int]
    interval: int
    last_step: int
    device: torch.device
    share: slice

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches (B, 3, S, S) in [-1, 1]."""
        start = self.next_step()
        end = min((start // self.interval + 1) * self.interval, self.last_step)
        for step in range(start, end):
            index = torch.from_numpy(self._indices(step)[self.share]).to(self.pixels.device)
            yield normalize(self.pixels[index].to(self.device, non_blocking=True))

    def _indices(self, step: int) -> np.ndarray:
        count = len(self.pixels)
        size = min(self.batch_size, count)
        epochs, places = np.divmod(step * size + np.arange(size), count)
        each = zip(epochs.tolist(), places, strict=True)
        return np.array([_order(self.seed, epoch, count)[place] for epoch, place in each])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def steps_of_epochs(epochs: int, images: int, batch_size: int) -> int:
    """Training steps in a number of epochs; batches run over the end of an epoch."""
    return math.ceil(epochs * images / min(batch_size, images))
