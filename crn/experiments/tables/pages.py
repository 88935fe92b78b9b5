"""results.csv, a row for every training, and results.md, the tables that people read."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from statistics import mean, stdev
from typing import Any

from crn.command_line import parse_options
from crn.experiments.tables.runs import DataSet, Result, Table
from crn.experiments.tables.summary import BASELINES, UNTRAINED_SEEDS, Summary, spread
from crn.system.files import written_whole
from crn.system.text import SPREADSHEET_ENCODING, printable, spreadsheet_cell

PLOT_FILE = "units.png"

_COLUMNS = (
    *("dataset", "method", "recipe", "units", "seed", "state"),
    *(field.name for field in fields(Result)),
    "folder",
)


def write_results(table: Table, baselines: dict[DataSet, dict[str, list[float]] | str]) -> str:
    """Write results.csv, results.md and, for a table of units, units.png.

    Args:
        table: the training runs.
        baselines: as `Summary.baselines`.

    Returns:
        What results.md says.
    """
    path = table.folder / "results.csv"
    with written_whole(path, "w", newline="", encoding=SPREADSHEET_ENCODING) as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(_runs(table))
        writer.writerows(_baselines(baselines))
    summary = Summary(table, baselines)
    text = "\n\n".join(_page(table, summary)) + "\n"
    with written_whole(table.folder / "results.md", "w", encoding="utf-8") as file:
        file.write(text)
    if table.name == "units":
        from crn.experiments.tables.plot import write_plot

        write_plot(table.folder / PLOT_FILE, summary)
    return text


def _runs(table: Table) -> Iterator[dict[str, Any]]:
    for run in table.runs:
        row = {
            "dataset": spreadsheet_cell(run.data.name),
            "method": run.method.model,
            "recipe": run.method.recipe,
            "units": run.method.units,
            "seed": run.seed,
            "state": "missing",
            "folder": spreadsheet_cell(str(table.run_folder(run))),
        }
        if (result := table.result(run)) is not None:
            row |= asdict(result)
            row["state"] = "failed" if result.error else "complete"
            row["error"] = spreadsheet_cell(result.error)
        yield row


def _baselines(baselines: dict[DataSet, dict[str, list[float]] | str]) -> Iterator[dict[str, Any]]:
    for data, aurocs in baselines.items():
        for name in BASELINES:
            row = {"dataset": spreadsheet_cell(data.name), "method": name}
            if isinstance(aurocs, str):
                yield row | {"state": "failed", "error": spreadsheet_cell(aurocs)}
                continue
            for seed, value in enumerate(values := aurocs[name]):
                drawn = {"seed": seed} if len(values) > 1 else {}
                yield row | drawn | {"state": "complete", "last_auroc": value}


def _page(table: Table, summary: Summary) -> Iterator[str]:
    """The paragraphs of results.md."""
    by_recipe = " and ".join(
        f"`{parse_options(table.flags(run)).scoring.anomaly_score}` ({recipe})"
        for recipe, run in {run.method.recipe: run for run in table.runs}.items()
    )
    seeds = ", ".join(map(str, summary.seeds))
    yield f"# Results: {table.name}"
    yield f"`{printable(table.command)}`"
    yield (
        f"AUROC of images by the score {by_recipe}, whose direction is fixed beforehand: mean ± "
        f"standard deviation over the seeds {seeds}. *Last* is the last validation, the result. "
        "*Best* is the highest validation of each training; the test labels choose it, so it is "
        "not a result. *Swing* is the highest less the lowest AUROC over the last third of a "
        "training's validations. *False alarms* and *found* are the normal and the anomalous test "
        "images above the threshold, which 99 % of the normal training images are below, and "
        "*0.95* those above the threshold that 95 % of these are below. Pixel "
        "AUROC and AUPRO are of the last state, too. What is called *above* another is so by more "
        "than its standard deviation over the seeds; what it is compared to has its own one added."
    )
    yield (
        "Baselines need no training: how far the brightness, contrast or gradient energy of an "
        "image is from its mean over the normal training images, in standard deviations; how far "
        "the image is from their mean image; and the maximum of a smoothed map: the distance to "
        "the mean image and to the image's own local mean, both standardised by normal images, and "
        "the Mahalanobis distances from normal images of an untrained network's features and of "
        "the image's coarse patches, which the balanced recipe combines with what networks tell. "
        "*Centred*, the same maps are scored as the recipe scores those of networks alone. The "
        f"untrained features are those of {len(UNTRAINED_SEEDS)} networks: mean ± standard "
        "deviation."
    )
    if any(method.model == "control" for method in summary.methods):
        yield (
            "*Autoencoders* in the plural are the control: the units of CRN without their game, "
            "which only learn to reproduce images, by the same steps and scores."
        )
    if any(method.model == "untrained" for method in summary.methods):
        yield (
            "*Untrained units* are those of CRN with the weights that training starts from, scored "
            "in the same way: what a row has above theirs is what training adds."
        )
    ended = len(table.results())
    if ended < len(table.runs):
        yield f"**{ended} of {len(table.runs)} training runs have ended.**"
    if len(summary.data) > 1:
        yield _table(_overview(summary))
    yield _table(_details(summary))
    if table.name == "units":
        yield f"![AUROC against the number of units]({PLOT_FILE})"
    if points := [*_verdicts(summary), *_errors(summary)]:
        yield "\n".join(points)


def _table(rows: Iterator[Sequence[str]]) -> str:
    """Markdown; the first row has the columns' names."""
    lines = []
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
        if len(lines) == 1:
            lines.append("|" + " --- |" * len(row))
    return "\n".join(lines)


def _overview(summary: Summary) -> Iterator[list[str]]:
    """The last AUROC: a row for every method and a column for every data set."""
    yield ["AUROC, last", *(printable(data.name) for data in summary.data), "average"]
    for method in summary.methods:
        cells = [_spread(summary.values(data, method)) for data in summary.data]
        yield [method.label, *cells, _spread(summary.averages(method))]
    for name in BASELINES:
        aurocs = [summary.baseline(data, name) for data in summary.data]
        averages = [mean(each) for each in zip(*filter(None, aurocs), strict=True)]
        yield [name, *map(_spread, aurocs), _spread(averages)]


def _details(summary: Summary) -> Iterator[list[str]]:
    """A row for every method on every data set."""
    columns: dict[str, tuple[str, Callable[[Sequence[float]], str]]] = {
        "AUROC, last": ("last_auroc", _spread),
        "AUROC, best": ("best_auroc", _spread),
        "swing": ("swing", _mean),
        "pixel AUROC": ("pixel_auroc", _spread),
        "AUPRO": ("aupro", _spread),
        "false alarms": ("false_alarms", _percent),
        "found": ("found", _percent),
        "false alarms, 0.95": ("false_alarms_95", _percent),
        "found, 0.95": ("found_95", _percent),
        "training": ("training_seconds", _time),
    }
    yield ["data set", "method", *columns, "seeds"]
    nothing = [""] * len(columns)
    for data in summary.data:
        place = printable(data.name)
        for method in summary.methods:
            errors = summary.errors(data, method)
            seeds = str(len(summary.values(data, method)))
            if errors:
                seeds += f", {len(errors)} failed"
            cells = [show(summary.values(data, method, name)) for name, show in columns.values()]
            yield [place, method.label, *cells, seeds]
        for name in BASELINES:
            yield [place, name, _spread(summary.baseline(data, name)), *nothing]


def _verdicts(summary: Summary) -> Iterator[str]:
    """Where a model is better than what needs no training, and units than without their game."""
    for method in summary.methods:
        best = {data: summary.best_baseline(data) for data in summary.data}
        control = {data: summary.reached_by(method.control, data) for data in summary.data}
        for rival, figures in (("the best baseline", best), ("its control", control)):
            places: dict[bool, list[str]] = {True: [], False: []}
            for data, figure in figures.items():
                aurocs = summary.values(data, method)
                if aurocs and figure is not None:
                    name, theirs = figure
                    reached = mean(theirs) + spread(theirs)
                    words = f"{printable(data.name)} ({name}: {reached:.3f})"
                    places[mean(aurocs) - spread(aurocs) > reached].append(words)
            for is_above, names in places.items():
                if names:
                    verb = "is above" if is_above else "is **not** above"
                    yield f"- {method.label} {verb} {rival} on {', '.join(names)}."


def _errors(summary: Summary) -> Iterator[str]:
    for data in summary.data:
        for method in summary.methods:
            for error in dict.fromkeys(summary.errors(data, method)):
                yield f"- {printable(data.name)}, {method.label} **failed**: {printable(error)}"
    for data, aurocs in summary.baselines.items():
        if isinstance(aurocs, str):
            yield f"- {printable(data.name)}, baselines **failed**: {printable(aurocs)}"


def _spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation of the sample."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else _mean(values)


def _auroc(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _mean(values: Sequence[float]) -> str:
    return _auroc(mean(values) if values else None)


def _percent(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.0f} %" if values else "–"


def _time(seconds: Sequence[float]) -> str:
    """The mean, as in 1:05:30 or 5:30."""
    if not seconds:
        return "–"
    minutes, rest = divmod(round(mean(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
