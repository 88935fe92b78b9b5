"""The loggers of a training run: metrics.csv, and Weights & Biases if it is asked for."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from crn.config import Options
from crn.errors import UserError
from crn.system.text import printable, shortened
from crn.training.metrics_logger import MetricsLogger


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
