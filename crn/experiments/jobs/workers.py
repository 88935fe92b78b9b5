"""Programs of a list, some at a time, until it is at its end or told to stop."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from crn.experiments.jobs.process import NotStartedError, Process, signal_group

# Seconds between two looks at the programs that run.
_TICK = 0.05
# Seconds until a process that has found nothing to start looks again.
_PAUSE = 1.0


class Job(Protocol):
    """A program to run.

    Attributes:
        name: for messages, as in "run 3".
        description: what is special about it.
        words: the command.
        folder: where its output goes.
        metric: column of metrics.csv whose last value is its result.
    """

    name: str
    description: str
    words: Sequence[str]
    folder: Path
    metric: str

    def started(self, process: int) -> None:
        """Record the process group of the program."""

    def completed(self, seconds: float, value: float) -> None:
        """Record the result."""

    def failed(self, seconds: float, error: str) -> None:
        """Record why there is none."""

    def interrupted(self, seconds: float) -> None:
        """Record that the program was stopped, and is to be started again."""


class Jobs(Protocol):
    """A list of programs, which several processes may share.

    Attributes:
        folder: of the list; it is `locked` whenever one of the other methods, or one of a job's, is
            called.
    """

    folder: Path

    def claim(self) -> Job | None:
        """Take the next one; None where there is nothing to start, now at least."""

    def has_orphans(self) -> bool:
        """Whether a program goes on whose process has died, so that there may be more to do."""

    def report(self) -> None:
        """Write down what there is of results."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a list, so that what is read stays true until it is acted on."""
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(message: str, file: IO[str] | None = None) -> None:
    """Print a line, on the standard error by default."""
    # Where the terminal has been closed there is nobody to tell, and still runs to look after.
    with suppress(OSError):
        print(message, file=file or sys.stderr, flush=True)


@dataclass
class _Run:
    """A job that is going on.

    Attributes:
        told: how often its program has been told to stop.
    """

    job: Job
    process: Process
    told: int = 0


class Workers:
    """Keeps some programs running until the list is at its end.

    Attributes:
        signal: the signal that has stopped it; 0 if none has.
    """

    def __init__(self, jobs: Jobs, workers: int) -> None:
        """Start nothing yet.

        Args:
            jobs: what there is to run.
            workers: programs at a time.
        """
        self.signal = 0
        self._jobs = jobs
        self._workers = workers
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
        # Under nohup the list is meant to outlive its terminal.
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
                say(f"{run.job.name}: stopping; once more to stop it at once")
            run.told = self._stops
            number = signal.SIGTERM if run.told == 1 else signal.SIGKILL
            signal_group(run.process.number, number)

    def _start_all(self) -> bool:
        """Start programs for all workers that are idle.

        Returns:
            Whether each of them has got something to do.
        """
        while len(self._runs) < self._workers and not self.signal:
            with locked(self._jobs.folder):
                job = self._jobs.claim()
                if job is None:
                    self._is_over = not self._jobs.has_orphans()
                    return False
                self._start(job)
        return True

    def _start(self, job: Job) -> None:
        say(f"{job.name}: {job.description}")
        try:
            process = Process(job.words, job.folder, self._environment())
        except NotStartedError as error:
            job.failed(0.0, str(error))
            say(f"{job.name}: {error}")
            return
        self._runs.append(_Run(job, process))
        job.started(process.number)

    def _environment(self) -> dict[str, str]:
        """The programs share the cores; torch would give all of them to each."""
        if self._workers == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        from joblib import cpu_count

        return {"OMP_NUM_THREADS": str(max(1, cpu_count() // self._workers))}

    def _collect(self) -> bool:
        """Record the programs that have ended, and say whether there were any."""
        ended = [run for run in self._runs if run.process.has_ended()]
        for run in ended:
            self._runs.remove(run)
            with locked(self._jobs.folder):
                self._record(run)
            run.process.leave()
        if ended:
            with locked(self._jobs.folder):
                self._jobs.report()
        return bool(ended)

    def _record(self, run: _Run) -> None:
        job, seconds = run.job, run.process.seconds()
        value, error = run.process.outcome(job.metric)
        if value is not None:
            job.completed(seconds, value)
            say(f"{job.name}: {job.metric} {value:.6g} after {seconds} s")
        elif self.signal:
            job.interrupted(seconds)
            say(f"{job.name}: stopped after {seconds} s")
        else:
            job.failed(seconds, error)
            say(f"{job.name}: failed after {seconds} s: {error}")
