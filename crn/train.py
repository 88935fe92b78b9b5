"""A training run, from listed samples to stored checkpoints."""

import logging
from collections.abc import Sequence

import pytorch_lightning as pl

from crn.command_line import uses_demo_sample
from crn.config import LAST, Options
from crn.demo import score_demo_sample
from crn.errors import Diverged
from crn.system.hardware import pick_device, set_up_cpu
from crn.training.callbacks import StopOnSignal, Stopped
from crn.training.data import InMemoryData
from crn.training.distributed import no_process_left
from crn.training.loggers import open_loggers
from crn.training.module import make_module
from crn.training.plan import planned
from crn.training.processes import Place
from crn.training.resuming import keep_best_state
from crn.training.trainer import make_trainer
from datasets.samples import Sample

log = logging.getLogger(__name__)


def train(options: Options, samples: Sequence[Sample], place: Place) -> int:
    """Train, or go on training, as the options say.

    Returns:
        The exit status: 0, or 128 + N if signal N stopped the training after a step. If several
        processes train together, process 0 alone tells how it ended; the others return 0.

    Raises:
        UserError: an image or the checkpoint cannot be used, or an output cannot be written.
        Diverged: a loss or a score is not finite.
    """
    with planned(options, samples, place) as plan:
        if plan.nothing_to_do:
            log.info("nothing to do: %s", plan.nothing_to_do)
            return 0
        options = plan.options
        set_up_cpu(options.run.devices)
        device = pick_device(options.run.cpu)
        pl.seed_everything(options.run.seed, verbose=False)
        # Before images are read, since a package or pretrained weights may be missing.
        model = make_module(options.model_config(), plan.resumed, place, device)
        size, workers = options.network.imsize, options.data.num_workers
        data = InMemoryData(samples, size, workers, place, plan.interval)
        is_first = place.rank == 0
        if plan.resumed and not keep_best_state(plan.resumed, options, data.fingerprint, is_first):
            model.max_roc_auc, model.best_step = -1.0, 0
        stop = StopOnSignal(model.stop)
        loggers = open_loggers(options) if is_first else []
        trainer = make_trainer(plan, place, device, data, model, loggers, stop)
        try:
            with stop, no_process_left(trainer, Stopped, Diverged):
                if model.method.networks:
                    trainer.fit(model, datamodule=data)
                else:
                    trainer.validate(model, datamodule=data, verbose=False)
        except Stopped as stopped:
            steps = options.optimization.training_steps
            log.warning("%s: stopped at step %d of %d", stopped, model.step, steps)
            return 128 + stopped.number if is_first else 0
        except Diverged:
            if is_first:
                raise
            return 0
        if loggers and uses_demo_sample(options):
            logs = loggers[0].folder
            checkpoints = plan.checkpoint_folder(logs)
            assert checkpoints is not None
            score_demo_sample(options, samples, checkpoints / LAST, logs)
    return 0
