"""Callbacks around the training steps: checkpoints, signals, progress and pictures."""

import logging
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from crn.checkpoints.writing import write_checkpoint
from crn.config import BEST, LAST
from crn.errors import Diverged, DivergedInOneProcess
from crn.evaluation.results import AUROC_UNDEFINED
from crn.report.pictures import has_same_picture, picture_grid, write_picture
from crn.system.files import hard_link, set_aside
from crn.training.distributed import STOP_SIGNALS, StopRequest
from crn.training.module import module_of

log = logging.getLogger(__name__)

# A kill loses at most ten minutes of training, and less if checkpoints are so small that writing
# them more often takes no more than this share of the time.
SECONDS_BETWEEN_CHECKPOINTS = 600.0
SHARE_OF_TIME_FOR_CHECKPOINTS = 0.01
# Guessed until the first one has been written, which is therefore after ten seconds.
SECONDS_TO_WRITE_GUESSED = 0.1

GRID_IMAGES = 8


class Checkpoints(pl.Callback):
    """Keep last.ckpt, and best.ckpt with the highest validation AUROC so far.

    last.ckpt is written at least every ten minutes, at every best validation, and when the training
    ends or is stopped. It is written between two steps, after any validation of the first, so a
    resumed training goes on exactly as this one would have. best.ckpt is a hard link to it. A state
    that is not finite replaces neither file.
    """

    def __init__(self, folder: Path, mine: Collection[Path] = (), tiles: str | None = None) -> None:
        """Write nothing yet.

        Args:
            folder: where checkpoints are written.
            mine: files that this training may replace, since it goes on from them; other files with
                their names are renamed.
            tiles: the tiles.json of the images, which says how point clouds become such images.
        """
        self._tiles = {} if tiles is None else {"tiles": tiles}
        self.best, self.last = folder / BEST, folder / LAST
        self._mine = set(mine)
        self._saved_at = time.monotonic()
        self._seconds_to_write = SECONDS_TO_WRITE_GUESSED

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save if this validation was the best so far, or if there is nothing to train."""
        model = module_of(trainer)
        if model.is_best or not model.method.networks:
            self.save_last(trainer)
        # Also without an AUROC, because best.ckpt of another run is not this one's.
        if model.is_best or model.max_roc_auc < 0:
            self._make_way_for(self.best)
        # Writing large networks twice would take as long as many steps.
        if model.is_best and not hard_link(self.last, self.best):
            self._save(trainer, self.best)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save if the last time is long enough ago."""
        longest = min(
            SECONDS_BETWEEN_CHECKPOINTS, self._seconds_to_write / SHARE_OF_TIME_FOR_CHECKPOINTS
        )
        if time.monotonic() - self._saved_at >= longest:
            self.save_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save the final state."""
        self.save_last(trainer)

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        """Save when a signal stops the training, or the state before a step that diverges.

        If scores are not finite, that state has diverged, too, and last.ckpt stays as it is.
        """
        if type(exception) is Stopped:
            self.save_last(trainer)
        elif (
            isinstance(exception, Diverged)
            and not trainer.validating
            and module_of(trainer).is_finite()
        ):
            # Keep the earlier one: this may be too close to the divergence to go on from.
            set_aside(self.last)
            self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Replace last.ckpt by the present state.

        Raises:
            Diverged: the state is not finite.
            UserError: it cannot be written.
        """
        self._save(trainer, self.last)
        self._saved_at = time.monotonic()
        log.info("saved %s at step %d", self.last, module_of(trainer).step)

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        model = module_of(trainer)
        if not model.is_finite():
            raise DivergedInOneProcess(str(model.diverged(model.step, "the weights")))
        self._make_way_for(path)
        start = time.monotonic()
        write_checkpoint({**model.checkpoint(), **self._tiles}, path)
        self._seconds_to_write = time.monotonic() - start

    def _make_way_for(self, path: Path) -> None:
        if path not in self._mine:
            set_aside(path)
            self._mine.add(path)


class Stopped(BaseException):
    """A signal has stopped the training. Like KeyboardInterrupt, it is not an error.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StoppedAtOnce(Stopped):
    """A signal has stopped this process alone: a second one in a step, or one before any step."""


class StopOnSignal(pl.Callback):
    """On one of `STOP_SIGNALS`, finish the current step and stop; a second stops at once.

    It takes the signals inside a ``with`` statement. If the process was started to ignore a closed
    terminal, as by nohup, it still does.
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._take_signals()

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def on_train_start(self, *_: Any) -> None:
        """Take SIGTERM back from Lightning, which would stop without saving."""
        self._take_signals()

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop if a signal has arrived.

        Raises:
            Stopped: names the signal.
        """
        if self._stop.agreed is not None:
            raise Stopped(self._stop.agreed)

    def _take_signals(self) -> None:
        for number in STOP_SIGNALS:
            ignored = signal.Signals(number).name == "SIGHUP" and number not in self._previous
            if not (ignored and signal.getsignal(number) == signal.SIG_IGN):
                self._previous.setdefault(number, signal.signal(number, self._handle))

    def _handle(self, number: int, frame: Any) -> None:  # noqa: ARG002
        at_once = self._stop.received is not None or self._stop.is_at_once
        self._stop.received = number
        when = "at once" if at_once else "after this step"
        log.warning("%s: stopping %s", signal.Signals(number).name, when)
        if at_once:
            raise StoppedAtOnce(number)


class StepProgress(pl.Callback):
    """One bar over all training steps, with the latest losses and AUROC."""

    _SHOWN: ClassVar = {
        "losses/generator": "gen",
        "losses/discriminator": "disc",
        "metrics/roc_auc": "auroc",
        "metrics/max_roc_auc": "max",
    }

    def __init__(self, training_steps: int) -> None:
        self._steps = training_steps
        self._bar: tqdm | None = None

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Open the bar at the step where the training starts or goes on."""
        # None shows the bar only on a terminal, so that log files stay readable.
        self._bar = tqdm(
            total=self._steps, initial=module_of(trainer).step, unit="step", disable=None
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Advance by one step."""
        assert self._bar is not None
        self._bar.update(module_of(trainer).step - self._bar.n)
        metrics = trainer.callback_metrics
        self._bar.set_postfix(
            {
                short: f"{metrics[name]:.3f}"
                for name, short in self._SHOWN.items()
                if name in metrics
            },
            refresh=False,
        )

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Log the AUROC if no bar shows it."""
        if self._bar is not None and self._bar.disable:
            said, metrics = AUROC_UNDEFINED, trainer.callback_metrics
            if "metrics/roc_auc" in metrics:
                current, best = (metrics[f"metrics/{name}roc_auc"] for name in ("", "max_"))
                said = f"AUROC {current:.3f}, best so far {best:.3f}"
            log.info("step %d/%d: %s", module_of(trainer).step, self._steps, said)

    def on_train_end(self, *_: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, *_: Any) -> None:
        """Close the bar."""
        self.on_train_end()


@dataclass(eq=False)
class PictureGrids(pl.Callback):
    """Writes reconstructions and anomaly maps of some test images.

    Attributes:
        folder: for step_000500.png and so on.
        images: (B, 3, S, S) in [-1, 1].
        interval: training steps between two grids.
        large: the same images, (B, 3, L, L) in [-1, 1], for the features of patches.
    """

    folder: Path
    images: Tensor
    interval: int
    large: Tensor

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write a grid at the end of an interval."""
        model = module_of(trainer)
        if model.step % self.interval:
            return
        model.eval()
        with torch.no_grad():
            images = self.images.to(model.device)
            patches = model.scorer.patches
            distances = None if patches is None else patches(self.large.to(model.device))
            scored = model.score(images, distances)
        model.train()
        anomaly_maps = scored.maps[model.config.scoring.anomaly_score]
        assert scored.reconstruction is not None  # there are networks
        grid = picture_grid(images, scored.reconstruction, anomaly_maps)
        path = self.folder / f"step_{model.step:06d}.png"
        # A run that was killed after its last checkpoint has written the same picture.
        if not has_same_picture(path, grid):
            set_aside(path)
            write_picture(grid, path)
