"""What a training run says about itself: its options, how it ended, and its report."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from crn.command_line import uses_demo_sample
from crn.config import GROUPS
from crn.errors import Diverged, UserError
from crn.evaluation.results import AUROC_UNDEFINED
from crn.report.training_page import write_training_report
from crn.training.batches import steps_of_epochs
from crn.training.callbacks import Stopped
from crn.training.loggers import run_name
from crn.training.module import module_of
from crn.training.plan import Plan

log = logging.getLogger(__name__)


class RunReport(pl.Callback):
    """Logs what the run does, and writes report.html beside its metrics.csv in ``logs``."""

    def __init__(self, plan: Plan, logs: Path) -> None:
        self._plan = plan
        self._logs = logs

    def setup(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Log the options, the images and the device."""
        options, data = self._plan.options, module_of(trainer).images
        for name in GROUPS:
            values = options.in_effect(name)
            if shown := [f"{k}={v}" for k, v in values.items() if v not in (None, "")]:
                log.info("%s: %s", name, "  ".join(shown))
        if options.output.auto_set_name:
            log.info("run: %s", run_name(options))
        if uses_demo_sample(options):
            path, recipe = options.data.dataset_path, options.run.recipe
            log.info("demo: training on the road tiles in %s, with --recipe %s", path, recipe)
        log.info(
            "images: %d to train on (%d steps an epoch), %d to test on (%d of them anomalous)",
            len(data.train),
            steps_of_epochs(1, len(data.train), options.optimization.batch_size),
            len(data.test),
            data.test_labels.sum(),
        )
        device, precision = trainer.strategy.root_device, trainer.precision
        log.info("device: %s, precision: %s; logs: %s", device, precision, self._logs)
        if self._plan.start:
            log.info("resuming %s from step %d", options.run.model_input, self._plan.start)

    def teardown(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Log the AUROC, and write the report."""
        model, said = module_of(trainer), AUROC_UNDEFINED
        last = trainer.callback_metrics.get("metrics/roc_auc")
        if last is not None:
            said = (
                f"AUROC ({self._plan.options.scoring.anomaly_score}) {last:.3f} at the last "
                f"validation, {model.max_roc_auc:.3f} at the best"
            )
        steps = model.step - self._plan.start
        how = f"trained {steps} steps" if model.method.networks else "fitted"
        log.info("%s in %.1f s; %s", how, model.training_seconds, said)
        write_training_report(self._logs, self._plan.options)

    def on_exception(self, _trainer: Any, _module: Any, exception: BaseException) -> None:
        """Write the report of a run that was stopped or has diverged."""
        if isinstance(exception, (Stopped, Diverged)):
            try:
                write_training_report(self._logs, self._plan.options)
            except UserError as error:
                log.warning("%s", error)
