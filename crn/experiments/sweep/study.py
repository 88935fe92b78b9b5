"""The study of a sweep: its runs, in a file that several processes share."""

import importlib.util
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crn.errors import UserError
from crn.experiments.folder import log_dir, open_folder, write_json
from crn.experiments.jobs import Job, Outcome
from crn.experiments.sweep.file import Sweep
from crn.experiments.sweep.parameters import Choice, Range
from crn.system.files import set_aside

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_DEFINITION, _RUNS = "sweep.json", "runs.json"

# States of a run.
RUNNING, COMPLETE, FAILED, INTERRUPTED = "running", "complete", "failed", "interrupted"


@dataclass
class SweepRun:
    """A run of a sweep, and its result.

    Attributes:
        configuration: values of the parameters.
        state: running, complete, failed or interrupted.
        value: the metric; None unless complete.
        seconds: its duration; None until it has ended.
        error: why it failed; empty otherwise.
    """

    number: int
    configuration: dict[str, Any]
    state: str = RUNNING
    value: float | None = None
    seconds: float | None = None
    error: str = ""


@dataclass
class Study:
    """The runs of a sweep, as `jobs.Jobs`.

    Attributes:
        sweep: what is searched.
        folder: holds runs.json and the folders of the runs.
        arguments: words that follow the parameters.
        count: maximum number of runs; None sets no limit.
        seed: seed of the suggestions; None draws one for each.
    """

    sweep: Sweep
    folder: Path
    arguments: Sequence[str] = ()
    count: int | None = None
    seed: int | None = None

    def open(self) -> None:
        """Claim the folder for this sweep; called with the folder locked.

        Raises:
            UserError: Optuna is missing, or the folder belongs to another sweep.
        """
        if self.sweep.method != "grid" and importlib.util.find_spec("optuna") is None:
            raise UserError(
                f"method {self.sweep.method} needs the package optuna: "
                "pip install -r requirements-sweep.txt"
            )
        definition = self.sweep.definition() | {"arguments after --": [*self.arguments]}
        open_folder(self.folder / _DEFINITION, definition, "the sweep in it has")

    def runs(self) -> list[SweepRun]:
        """All runs, by number.

        Raises:
            UserError: runs.json is damaged.
        """
        path = self.folder / _RUNS
        try:
            return [SweepRun(**run) for run in json.loads(path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: cannot be used ({error}); give another --folder, or move this one away"
            ) from None

    def _write(self, runs: Sequence[SweepRun]) -> None:
        write_json(self.folder / _RUNS, [asdict(run) for run in runs])

    def forget_failed(self) -> None:
        """Mark failed runs to be started again."""
        runs = self.runs()
        for run in runs:
            if run.state == FAILED:
                run.state, run.error = INTERRUPTED, ""
        self._write(runs)

    def unended(self) -> list[int]:
        """The numbers of running and interrupted runs, and the number of a new run."""
        runs = self.runs()
        unended = [run.number for run in runs if run.state in (RUNNING, INTERRUPTED)]
        size = self.sweep.grid_size() if self.sweep.method == "grid" else math.inf
        if len(runs) < min(size, math.inf if self.count is None else self.count):
            unended.append(len(runs))
        return unended

    def run_folder(self, key: int) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / f"{key:04d}"

    def job(self, key: int) -> Job:
        """The run to start; a new one gets a new configuration."""
        runs = self.runs()
        if key == len(runs):
            runs.append(SweepRun(key, self._configuration(runs)))
        configuration = runs[key].configuration
        runs[key] = SweepRun(key, configuration)
        self._write(runs)
        folder = self.run_folder(key)
        # It may hold an earlier attempt, or a run of a study that was removed.
        set_aside(folder)
        return Job(
            f"run {key}",
            self.sweep.described(configuration),
            self.sweep.words(configuration, f"--log-dir={log_dir(folder)}", *self.arguments),
            self.sweep.metric,
        )

    def ended(self, key: int, outcome: Outcome) -> None:
        """Record how a run ended; a stopped one will be started again."""
        runs = self.runs()
        run = runs[key]
        run.seconds, run.value, run.error = outcome
        ended = FAILED if run.error else INTERRUPTED
        run.state = ended if run.value is None else COMPLETE
        self._write(runs)

    def _configuration(self, runs: Sequence[SweepRun]) -> dict[str, Any]:
        """The configuration of the run that comes after ``runs``."""
        if self.sweep.method == "grid":
            return next(islice(self.sweep.grid(), len(runs), None))
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = None
        if self.seed is not None:
            # With the number of the run, so that a continued sweep does not repeat its beginning.
            seed = random.Random(f"{self.seed} {len(runs)}").randrange(2**32)
        samplers = {"bayes": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        study = optuna.create_study(
            sampler=samplers[self.sweep.method](seed=seed),
            direction=optuna.study.StudyDirection[self.sweep.goal.upper()],
        )
        known = {name: _distribution(of) for name, of in self.sweep.parameters.items()}
        for run in runs:
            if run.state == COMPLETE:
                study.add_trial(
                    optuna.create_trial(
                        params=run.configuration, distributions=known, value=run.value
                    )
                )
        tried = study.ask(known).params
        return {name: tried[name] for name in known}


def _distribution(parameter: Choice | Range) -> "BaseDistribution":
    from optuna import distributions as known

    if isinstance(parameter, Choice):
        return known.CategoricalDistribution(parameter.texts)
    if isinstance(parameter.low, int):
        return known.IntDistribution(parameter.low, int(parameter.high))
    return known.FloatDistribution(parameter.low, parameter.high, log=parameter.is_logarithmic)
