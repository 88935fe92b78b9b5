"""The images of a training as a LightningDataModule."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch

from crn.system.processes import Place
from datasets.memory import EvaluationBatches, TrainingBatches, to_device_if_it_fits
from datasets.reader import read_images
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
        by_split = {split: [s for s in samples if s.split == split] for split in (TRAIN, TEST)}
        self.train_pixels = read_images(by_split[TRAIN], size, workers).pixels
        self.test_pixels = read_images(by_split[TEST], size, workers).pixels
        self.test_labels = torch.tensor([sample.label for sample in by_split[TEST]])
        self.interval = 1
        self._place = place

    def train_dataloader(self) -> TrainingBatches:
        """The batches of the steps that are left."""
        model = self.trainer.lightning_module
        optimization = model.config.optimization
        device = self.trainer.strategy.root_device
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

    def val_dataloader(self) -> EvaluationBatches:
        """The part of the test split that this process scores."""
        device = self.trainer.strategy.root_device
        share = self._place.share(len(self.test_labels))
        pixels = to_device_if_it_fits(self.test_pixels[share], device)
        return EvaluationBatches(pixels, self.test_labels[share], VALIDATION_BATCH, device)
