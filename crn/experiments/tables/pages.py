"""results.csv, a row for every training run, and results.md, the tables that people read."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import mean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from crn.command_line import parse_options
from crn.experiments.tables.runs import Result, Table
from crn.experiments.tables.summary import BASELINES, Baselines, Summary, spread
from crn.system.files import written_whole
from crn.system.text import SPREADSHEET_ENCODING, printable, spreadsheet_cell

_COLUMNS = (
    *("dataset", "method", "recipe", "units", "seed", "state"),
    *(field.name for field in fields(Result)),
    "folder",
)


def write_results(table: Table, baselines: Baselines) -> str:
    """Write results.csv, results.md and, for a table of units, units.png.

    Returns:
        The text of results.md.
    """
    path = table.folder / "results.csv"
    with written_whole(path, "w", newline="", encoding=SPREADSHEET_ENCODING) as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        for row in (*_runs(table), *_baselines(baselines)):
            texts = {name: spreadsheet_cell(v) for name, v in row.items() if isinstance(v, str)}
            writer.writerow(row | texts)
    summary = Summary(table, baselines)
    text = _page(table, summary)
    with written_whole(table.folder / "results.md", "w", encoding="utf-8") as file:
        file.write(text)
    if table.name == "units":
        from crn.experiments.tables.plot import write_plot

        write_plot(table.folder / "units.png", summary)
    return text


def _runs(table: Table) -> Iterator[dict[str, Any]]:
    for run in table.runs:
        result = table.results.get(run)
        state = "missing" if result is None else "failed" if result.error else "complete"
        yield {
            **{"dataset": run.data.name, "method": run.method.model, "recipe": run.method.recipe},
            **{"units": run.method.units, "seed": run.seed, "state": state},
            **asdict(result or Result()),
            "folder": str(table.run_folder(run)),
        }


def _baselines(baselines: Baselines) -> Iterator[dict[str, Any]]:
    for data, aurocs in baselines.items():
        for name in BASELINES:
            row = {"dataset": data.name, "method": name}
            if isinstance(aurocs, str):
                yield row | {"state": "failed", "error": aurocs}
                continue
            for seed, value in enumerate(values := aurocs[name]):
                drawn = {"seed": seed} if len(values) > 1 else {}
                yield row | drawn | {"state": "complete", "last_auroc": value}


def _page(table: Table, summary: Summary) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # it is Markdown
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "printable": printable,
        "cell": lambda text: printable(text).replace("|", r"\|"),
        "mean": lambda values: f"{mean(values):.3f}" if values else "–",
        "spread": _spread,
        "percent": lambda values: f"{100 * mean(values):.0f} %" if values else "–",
        "time": _time,
    }
    by_recipe = " and ".join(
        f"`{parse_options(table.flags(run)).scoring.anomaly_score}` ({recipe})"
        for recipe, run in {run.method.recipe: run for run in table.runs}.items()
    )
    return environment.get_template("results.md.jinja").render(
        table=table,
        summary=summary,
        baselines=BASELINES,
        scores=by_recipe,
        points=list(_points(summary)),
    )


def _points(summary: Summary) -> Iterator[str]:
    """Where methods are above what needs no training and above their controls; what failed."""
    for method in summary.methods:
        places: dict[str, list[str]] = {}
        for data in summary.data:
            if ours := summary.values(data, method):
                for rival, (name, theirs) in summary.rivals(method, data).items():
                    reached = mean(theirs) + spread(theirs)
                    verb = "is above" if mean(ours) - spread(ours) > reached else "is **not** above"
                    place = f"{data.name} ({name}: {reached:.3f})"
                    places.setdefault(f"{verb} {rival}", []).append(place)
        for verdict, names in places.items():
            yield f"{method.label} {verdict} on {', '.join(names)}."
    for data, aurocs in summary.baselines.items():
        for method in summary.methods:
            for error in dict.fromkeys(summary.values(data, method, "error")):
                yield f"{data.name}, {method.label} **failed**: {error}"
        if isinstance(aurocs, str):
            yield f"{data.name}, baselines **failed**: {aurocs}"


def _spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation of the sample."""
    if not values:
        return "–"
    return f"{mean(values):.3f}" + (f" ± {spread(values):.3f}" if len(values) > 1 else "")


def _time(seconds: Sequence[float]) -> str:
    """The mean, as in 1:05:30 or 5:30."""
    if not seconds:
        return "–"
    minutes, rest = divmod(round(mean(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
