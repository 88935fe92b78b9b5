"""The folder of a sweep or table, and the files in it."""

import csv
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from crn.errors import UserError
from crn.system.files import locked, written_whole


def lock(folder: Path) -> AbstractContextManager[list[int]]:
    """Keep other processes out of a list of jobs, so that what is read of it stays true."""
    return locked(folder / "results.csv", wait=True)


def open_folder(file: Path, definition: dict[str, Any], what: str) -> None:
    """Claim a folder for a list of jobs by a file that defines it.

    Args:
        file: the file with the definition.
        definition: equal for lists whose results can be compared.
        what: for the message, such as "the sweep in it has".

    Raises:
        UserError: the folder belongs to another list.
    """
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (results := file.with_name("results.csv")).exists():
            raise UserError(
                f"{results}: is not of this program, or of an earlier version; give another "
                "--folder, or move it away"
            ) from None
        write_json(file, definition)
        return
    except (OSError, ValueError):
        known = {}
    differ = [key for key, value in definition.items() if known.get(key) != value]
    if differ:
        raise UserError(
            f"--folder {file.parent}: {what} other {', '.join(differ)}; give another folder, or "
            "move this one away"
        )


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with written_whole(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


def log_dir(folder: Path) -> Path:
    """Where the job of a folder logs its metrics."""
    return folder / "logged_metrics"


def logged(folder: Path, metric: str) -> list[list[dict[str, str]]]:
    """The rows with a metric in each metrics.csv of a job, the oldest file first."""
    files = sorted(log_dir(folder).glob("*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    tables = [csv.DictReader(file.read_text(encoding="utf-8").splitlines()) for file in files]
    return [[row for row in table if row.get(metric)] for table in tables]
