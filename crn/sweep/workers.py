"""Runs of a sweep, some at a time, until it is at its end or told to stop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crn.sweep.process import NotStartedError, Process, log_dir, signal_group
from crn.sweep.report import described, say, write_results
from crn.sweep.study import Study, locked

if TYPE_CHECKING:
    import optuna

# Seconds between two looks at the programs that run.
_TICK = 0.05
# Seconds until a process that has found nothing to start looks again.
_PAUSE = 1.0


@dataclass
class _Run:
    """A run that is going on.

    Attributes:
        told: how often its program has been told to stop.
    """

    trial: "optuna.Trial"
    process: Process
    told: int = 0


class Workers:
    """Keeps some programs running until the sweep is at its end.

    Attributes:
        signal: the signal that has stopped it; 0 if none has.
    """

    def __init__(self, study: Study, workers: int, count: int | None) -> None:
        """Start nothing yet.

        Args:
            study: what there is to run.
            workers: programs at a time.
            count: most runs of the study; None sets no limit.
        """
        self.signal = 0
        self._study = study
        self._workers = workers
        self._count = count
        self._runs: list[_Run] = []
        self._stops = 0
        self._is_over = False

    def run(self) -> None:
        """Run programs until nothing is left to start, or a signal says so.

        Ctrl-C, SIGTERM or the closing of the terminal have the programs save themselves and stop;
        the second time, they are stopped at once.
        """
        with self._signals():
            try:
                self._run()
            finally:
                # Here there are some only where this process itself has failed.
                for run in self._runs:
                    signal_group(run.process.number, signal.SIGTERM)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        # Under nohup the sweep is meant to outlive its terminal.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:  # noqa: ARG002
        # No more than this, because it may interrupt anything.
        self.signal = number
        self._stops += 1

    def _run(self) -> None:
        look_at = 0.0
        while True:
            self._pass_on_stop()
            if self._collect():
                look_at = 0.0
            if time.monotonic() >= look_at and not self._start_all():
                look_at = time.monotonic() + _PAUSE
            if not self._runs and (self.signal or self._is_over):
                return
            time.sleep(_TICK)

    def _pass_on_stop(self) -> None:
        for run in self._runs:
            if run.told == self._stops:
                continue
            if not run.told:
                say(f"run {run.trial.number}: stopping; once more to stop it at once")
            run.told = self._stops
            number = signal.SIGTERM if run.told == 1 else signal.SIGKILL
            signal_group(run.process.number, number)

    def _start_all(self) -> bool:
        """Start programs for all workers that are idle.

        Returns:
            Whether each of them has got something to do.
        """
        while len(self._runs) < self._workers and not self.signal:
            with locked(self._study.folder):
                trial = self._study.claim(self._count)
                if trial is None:
                    self._is_over = not self._study.has_orphans()
                    return False
                self._start(trial)
        return True

    def _start(self, trial: "optuna.Trial") -> None:
        study, folder = self._study, self._study.run_folder(trial.number)
        words = study.sweep.words(trial.params, f"--log-dir={log_dir(folder)}", *study.arguments)
        say(f"run {trial.number}: {described(study.sweep, trial.params)}")
        try:
            process = Process(words, folder)
        except NotStartedError as error:
            study.failed(trial, 0.0, str(error))
            say(f"run {trial.number}: {error}")
            return
        self._runs.append(_Run(trial, process))
        study.started(trial, process.number)

    def _collect(self) -> bool:
        """Record the programs that have ended, and say whether there were any."""
        ended = [run for run in self._runs if run.process.has_ended()]
        for run in ended:
            self._runs.remove(run)
            with locked(self._study.folder):
                self._record(run)
            run.process.leave()
        if ended:
            write_results(self._study)
        return bool(ended)

    def _record(self, run: _Run) -> None:
        number, seconds = run.trial.number, run.process.seconds()
        metric = self._study.sweep.metric
        value, error = run.process.outcome(metric)
        if value is not None:
            self._study.completed(run.trial, seconds, value)
            say(f"run {number}: {metric} {value:.6g} after {seconds} s")
        elif self.signal:
            self._study.interrupted(run.trial, seconds)
            say(f"run {number}: stopped after {seconds} s")
        else:
            self._study.failed(run.trial, seconds, error)
            say(f"run {number}: failed after {seconds} s: {error}")
