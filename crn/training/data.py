"""The images of a training run as a LightningDataModule."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from crn.system.hardware import to_device_if_it_fits
from crn.training.batches import TrainingBatches
from crn.training.module import module_of
from crn.training.processes import Place
from datasets.reader import image_batches, normalize, read_images
from datasets.samples import TEST, TRAIN, Sample

VALIDATION_BATCH = 64


class InMemoryData(pl.LightningDataModule):
    """Both splits, decoded once, as tensors on the training device."""

    def __init__(
        self, samples: Sequence[Sample], size: int, workers: int, place: Place, interval: int
    ) -> None:
        """Decode the images of both splits, as `read_images` does.

        Args:
            samples, size, workers: as for `read_images`.
            place: of this process among those that train together.
            interval: training steps between two validations, which Lightning calls an epoch.
        """
        super().__init__()
        self.train, self.test = ([s for s in samples if s.split == x] for x in (TRAIN, TEST))
        images = read_images([*self.train, *self.test], size, workers)
        self.sizes = images.sizes
        self.train_pixels, self.test_pixels = images.pixels.split((len(self.train), len(self.test)))
        self.test_labels = torch.tensor([sample.label for sample in self.test])
        self.interval = interval
        self._workers = workers
        self._place = place

    @cached_property
    def fingerprint(self) -> str:
        """16 characters that differ between any two test splits whose AUROC do not compare."""
        digest = hashlib.blake2b(self.test_labels.numpy().tobytes(), digest_size=8)
        digest.update(memoryview(self.test_pixels.numpy().reshape(-1)).cast("B"))
        return digest.hexdigest()

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    def train_dataloader(self) -> TrainingBatches:
        """The batches of the remaining steps."""
        assert self.trainer is not None
        model = module_of(self.trainer)
        optimization = model.config.optimization
        device = self._device
        return TrainingBatches(
            to_device_if_it_fits(self.train_pixels, device),
            optimization.batch_size,
            model.config.seed,
            next_step=lambda: model.step,
            interval=self.interval,
            last_step=optimization.training_steps,
            device=device,
            share=self._place.share(min(optimization.batch_size, len(self.train_pixels))),
        )

    def share(self, split: str) -> slice:
        """The part of a split that this process measures or scores."""
        return self._place.share(len(self.train if split == TRAIN else self.test))

    def images(self, split: str, size: int | None = None) -> Iterator[Tensor]:
        """Yield this process's `share` of a split as batches (B, 3, size, size) in [-1, 1].

        Args:
            split: `TRAIN` or `TEST`.
            size: width and height; images of another size than those in memory are read again.

        Raises:
            UserError: a file cannot be read.
        """
        is_train, share = split == TRAIN, self.share(split)
        pixels = (self.train_pixels if is_train else self.test_pixels)[share]
        batches: Iterable[Tensor] = pixels.split(VALIDATION_BATCH)
        if size not in (None, pixels.shape[-1]):
            samples = (self.train if is_train else self.test)[share]
            batches = image_batches(samples, size, self._workers)
        for batch in batches:
            yield normalize(batch.to(self._device, non_blocking=True))

    def test_images(self, index: Tensor, size: int | None = None) -> Tensor:
        """Some test images by their indices (B,): (B, 3, size, size) in [-1, 1], as `images`."""
        pixels = self.test_pixels[index]
        if size not in (None, pixels.shape[-1]):
            samples = [self.test[each] for each in index]
            (pixels,) = image_batches(samples, size, batch=len(samples))
        return normalize(pixels)

    def val_dataloader(self) -> DataLoader:
        """The part of the test split that this process scores: pixels and labels."""
        share = self.share(TEST)
        pixels = to_device_if_it_fits(self.test_pixels[share], self._device)
        data = TensorDataset(pixels, self.test_labels[share])
        # A generator of its own: a loader draws a number whenever it starts.
        return DataLoader(data, VALIDATION_BATCH, generator=torch.Generator())
