"""The files of a sweep or a table: its definition, and what its jobs have logged."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crn.errors import UserError
from crn.system.files import written_whole


def refuse_other(place: str, known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to continue with other settings than known, since the results would not compare.

    Raises:
        UserError: they differ, also in the order of parameters; ``place`` begins the message.
    """
    differ = [
        name for name in settings if json.dumps(known.get(name)) != json.dumps(settings[name])
    ]
    if differ:
        raise UserError(
            f"{place}: was started with other {', '.join(differ)}; give another one, or move this "
            "one away"
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
