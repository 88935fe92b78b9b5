"""What people see of a sweep: the table of the best runs, and results.csv."""

import csv
from collections.abc import Sequence
from typing import Any

from crn.experiments.sweep.file import short
from crn.experiments.sweep.study import Result, Study
from crn.system.files import written_whole
from crn.system.text import spreadsheet_cell

# Rows of the table.
_SHOWN = 10


def write_results(study: Study) -> list[Result]:
    """Write results.csv, and return what is in it; in a turn."""
    results = study.results()
    with written_whole(study.folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_rows(study, results))
    return results


def _rows(study: Study, results: Sequence[Result]) -> list[list[Any]]:
    sweep = study.sweep
    rows: list[list[Any]] = [
        ["number", "state", *sweep.parameters, sweep.metric, "seconds", "folder", "error"]
    ]
    for result in results:
        values = sweep.fixed() | result.configuration
        folder = study.run_folder(result.number)
        rows.append(
            [
                result.number,
                result.state,
                *(values.get(name, "") for name in sweep.parameters),
                result.value,
                result.seconds,
                folder if folder.is_dir() else "",
                spreadsheet_cell(result.error),
            ]
        )
    return rows


def summary(study: Study, results: Sequence[Result]) -> str:
    """A table of the best runs, and how many there are."""
    sweep = study.sweep
    names = list(sweep.searched())
    sign = -1 if sweep.goal == "maximize" else 1
    best = sorted((r for r in results if r.value is not None), key=lambda r: sign * (r.value or 0))
    rows = [
        [
            str(r.number),
            f"{r.value:.6g}",
            str(r.seconds),
            *(short(r.configuration[n]) for n in names),
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
    return "\n".join([*table, f"{counts or 'no runs'}: {study.folder / 'results.csv'}"])
