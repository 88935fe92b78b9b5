"""The runs of a sweep: trials of an Optuna study, which several machines may share."""

import math
import platform
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from crn.errors import UserError
from crn.experiments.folder import log_dir, refuse_other
from crn.experiments.jobs import Job, Outcome
from crn.experiments.sweep.file import Distribution, Sweep
from crn.system.files import set_aside

# User attributes of trials: the run that a trial repeats, the machine and folder it was started in,
# why it failed, and that it does not count, because other machines had started the last runs.
_RUN, _PLACE, ERROR, _SURPLUS = "run", "place", "error", "surplus"


class Study:
    """The runs of a sweep. A run has the number of its first trial; repeating it adds a trial."""

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        arguments: Sequence[str] = (),
        *,
        storage: str | None = None,
        name: str = "sweep",
        count: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Create the study or open it, and queue the runs that were interrupted.

        Args:
            sweep: what is searched.
            folder: for the runs and results; no other process uses it.
            arguments: words that follow the parameters.
            storage: the URL of a database, or a journal file; None for a journal in the folder.
            name: the name of the study in the storage.
            count: maximum number of runs; None sets no limit.
            seed: seed of the suggestions; None draws one for each.

        Raises:
            UserError: the study has other settings.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.folder = sweep, folder
        self._arguments, self._seed, self._is_shared = arguments, seed, storage is not None
        self._limit = count or math.inf
        if sweep.method == "grid":
            self._limit = min(self._limit, _combinations(sweep.distributions.values()))
        self._study = optuna.create_study(
            storage=_storage(storage or str(folder / "journal.log")),
            study_name=name,
            direction=sweep.metric.goal,
            load_if_exists=True,
        )
        relevant = {"program", "method", "metric", "command", "parameters"}
        settings = sweep.model_dump(mode="json", include=relevant)
        settings["arguments after --"] = list(arguments)
        known = self._study.user_attrs.get("settings")
        if known is None:
            # It may be that of a study that somebody has removed.
            set_aside(folder / "results.csv")
            self._study.set_user_attr("settings", settings)
        place = f"--storage {storage}" if storage else f"--folder {folder}"
        refuse_other(place, known or settings, settings)
        for run in self.runs().values():
            if run.state == TrialState.RUNNING and self._is_mine(run):
                self._study.tell(run.number, state=TrialState.FAIL)
                self._repeat(run)

    def runs(self) -> dict[int, FrozenTrial]:
        """The last trial of each run, by the number of the run."""
        return _runs(self._study)

    def place(self, number: int, run: FrozenTrial) -> str:
        """The folder of a run, with the name of the machine if it is another one."""
        root = self.folder if self._is_mine(run) else run.user_attrs.get(_PLACE, "")
        return f"{root}/runs/{number:04d}"

    def retry_failed(self) -> None:
        """Queue the failed runs."""
        for run in self.runs().values():
            if run.state == TrialState.FAIL:
                self._repeat(run)

    def next_job(self) -> Job | None:
        """Start a queued run or a new one; None if there is none."""
        runs = self.runs()
        is_queued = any(run.state == TrialState.WAITING for run in runs.values())
        if not is_queued and len(runs) >= self._limit:
            return None
        self._study.sampler = self._sampler(len(runs))
        trial = self._study.ask({**self.sweep.distributions})
        number = _number(trial)
        if number == trial.number and list(self.runs()).index(number) >= self._limit:
            trial.set_user_attr(_SURPLUS, True)
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        trial.set_user_attr(_PLACE, self._place)
        folder = self.folder / "runs" / f"{number:04d}"
        # It may hold an earlier attempt.
        set_aside(folder)
        configuration = {name: trial.params[name] for name in self.sweep.distributions}
        return Job(
            name=f"run {number}",
            description="  ".join(f"{n}={short(configuration[n])}" for n in self.sweep.searched),
            folder=folder,
            words=self.sweep.words(configuration, f"--log-dir={log_dir(folder)}", *self._arguments),
            metric=self.sweep.metric.name,
            ended=partial(self._ended, trial),
        )

    def _ended(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.value is not None:
            self._study.tell(trial, outcome.value)
            return
        trial.set_user_attr(ERROR, outcome.error)
        self._study.tell(trial, state=TrialState.FAIL)
        if not outcome.error:
            self._repeat(trial)

    def _repeat(self, trial: Trial | FrozenTrial) -> None:
        """Queue the run of a trial."""
        waiting = optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={_RUN: _number(trial)},
        )
        self._study.add_trial(waiting)

    @property
    def _place(self) -> str:
        return f"{platform.node()}:{self.folder.resolve()}"

    def _is_mine(self, run: FrozenTrial) -> bool:
        return not self._is_shared or run.user_attrs.get(_PLACE) == self._place

    def _sampler(self, runs: int) -> BaseSampler:
        """A sampler for the run that comes after a number of runs."""
        if self.sweep.method == "grid":
            return _GridInOrder(self.sweep.distributions)
        kind = TPESampler if self.sweep.method == "bayes" else RandomSampler
        if self._seed is None:
            return kind()
        # With the number of runs, so that a continued sweep does not repeat its beginning.
        return kind(seed=random.Random(f"{self._seed} {runs}").randrange(2**32))


class _GridInOrder(RandomSampler):
    """Gives the first run the first configuration; the last parameter changes fastest.

    Optuna's GridSampler shuffles them, may give two machines the same one, and needs `optimize`.
    """

    def __init__(self, grid: Mapping[str, Distribution]) -> None:
        super().__init__()
        self._grid = grid

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any
    ) -> Any:
        names, choices = list(self._grid), distribution.choices
        period = _combinations(self._grid[later] for later in names[names.index(name) + 1 :])
        index = list(_runs(study)).index(_number(trial))
        return choices[index // period % len(choices)]


@contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Turn errors of a storage into a `UserError` that begins with the flag that chose it."""
    try:
        yield
    except (OSError, ImportError, JSONDecodeError, OptunaError, SQLAlchemyError) as error:
        (reason, *_) = str(error).splitlines()
        raise UserError(f"{place}: cannot be used ({reason})") from error


def short(value: Any) -> str:
    """A value of a parameter as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value) or '""'


def _storage(place: str) -> BaseStorage:
    if "://" not in place:
        # Absolute, because the lock of a journal is a symbolic link to it.
        return JournalStorage(JournalFileBackend(str(Path(place).expanduser().resolve())))
    try:
        return RDBStorage(place)
    except DatabaseError:
        # Another process may just be creating the tables.
        time.sleep(2)
        return RDBStorage(place)


def _combinations(lists: Iterable[Any]) -> int:
    return math.prod(len(each.choices) for each in lists)


def _number(trial: Trial | FrozenTrial) -> int:
    """The number of the run that a trial belongs to."""
    return trial.user_attrs.get(_RUN, trial.number)


def _runs(study: optuna.Study) -> dict[int, FrozenTrial]:
    trials = study.get_trials(deepcopy=False)
    return {_number(trial): trial for trial in trials if _SURPLUS not in trial.user_attrs}
