"""Lightning's trainer, and the callbacks around the training steps."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import environments

from crn.config import BEST, LAST, Data, Run
from crn.system.files import set_aside
from crn.system.hardware import lightning_precision
from crn.training.callbacks import (
    GRID_IMAGES,
    Checkpoints,
    PictureGrids,
    StepProgress,
    StopOnSignal,
)
from crn.training.data import InMemoryData
from crn.training.distributed import UnwrappedDDPStrategy
from crn.training.loggers import MetricsLogger
from crn.training.module import TrainingModule
from crn.training.plan import GRIDS, Plan
from crn.training.processes import Place
from crn.training.reporting import RunReport
from crn.training.resuming import is_same_file


def make_trainer(
    plan: Plan,
    place: Place,
    device: torch.device,
    data: InMemoryData,
    model: TrainingModule,
    loggers: Sequence[pl.loggers.Logger],
    stop: StopOnSignal,
) -> pl.Trainer:
    """The trainer of a run. Only process 0 has loggers, a `MetricsLogger` first, and writes."""
    quiet_lightning()
    run, precision = plan.options.run, plan.options.optimization.precision
    return pl.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        **_processes(run, place),
        precision=lightning_precision(precision, device),
        # The module counts its steps, and says when the last one is done.
        max_epochs=-1,
        # Lightning would resume from checkpoints that it finds in a folder.
        default_root_dir=os.devnull,
        num_sanity_val_steps=0,
        logger=[*loggers],
        callbacks=[*_callbacks(plan, loggers, data, model), stop],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def _callbacks(
    plan: Plan, loggers: Sequence[pl.loggers.Logger], data: InMemoryData, model: TrainingModule
) -> Iterator[pl.Callback]:
    """What process 0 shows and writes besides the metrics."""
    if not loggers:
        return
    table, options = loggers[0], plan.options
    assert isinstance(table, MetricsLogger)
    yield StepProgress(options.optimization.training_steps)
    if options.output.image_output_path is not None:
        yield _picture_grids(plan, options.output.image_output_path / GRIDS, data, model)
    # Before the report, which a full disk may prevent.
    folder = plan.checkpoint_folder(table.folder)
    if folder is not None:
        yield Checkpoints(folder, _replaceable(plan, folder, model), _tiles(options.data))
    yield RunReport(plan, table.folder)


def _replaceable(plan: Plan, folder: Path, model: TrainingModule) -> set[Path]:
    """The checkpoints in a folder that belong to the run, since it goes on from them."""
    files = set()
    if plan.resumed and is_same_file(plan.resumed.path, folder / LAST):
        files.add(folder / LAST)
    if plan.resumed and model.best_step:
        files.add(folder / BEST)
    return files


def _tiles(config: Data) -> str | None:
    """The tiles.json in the folder of the images, which `crn.pointcloud` has written."""
    path = (config.dataset_path or Path()) / "tiles.json"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _picture_grids(
    plan: Plan, folder: Path, data: InMemoryData, model: TrainingModule
) -> PictureGrids:
    if plan.resumed is None:
        set_aside(folder)
    shown = [(data.test_labels == label).nonzero()[: GRID_IMAGES // 2] for label in (0, 1)]
    index, patches = torch.cat(shown).flatten(), model.scorer.patches
    images = data.test_images(index)
    large = images if patches is None else data.test_images(index, patches.features.image_size)
    interval = plan.options.output.image_output_interval
    return PictureGrids(folder, images, interval, large)


def _processes(run: Run, place: Place) -> dict[str, Any]:
    """Lightning's arguments about the processes that train together."""
    if place.count == 1:
        # Lightning would guess this from the environment variables of a cluster or a launcher.
        return {"devices": 1, "plugins": [environments.LightningEnvironment()]}
    return {
        "devices": run.devices,
        "num_nodes": run.num_nodes,
        "strategy": UnwrappedDDPStrategy(cluster_environment=place.environment),
        "use_distributed_sampler": False,
    }


def quiet_lightning() -> None:
    """Hide Lightning's remarks about what this program does on purpose."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*module.s. in eval mode at the start of training.*",
        ".*LeafSpec.*is deprecated.*",
        ".*recommended to use .*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
