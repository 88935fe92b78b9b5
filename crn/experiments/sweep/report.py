"""The results of a sweep: results.csv, and a table of the best runs."""

import csv
from collections import Counter

from optuna.trial import TrialState

from crn.experiments.sweep.study import ERROR, Study, short
from crn.system.files import written_whole
from crn.system.text import SPREADSHEET_ENCODING, spreadsheet_cell

# The other states are called as by Optuna.
_STATES = {TrialState.FAIL: "failed", TrialState.WAITING: "interrupted"}
# Rows of the table.
_SHOWN = 10


def write_results(study: Study) -> str:
    """Write results.csv.

    Returns:
        A table of the best runs, and the number of runs in each state.
    """
    runs, metric = study.runs(), study.sweep.metric
    states = {n: _STATES.get(run.state, run.state.name.lower()) for n, run in runs.items()}
    names, searched = list(study.sweep.distributions), study.sweep.searched
    # A database may show the value of a run a moment before its state.
    values = {n: run.value or 0.0 for n, run in runs.items() if run.state == TrialState.COMPLETE}
    durations = {n: run.duration for n, run in runs.items() if run.duration is not None}
    seconds = {n: round(duration.total_seconds(), 1) for n, duration in durations.items()}
    path = study.folder / "results.csv"
    with written_whole(path, "w", newline="", encoding=SPREADSHEET_ENCODING) as file:
        table = csv.writer(file)
        table.writerow(["number", "state", *names, metric.name, "seconds", "folder", "error"])
        for number, run in runs.items():
            table.writerow([
                *(number, states[number], *(run.params.get(name, "") for name in names)),
                *(values.get(number), seconds.get(number), study.place(number, run)),
                spreadsheet_cell(run.user_attrs.get(ERROR, "")),
            ])  # fmt: skip
    counts = ", ".join(f"{count} {state}" for state, count in Counter(states.values()).items())
    best = sorted(values, key=values.__getitem__, reverse=metric.goal == "maximize")
    rows = [["run", metric.name, "seconds", *searched]]
    for number in best[:_SHOWN]:
        configuration = [short(runs[number].params[name]) for name in searched]
        rows.append([str(number), f"{values[number]:.6g}", str(seconds[number]), *configuration])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows if values]
    return "\n".join([*lines, f"{counts or 'no runs'}: {path}"])
