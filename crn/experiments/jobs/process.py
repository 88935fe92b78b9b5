"""One program: started in a folder of its own, watched, and judged.

Two files in the folder are locked, which the operating system undoes however a process ends:
command.txt by the process that looks after the program, stderr.txt by the program itself.
"""

import csv
import fcntl
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_COMMAND_FILE, _ERROR_FILE = "command.txt", "stderr.txt"
# Bytes at the end of stderr.txt in which the last line is looked for.
_TAIL = 8192


class NotStartedError(Exception):
    """There is no such program, or the system does not run it."""


class Process:
    """A program that has been started, in a session of its own.

    Attributes:
        number: of its process, and of its process group.
    """

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            words: the command.
            folder: where it is recorded, and its output added to that of earlier programs.
            environment: variables to set beside those of this process.

        Raises:
            NotStartedError: it cannot be started.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._started = time.monotonic()
        self._guard = open(folder / _COMMAND_FILE, "w", encoding="utf-8")  # noqa: SIM115
        fcntl.flock(self._guard, fcntl.LOCK_EX)
        self._guard.write(shlex.join(words) + "\n")
        self._guard.flush()
        try:
            self._popen = _start(words, folder, environment)
        except NotStartedError:
            self.leave()
            raise
        self.number = self._popen.pid

    def has_ended(self) -> bool:
        """Whether it has."""
        return self._popen.poll() is not None

    def seconds(self) -> float:
        """Since it was started."""
        return round(time.monotonic() - self._started, 1)

    def outcome(self, metric: str) -> tuple[float, str] | tuple[None, str]:
        """The metric of a program that has ended, or why there is none."""
        status = self._popen.returncode
        if status:
            last = _last_line(self._folder / _ERROR_FILE)
            if status < 0:
                return None, f"killed by {_signal_name(-status)}{last and ': ' + last}"
            return None, last or f"exit status {status}"
        value = last_logged(log_dir(self._folder), metric)
        if value is None:
            return None, f"did not log {metric}"
        return (value, "") if math.isfinite(value) else (None, f"the last {metric} is {value}")

    def leave(self) -> None:
        """Look after it no longer."""
        self._guard.close()


def _start(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    with open(folder / "stdout.txt", "ab") as out, open(folder / _ERROR_FILE, "ab") as err:
        # The program has the file open for as long as it runs, and so the lock.
        fcntl.flock(err, fcntl.LOCK_EX)
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
                # So that Ctrl-C comes once, from here: a second one would not let it save itself.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotStartedError(f"cannot be started: {error}") from error


def is_attended(folder: Path) -> bool:
    """Whether a process looks after the program of a folder."""
    return _is_locked(folder / _COMMAND_FILE)


def is_running(folder: Path) -> bool:
    """Whether the program of a folder has not ended."""
    return _is_locked(folder / _ERROR_FILE)


def _is_locked(file: Path) -> bool:
    try:
        with open(file, "r+") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def signal_group(process: int, number: int) -> None:
    """Send a signal to a program and to what it has started; nothing happens where it has ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, number)


def log_dir(folder: Path) -> Path:
    """Where the program of a folder logs its metrics."""
    return folder / "logged_metrics"


def last_logged(log_dir: Path, metric: str) -> float | None:
    """The last value of a metric in the newest metrics.csv below a folder; None without one."""
    try:
        return float(last_row(log_dir, metric)[metric])
    except (LookupError, ValueError):
        return None


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
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return lines[-1] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
