"""The study of a sweep: an Optuna database that several processes share, one at a time."""

import math
import random
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crn.errors import UserError
from crn.experiments.jobs.process import is_attended, is_running, signal_group
from crn.experiments.sweep.file import Sweep
from crn.experiments.sweep.parameters import Choice, Range

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

DATABASE = "study.db"

# States of a run.
WAITING, RUNNING, COMPLETE = "waiting", "running", "complete"
FAILED, INTERRUPTED = "failed", "interrupted"

# Seconds that a process waits for the database; sweep.py's lock leaves it to others for moments.
_PATIENCE = 60


class Result(NamedTuple):
    """A run, for people to read.

    Attributes:
        state: complete, failed, interrupted, running or waiting.
        value: the metric; None unless complete.
        error: why it failed; empty otherwise.
    """

    number: int
    state: str
    configuration: dict[str, Any]
    value: float | None
    seconds: float | None
    error: str


class Study:
    """The runs of a sweep. Everything here, making one too, wants `jobs.workers.locked` around it.

    Attributes:
        sweep: what is searched.
        folder: where the database and the runs' folders are.
        arguments: words that follow the parameters.
    """

    def __init__(
        self, sweep: Sweep, folder: Path, arguments: Sequence[str], seed: int | None
    ) -> None:
        """Open the study in a folder, or make it.

        Args:
            sweep, folder, arguments: see the attributes.
            seed: of the suggestions; None draws one.

        Raises:
            UserError: Optuna is missing, or the database is damaged or that of another sweep.
        """
        self.sweep = sweep
        self.folder = folder
        self.arguments = list(arguments)
        self._seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self._told_to_stop: set[int] = set()
        self._study = _open(folder / DATABASE, sweep.goal)
        definition = sweep.definition() | {"arguments after --": self.arguments}
        known = self._study.user_attrs.get("definition")
        if known is None:
            self._study.set_user_attr("definition", definition)
        elif known != definition:
            differ = [key for key, value in definition.items() if known.get(key) != value]
            raise UserError(
                f"--folder {folder}: the sweep in it has other {', '.join(differ) or 'keys'}; "
                "give another folder, or move this one away"
            )

    def run_folder(self, number: int) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / f"{number:04d}"

    def claim(self, count: int | None) -> "optuna.Trial | None":
        """Take the next run: first what was interrupted, then what is new.

        Args:
            count: most runs of the study; None sets no limit.

        Returns:
            None where there is nothing to start, now at least.
        """
        self._recover()
        trials = self._trials()
        replaced = _replaced(trials)
        counted = [trial for trial in trials if trial.number not in replaced]
        waiting = [trial for trial in counted if _state(trial) == WAITING]
        if len(counted) - len(waiting) >= self._limit(count):
            return None
        if self.sweep.method == "grid" and not waiting:
            self._enqueue_point({trial.user_attrs.get("point") for trial in counted})
        # From the seed and the number, so that a sweep that goes on does not repeat its beginning.
        self._study.sampler = _sampler(self.sweep.method, f"{self._seed} {len(counted)}")
        return self._study.ask(self._distributions())

    def has_orphans(self) -> bool:
        """Whether a program is still running whose sweep.py has died; it has been told to stop."""
        folders = (self.run_folder(trial.number) for trial in self._running())
        return any(is_running(folder) and not is_attended(folder) for folder in folders)

    def started(self, trial: "optuna.Trial", process: int) -> None:
        """Record the process group of a run."""
        trial.set_user_attr("process", process)

    def completed(self, trial: "optuna.Trial", seconds: float, value: float) -> None:
        """Record a run that has ended well."""
        trial.set_user_attr("seconds", seconds)
        self._study.tell(trial, value)

    def failed(self, trial: "optuna.Trial", seconds: float, error: str) -> None:
        """Record a run that has failed."""
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr("error", error)
        self._end(trial.number)

    def interrupted(self, trial: "optuna.Trial", seconds: float) -> None:
        """Record a run that was stopped, and queue it again."""
        trial.set_user_attr("seconds", seconds)
        self._end(trial.number)
        self.repeat(INTERRUPTED)

    def repeat(self, state: str) -> None:
        """Queue again the runs that are in a state, unless another one has taken their place."""
        trials = self._trials()
        replaced = _replaced(trials)
        for trial in trials:
            if _state(trial) != state or trial.number in replaced:
                continue
            attributes = {"replaces": trial.number}
            if "point" in trial.user_attrs:
                attributes["point"] = trial.user_attrs["point"]
            self._study.enqueue_trial(_configuration(trial), user_attrs=attributes)

    def results(self) -> list[Result]:
        """All runs, by number."""
        return [
            Result(
                number=trial.number,
                state=_state(trial),
                configuration=_configuration(trial),
                value=trial.value if _state(trial) == COMPLETE else None,
                seconds=trial.user_attrs.get("seconds"),
                error=trial.user_attrs.get("error", ""),
            )
            for trial in self._trials()
        ]

    def _trials(self) -> "list[FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    def _running(self) -> "list[FrozenTrial]":
        return [trial for trial in self._trials() if _state(trial) == RUNNING]

    def _limit(self, count: int | None) -> float:
        size = self.sweep.grid_size() if self.sweep.method == "grid" else math.inf
        return min(size, math.inf if count is None else count)

    def _enqueue_point(self, taken: set[int | None]) -> None:
        """Queue the first point of the grid that no run has.

        Optuna's GridSampler is not used: it lets processes try the same point at the same time, and
        does not know points that wait to be run again.
        """
        index = next(i for i in range(self.sweep.grid_size()) if i not in taken)
        self._study.enqueue_trial(self.sweep.grid_point(index), user_attrs={"point": index})

    def _distributions(self) -> "dict[str, BaseDistribution]":
        return {name: _distribution(of) for name, of in self.sweep.searched().items()}

    def _recover(self) -> None:
        """Queue again what a sweep.py has left undone that died."""
        for trial in self._running():
            folder = self.run_folder(trial.number)
            if is_attended(folder):
                continue
            if is_running(folder):
                self._stop_orphan(trial)
            else:
                self._end(trial.number)
        # Also those whose sweep.py died after it had ended them and before it had queued them.
        self.repeat(INTERRUPTED)

    def _stop_orphan(self, trial: "FrozenTrial") -> None:
        """Have it save itself, because nobody would learn whether it ends well."""
        process = trial.user_attrs.get("process")
        # Once: train.py does not save itself when it is told so again.
        if process is not None and trial.number not in self._told_to_stop:
            self._told_to_stop.add(trial.number)
            signal_group(process, signal.SIGTERM)

    def _end(self, number: int) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL)


def _open(file: Path, goal: str) -> "optuna.Study":
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError(
            f"the package {error.name} is missing: pip install -r requirements-sweep.txt"
        ) from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{DATABASE}",
            # The way to a file may hold characters that mean something else in a URL.
            engine_kwargs={"creator": lambda: sqlite3.connect(file, timeout=_PATIENCE)},
        )
        return optuna.create_study(
            storage=storage, study_name="sweep", direction=goal, load_if_exists=True
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error)
        raise UserError(
            f"{file}: cannot be used ({reason}); give another --folder, or move it away"
        ) from None


def _sampler(method: str, seed: str) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import RandomSampler, TPESampler

    number = random.Random(seed).randrange(2**32)
    return TPESampler(seed=number) if method == "bayes" else RandomSampler(seed=number)


def _distribution(parameter: Choice | Range) -> "BaseDistribution":
    from optuna import distributions as known

    if isinstance(parameter, Choice):
        return known.CategoricalDistribution(parameter.texts)
    if isinstance(parameter.low, int):
        return known.IntDistribution(parameter.low, parameter.high)
    return known.FloatDistribution(parameter.low, parameter.high, log=parameter.is_logarithmic)


def _state(trial: "FrozenTrial") -> str:
    """In this program's words: for Optuna a run that was interrupted has failed."""
    name = trial.state.name.lower()
    if name != "fail":
        return name
    return FAILED if "error" in trial.user_attrs else INTERRUPTED


def _configuration(trial: "FrozenTrial") -> dict[str, Any]:
    """Values of the searched parameters; of a run that is only queued, those it was queued with."""
    return trial.system_attrs.get("fixed_params", {}) | trial.params


def _replaced(trials: "list[FrozenTrial]") -> set[int]:
    """Numbers of the runs that another one does again."""
    return {t.user_attrs["replaces"] for t in trials if "replaces" in t.user_attrs}
