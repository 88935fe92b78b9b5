"""What a training run will do, checked before any image is read."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from crn.checkpoints.reading import Checkpoint
from crn.command_line import DEMO_LIMITS, uses_demo_sample, warn_of_flags_without_effect
from crn.config import BEST, LAST, UNTRAINED_MODELS, Options, Run
from crn.errors import UserError
from crn.system.files import claimed
from crn.training.batches import steps_of_epochs
from crn.training.processes import Place
from crn.training.resuming import resume
from datasets.samples import TEST, TRAIN, Sample

log = logging.getLogger(__name__)

# Where --validation-interval is not given.
MOST_VALIDATIONS = 20
# The folder of picture grids in --image-output-path.
GRIDS = "training"


@dataclass(frozen=True)
class Plan:
    """A training run.

    Attributes:
        options: with those of the checkpoint, and with the number of steps.
        resumed: the checkpoint that training goes on from, if any.
        interval: training steps between two validations.
    """

    options: Options
    resumed: Checkpoint | None
    interval: int

    @property
    def start(self) -> int:
        """Training steps that are already done."""
        return self.resumed.progress["step"] if self.resumed else 0

    def checkpoint_folder(self, logs: Path) -> Path | None:
        """The folder for checkpoints, if any; the demo stores them beside its logs."""
        default = logs if uses_demo_sample(self.options) else None
        return self.options.output.checkpoint_path or default

    @property
    def nothing_to_do(self) -> str:
        """Why there is nothing to train; empty if there is."""
        path, steps = self.options.run.model_input, self.options.optimization.training_steps
        if self.resumed and self.options.run.model in UNTRAINED_MODELS:
            return f"{path} has nothing to train"
        return f"{path} has had {self.start} of {steps} steps" if self.start >= steps else ""


@contextmanager
def planned(options: Options, samples: Sequence[Sample], place: Place) -> Iterator[Plan]:
    """Plan a training run, and reserve its outputs until it ends.

    Raises:
        UserError: the checkpoint, the processes or the outputs cannot be used.
    """
    folder, pictures = options.output.checkpoint_path, options.output.image_output_path
    outputs = [folder / BEST, folder / LAST] if folder else []
    outputs += [pictures / GRIDS] if pictures else []
    with claimed(*(outputs if place.rank == 0 else ())):
        options, resumed = resume(options)
        images = {split: sum(s.split == split for s in samples) for split in (TRAIN, TEST)}
        if place.count > 1:
            _check_processes(options.run, options.optimization.batch_size, images, place.count)
        warn_of_flags_without_effect(options)
        config = options.optimization
        steps, batch_size = config.training_steps, config.batch_size
        if config.epochs is not None:
            steps = steps_of_epochs(config.epochs, images[TRAIN], batch_size)
        if options.run.demo:
            steps = min(steps, DEMO_LIMITS["training_steps"])
        epoch = steps_of_epochs(1, images[TRAIN], batch_size)
        interval = options.output.validation_interval or max(epoch, steps // MOST_VALIDATIONS)
        yield Plan(options.replace(training_steps=steps), resumed, interval)


def _check_processes(run: Run, batch_size: int, images: dict[str, int], count: int) -> None:
    """Refuse processes that lack a GPU or an image, or cannot have equal shares of a batch.

    With unequal shares the mean of their gradients would not be the gradient of the batch.
    """
    gpus = torch.cuda.device_count()
    if not run.cpu and run.devices > gpus:
        raise UserError(
            f"--devices {run.devices}: this machine has {gpus} GPUs; give fewer, or --cpu"
        )
    if batch_size % count:
        raise UserError(
            f"--batch-size {batch_size} is shared by {count} processes (--devices, --num-nodes): "
            f"give a multiple of {count}"
        )
    if min(images.values()) < count:
        raise UserError(
            f"--devices and --num-nodes make {count} processes, more than there are images "
            f"to train on ({images[TRAIN]}) or to test on ({images[TEST]}): give fewer"
        )
    if batch_size > images[TRAIN] and images[TRAIN] % count:
        raise UserError(
            f"--batch-size {batch_size}: there are {images[TRAIN]} images to train on, which "
            f"{count} processes (--devices, --num-nodes) cannot share evenly; give "
            f"{images[TRAIN] // count * count}"
        )
