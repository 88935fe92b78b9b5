"""The trainings of a table as jobs for `crn.experiments.jobs.workers`."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from crn.experiments.jobs.process import is_attended, is_running, last_row, log_dir
from crn.experiments.tables.grid import Grid, Result, Run

_TRAIN = Path(__file__).resolve().parents[3] / "train.py"
_LAST, _BEST, _SECONDS = "metrics/roc_auc", "metrics/max_roc_auc", "metrics/training_time"


class GridJobs:
    """The trainings of a grid that have not ended. What was stopped goes on from its checkpoint.

    Attributes:
        folder: of the grid.
    """

    def __init__(self, grid: Grid, report: Callable[[], object]) -> None:
        """Claim nothing yet.

        Args:
            grid: the trainings.
            report: writes the tables.
        """
        self.folder = grid.folder
        self._grid = grid
        self.report = report

    def claim(self) -> "GridJob | None":
        """The next training that has not ended and that nobody is doing."""
        for run in self._grid.runs:
            folder = self._grid.run_folder(run)
            if (
                self._grid.result(run) is None
                and not is_attended(folder)
                and not is_running(folder)
            ):
                return GridJob(self._grid, run)
        return None

    def has_orphans(self) -> bool:
        """Whether a training goes on whose tables.py has died: what comes of it is read then."""
        folders = map(self._grid.run_folder, self._grid.runs)
        return any(is_running(folder) and not is_attended(folder) for folder in folders)


class GridJob:
    """A training; the attributes are those of `crn.experiments.jobs.workers.Job`."""

    metric = _LAST

    def __init__(self, grid: Grid, run: Run) -> None:
        self.name = run.name
        self.folder = grid.run_folder(run)
        self.description = f"training {grid.runs.index(run) + 1} of {len(grid.runs)}"
        self._grid = grid
        self._run = run
        self._checkpoints = self.folder / "checkpoints"
        more: list[str | Path] = ["--log-dir", log_dir(self.folder)]
        more += ["--checkpoint-path", self._checkpoints]
        last = self._checkpoints / "last.ckpt"
        if last.exists():
            self.description += ", resumed"
            more += ["--model-input", last]
        self.words = [sys.executable, str(_TRAIN), *grid.flags(run), *map(str, more)]

    def started(self, process: int) -> None:
        """Nothing: a training whose tables.py dies goes on to its end."""

    def completed(self, seconds: float, value: float) -> None:  # noqa: ARG002
        """Record the figures of the last validation."""
        row = last_row(log_dir(self.folder), _LAST)
        result = Result(value, float(row[_BEST]), float(row[_SECONDS]), int(row["step"]))
        self._grid.record(self._run, result)
        # Gigabytes, which nobody needs any more.
        shutil.rmtree(self._checkpoints, ignore_errors=True)

    def failed(self, seconds: float, error: str) -> None:  # noqa: ARG002
        """Record the reason."""
        self._grid.record(self._run, Result(error=error))

    def interrupted(self, seconds: float) -> None:
        """Nothing: what has no result is started again."""
