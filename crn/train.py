"""One training run, from listed samples to stored checkpoints."""

import dataclasses
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import environments
from pytorch_lightning.utilities import rank_zero_only

from crn.checkpoints.reading import Checkpoint
from crn.command_line import (
    DEMO_LIMITS,
    refuse_flags_of_others,
    uses_demo_sample,
    warn_of_flags_without_effect,
)
from crn.config import GROUPS, UNTRAINED_MODELS, Network, Options, Pretrained
from crn.errors import Diverged, UserError
from crn.evaluation.results import AUROC_UNDEFINED
from crn.option import has_effect, option_names
from crn.report.training_page import write_training_report
from crn.system.files import claimed, require_writable_folder, set_aside, written_whole
from crn.system.hardware import lightning_precision, pick_device, set_up_cpu
from crn.training.batches import steps_of_epochs
from crn.training.callbacks import (
    GRID_IMAGES,
    Checkpoints,
    PictureGrids,
    StepProgress,
    StopOnSignal,
    Stopped,
)
from crn.training.data import InMemoryData
from crn.training.distributed import UnwrappedDDPStrategy, no_process_left
from crn.training.loggers import log_options, open_wandb, run_name
from crn.training.metrics_logger import MetricsLogger
from crn.training.module import TrainingModule
from crn.training.processes import Place
from crn.training.resuming import (
    BEST,
    LAST,
    best_state_of,
    is_same_file,
    read_training,
)
from datasets.reader import image_batches, normalize
from datasets.samples import TEST, TRAIN, Sample

log = logging.getLogger(__name__)

# Where --validation-interval is not given.
MOST_VALIDATIONS = 20

# The folder of picture grids in --image-output-path.
GRIDS = "training"

# What has to stay as it was when a training is resumed.
_FIXED_ON_RESUME = {
    "model",
    "recipe",
    *option_names(Network, Pretrained),
    "num_competitive_units",
    "optimizer",
    "momentum",
}


def train(options: Options, samples: Sequence[Sample], place: Place) -> int:
    """Train, or go on training, as the options say.

    Returns:
        The exit status: 0, or 128 + N where signal N stopped the training after a step. Of the
        processes that train together, process 0 alone tells how it ended; the others return 0.

    Raises:
        UserError: an image or the checkpoint cannot be used, or an output cannot be written.
    """
    outputs = (
        (options.output.checkpoint_path, (BEST, LAST)),
        (options.output.image_output_path, (GRIDS,)),
    )
    written = [folder / name for folder, names in outputs if folder for name in names]
    with claimed(*(written if place.rank == 0 else ())):
        return _train(options, samples, place)


def _train(options: Options, samples: Sequence[Sample], place: Place) -> int:
    # Lightning guesses it from the environment that it is imported in, and its loggers ask for it
    # as soon as they are made.
    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]
    quiet_lightning()
    set_up_cpu(options.run.devices)
    device = pick_device(options.run.cpu)
    options, resumed = _resume(options)
    _check_processes(options, samples, place)
    warn_of_flags_without_effect(options)
    images = sum(sample.split == TRAIN for sample in samples)
    options = _resolve_length(options, images)
    steps = options.optimization.training_steps
    start = resumed.progress["step"] if resumed else 0
    if resumed and options.run.model in UNTRAINED_MODELS:
        log.info("nothing to do: %s has nothing to train", options.run.model_input)
        return 0
    if start >= steps:
        log.info("nothing to do: %s has had %d of %d steps", options.run.model_input, start, steps)
        return 0

    # Before images are read, since a package or weights may be missing.
    pl.seed_everything(options.run.seed, verbose=False)
    model = TrainingModule(options.model_config())
    if model.scorer.patches is not None and not (resumed and resumed.has_pretrained_weights):
        model.scorer.patches.features.load_pretrained()
    if place.count > 1 and device.type == "cuda":
        # Not by Lightning, which would convert the frozen network of the features as well.
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.method)
    wandb = open_wandb(options) if place.rank == 0 else []
    interval = options.output.validation_interval or max(
        steps_of_epochs(1, images, options.optimization.batch_size), steps // MOST_VALIDATIONS
    )
    data = InMemoryData(samples, options.network.imsize, options.data.num_workers, place, interval)
    table = MetricsLogger(options.output.log_dir) if place.rank == 0 else None
    if table and uses_demo_sample(options) and options.output.checkpoint_path is None:
        options = options.replace(checkpoint_path=table.folder)
    if table:
        log_options(options, table, wandb)
    if resumed:
        _keep_best_state(resumed, options, data, place)
        model.go_on_from(resumed.content)
    checkpoints = _checkpoints(options, resumed) if place.rank == 0 else []
    stop = StopOnSignal(model.stop, *checkpoints)
    shown = [StepProgress(steps), *_pictures(options, data, model)] if place.rank == 0 else []
    trainer = pl.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        **_processes(options, place),
        precision=lightning_precision(options.optimization.precision, device),
        # The module counts its steps itself and says when the last is done.
        max_epochs=-1,
        # No folder, where Lightning would look for a checkpoint to go on from, unasked.
        default_root_dir=os.devnull,
        num_sanity_val_steps=0,
        logger=[table, *wandb] if table else False,
        callbacks=[*shown, stop, *checkpoints],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    if table:
        _describe(options, data, trainer, table.folder, start)
    try:
        with stop, no_process_left(trainer, Stopped, Diverged):
            if model.method.networks:
                trainer.fit(model, datamodule=data)
            else:
                trainer.validate(model, datamodule=data, verbose=False)
    except Stopped as stopped:
        log.warning("%s: stopped at step %d of %d", stopped, model.step, steps)
        _write_report(table, options, is_last=False)
        return 128 + stopped.number if place.rank == 0 else 0
    except Diverged:
        _write_report(table, options, is_last=False)
        if place.rank == 0:
            raise
        return 0
    said, last = AUROC_UNDEFINED, trainer.callback_metrics.get("metrics/roc_auc")
    if last is not None:
        said = (
            f"AUROC ({options.scoring.anomaly_score}) {last:.3f} at the last validation, "
            f"{model.max_roc_auc:.3f} at the best"
        )
    how = f"trained {model.step - start} steps" if model.method.networks else "fitted"
    log.info("%s in %.1f s; %s", how, model.training_seconds, said)
    _write_report(table, options)
    if table and uses_demo_sample(options):
        _score_sample(options, samples, table.folder)
    return 0


def _score_sample(options: Options, samples: Sequence[Sample], logs: Path) -> None:
    """Score the demo's sample with what it has trained: the report of that shows what it finds."""
    # No other training needs it.
    from crn.infer import infer

    checkpoints, pictures = options.output.checkpoint_path, options.output.image_output_path
    assert checkpoints is not None
    pictures = pictures or logs / "results"
    require_writable_folder(pictures, "--log-dir")
    changes = {"model_input": checkpoints / LAST, "image_output_path": pictures}
    infer(options.replace(mode="inference", **changes), samples)


def _resume(options: Options) -> tuple[Options, Checkpoint | None]:
    """Options in which a checkpoint's stand for those that were not typed, and the checkpoint."""
    path = options.run.model_input
    if path is None:
        return options, None
    checkpoint = read_training(path)
    checkpoint.refuse_contradictions(options, _FIXED_ON_RESUME)
    trained = checkpoint.config.values()
    # Of the two ways to say how long to train, the one that was typed counts.
    for typed, other in (("epochs", "training_steps"), ("training_steps", "epochs")):
        if typed in options.given:
            trained[other] = getattr(options.optimization, other)
    kept = {name: value for name, value in trained.items() if name not in options.given}
    options = options.replace(**kept)
    refuse_flags_of_others(options, "model")
    return options, checkpoint


def _keep_best_state(
    resumed: Checkpoint, options: Options, data: InMemoryData, place: Place
) -> None:
    """See to it that best.ckpt is of the best validation that the training knows.

    It is copied to a new --checkpoint-path. Where there is none, or where score or images are
    others from now on, the best validation so far is forgotten.
    """
    folder, progress = options.output.checkpoint_path, resumed.progress
    if progress["max_roc_auc"] < 0:
        return
    if resumed.config.scoring != options.scoring:
        why = "it was of another score"
    elif progress["data"] != data.fingerprint:
        why = "it was of other test images"
    elif folder is None:
        return
    elif (best := best_state_of(resumed)) is not None:
        if place.rank == 0 and not is_same_file(best, folder / BEST):
            set_aside(folder / BEST)
            with open(best, "rb") as file, written_whole(folder / BEST) as copied:
                shutil.copyfileobj(file, copied)
        return
    else:
        why = f"there is no {BEST} of it beside {resumed.path}"
    log.info("the best validation so far is forgotten: %s", why)
    progress.update(max_roc_auc=-1.0, best_step=0)


def _resolve_length(options: Options, images: int) -> Options:
    epochs, steps = options.optimization.epochs, options.optimization.training_steps
    if epochs is not None:
        steps = steps_of_epochs(epochs, images, options.optimization.batch_size)
    if options.run.demo:
        steps = min(steps, DEMO_LIMITS["training_steps"])
    return options.replace(training_steps=steps)


def _check_processes(options: Options, samples: Sequence[Sample], place: Place) -> None:
    """Refuse processes that lack a GPU, or cannot have equal shares of a batch.

    With unequal ones the mean of their gradients would not be that of the batch.

    Raises:
        UserError: see above; or the test split has fewer images than there are processes.
    """
    if place.count == 1:
        return
    asked, gpus = options.run.devices, torch.cuda.device_count()
    if not options.run.cpu and asked > gpus:
        raise UserError(f"--devices {asked}: this machine has {gpus} GPUs; give fewer, or --cpu")
    size = options.optimization.batch_size
    if size % place.count:
        raise UserError(
            f"--batch-size {size} is shared by {place.count} processes (--devices, --num-nodes): "
            f"give a multiple of {place.count}"
        )
    images = {split: sum(sample.split == split for sample in samples) for split in (TRAIN, TEST)}
    if min(images.values()) < place.count:
        raise UserError(
            f"--devices and --num-nodes make {place.count} processes, more than there are images "
            f"to train on ({images[TRAIN]}) or to test on ({images[TEST]}): give fewer"
        )
    if size > images[TRAIN] and images[TRAIN] % place.count:
        raise UserError(
            f"--batch-size {size}: there are {images[TRAIN]} images to train on, which "
            f"{place.count} processes (--devices, --num-nodes) cannot share evenly; give "
            f"{images[TRAIN] // place.count * place.count}"
        )


def _processes(options: Options, place: Place) -> dict[str, Any]:
    """Lightning's arguments about the processes that train together."""
    if place.count == 1:
        # Lightning would guess this from what a cluster or a launcher has left in the environment.
        return {"devices": 1, "plugins": [environments.LightningEnvironment()]}
    return {
        "devices": options.run.devices,
        "num_nodes": options.run.num_nodes,
        "strategy": UnwrappedDDPStrategy(cluster_environment=place.environment),
        "use_distributed_sampler": False,
    }


def _write_report(table: MetricsLogger | None, options: Options, is_last: bool = True) -> None:
    """Write the report of what was logged; only process 0 has a table.

    Args:
        is_last: whether nothing else is to be told: then an error is raised, else logged.
    """
    if table is None:
        return
    try:
        write_training_report(table.folder, options)
    except UserError as error:
        if is_last:
            raise
        log.warning("%s", error)


def _checkpoints(options: Options, resumed: Checkpoint | None) -> list[Checkpoints]:
    folder = options.output.checkpoint_path
    if folder is None:
        return []
    mine = set()
    if resumed and is_same_file(resumed.path, folder / LAST):
        mine.add(folder / LAST)
    if resumed and resumed.progress["best_step"]:
        mine.add(folder / BEST)
    return [Checkpoints(folder, mine)]


def _pictures(options: Options, data: InMemoryData, model: TrainingModule) -> list[pl.Callback]:
    folder = options.output.image_output_path
    if folder is None:
        return []
    if options.run.model_input is None:
        set_aside(folder / GRIDS)
    shown = [(data.test_labels == label).nonzero()[: GRID_IMAGES // 2] for label in (0, 1)]
    index = torch.cat(shown).flatten()
    images = large = normalize(data.test_pixels[index])
    patches = model.scorer.patches
    if patches is not None and patches.features.image_size != images.shape[-1]:
        samples = [data.test[each] for each in index]
        (pixels,) = image_batches(samples, patches.features.image_size, batch=len(samples))
        large = normalize(pixels)
    interval = options.output.image_output_interval
    return [PictureGrids(folder / GRIDS, images, interval, large)]


def _describe(
    options: Options, data: InMemoryData, trainer: pl.Trainer, logs: Path, start: int
) -> None:
    for name, group in GROUPS.items():
        values = {
            each.name: getattr(getattr(options, name), each.name)
            for each in dataclasses.fields(group)
            if has_effect(each, options.run)
        }
        shown = [f"{k}={v}" for k, v in values.items() if v not in (None, "")]
        if shown:
            log.info("%s: %s", name, "  ".join(shown))
    if options.output.auto_set_name:
        log.info("run: %s", run_name(options))
    if uses_demo_sample(options):
        path = options.data.dataset_path
        log.info(
            "demo: training on the road tiles in %s, with --recipe %s", path, options.run.recipe
        )
    log.info(
        "images: %d to train on (%d steps an epoch), %d to test on (%d of them anomalous)",
        len(data.train_pixels),
        steps_of_epochs(1, len(data.train_pixels), options.optimization.batch_size),
        len(data.test_pixels),
        data.test_labels.sum(),
    )
    log.info(
        "device: %s, precision: %s; logs: %s",
        trainer.strategy.root_device,
        trainer.precision,
        logs,
    )
    if start:
        log.info("resuming %s from step %d", options.run.model_input, start)


def quiet_lightning() -> None:
    """Leave out Lightning's remarks about what this program does on purpose."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*module.s. in eval mode at the start of training.*",
        ".*LeafSpec.*is deprecated.*",
        ".*recommended to use .*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
