"""Programs that run side by side until a list of them is done: what sweeps and tables share."""

import csv
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from crn.system.files import locked

# Seconds between two looks at a program, two looks for work where there was none, and two signs of
# life of a program that goes on.
_TICK, _PAUSE, BEAT = 0.05, 1.0, 5
# Bytes at the end of stderr.txt in which the last line is looked for.
_TAIL = 8192


@dataclass(frozen=True)
class Job:
    """A program to run.

    Attributes:
        key: what the list knows it by.
        name: for messages, as in "run 3".
        description: what is special about it.
        words: the command.
        folder: where the command and its output are kept, the latter added to what there is.
        metric: column of metrics.csv whose last value is its result.
        inherited: descriptors that the program has, too.
    """

    key: Any
    name: str
    description: str
    words: Sequence[str]
    folder: Path
    metric: str
    inherited: Sequence[int] = ()


class Outcome(NamedTuple):
    """How a program has ended.

    Attributes:
        value: the metric; None where it failed or was stopped.
        error: why it failed; empty where it did not.
    """

    seconds: float
    value: float | None = None
    error: str = ""


class Jobs(Protocol):
    """A list of programs, which several processes may share.

    Attributes:
        folder: of the list; it is a process's `turn` whenever one of the methods is called.
    """

    folder: Path

    def claim(self) -> Job | None:
        """Take the next one; None where there is nothing to start, now at least."""

    def is_over(self) -> bool:
        """Whether nothing can be left to start, where this process runs none any more."""

    def beat(self, job: Job) -> None:
        """Record that a program goes on; called every `BEAT` seconds, outside of a turn."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Record what came of a program. One that was stopped is to be started again."""


def turn(folder: Path) -> AbstractContextManager[list[int]]:
    """Keep other processes out of a list, so that what is read stays true until it is acted on."""
    return locked(folder / "results.csv", wait=True)


def say(message: str) -> None:
    """Print a line on the standard error."""
    # Where the terminal has been closed there is nobody to tell, and still runs to look after.
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


class Workers:
    """Keeps some programs running until the list is at its end.

    Attributes:
        signal: the signal that has stopped it; 0 if none has.
    """

    def __init__(self, jobs: Jobs, workers: int, report: Callable[[], object]) -> None:
        """Start nothing yet.

        Args:
            jobs: what there is to run.
            workers: programs at a time.
            report: writes down what there is of results, in a turn.
        """
        self.signal = 0
        self._jobs = jobs
        self._workers = workers
        self._report = report
        self._stops = 0
        self._running = 0
        self._waits = False
        self._changed = threading.Condition()

    def run(self) -> None:
        """Run programs until nothing is left to start, or a signal says so.

        Ctrl-C, SIGTERM or the closing of the terminal have the programs save themselves and stop;
        the second time, they are stopped at once.
        """
        with self._signals(), ThreadPoolExecutor(self._workers) as pool:
            try:
                for worker in as_completed([pool.submit(self._work) for _ in range(self._workers)]):
                    worker.result()
            finally:
                # Where one has failed, the others are to stop.
                self._stops = self._stops or 1

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

    def _work(self) -> None:
        while (job := self._next()) is not None:
            say(f"{job.name}: {job.description}")
            outcome = self._run(job)
            with self._changed, turn(self._jobs.folder):
                self._jobs.ended(job, outcome)
                self._report()
                self._running -= 1
                self._changed.notify_all()
            seconds, value, error = outcome
            if value is not None:
                say(f"{job.name}: {job.metric} {value:.6g} after {seconds} s")
            else:
                how = (
                    f"failed after {seconds} s: {error}" if error else f"stopped after {seconds} s"
                )
                say(f"{job.name}: {how}")

    def _next(self) -> Job | None:
        while not self._stops:
            with self._changed:
                with turn(self._jobs.folder):
                    job = self._jobs.claim()
                    is_over = job is None and self._jobs.is_over()
                if job is not None:
                    self._running += 1
                    return job
                if not self._running:
                    if is_over:
                        break
                    if not self._waits:
                        say("nothing to start: waiting for what was started elsewhere")
                    self._waits = True
                self._changed.wait(_PAUSE)
        return None

    def _run(self, job: Job) -> Outcome:
        """Run a program to its end, and tell it when it is to stop."""
        begun = beaten = time.monotonic()
        try:
            process = _start(job, self._environment())
        except (OSError, ValueError) as error:
            return Outcome(0.0, error=f"cannot be started: {error}")
        told = 0
        while process.poll() is None:
            if told < self._stops:
                if not told:
                    say(f"{job.name}: stopping; once more to stop it at once")
                # With all that it has started; nothing happens where it has just ended.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL if told else signal.SIGTERM)
                told = self._stops if told else 1
            if time.monotonic() - beaten >= BEAT:
                beaten = time.monotonic()
                with self._changed:
                    self._jobs.beat(job)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TICK)
        value, reason = _judged(process.returncode, job)
        if value is None and self._stops:
            reason = ""
        return Outcome(round(time.monotonic() - begun, 1), value, reason)

    def _environment(self) -> dict[str, str]:
        """The programs share the cores; torch would give all of them to each."""
        if self._workers == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        from joblib import cpu_count

        return {"OMP_NUM_THREADS": str(max(1, cpu_count() // self._workers))}


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "command.txt").write_text(shlex.join(job.words) + "\n", encoding="utf-8")
    with open(job.folder / "stdout.txt", "ab") as out, open(job.folder / "stderr.txt", "ab") as err:
        return subprocess.Popen(
            job.words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=os.environ | environment,
            pass_fds=job.inherited,
            # So that Ctrl-C comes once, from here: a second one would not let it save itself.
            start_new_session=True,
        )


def _judged(status: int, job: Job) -> tuple[float | None, str]:
    """The metric of a program that has ended, or why there is none."""
    if status:
        last = _last_line(job.folder / "stderr.txt")
        if status > 0:
            return None, last or f"exit status {status}"
        name = {number.value: number.name for number in signal.Signals}.get(-status, -status)
        return None, f"killed by {name}{last and ': ' + last}"
    try:
        value = float(last_row(log_dir(job.folder), job.metric)[job.metric])
    except (LookupError, ValueError):
        return None, f"did not log {job.metric}"
    return (value, "") if math.isfinite(value) else (None, f"the last {job.metric} is {value}")


def log_dir(folder: Path) -> Path:
    """Where the program of a folder logs its metrics."""
    return folder / "logged_metrics"


def last_row(log_dir: Path, metric: str) -> dict[str, str]:
    """The last row with a metric in the newest metrics.csv below a folder.

    Raises:
        LookupError: there is none.
    """
    files = sorted(log_dir.glob("*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise LookupError
    with open(files[-1], newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get(metric)][-1]


def _last_line(file: Path) -> str:
    with open(file, "rb") as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - _TAIL))
        text = opened.read().decode("utf-8", errors="replace")
    return next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
