"""The study of a sweep: an Optuna database that several processes share, one at a time."""

import math
import random
import sqlite3
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from crn.errors import UserError
from crn.experiments.jobs import BEAT, Job, Outcome, log_dir
from crn.experiments.sweep.file import Sweep
from crn.experiments.sweep.parameters import Choice, Range
from crn.system.files import set_aside

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

DATABASE = "study.db"

# States of a run.
WAITING, RUNNING, COMPLETE = "waiting", "running", "complete"
FAILED, INTERRUPTED = "failed", "interrupted"

# Seconds after its last sign of life when a run counts as one whose sweep.py has died.
GRACE_PERIOD = 15
# Seconds more until a run that was seen all the time is believed to be looked after: the database
# counts whole ones, so that it may yet be found to be dead.
MARGIN = 2
# Seconds that a process waits for the database, which signs of life leave to others for moments.
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
    """The runs of a sweep, as `jobs.Jobs`: everything but `beat`, making one too, wants a `turn`.

    Attributes:
        sweep: what is searched.
        folder: where the database and the runs' folders are.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        arguments: Sequence[str] = (),
        count: int | None = None,
        seed: int | None = None,
        has_locks: bool = True,
    ) -> None:
        """Open the study in a folder, or make it.

        Args:
            sweep, folder: see the attributes.
            arguments: words that follow the parameters.
            count: most runs of the study; None sets no limit.
            seed: of the suggestions; None draws one.
            has_locks: whether the folder's file system has locks.

        Raises:
            UserError: Optuna is missing, or the database is damaged or that of another sweep.
        """
        self.sweep = sweep
        self.folder = folder
        self._arguments = list(arguments)
        self._count = count
        self._seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self._seen_since: dict[int, float] = {}
        self._study = _open(folder / DATABASE, sweep.goal, has_locks)
        definition = sweep.definition() | {"arguments after --": self._arguments}
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

    def claim(self) -> Job | None:
        """Take the next run: first what was interrupted, then what is new.

        Returns:
            None where there is nothing to start, now at least.
        """
        self._recover()
        trials = self._trials()
        replaced = _replaced(trials)
        counted = [trial for trial in trials if trial.number not in replaced]
        waiting = [trial for trial in counted if _state(trial) == WAITING]
        if len(counted) - len(waiting) >= self._limit():
            return None
        if self.sweep.method == "grid" and not waiting:
            self._enqueue_point({trial.user_attrs.get("point") for trial in counted})
        # From the seed and the number, so that a sweep that goes on does not repeat its beginning.
        self._study.sampler = _sampler(self.sweep.method, f"{self._seed} {len(counted)}")
        trial = self._study.ask(self._distributions())
        folder = self.run_folder(trial.number)
        # Of a study that somebody has removed.
        set_aside(folder)
        job = Job(
            trial,
            f"run {trial.number}",
            self.sweep.described(trial.params),
            self.sweep.words(trial.params, f"--log-dir={log_dir(folder)}", *self._arguments),
            folder,
            self.sweep.metric,
        )
        self.beat(job)
        trial.set_user_attr("has_beaten", True)
        return job

    def is_over(self) -> bool:
        """Whether all runs that go on have shown since that another process looks after them."""
        now = time.monotonic()
        numbers = [trial.number for trial in self._trials() if _state(trial) == RUNNING]
        self._seen_since = {number: self._seen_since.get(number, now) for number in numbers}
        enough = GRACE_PERIOD + MARGIN
        return all(now - since > enough for since in self._seen_since.values())

    def beat(self, job: Job) -> None:
        """Give a sign of life of a run."""
        self._study._storage.record_heartbeat(  # type: ignore[attr-defined]
            job.key._trial_id
        )

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Record what came of a run; one that was stopped is queued again."""
        number = job.key.number
        if self._trials()[number].state.is_finished():
            return  # given up by another process, because this one was held up, and queued again
        job.key.set_user_attr("seconds", outcome.seconds)
        if outcome.value is not None:
            self._study.tell(number, outcome.value)
            return
        if outcome.error:
            job.key.set_user_attr("error", outcome.error)
        self._end(number)
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

    def _limit(self) -> float:
        size = self.sweep.grid_size() if self.sweep.method == "grid" else math.inf
        return min(size, math.inf if self._count is None else self._count)

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
        from optuna.storages import fail_stale_trials

        fail_stale_trials(self._study)
        for trial in self._trials():
            # It died between the two calls of `claim`.
            if _state(trial) == RUNNING and "has_beaten" not in trial.user_attrs:
                self._end(trial.number)
        self.repeat(INTERRUPTED)

    def _end(self, number: int) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL)


def _open(file: Path, goal: str, has_locks: bool) -> "optuna.Study":
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError(
            f"the package {error.name} is missing: pip install -r requirements-sweep.txt"
        ) from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Heartbeats are said to be for another way of running trials, and experimental.
    warnings.filterwarnings("ignore", message="Heartbeat of storage")
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

    def connect() -> sqlite3.Connection:
        # Processes and threads take turns where there are no locks, which SQLite wants by itself.
        uri = f"file:{quote(str(file.absolute()))}{'' if has_locks else '?nolock=1'}"
        return sqlite3.connect(uri, uri=True, timeout=_PATIENCE, check_same_thread=False)

    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{DATABASE}",
            # The way to a file may hold characters that mean something else in Optuna's URL.
            engine_kwargs={"creator": connect},
            heartbeat_interval=BEAT,
            grace_period=GRACE_PERIOD,
        )
        return optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction=goal,  # type: ignore[arg-type]
            load_if_exists=True,
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
        return known.IntDistribution(parameter.low, int(parameter.high))
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
