"""The loggers of a training run: metrics.csv, and Weights & Biases if it is asked for."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.utilities import rank_zero_only

from crn.config import Options
from crn.errors import UserError
from crn.system.files import append_whole, claim_version, written_whole
from crn.system.text import printable, shortened


class MetricsLogger(pl.loggers.logger.Logger):
    """Writes hparams.yaml and metrics.csv, with a row for every report, in a folder of the run.

    The file is whole whenever the run is killed. Lightning's CSVLogger empties it for a moment when
    a report has new columns, and leaves half a row on a full disk.

    Raises:
        UserError: by all methods, if the system refuses to write.
    """

    def __init__(self, folder: Path) -> None:
        """Make version_N in a folder, with the lowest free N."""
        super().__init__()
        self._version = claim_version(folder)
        self.folder = folder / f"version_{self._version}"
        self._table = self.folder / "metrics.csv"
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """The empty name: the version alone tells runs apart."""
        return ""

    @property
    def version(self) -> int:
        """The N of version_N."""
        return self._version

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Write hparams.yaml."""
        with written_whole(self.folder / "hparams.yaml", "w", encoding="utf-8") as file:
            yaml.safe_dump(params, file)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row."""
        row = {**metrics, "step": step}
        if row.keys() <= set(self._columns):
            append_whole(self._table, self._lines([row]))
            return
        rows = []
        if self._columns:
            with open(self._table, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        self._columns = sorted({*self._columns, *row})
        header = dict(zip(self._columns, self._columns, strict=True))
        with written_whole(self._table, "w", newline="", encoding="utf-8") as file:
            file.write(self._lines([header, *rows, row]))

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue()


def open_loggers(options: Options) -> list[Any]:
    """The loggers of process 0, which get all options: a `MetricsLogger`, and W&B if asked for.

    Raises:
        UserError: a folder cannot be made, or W&B refuses or cannot be reached.
    """
    values: dict[str, Any] = {
        name: printable(value) if isinstance(value, str) else value
        for name, value in options.flat().items()
    }
    loggers: list[Any] = []
    if options.output.wandb:
        loggers.append(_open_wandb(options))
        # A sweep has set, and locked, the options that it decides.
        known = loggers[0].experiment.config.keys()
        loggers[0].log_hyperparams({k: v for k, v in values.items() if k not in known})
    table = MetricsLogger(options.output.log_dir)
    table.log_hyperparams(values)
    return [table, *loggers]


def _open_wandb(options: Options) -> pl.loggers.WandbLogger:
    # In seconds; by default W&B waits longer for a server that does not answer.
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")
    import wandb

    # Lightning may have been imported in a process that was started as another one.
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    logger = pl.loggers.WandbLogger(
        name=run_name(options) if options.output.auto_set_name else None,
        project=options.output.experiment or "competitive-reconstruction-networks",
        save_dir=options.output.log_dir,
    )
    try:
        _ = logger.experiment
    except (wandb.errors.Error, ValueError, OSError) as error:
        reason = shortened(str(error).strip().splitlines()[0])
        raise UserError(
            f"--wandb: W&B cannot be used ({reason}); run `wandb login`, or set WANDB_MODE=offline"
        ) from None
    return logger


def run_name(options: Options) -> str:
    """Model, data set, category and seed, as in crn-MVTec-cable-41020."""
    category = (options.data.dataset_path or Path()).resolve().name
    parts = (options.run.model, options.data.dataset, category, options.run.seed)
    return printable("-".join(map(str, parts)))
