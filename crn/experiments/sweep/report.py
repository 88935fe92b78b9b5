"""The results of a sweep: a table of the best runs, and results.csv."""

import csv
from collections.abc import Sequence

from crn.experiments.sweep.file import short
from crn.experiments.sweep.study import Study, SweepRun
from crn.system.files import written_whole
from crn.system.text import SPREADSHEET_ENCODING, spreadsheet_cell

# Rows of the table.
_SHOWN = 10


def write_results(study: Study) -> str:
    """Write results.csv; called with the folder locked.

    Returns:
        A table of the best runs, and the number of runs in each state.
    """
    sweep, runs = study.sweep, study.runs()
    path = study.folder / "results.csv"
    with written_whole(path, "w", newline="", encoding=SPREADSHEET_ENCODING) as file:
        table = csv.writer(file)
        table.writerow(
            ["number", "state", *sweep.parameters, sweep.metric, "seconds", "folder", "error"]
        )
        for run in runs:
            folder = study.run_folder(run.number)
            table.writerow([
                *(run.number, run.state),
                *run.configuration.values(),
                *(run.value, run.seconds, folder if folder.is_dir() else ""),
                spreadsheet_cell(run.error),
            ])  # fmt: skip
    states = [run.state for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return "\n".join([*_best(study, runs), f"{counts or 'no runs'}: {path}"])


def _best(study: Study, runs: Sequence[SweepRun]) -> list[str]:
    """The lines of the table of the best runs."""
    sweep = study.sweep
    names = sweep.searched()
    values = {run.number: run.value for run in runs if run.value is not None}
    best = sorted(values, key=values.__getitem__, reverse=sweep.goal == "maximize")
    rows = [
        [str(number), f"{values[number]:.6g}", str(runs[number].seconds)]
        + [short(runs[number].configuration[name]) for name in names]
        for number in best[:_SHOWN]
    ]
    if not rows:
        return []
    rows.insert(0, ["run", sweep.metric, "seconds", *names])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
