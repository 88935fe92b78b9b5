"""The images of a training as a LightningDataModule."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import pytorch_lightning as pl
import torch
from torch import Tensor

from crn.system.hardware import to_device_if_it_fits
from crn.training.batches import EvaluationBatches, TrainingBatches
from crn.training.module import module_of
from crn.training.processes import Place
from datasets.reader import normalize, read_images
from datasets.samples import TEST, TRAIN, Sample

VALIDATION_BATCH = 64


class InMemoryData(pl.LightningDataModule):
    """Both splits, decoded once, as tensors on the training device."""

    def __init__(self, samples: Sequence[Sample], size: int, workers: int, place: Place) -> None:
        """Decode all images.

        Attributes:
            interval: training steps between two validations, which Lightning calls an epoch.

        Raises:
            UserError: a file cannot be read.
        """
        super().__init__()
        train, test = ([s for s in samples if s.split == split] for split in (TRAIN, TEST))
        pixels = read_images([*train, *test], size, workers).pixels
        self.train_pixels, self.test_pixels = pixels.split((len(train), len(test)))
        self.test_labels = torch.tensor([sample.label for sample in test])
        self.interval = 1
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
        """The batches of the steps that are left."""
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

    def normal_images(self) -> Iterator[Tensor]:
        """The part of the training images that this process measures, (B, 3, S, S) in [-1, 1]."""
        device = self._device
        pixels = self.train_pixels[self._place.share(len(self.train_pixels))]
        for batch in pixels.split(VALIDATION_BATCH):
            yield normalize(batch.to(device, non_blocking=True))

    def val_dataloader(self) -> EvaluationBatches:
        """The part of the test split that this process scores."""
        device = self._device
        share = self._place.share(len(self.test_labels))
        pixels = to_device_if_it_fits(self.test_pixels[share], device)
        return EvaluationBatches(pixels, self.test_labels[share], VALIDATION_BATCH, device)
