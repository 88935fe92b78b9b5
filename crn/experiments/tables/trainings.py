"""The trainings of a table: which there are, which are done, and what came of them."""

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from crn.errors import UserError
from crn.experiments.jobs import Job, Outcome, last_row, log_dir
from crn.system.files import locked, written_whole

_TRAIN = Path(__file__).resolve().parents[3] / "train.py"
_DEFINITION, _RESULT, _CHECKPOINTS = "grid.json", "result.json", "checkpoints"
_LAST, _BEST, _SECONDS = "metrics/roc_auc", "metrics/max_roc_auc", "metrics/training_time"


@dataclass(frozen=True)
class DataSet:
    """A data set to train on.

    Attributes:
        name: for tables and folders.
        layout: of `datasets.layouts.LAYOUTS`.
        path: its folder.
    """

    name: str
    layout: str
    path: Path


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
        units: competitive units; None for a model without them.
    """

    model: str
    units: int | None
    data: DataSet
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        units = f"-{self.units}-units" if self.units else ""
        return f"{self.data.name}-{self.model}{units}-seed-{self.seed}"


@dataclass(frozen=True)
class Result:
    """What came of a training that has ended.

    Attributes:
        last, best: AUROC at the last validation, and the highest of all; None where it failed.
        seconds: of training; None where it failed.
        steps: training steps at the last validation; None where it failed.
        error: why it failed; empty where it did not.
    """

    last: float | None = None
    best: float | None = None
    seconds: float | None = None
    steps: int | None = None
    error: str = ""


class Grid:
    """The trainings of a table, as `jobs.Jobs`: what was stopped goes on from its checkpoint.

    Each has a folder, in which result.json says that it has ended. It is locked by the process that
    looks after it and by the training itself, which goes on where that process dies.

    Attributes:
        runs: all trainings, in the order in which they start.
        folder: where all is written.
        table: its name.
        root: folder of the data.
        extra: flags of train.py that all trainings have.
        command: what the user has typed.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        folder: Path,
        table: str,
        root: Path,
        extra: Sequence[str],
        command: str,
    ) -> None:
        self.runs = list(runs)
        self.folder = folder
        self.table = table
        self.root = root
        self.extra = list(extra)
        self.command = command
        self._locks: dict[Run, ExitStack] = {}

    def open(self) -> None:
        """Make the folder this table's.

        Raises:
            UserError: it holds trainings on other data or with other flags.
        """
        definition = {
            "--table": self.table,
            "--root": str(self.root.resolve()),
            "flags after --": self.extra,
        }
        path = self.folder / _DEFINITION
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            _write_json(path, definition)
            return
        except (OSError, ValueError):
            known = {}
        differ = [key for key, value in definition.items() if known.get(key) != value]
        if differ:
            raise UserError(
                f"--folder {self.folder}: the trainings in it have other {', '.join(differ)}; "
                "give another folder, or move this one away"
            )

    def forget_failed(self) -> None:
        """Have trainings that failed start again."""
        for run in self.runs:
            result = self.result(run)
            if result is not None and result.error:
                (self.run_folder(run) / _RESULT).unlink()

    def run_folder(self, run: Run) -> Path:
        """The folder of a training."""
        return self.folder / "runs" / run.name

    def flags(self, run: Run) -> list[str]:
        """The flags of train.py for a training, but for those about its folder."""
        units = ["--num-competitive-units", str(run.units)] if run.units else []
        return [
            *("--mode", "train", "--model", run.model, "--seed", str(run.seed), *units),
            *("--dataset", run.data.layout, "--dataset-path", str(run.data.path)),
            *self.extra,
        ]

    def result(self, run: Run) -> Result | None:
        """What came of a training; None where it has not ended."""
        path = self.run_folder(run) / _RESULT
        try:
            return Result(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            raise UserError(f"{path}: is damaged; remove it to train anew") from None

    def record(self, run: Run, result: Result) -> None:
        """Keep what came of a training."""
        folder = self.run_folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / _RESULT, asdict(result))

    def results(self) -> list[Result]:
        """Those of all trainings that have ended."""
        return [result for run in self.runs if (result := self.result(run)) is not None]

    def claim(self) -> Job | None:
        """The next training that has not ended and that nobody is doing."""
        for number, run in enumerate(self.runs, start=1):
            if self.result(run) is not None or run in self._locks:
                continue
            folder = self.run_folder(run)
            folder.mkdir(parents=True, exist_ok=True)
            lock = ExitStack()
            try:
                held = lock.enter_context(locked(folder))
            except UserError:
                continue
            self._locks[run] = lock
            return self._job(run, f"training {number} of {len(self.runs)}", held)
        return None

    def _job(self, run: Run, description: str, held: Sequence[int]) -> Job:
        folder = self.run_folder(run)
        checkpoints = folder / _CHECKPOINTS
        more: list[str | Path] = ["--log-dir", log_dir(folder), "--checkpoint-path", checkpoints]
        last = checkpoints / "last.ckpt"
        if last.exists():
            description += ", resumed"
            more += ["--model-input", last]
        words = [sys.executable, str(_TRAIN), *self.flags(run), *map(str, more)]
        return Job(run, run.name, description, words, folder, _LAST, held)

    def is_over(self) -> bool:
        """Whether all trainings have ended, be it in another process."""
        return len(self.results()) == len(self.runs)

    def beat(self, job: Job) -> None:
        """Nothing: the lock shows that a training goes on."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Record the figures of the last validation, or the reason why there are none."""
        if outcome.value is not None:
            row = last_row(log_dir(job.folder), _LAST)
            figures = float(row[_BEST]), float(row[_SECONDS]), int(row["step"])
            self.record(job.key, Result(outcome.value, *figures))
            # Gigabytes, which nobody needs any more.
            shutil.rmtree(job.folder / _CHECKPOINTS, ignore_errors=True)
        elif outcome.error:
            self.record(job.key, Result(error=outcome.error))
        self._locks.pop(job.key).close()


def _write_json(path: Path, values: dict) -> None:
    with written_whole(path, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
