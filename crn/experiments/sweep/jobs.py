"""The runs of a sweep as jobs for `crn.experiments.jobs.workers`."""

from pathlib import Path
from typing import TYPE_CHECKING

from crn.experiments.jobs.process import log_dir
from crn.experiments.sweep.report import described, write_results
from crn.experiments.sweep.study import Study
from crn.system.files import set_aside

if TYPE_CHECKING:
    import optuna


class SweepJobs:
    """The runs that are left of a study.

    Attributes:
        folder: of the study.
    """

    def __init__(self, study: Study, count: int | None) -> None:
        """Claim nothing yet.

        Args:
            study: what there is to run.
            count: most runs of the study; None sets no limit.
        """
        self.folder = study.folder
        self._study = study
        self._count = count

    def claim(self) -> "SweepJob | None":
        """The next run; see `Study.claim`."""
        trial = self._study.claim(self._count)
        return None if trial is None else SweepJob(self._study, trial)

    def has_orphans(self) -> bool:
        """Whether a program goes on that was told to stop because its sweep.py has died."""
        return self._study.has_orphans()

    def report(self) -> None:
        """Write results.csv."""
        write_results(self._study)


class SweepJob:
    """A run of a study; the attributes are those of `crn.experiments.jobs.workers.Job`."""

    def __init__(self, study: Study, trial: "optuna.Trial") -> None:
        self.name = f"run {trial.number}"
        self.description = described(study.sweep, trial.params)
        self.metric = study.sweep.metric
        self.folder: Path = study.run_folder(trial.number)
        logs = f"--log-dir={log_dir(self.folder)}"
        self.words = study.sweep.words(trial.params, logs, *study.arguments)
        self._study = study
        self._trial = trial
        # Of a number that an earlier process has taken, and died before it could record it.
        set_aside(self.folder)

    def started(self, process: int) -> None:
        """Record the process group."""
        self._study.started(self._trial, process)

    def completed(self, seconds: float, value: float) -> None:
        """Record the metric."""
        self._study.completed(self._trial, seconds, value)

    def failed(self, seconds: float, error: str) -> None:
        """Record why there is no metric."""
        self._study.failed(self._trial, seconds, error)

    def interrupted(self, seconds: float) -> None:
        """Queue the run again."""
        self._study.interrupted(self._trial, seconds)
