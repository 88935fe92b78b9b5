"""sweep.py: run the configurations of a sweep as processes of their own, some at a time."""

import argparse
import csv
import fcntl
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from crn.errors import UserError
from crn.files import require_writable_folder, set_aside, written_whole
from crn.sweep_file import Sweep, check_command, read_sweep
from crn.sweep_study import (
    COMMAND_FILE,
    COMPLETE,
    ERROR_FILE,
    FAILED,
    Result,
    Study,
    locked,
    run_folder,
    signal_group,
)

if TYPE_CHECKING:
    import optuna

# Seconds between two looks at the programs that run.
_TICK = 0.05
# Seconds until a process that has found nothing to start looks again.
_PAUSE = 1.0
_SHOWN = 10
_TAIL = 8192


def run_sweep(argv: Sequence[str]) -> int:
    """Run a sweep, or go on with it, as the command line says.

    Args:
        argv: words after the program's name.

    Returns:
        The exit status: 0, 1 where no run has completed, 128 + N where signal N has stopped it.

    Raises:
        UserError: the command line, the file, the study or the folder cannot be used.
    """
    options, arguments = _parse(argv)
    sweep = read_sweep(options.file)
    count = options.count or sweep.run_cap
    if count is None and sweep.method != "grid":
        raise UserError(f"--count is missing: method {sweep.method} has no end of its own")
    check_command(sweep, arguments)
    folder = options.folder or Path("sweeps") / options.file.stem
    require_writable_folder(folder, "--folder")
    with locked(folder):
        study = Study(sweep, folder, arguments, options.seed)
        if options.retry_failed:
            study.repeat(FAILED)
    workers = Workers(study, arguments, options.workers, count)
    with _signals_to(workers.stop):
        workers.run()
    results = _write_results(study)
    print(_summary(sweep, results, folder), flush=True)
    if workers.signal:
        _say(f"stopped; to go on: python sweep.py {shlex.join(argv)}")
        return 128 + workers.signal
    return 0 if any(result.state == COMPLETE for result in results) else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the words after ``--``."""
    parser = _Parser(
        usage="python sweep.py FILE [--count N] [--workers N] [...] [-- FLAGS OF THE PROGRAM]",
        description="Run a W&B sweep file on this machine, without an account. Called again, it "
        "goes on where it was; called several times at once, the calls share the work. "
        "What follows -- is added to every command, as in: -- --demo --cpu",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the sweep, a YAML file")
    parser.add_argument(
        "--count",
        type=_positive,
        metavar="N",
        help="runs of the whole sweep, earlier ones included (default: run_cap of the file; a grid "
        "has its own end)",
    )
    parser.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where the study and its runs are (default: sweeps/NAME OF THE FILE)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        metavar="N",
        help="seed of what random and bayes try: the same with one worker",
    )
    parser.add_argument("--retry-failed", action="store_true", help="do failed runs again")
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:end]), words[end + 1 :]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number from 1 on, not {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes a whole number from 0 on, not {text!r}")
    return int(text)


@contextmanager
def _signals_to(stop: Any) -> Iterator[None]:
    """Have a function called on Ctrl-C, SIGTERM, and when the terminal is closed."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Under nohup the sweep is meant to outlive its terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass
class _Run:
    """A program that is running.

    Attributes:
        guard: its command file, locked while this process looks after the program.
        started: when, by the monotonic clock.
        told: how often it has been told to stop.
    """

    trial: "optuna.Trial"
    process: subprocess.Popen
    guard: IO[str]
    started: float
    told: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Workers:
    """Keeps some programs running until the sweep is at its end.

    Attributes:
        signal: the signal that has stopped it; 0 if none has.
    """

    def __init__(
        self, study: Study, arguments: Sequence[str], workers: int, count: int | None
    ) -> None:
        """Start nothing yet.

        Args:
            study: what there is to run.
            arguments: words that follow the parameters of every command.
            workers: programs at a time.
            count: most runs of the study; None sets no limit.
        """
        self.signal = 0
        self._study = study
        self._arguments = arguments
        self._workers = workers
        self._count = count
        self._runs: list[_Run] = []
        self._stops = 0
        self._is_over = False

    def run(self) -> None:
        """Run programs until nothing is left to start, or `stop` is called."""
        look_at = 0.0
        try:
            while True:
                self._pass_on_stop()
                if self._collect():
                    look_at = 0.0
                if time.monotonic() >= look_at and not self._start_all():
                    look_at = time.monotonic() + _PAUSE
                if not self._runs and (self.signal or self._is_over):
                    return
                time.sleep(_TICK)
        finally:
            # Here there are some only where this process itself has failed.
            for run in self._runs:
                signal_group(run.process.pid, signal.SIGTERM)

    def stop(self, number: int, frame: Any) -> None:  # noqa: ARG002
        """Have the programs save themselves and stop; the second time, stop them at once."""
        # No more than this, because it may interrupt anything.
        self.signal = number
        self._stops += 1

    def _pass_on_stop(self) -> None:
        for run in self._runs:
            if run.told == self._stops:
                continue
            if not run.told:
                _say(f"run {run.trial.number}: stopping; once more to stop it at once")
            run.told = self._stops
            signal_group(run.process.pid, signal.SIGTERM if run.told == 1 else signal.SIGKILL)

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
        folder = run_folder(self._study.folder, trial.number)
        # Left by a study that has been removed.
        set_aside(folder)
        folder.mkdir(parents=True)
        log_dir = f"--log-dir={folder / 'logged_metrics'}"
        words = self._study.sweep.words(trial.params, log_dir, *self._arguments)
        guard = open(folder / COMMAND_FILE, "w", encoding="utf-8")  # noqa: SIM115
        fcntl.flock(guard, fcntl.LOCK_EX)
        guard.write(shlex.join(words) + "\n")
        guard.flush()
        _say(f"run {trial.number}: {_described(self._study.sweep, trial.params)}")
        try:
            process = _popen(words, folder)
        except (OSError, ValueError) as error:
            self._study.failed(trial, 0.0, f"cannot be started: {error}")
            guard.close()
            _say(f"run {trial.number}: cannot be started: {error}")
            return
        self._runs.append(_Run(trial, process, guard, time.monotonic()))
        self._study.started(trial, process.pid)

    def _collect(self) -> bool:
        """Record the programs that have ended, and say whether there were any."""
        ended = [run for run in self._runs if run.process.poll() is not None]
        for run in ended:
            self._runs.remove(run)
            with locked(self._study.folder):
                self._record(run)
            run.guard.close()
        if ended:
            _write_results(self._study)
        return bool(ended)

    def _record(self, run: _Run) -> None:
        number, seconds = run.trial.number, round(run.seconds, 1)
        metric = self._study.sweep.metric
        value, error = _outcome(run_folder(self._study.folder, number), run.process, metric)
        if value is not None:
            self._study.completed(run.trial, seconds, value)
            _say(f"run {number}: {metric} {value:.6g} after {seconds} s")
        elif self.signal:
            self._study.interrupted(run.trial, seconds)
            _say(f"run {number}: stopped after {seconds} s")
        else:
            self._study.failed(run.trial, seconds, error)
            _say(f"run {number}: failed after {seconds} s: {error}")


def _popen(words: list[str], folder: Path) -> subprocess.Popen:
    """Start a program that writes into a folder.

    Raises:
        OSError, ValueError: it cannot be started.
    """
    with open(folder / "stdout.txt", "wb") as out, open(folder / ERROR_FILE, "wb") as err:
        # The program has the file open for as long as it runs, and so the lock.
        fcntl.flock(err, fcntl.LOCK_EX)
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            # So that Ctrl-C comes once, from here: a second one would not let it save itself.
            start_new_session=True,
        )


def _outcome(
    folder: Path, process: subprocess.Popen, metric: str
) -> tuple[float, str] | tuple[None, str]:
    """The metric of a program that has ended, or why there is none."""
    status = process.returncode
    if status:
        last = _last_line(folder / ERROR_FILE)
        if status < 0:
            return None, f"killed by {_signal_name(-status)}{last and ': ' + last}"
        return None, last or f"exit status {status}"
    value = last_logged(folder / "logged_metrics", metric)
    if value is None:
        return None, f"did not log {metric}"
    return (value, "") if math.isfinite(value) else (None, f"the last {metric} is {value}")


def last_logged(log_dir: Path, metric: str) -> float | None:
    """The last value of a metric in the newest metrics.csv below a folder; None without one."""
    files = sorted(log_dir.glob("*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    if not files:
        return None
    with open(files[-1], newline="", encoding="utf-8") as file:
        values = [row[metric] for row in csv.DictReader(file) if row.get(metric)]
    try:
        return float(values[-1]) if values else None
    except ValueError:
        return None


def _last_line(file: Path) -> str:
    with open(file, "rb") as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - _TAIL))
        text = opened.read().decode("utf-8", errors="replace")
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return lines[-1] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _write_results(study: Study) -> list[Result]:
    """Write results.csv, and return what is in it."""
    sweep = study.sweep
    # Locked until it is written, so that a slower process does not put back an older state.
    with locked(study.folder):
        results = study.results()
        with written_whole(study.folder / "results.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(
                ["number", "state", *sweep.parameters, sweep.metric, "seconds", "folder", "error"]
            )
            for result in results:
                values = sweep.fixed() | result.configuration
                folder = run_folder(study.folder, result.number)
                rows.writerow(
                    [
                        result.number,
                        result.state,
                        *(values.get(name, "") for name in sweep.parameters),
                        result.value,
                        result.seconds,
                        folder if folder.is_dir() else "",
                        result.error,
                    ]
                )
    return results


def _summary(sweep: Sweep, results: list[Result], folder: Path) -> str:
    """A table of the best runs, and how many there are."""
    names = list(sweep.searched())
    sign = -1 if sweep.goal == "maximize" else 1
    best = sorted((r for r in results if r.value is not None), key=lambda r: sign * r.value)
    rows = [
        [
            str(r.number),
            f"{r.value:.6g}",
            str(r.seconds),
            *(_short(r.configuration[n]) for n in names),
        ]
        for r in best[:_SHOWN]
    ]
    heads = ["run", sweep.metric, "seconds", *names]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    table = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in ([heads, *rows] if rows else [])
    ]
    states = [result.state for result in results]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return "\n".join([*table, f"{counts or 'no runs'}: {folder / 'results.csv'}"])


def _described(sweep: Sweep, configuration: dict[str, Any]) -> str:
    return "  ".join(f"{n}={_short(configuration[n])}" for n in sweep.searched()) or sweep.program


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value) or '""'


def _say(message: str) -> None:
    # Where the terminal has been closed there is nobody to tell, and still runs to look after.
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
