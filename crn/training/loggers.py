"""Where the metrics of a training go: metrics.csv, and Weights & Biases if it is asked for."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from crn.config import Options
from crn.errors import UserError
from crn.system.text import printable, shortened
from crn.training.metrics_logger import MetricsLogger


def open_wandb(options: Options) -> list[pl.loggers.WandbLogger]:
    """Start the run on W&B before any work is done; empty where it is not asked for.

    Raises:
        UserError: W&B refuses, or cannot be reached.
    """
    if not options.output.wandb:
        return []
    # Seconds, for a server that does not answer; W&B itself would wait for longer.
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")
    import wandb

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
    return [logger]


def log_options(
    options: Options, table: MetricsLogger, others: list[pl.loggers.WandbLogger]
) -> None:
    """Log all options of a run, resolved."""
    values: dict[str, Any] = {
        name: printable(value) if isinstance(value, str) else value
        for name, value in options.flat().items()
    }
    table.log_hyperparams(values)
    for logger in others:
        # A sweep has set, and locked, those that it decides.
        known = logger.experiment.config.keys()
        logger.log_hyperparams({k: v for k, v in values.items() if k not in known})


def run_name(options: Options) -> str:
    """Model, data set, category and seed, as in crn-MVTec-cable-41020."""
    category = (options.data.dataset_path or Path()).resolve().name
    parts = (options.run.model, options.data.dataset, category, options.run.seed)
    return printable("-".join(map(str, parts)))
