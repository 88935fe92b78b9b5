"""Running a list of jobs, several at a time: what sweeps and tables have in common."""

import argparse
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from crn.errors import UserError
from crn.experiments.folder import lock, logged
from crn.system.files import locked
from crn.system.program import print_result, typed_path, whole_number

# Seconds between two checks of a running job, and between two searches for the next one.
_TICK, _PAUSE = 0.05, 1.0
# Bytes at the end of stderr.txt that are searched for its last line.
_TAIL = 8192


class Job(NamedTuple):
    """A program to run.

    Attributes:
        name: for messages, such as "run 3".
        description: what distinguishes it from the others.
        words: the command.
        metric: the column of metrics.csv whose last value is its result.
    """

    name: str
    description: str
    words: list[str]
    metric: str


class Outcome(NamedTuple):
    """How a job has ended.

    Attributes:
        value: the metric; None if it failed or was stopped.
        error: why it failed; empty if it did not.
    """

    seconds: float
    value: float | None = None
    error: str = ""


class Jobs(Protocol):
    """A list of jobs, which several processes may share.

    Attributes:
        folder: of the list; the caller of a method holds its `lock`.
    """

    folder: Path

    def unended(self) -> Sequence[Any]:
        """The keys of jobs that have not ended, running or not, in the order of starting."""

    def run_folder(self, key: Any) -> Path:
        """The folder of a job, with its command and its output."""

    def job(self, key: Any) -> Job:
        """A job to start now: it has not ended, and nobody else runs it."""

    def ended(self, key: Any, outcome: Outcome) -> None:
        """Record how a job ended. A stopped one will be started again."""


def say(message: str) -> None:
    """Print a line on the standard error."""
    # If the terminal has been closed, nobody reads this, but the runs go on.
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser, what: str, where: str) -> None:
    """Add the options that sweep.py and tables.py have in common."""
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        default=1,
        metavar="N",
        help=f"{what} at a time; they share the cores and the GPU (default: 1)",
    )
    parser.add_argument("--folder", type=typed_path, metavar="DIR", help=where)
    parser.add_argument("--retry-failed", action="store_true", help=f"repeat failed {what}")


class Workers:
    """Keeps some jobs running until the list is done.

    The folder of each job is locked by the process that started it and by the job itself. If that
    process dies, the job goes on, and another process can claim it once it has ended.
    """

    def __init__(self, jobs: Jobs, workers: int, report: Callable[[], str]) -> None:
        """Start nothing yet.

        Args:
            jobs: what to run.
            workers: jobs at a time.
            report: writes the results so far and returns them as text; called with the list locked.
        """
        self._jobs = jobs
        self._workers = workers
        self._report = report
        self._signal = 0
        self._stops = 0
        self._locks: dict[Any, ExitStack] = {}
        self._waits = False
        self._changed = threading.Condition()

    def run(self, command: str) -> int:
        """Run jobs until none is left to start or a signal arrives, and print the report.

        On Ctrl-C, SIGTERM or the closing of the terminal the jobs save their state and stop; the
        second time, they are killed.

        Args:
            command: what the user types to go on.

        Returns:
            128 + N if signal N has stopped it, else 0.
        """
        with self._signals(), ThreadPoolExecutor(self._workers) as pool:
            try:
                for worker in as_completed([pool.submit(self._work) for _ in range(self._workers)]):
                    worker.result()
            finally:
                # If one has failed, the others stop.
                self._stops = self._stops or 1
        with lock(self._jobs.folder):
            print_result(self._report())
        if not self._signal:
            return 0
        say(f"stopped; to go on: {command}")
        return 128 + self._signal

    @contextmanager
    def _signals(self) -> Iterator[None]:
        numbers = [signal.SIGINT, signal.SIGTERM]
        # Under nohup, the jobs are meant to outlive the terminal.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:  # noqa: ARG002
        # Nothing more, because it may interrupt anything.
        self._signal = number
        self._stops += 1

    def _work(self) -> None:
        while (claimed := self._next()) is not None:
            key, job, inherited = claimed
            say(f"{job.name}: {job.description}")
            outcome = self._run(job, self._jobs.run_folder(key), inherited)
            with self._changed, lock(self._jobs.folder):
                self._jobs.ended(key, outcome)
                self._report()
                self._locks.pop(key).close()
                self._changed.notify_all()
            seconds, value, error = outcome
            if value is not None:
                how = f"{job.metric} {value:.6g} after {seconds} s"
            elif error:
                how = f"failed after {seconds} s: {error}"
            else:
                how = f"stopped after {seconds} s"
            say(f"{job.name}: {how}")

    def _next(self) -> tuple[Any, Job, list[int]] | None:
        """The next job with its key and its lock's descriptors; None if none is left."""
        while not self._stops:
            with self._changed:
                with lock(self._jobs.folder):
                    unended = self._jobs.unended()
                    for key in unended:
                        if key not in self._locks and (inherited := self._claim(key)) is not None:
                            return key, self._jobs.job(key), inherited
                if not self._locks:
                    if not unended:
                        break
                    if not self._waits:
                        say("nothing to start: waiting for what was started elsewhere")
                    self._waits = True
                self._changed.wait(_PAUSE)
        return None

    def _claim(self, key: Any) -> list[int] | None:
        """Lock the folder of a job; returns the descriptors of the lock, None if another has it."""
        folder = self._jobs.run_folder(key)
        folder.parent.mkdir(exist_ok=True)
        claim = ExitStack()
        try:
            inherited = claim.enter_context(locked(folder))
        except UserError:
            return None
        self._locks[key] = claim
        return inherited

    def _run(self, job: Job, folder: Path, inherited: Sequence[int]) -> Outcome:
        """Run a job to its end, and pass on the signals to stop."""
        begun = time.monotonic()
        try:
            process = _start(job.words, folder, self._environment(), inherited)
        except (OSError, ValueError) as error:
            return Outcome(0.0, error=f"cannot be started: {error}")
        told = 0
        while process.poll() is None:
            if told < self._stops:
                if not told:
                    say(f"{job.name}: stopping; once more to stop it at once")
                # With all processes that it has started; it may just have ended.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL if told else signal.SIGTERM)
                told = self._stops if told else 1
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TICK)
        value, reason = _judged(process.returncode, folder, job.metric)
        if value is None and self._stops:
            reason = ""
        return Outcome(round(time.monotonic() - begun, 1), value, reason)

    def _environment(self) -> dict[str, str]:
        """Variables by which the jobs share the cores; torch would give all cores to each."""
        if self._workers == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        from joblib import cpu_count

        return {"OMP_NUM_THREADS": str(max(1, cpu_count() // self._workers))}


def _start(
    words: Sequence[str], folder: Path, environment: dict[str, str], inherited: Sequence[int]
) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "command.txt").write_text(shlex.join(words) + "\n", encoding="utf-8")
    # A resumed training run adds to what it has written.
    with open(folder / "stdout.txt", "ab") as out, open(folder / "stderr.txt", "ab") as err:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=os.environ | environment,
            pass_fds=inherited,
            # So that Ctrl-C arrives only once, from here: a second one would not let it save.
            start_new_session=True,
        )


def _judged(status: int, folder: Path, metric: str) -> tuple[float | None, str]:
    """The metric of a job that has ended, or why it has none."""
    if status:
        end = (folder / "stderr.txt").read_bytes()[-_TAIL:].decode(errors="replace")
        last = next((line.strip() for line in reversed(end.splitlines()) if line.strip()), "")
        if status > 0:
            return None, last or f"exit status {status}"
        name = {number.value: number.name for number in signal.Signals}.get(-status, -status)
        return None, f"killed by {name}{last and ': ' + last}"
    try:
        value = float(logged(folder, metric)[-1][-1][metric])
    except (LookupError, ValueError):
        why = ", which needs anomalous test images" if "roc_auc" in metric else ""
        return None, f"did not log {metric}{why}"
    return (value, "") if math.isfinite(value) else (None, f"the last {metric} is {value}")
