"""What happens around the training steps: progress, checkpoints, signals, pictures."""

import logging
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from crn.checkpoint import write_checkpoint
from crn.errors import Diverged
from crn.lightning import pl
from crn.parallel import STOP_SIGNALS, StopRequest
from crn.pictures import picture_grid
from crn.scores import score_pairs

log = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 600.0
GRID_IMAGES = 8


class WholeCheckpoints(pl.plugins.io.TorchCheckpointIO):
    """Lightning's checkpoint files through this program's own writer, and read without code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options=None) -> None:  # noqa: ARG002
        """Write ``checkpoint`` whole or not at all."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location="cpu", weights_only=True) -> dict[str, Any]:  # noqa: ARG002
        """Read tensors and plain values only."""
        return torch.load(path, map_location="cpu", weights_only=True)


class Checkpoints(pl.Callback):
    """Keep best.ckpt, of the highest validation AUROC so far, and last.ckpt.

    last.ckpt is written every ten minutes, and when the training ends or is stopped: between two
    steps, when all that belongs to the one before, a validation among it, is done. So a resumed
    training goes on exactly as this one would have.
    """

    def __init__(self, folder: Path) -> None:
        self.best = folder / "best.ckpt"
        self.last = folder / "last.ckpt"
        self._saved_at = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where this validation was the best so far."""
        if pl_module.is_best:
            trainer.save_checkpoint(self.best)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save where the last time was ten minutes ago."""
        if time.monotonic() - self._saved_at >= SECONDS_BETWEEN_CHECKPOINTS:
            self.save_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save the final state."""
        self.save_last(trainer)

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        """Save the last good state where the training diverges, if its weights are good."""
        state = trainer.lightning_module.state_dict().values()
        if isinstance(exception, Diverged) and all(tensor.isfinite().all() for tensor in state):
            self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Replace last.ckpt by the present state."""
        trainer.save_checkpoint(self.last)
        self._saved_at = time.monotonic()
        log.info("saved %s at step %d", self.last, trainer.lightning_module.step)


class Stopped(Exception):
    """A signal has stopped the training between two steps.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopOnSignal(pl.Callback):
    """On Ctrl-C or SIGTERM finish the step at hand, save, and stop; a second one stops at once."""

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self._checkpoints = checkpoints
        self._stop = StopRequest()
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Take over the signals."""
        self._stop = pl_module.stop
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if a signal has come.

        Raises:
            Stopped: it has.
        """
        number = self._stop.agreed
        if number is None:
            return
        if self._checkpoints is not None:
            self._checkpoints.save_last(trainer)
        raise Stopped(number)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: Any) -> None:  # noqa: ARG002
        if self._stop.received is not None:
            raise KeyboardInterrupt
        self._stop.received = number
        log.warning("%s: stopping after this step", signal.Signals(number).name)


class StepProgress(pl.callbacks.ProgressBar):
    """One bar over all training steps, with the latest losses and AUROC."""

    _SHOWN: ClassVar = {
        "losses/generator": "gen",
        "losses/discriminator": "disc",
        "metrics/roc_auc": "auroc",
        "metrics/max_roc_auc": "max",
    }

    def __init__(self, training_steps: int) -> None:
        super().__init__()
        self._steps = training_steps
        self._bar: tqdm | None = None
        self._is_enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all processes but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._is_enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Open the bar at the step where the training starts or goes on."""
        # None: no bar where the output is not a terminal, so that log files stay readable.
        disabled = None if self._is_enabled else True
        self._bar = tqdm(total=self._steps, initial=pl_module.step, unit="step", disable=disabled)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Advance by one step."""
        assert self._bar is not None
        self._bar.update(pl_module.step - self._bar.n)
        metrics = trainer.callback_metrics
        self._bar.set_postfix(
            {
                short: f"{metrics[name]:.3f}"
                for name, short in self._SHOWN.items()
                if name in metrics
            },
            refresh=False,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say the AUROC in words where there is no bar to show it."""
        bar = self._bar
        if bar is not None and bar.disable and self._is_enabled:
            metrics = trainer.callback_metrics
            log.info(
                "step %d/%d: AUROC %.3f, best so far %.3f",
                pl_module.step,
                self._steps,
                metrics["metrics/roc_auc"],
                metrics["metrics/max_roc_auc"],
            )

    def on_train_end(self, *_: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class PictureGrids(pl.Callback):
    """Write what the best pair makes of some test images, every ``interval`` steps."""

    def __init__(self, folder: Path, images: Tensor, interval: int) -> None:
        """Keep what is to be shown.

        Args:
            folder: where step_000500.png is written.
            images: (B, 3, S, S) in [-1, 1].
            interval: training steps between two grids.
        """
        self.folder = folder
        self.images = images
        self.interval = interval

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Write a grid where the interval is over."""
        if pl_module.step % self.interval or not trainer.is_global_zero:
            return
        pl_module.eval()
        with torch.no_grad():
            images = self.images.to(pl_module.device)
            reconstruction, maps = score_pairs(images, pl_module.units, [pl_module.best_pair()])
        pl_module.train()
        self.folder.mkdir(parents=True, exist_ok=True)
        grid = picture_grid(images, reconstruction, maps[pl_module.config.anomaly_score])
        grid.save(self.folder / f"step_{pl_module.step:06d}.png")
