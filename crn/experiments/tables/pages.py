"""results.csv, a row for every training, and results.md, the tables that people read."""

import csv
from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import Any

from crn.command_line import parse_options
from crn.experiments.tables.summary import Cell, Summary, summarize
from crn.experiments.tables.trainings import DataSet, Grid
from crn.experiments.tables.trivial import TRIVIAL
from crn.system.files import written_whole
from crn.system.text import printable, spreadsheet_cell

PLOT_FILE = "units.png"

_COLUMNS = (
    *("dataset", "method", "units", "seed", "state", "last_auroc", "best_auroc"),
    *("training_seconds", "steps", "folder", "error"),
)


def write_results(grid: Grid, trivial: dict[DataSet, dict[str, float] | str]) -> str:
    """Write results.csv, results.md and, for a table of units, units.png.

    Args:
        grid: the trainings.
        trivial: as `Summary.trivial`.

    Returns:
        What results.md says.
    """
    with written_whole(grid.folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, _COLUMNS)
        table.writeheader()
        table.writerows(_trainings(grid))
        table.writerows(_baselines(trivial))
    summary = summarize(grid, trivial)
    text = "\n".join(_page(grid, summary)) + "\n"
    with written_whole(grid.folder / "results.md", "w", encoding="utf-8") as file:
        file.write(text)
    if grid.table == "units":
        from crn.experiments.tables.plot import write_plot

        write_plot(grid.folder / PLOT_FILE, summary)
    return text


def _trainings(grid: Grid) -> Iterator[dict[str, Any]]:
    for run in grid.runs:
        row = {
            "dataset": spreadsheet_cell(run.data.name),
            "method": run.model,
            "units": run.units,
            "seed": run.seed,
            "state": "missing",
            "folder": spreadsheet_cell(str(grid.run_folder(run))),
        }
        if (result := grid.result(run)) is not None:
            row |= {
                "state": "failed" if result.error else "complete",
                "last_auroc": result.last,
                "best_auroc": result.best,
                "training_seconds": result.seconds,
                "steps": result.steps,
                "error": spreadsheet_cell(result.error),
            }
        yield row


def _baselines(trivial: dict[DataSet, dict[str, float] | str]) -> Iterator[dict[str, Any]]:
    for data, aurocs in trivial.items():
        for baseline in TRIVIAL:
            row = {"dataset": spreadsheet_cell(data.name), "method": baseline}
            if isinstance(aurocs, str):
                yield row | {"state": "failed", "error": spreadsheet_cell(aurocs)}
            else:
                yield row | {"state": "complete", "last_auroc": aurocs[baseline]}


def _page(grid: Grid, summary: Summary) -> Iterator[str]:
    models = " and ".join(dict.fromkeys(method.model.upper() for method in summary.methods))
    score = parse_options(grid.flags(grid.runs[0])).scoring.anomaly_score
    seeds = ", ".join(map(str, summary.seeds))
    yield f"# {models}: {grid.table}"
    yield ""
    yield f"`{printable(grid.command)}`"
    yield ""
    yield (
        f"AUROC of images by the score `{score}`, whose direction is fixed beforehand: mean ± "
        f"standard deviation over the seeds {seeds}. *Last* is the last validation, the result. "
        "*Best* is the highest validation of each training; the test labels choose it, so it is "
        "no result. Trivial baselines need no training: how far the brightness, contrast or "
        "gradient energy of an image is from its mean over the normal training images, in "
        "standard deviations, and how far the image is from their mean image."
    )
    ended = len(grid.results())
    if ended < len(grid.runs):
        yield ""
        yield f"**{ended} of {len(grid.runs)} trainings have ended.**"
    yield ""
    if len(summary.data) > 1:
        yield from _table(_overview(summary))
        yield ""
    yield from _table(_details(summary))
    yield ""
    if grid.table == "units":
        yield f"![AUROC against the number of units]({PLOT_FILE})"
        yield ""
    yield from _verdicts(summary)
    yield from _errors(summary)


def _table(rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Markdown; the first row has the columns' names."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
        if number == 0:
            yield f"|{' --- |' * len(row)}"


def _overview(summary: Summary) -> Iterator[list[str]]:
    """The last AUROC: a row for every data set and a column for every method, as in the paper."""
    yield ["AUROC, last", *(method.label for method in summary.methods), *TRIVIAL]
    for data in summary.data:
        cells = [_spread(summary.cells[data, method].values("last")) for method in summary.methods]
        cells += [_auroc(summary.trivial_auroc(data, baseline)) for baseline in TRIVIAL]
        yield [printable(data.name), *cells]
    cells = [_spread(summary.averages(method, "last")) for method in summary.methods]
    yield ["average", *cells, *(_auroc(summary.trivial_average(each)) for each in TRIVIAL)]


def _details(summary: Summary) -> Iterator[list[str]]:
    """A row for every method on every data set."""
    yield ["data set", "method", "AUROC, last", "AUROC, best", "training", "seeds"]
    for data in summary.data:
        name = printable(data.name)
        for method in summary.methods:
            cell = summary.cells[data, method]
            last, best = (_spread(cell.values(figure)) for figure in ("last", "best"))
            yield [name, method.label, last, best, _time(cell.values("seconds")), _seeds(cell)]
        for baseline in TRIVIAL:
            yield [name, baseline, _auroc(summary.trivial_auroc(data, baseline)), "", "", ""]
    if len(summary.data) == 1:
        return
    for method in summary.methods:
        figures = {name: summary.averages(method, name) for name in ("last", "best", "seconds")}
        last, best = _spread(figures["last"]), _spread(figures["best"])
        yield ["average", method.label, last, best, _time(figures["seconds"]), ""]
    for baseline in TRIVIAL:
        yield ["average", baseline, _auroc(summary.trivial_average(baseline)), "", "", ""]


def _verdicts(summary: Summary) -> Iterator[str]:
    """On which data sets a model is better than what needs no training."""
    for method in summary.methods:
        places: dict[bool, list[str]] = {True: [], False: []}
        for data in summary.data:
            aurocs, best = summary.cells[data, method].values("last"), summary.best_trivial(data)
            if aurocs and best is not None:
                words = f"{printable(data.name)} ({best[0]}: {best[1]:.3f})"
                places[mean(aurocs) > best[1]].append(words)
        for is_above, names in places.items():
            if names:
                verb = "is above" if is_above else "is **not** above"
                yield f"- {method.label} {verb} the best trivial baseline on {', '.join(names)}."


def _errors(summary: Summary) -> Iterator[str]:
    for (data, method), cell in summary.cells.items():
        for error in dict.fromkeys(cell.errors):
            yield f"- {printable(data.name)}, {method.label} **failed**: {printable(error)}"
    for data, aurocs in summary.trivial.items():
        if isinstance(aurocs, str):
            yield f"- {printable(data.name)}, trivial baselines **failed**: {printable(aurocs)}"


def _spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation of the sample."""
    if len(values) < 2:
        return _auroc(values[0] if values else None)
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def _auroc(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _seeds(cell: Cell) -> str:
    failed = f", {len(cell.errors)} failed" if cell.errors else ""
    return f"{len(cell.done)}{failed}"


def _time(seconds: Sequence[float]) -> str:
    """The mean, as in 1:05:30 or 5:30."""
    if not seconds:
        return "–"
    minutes, rest = divmod(round(mean(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
