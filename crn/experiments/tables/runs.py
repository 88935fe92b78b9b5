"""The training runs of a table: their flags, their state and their results."""

import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from crn.command_line import parse_options
from crn.config import LAST, RECIPES, UNTRAINED_MODELS
from crn.errors import UserError
from crn.evaluation.results import METRICS_FILE, read_metrics
from crn.experiments.folder import log_dir, logged, refuse_other, write_json
from crn.experiments.jobs import Job, Outcome
from crn.experiments.tables.train_and_score import TRAIN_AND_SCORE
from crn.report.tables import SCORES_FILE

_PROGRAM = Path(__file__).resolve().parents[3] / "tables.py"
_RESULT, _LAST = "result.json", "metrics/roc_auc"
# The models of tables, each with its recipes. The control shows what competition adds: its units
# are those of CRN, but only learn to reproduce images.
RECIPES_OF = {
    "crn": tuple(RECIPES),
    "dagan": ("published", "balanced"),
    "autoencoder": ("balanced", "pretrained"),
    "control": ("balanced", "pretrained"),
    "untrained": ("balanced", "pretrained"),
    "features": ("pretrained",),
}
# Flags that make CRN another model: units without their competition, and units that learn nothing
# while their norms collect statistics.
_CHANGES = {
    "control": ("--feedback-weight", "0", "--balance", "0", "--discrimination-weight", "0"),
    "untrained": ("--lr", "1e-12", "--training-steps", "60"),
}


@dataclass(frozen=True)
class DataSet:
    """A data set: its name in tables, its layout (see `datasets.layouts.LAYOUTS`), its folder."""

    name: str
    layout: str
    path: Path


@dataclass(frozen=True)
class TableMethod:
    """A row of a table: one of `RECIPES_OF` with a recipe and, if it has units, their number."""

    model: str
    recipe: str
    units: int | None = None

    @property
    def label(self) -> str:
        """The method as people read it."""
        names = {
            "crn": f"CRN, {self.units} units",
            "dagan": "DAGAN",
            "control": f"{self.units} autoencoders",
            "untrained": f"{self.units} untrained units",
            "features": "features alone",
        }
        name = names.get(self.model, self.model)
        return name if self.model in UNTRAINED_MODELS else f"{name}, {self.recipe}"

    @property
    def control(self) -> "TableMethod | None":
        """The same units without competition; None if there is no such method."""
        has_one = self.model == "crn" and self.recipe in RECIPES_OF["control"]
        return TableMethod("control", self.recipe, self.units) if has_one else None


@dataclass(frozen=True)
class TableRun:
    """A training run: a method on a data set with a seed."""

    method: TableMethod
    data: DataSet
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        units = f"-{self.method.units}-units" if self.method.units else ""
        kind = f"{self.method.model}{units}-{self.method.recipe}"
        return f"{self.data.name}-{kind}-seed-{self.seed}"


@dataclass(frozen=True)
class Result:
    """The result of a training run that has ended; if it failed, only the error.

    docs/experiments.md defines the metrics. Those of pixels are None without masks, and the swing
    is None after a single validation.
    """

    last_auroc: float | None = None
    best_auroc: float | None = None
    training_seconds: float | None = None
    steps: int | None = None
    swing: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    false_alarms: float | None = None
    found: float | None = None
    false_alarms_95: float | None = None
    found_95: float | None = None
    error: str = ""


@dataclass
class Table:
    """The training runs of a table. Each has a folder, with result.json once it has ended.

    Attributes:
        runs: all training runs, in the order in which they start.
        folder: where everything is written.
        name, root: values of ``--table`` and ``--root``.
        extra: flags of train.py that all runs have.
        command: what the user has typed.
        results: the results of the runs that have ended.
    """

    runs: list[TableRun]
    folder: Path
    name: str
    root: Path
    extra: list[str]
    command: str
    results: dict[TableRun, Result] = field(default_factory=dict)

    def open(self, retry_failed: bool) -> None:
        """Claim the folder for this table, and read the results in it, perhaps without failures.

        Raises:
            UserError: it holds runs on other data or with other flags, or a damaged result.
        """
        root = str(self.root.resolve())
        definition = {"--table": self.name, "--root": root, "flags after --": self.extra}
        file = self.folder / "grid.json"
        if not file.exists():
            write_json(file, definition)
        known = json.loads(file.read_text(encoding="utf-8"))
        refuse_other(f"--folder {self.folder}", known, definition)
        for run in self.runs:
            if (path := self.run_folder(run) / _RESULT).exists():
                try:
                    result = Result(**json.loads(path.read_text(encoding="utf-8")))
                except (OSError, ValueError, TypeError):
                    raise UserError(f"{path}: is damaged; remove it to train again") from None
                if not (result.error and retry_failed):
                    self.results[run] = result

    def run_folder(self, run: TableRun) -> Path:
        """The folder of a training run."""
        return self.folder / "runs" / run.name

    def flags(self, run: TableRun) -> list[str]:
        """The flags of train.py for a training run, without those about its folder."""
        method, changes = run.method, _CHANGES.get(run.method.model, ())
        units = ["--num-competitive-units", str(method.units)] if method.units else []
        return [
            *("--mode", "train", "--model", "crn" if changes else method.model),
            *("--recipe", method.recipe, "--seed", str(run.seed), *units),
            *("--dataset", run.data.layout, "--dataset-path", str(run.data.path)),
            *self.extra,
            # After the flags for all runs, so that these cannot override them.
            *changes,
        ]

    def jobs(self) -> Iterator[Job]:
        """The training runs that have not ended; one with a checkpoint is resumed."""
        for number, run in enumerate(self.runs, start=1):
            if run in self.results:
                continue
            folder, flags = self.run_folder(run), self.flags(run)
            last = folder / "checkpoints" / LAST
            resumed = ["--model-input", last] if last.exists() else []
            options = parse_options(flags)
            words = [
                *(sys.executable, _PROGRAM, TRAIN_AND_SCORE, *flags, "--log-dir", log_dir(folder)),
                *("--checkpoint-path", last.parent, *resumed, "--"),
                # For inference; the other options are in the checkpoint.
                *("--mode", "inference", "--model-input", last),
                *("--dataset", run.data.layout, "--dataset-path", run.data.path),
                *("--anomaly-score-file", folder / SCORES_FILE),
                *("--batch-size", options.optimization.batch_size),
                *("--num-workers", options.data.num_workers, "--cpu", int(options.run.cpu)),
            ]
            yield Job(
                name=run.name,
                description=f"training {number} of {len(self.runs)}" + ", resumed" * bool(resumed),
                folder=folder,
                words=list(map(str, words)),
                metric=_LAST,
                ended=partial(self._ended, run),
            )

    def _ended(self, run: TableRun, outcome: Outcome) -> None:
        """Store the result, or why there is none; nothing about a run that was stopped."""
        if outcome == Outcome():
            return
        folder = self.run_folder(run)
        result = Result(error=outcome.error) if outcome.error else _result(folder)
        write_json(folder / _RESULT, asdict(result))
        self.results[run] = result
        if not result.error:
            # Gigabytes that nobody needs any more.
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _result(folder: Path) -> Result:
    """The result of a training run and its inference, from the files in its folder."""
    last = logged(folder, _LAST)[-1][-1]
    metrics = read_metrics(folder / METRICS_FILE)
    pixels = metrics.pixels
    # There are training images and labels, so nothing is None.
    decisions: list[Any] = [metrics.decisions, (metrics.decisions_at or {})["0.95"]]
    false_alarms = [each.false_positives / metrics.dataset.normal for each in decisions]
    found = [each.true_positives / metrics.dataset.anomalous for each in decisions]
    return Result(
        last_auroc=float(last["metrics/roc_auc"]),
        best_auroc=float(last["metrics/max_roc_auc"]),
        training_seconds=float(last["metrics/training_time"]),
        steps=int(last["step"]),
        swing=swing(folder),
        pixel_auroc=pixels.auroc if pixels else None,
        aupro=pixels.aupro if pixels else None,
        false_alarms=false_alarms[0],
        found=found[0],
        false_alarms_95=false_alarms[1],
        found_95=found[1],
    )


def swing(folder: Path) -> float | None:
    """The swing of a training run, which has a metrics.csv for each time it started."""
    rows = chain.from_iterable(logged(folder, _LAST))
    aurocs = {int(row["step"]): float(row[_LAST]) for row in rows}
    last = [aurocs[step] for step in sorted(aurocs)[-math.ceil(len(aurocs) / 3) :]]
    return max(last) - min(last) if len(last) > 1 else None
