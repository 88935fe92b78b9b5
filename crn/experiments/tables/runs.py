"""The training runs of a table: their flags, their state and their results."""

import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from crn.command_line import parse_options
from crn.config import RECIPES, UNTRAINED_MODELS
from crn.errors import UserError
from crn.evaluation.results import METRICS_FILE, read_metrics
from crn.experiments.folder import log_dir, logged, open_folder, write_json
from crn.experiments.jobs import Job, Outcome
from crn.report.tables import SCORES_FILE

_PROGRAM = Path(__file__).with_name("train_and_score.py").resolve()
_DEFINITION, _RESULT, _CHECKPOINTS = "grid.json", "result.json", "checkpoints"
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
_LAST, _BEST, _SECONDS = "metrics/roc_auc", "metrics/max_roc_auc", "metrics/training_time"


@dataclass(frozen=True)
class DataSet:
    """A data set to train on.

    Attributes:
        name: its name in tables and folders.
        layout: one of `datasets.layouts.LAYOUTS`.
        path: its folder.
    """

    name: str
    layout: str
    path: Path


@dataclass(frozen=True)
class TableMethod:
    """A row of a table: a model with its recipe and number of units.

    Attributes:
        model: one of `RECIPES_OF`.
        recipe: value of ``--recipe``.
        units: number of competitive units; None for a model without them.
    """

    model: str
    recipe: str
    units: int | None = None

    @property
    def label(self) -> str:
        """The method as people read it."""
        names = {
            "crn": f"CRN, {self.units} units",
            "dagan": "DAGAN",
            "autoencoder": "autoencoder",
            "control": f"{self.units} autoencoders",
            "untrained": f"{self.units} untrained units",
            "features": "features alone",
        }
        name = names[self.model]
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

    Attributes:
        last_auroc, best_auroc: AUROC at the last validation, and the highest of all.
        training_seconds: duration without inference.
        steps: training steps at the last validation.
        swing: highest minus lowest AUROC over the last third of the validations; None if these are
            fewer than two.
        pixel_auroc, aupro: metrics of the maps that scored; None without masks.
        false_alarms, found: the shares of the normal and the anomalous test images above the 0.99
            quantile of the normal training images.
        false_alarms_95, found_95: the same for the 0.95 quantile.
        error: why it failed; empty if it did not.
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
    """The training runs of a table, as `jobs.Jobs`: a stopped one goes on from its checkpoint.

    Each has a folder; once it has ended, result.json is there.

    Attributes:
        runs: all training runs, in the order in which they start.
        folder: where everything is written.
        name: value of ``--table``.
        root: folder of the data.
        extra: flags of train.py that all runs have.
        command: what the user has typed.
    """

    runs: list[TableRun]
    folder: Path
    name: str
    root: Path
    extra: list[str]
    command: str

    def open(self) -> None:
        """Claim the folder for this table.

        Raises:
            UserError: it holds runs on other data or with other flags.
        """
        definition = {
            "--table": self.name,
            "--root": str(self.root.resolve()),
            "flags after --": self.extra,
        }
        open_folder(self.folder / _DEFINITION, definition, "the training runs in it have")

    def forget_failed(self) -> None:
        """Forget the results of failed runs, so that these start again."""
        for run in self.runs:
            result = self.result(run)
            if result is not None and result.error:
                (self.run_folder(run) / _RESULT).unlink()

    def run_folder(self, key: TableRun) -> Path:
        """The folder of a training run."""
        return self.folder / "runs" / key.name

    def flags(self, run: TableRun) -> list[str]:
        """The flags of train.py for a training run, without those about its folder."""
        method, changes = run.method, _CHANGES.get(run.method.model, ())
        model = "crn" if changes else method.model
        units = ["--num-competitive-units", str(method.units)] if method.units else []
        return [
            *("--mode", "train", "--model", model, "--recipe", method.recipe),
            *("--seed", str(run.seed), *units),
            *("--dataset", run.data.layout, "--dataset-path", str(run.data.path)),
            *self.extra,
            # After the flags for all runs, so that these cannot override them.
            *changes,
        ]

    def result(self, run: TableRun) -> Result | None:
        """The result of a training run; None if it has not ended."""
        path = self.run_folder(run) / _RESULT
        try:
            return Result(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            raise UserError(f"{path}: is damaged; remove it to train again") from None

    def record(self, run: TableRun, result: Result) -> None:
        """Store the result of a training run."""
        folder = self.run_folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _RESULT, asdict(result))

    def results(self) -> list[Result]:
        """The results of all training runs that have ended."""
        return [result for run in self.runs if (result := self.result(run)) is not None]

    def unended(self) -> list[TableRun]:
        """The training runs that have not ended."""
        return [run for run in self.runs if self.result(run) is None]

    def job(self, key: TableRun) -> Job:
        """A training run, resumed from its checkpoint if it has one."""
        folder = self.run_folder(key)
        checkpoints = folder / _CHECKPOINTS
        description = f"training {self.runs.index(key) + 1} of {len(self.runs)}"
        more: list[str | Path] = ["--log-dir", log_dir(folder), "--checkpoint-path", checkpoints]
        last = checkpoints / "last.ckpt"
        if last.exists():
            description += ", resumed"
            more += ["--model-input", last]
        training = [*self.flags(key), *more]
        words = [sys.executable, _PROGRAM, *training, "--", *self._flags_to_score(key)]
        return Job(key.name, description, list(map(str, words)), _LAST)

    def _flags_to_score(self, run: TableRun) -> list[str | Path | int]:
        """The flags of train.py for inference after training; the rest is in the checkpoint."""
        options = parse_options(self.flags(run))
        folder = self.run_folder(run)
        return [
            *("--mode", "inference", "--model-input", folder / _CHECKPOINTS / "last.ckpt"),
            *("--dataset", run.data.layout, "--dataset-path", run.data.path),
            *("--anomaly-score-file", folder / SCORES_FILE),
            *("--batch-size", options.optimization.batch_size),
            *("--num-workers", options.data.num_workers, "--cpu", int(options.run.cpu)),
        ]

    def ended(self, key: TableRun, outcome: Outcome) -> None:
        """Record the result, or why there is none."""
        if outcome.value is not None:
            self.record(key, _result(self.run_folder(key)))
            # Gigabytes that nobody needs any more.
            shutil.rmtree(self.run_folder(key) / _CHECKPOINTS, ignore_errors=True)
        elif outcome.error:
            self.record(key, Result(error=outcome.error))


def _result(folder: Path) -> Result:
    """The result of a training run and its inference, from the files in its folder."""
    last = logged(folder, _LAST)[-1][-1]
    metrics = read_metrics(folder / METRICS_FILE)
    decisions, pixels = metrics.decisions, metrics.pixels
    assert decisions is not None  # there are training images
    assert decisions.false_positives is not None  # and labels
    assert decisions.true_positives is not None
    low = (metrics.decisions_at or {})["0.95"]
    assert low.false_positives is not None
    assert low.true_positives is not None
    return Result(
        last_auroc=float(last[_LAST]),
        best_auroc=float(last[_BEST]),
        training_seconds=float(last[_SECONDS]),
        steps=int(last["step"]),
        swing=swing(folder),
        pixel_auroc=None if pixels is None else pixels.auroc,
        aupro=None if pixels is None else pixels.aupro,
        false_alarms=decisions.false_positives / metrics.dataset.normal,
        found=decisions.true_positives / metrics.dataset.anomalous,
        false_alarms_95=low.false_positives / metrics.dataset.normal,
        found_95=low.true_positives / metrics.dataset.anomalous,
    )


def swing(folder: Path) -> float | None:
    """The `Result.swing` of a training run, which has a metrics.csv for each time it started."""
    rows = chain.from_iterable(logged(folder, _LAST))
    aurocs = {int(row["step"]): float(row[_LAST]) for row in rows}
    last = [aurocs[step] for step in sorted(aurocs)[-math.ceil(len(aurocs) / 3) :]]
    return max(last) - min(last) if len(last) > 1 else None
