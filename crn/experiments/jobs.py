"""Running jobs, several at a time: what sweeps and tables have in common."""

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from crn.errors import UserError
from crn.experiments.folder import logged
from crn.system.files import writing
from crn.system.program import print_result, typed_path, whole_number


class Outcome(NamedTuple):
    """How a job has ended: with the value of its metric, with an error, or stopped (neither)."""

    value: float | None = None
    error: str = ""

    def __str__(self) -> str:
        if self.value is not None:
            return f"{self.value:.6g}"
        return f"failed ({self.error})" if self.error else "stopped"


class Job(NamedTuple):
    """A program to run.

    Attributes:
        name: for messages, such as "run 3".
        description: what distinguishes it from the others.
        folder: made for the command and its output.
        words: the command.
        metric: the column of metrics.csv whose last value is the result.
        ended: records the outcome.
    """

    name: str
    description: str
    folder: Path
    words: Sequence[str]
    metric: str
    ended: Callable[[Outcome], None]


def add_arguments(parser: argparse.ArgumentParser, what: str, where: str) -> None:
    """Add the options that sweep.py and tables.py have in common."""
    workers = f"{what} at a time; they share the cores and the GPU (default: 1)"
    parser.add_argument("--workers", type=whole_number(1), default=1, metavar="N", help=workers)
    parser.add_argument("--folder", type=typed_path, metavar="DIR", help=where)
    parser.add_argument("--retry-failed", action="store_true", help=f"repeat failed {what}")


def say(message: str) -> None:
    """Print a line on the standard error."""
    # If the terminal has been closed, nobody reads this, but the jobs go on.
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def run_jobs(
    jobs: Iterator[Job], workers: int, report: Callable[[], str], command: str, lock: Sequence[int]
) -> int:
    """Run jobs to the last one or to a signal, and print the report.

    On Ctrl-C, SIGTERM or the closing of the terminal the jobs are asked to save their state and to
    stop; the second time, they are killed.

    Args:
        jobs: what to run; the next one is taken when one of the workers is free.
        report: writes the results so far and returns them as text.
        command: what the user types to go on.
        lock: file descriptors of the folder's lock. If this process is killed, its jobs go on, and
            keep the folder locked until they have ended.

    Returns:
        128 + N if signal N has stopped it, else 0.

    Raises:
        UserError: a job cannot be started.
    """
    running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
    told = 0
    try:
        with _signals() as received:
            while True:
                while not received and len(running) < workers and (job := next(jobs, None)):
                    say(f"{job.name}: {job.description}")
                    running.append((job, _start(job, workers, lock), time.monotonic()))
                if not running:
                    break
                if told < len(received):
                    told += 1
                    say("stopping; once more to stop at once" if told == 1 else "stopping at once")
                    _send(signal.SIGTERM if told == 1 else signal.SIGKILL, running)
                time.sleep(0.05)
                for each in [each for each in running if each[1].poll() is not None]:
                    job, process, begun = each
                    outcome = _outcome(job, process.returncode, is_stopped=bool(received))
                    job.ended(outcome)
                    running.remove(each)
                    report()
                    say(f"{job.name}: {outcome} after {time.monotonic() - begun:.1f} s")
    finally:
        # If something has failed here, nothing goes on unwatched.
        _send(signal.SIGTERM, running)
        for _, process, _ in running:
            process.wait()
    print_result(report())
    if not received:
        return 0
    say(f"stopped; to go on: {command}")
    return 128 + received[-1]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals to stop have no other effect than to be appended to the list that this yields."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Under nohup, the jobs are meant to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    received: list[int] = []
    previous = {n: signal.signal(n, lambda number, _: received.append(number)) for n in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(job: Job, workers: int, lock: Sequence[int]) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if workers > 1:
        from joblib import cpu_count

        # The jobs share the cores; torch would give all of them to each.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // workers)))
    with writing(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "command.txt").write_text(shlex.join(job.words) + "\n", encoding="utf-8")
        # A resumed training run adds to what it has written.
        out, err = (job.folder.joinpath(name).open("ab") for name in ("stdout.txt", "stderr.txt"))
    with out, err:
        try:
            # In a session of its own, so that Ctrl-C arrives only from here: a second one would
            # not let it save.
            return subprocess.Popen(
                job.words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment,
                pass_fds=lock, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"{job.words[0]}: cannot be started ({error.strerror})") from None


def _send(number: int, running: Sequence[tuple[Job, subprocess.Popen[bytes], float]]) -> None:
    """Send a signal to jobs and to all processes that they have started."""
    for _, process, _ in running:
        # It may just have ended.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _outcome(job: Job, status: int, is_stopped: bool) -> Outcome:
    """The metric of a job that has ended, or why it has none."""
    if status:
        end = (job.folder / "stderr.txt").read_bytes()[-8192:].decode(errors="replace")
        last = next((line.strip() for line in reversed(end.splitlines()) if line.strip()), "")
        killed = f"killed by {signal.Signals(-status).name}" if status < 0 else ""
        error = ": ".join(filter(None, (killed, last))) or f"exit status {status}"
    else:
        try:
            value = float(logged(job.folder, job.metric)[-1][-1][job.metric])
            if math.isfinite(value):
                return Outcome(value)
            error = f"the last {job.metric} is {value}"
        except (LookupError, ValueError):
            why = ", which needs anomalous test images" if "roc_auc" in job.metric else ""
            error = f"did not log {job.metric}{why}"
    return Outcome() if is_stopped else Outcome(error=error)
