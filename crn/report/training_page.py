"""The report of a training: its curves over the steps, from the run's metrics.csv."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crn.config import GROUPS, SCORES, Options
from crn.report.charts import Axis, Series, axis_around, line_chart
from crn.report.curves import running_mean, thin_series
from crn.report.page import (
    REPORT_FILE,
    decimal,
    figures,
    note,
    section,
    settings,
    write_page,
)

log = logging.getLogger(__name__)

_LOSSES = {
    "Reconstruction and feedback": {
        "losses/reconstruction": "reconstruction",
        "losses/feedback": "feedback",
        "losses/discriminator_reconstruction": "reconstruction by the discriminator",
    },
    "What the roles minimise": {
        "losses/generator": "generator",
        "losses/discriminator": "discriminator",
    },
}
# A series with more points is noise around what one wants to see, a mean over this share of it.
_FEW = 200
_MEAN_OVER = 0.03

_UNITS = {
    "units/best_generator": "best generator",
    "units/best_discriminator": "best discriminator",
}


def write_training_report(folder: Path, options: Options) -> None:
    """Write report.html beside the metrics.csv that it shows.

    Args:
        folder: of the run's logs, logged_metrics/version_N.
        options: of the run, as it was resolved.
    """
    series = read_series(folder / "metrics.csv")
    sections = [
        *_sections(series, options),
        section("Settings", settings(options, GROUPS, {}), name="settings"),
    ]
    path = folder / REPORT_FILE
    write_page(path, _title(options), _subtitle(series, options), sections)
    log.info("wrote %s", path)


def read_series(path: Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv as series (P, 2) of step and value, without the empty cells.

    A run that was stopped before it logged anything has no file, and no series.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = float(row.pop("step"))
                for name, cell in row.items():
                    if cell:
                        series.setdefault(name, []).append((step, float(cell)))
    return {name: np.array(sorted(points)) for name, points in series.items()}


def _title(options: Options) -> str:
    path = options.data.dataset_path
    return f"Training on {path.name if path and path.name else options.data.dataset}"


def _subtitle(series: dict[str, np.ndarray], options: Options) -> str:
    last = max((points[-1, 0] for points in series.values()), default=0)
    steps = options.optimization.training_steps
    words = f"{last:,.0f} of {steps:,} steps logged, seed {options.run.seed}."
    if options.run.model_input is not None:
        words += f" Resumed from {options.run.model_input}: the curves start there."
    return words


def _sections(series: dict[str, np.ndarray], options: Options) -> Iterator[str]:
    if not series:
        yield section("Result", note("The run ended before it logged anything."), name="result")
        return
    if "metrics/roc_auc" in series:
        remark = note(
            "“Best” is the highest validation so far. It is chosen by the labels of the test "
            "images and is no result: quote the last."
        )
        yield section("Result", figures(_key_figures(series, options)), remark, name="result")
    charts = "".join(_charts(series, options))
    yield section("Curves", f'<div class="charts">{charts}</div>', name="curves")


def _key_figures(series: dict[str, np.ndarray], options: Options) -> Iterator[tuple[str, str, str]]:
    aurocs = series["metrics/roc_auc"]
    step, last = aurocs[-1]
    yield "Last AUROC", decimal(last), f"{options.scoring.anomaly_score}, step {step:,.0f}"
    # The highest may be of before a resumption, of which this run knows the figure only.
    best = series["metrics/max_roc_auc"][:, 1].max()
    steps = aurocs[aurocs[:, 1] == best, 0]
    when = f"step {steps[0]:,.0f}" if len(steps) else "before the resumption"
    yield "Best AUROC", decimal(best), f"{when}; no result"
    yield "Time", _duration(series["metrics/training_time"][-1, 1]), "of training"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _charts(series: dict[str, np.ndarray], options: Options) -> Iterator[str]:
    steps = np.concatenate([points[:, 0] for points in series.values()])
    low, high = float(steps.min()), float(steps.max())
    # From 0, but for what was resumed late; the same for all charts.
    x = Axis("training step", 0 if low < high / 4 else low, max(high, low + 1), whole=True)
    asked = options.scoring.anomaly_score
    names = [asked, *(name for name in SCORES if name != asked)]
    columns = {name: f"metrics/roc_auc_{name}" for name in names}
    aurocs = {
        column: f"{name}, last {decimal(series[column][-1, 1])}"
        for name, column in columns.items()
        if column in series
    }
    yield _chart(
        series,
        "AUROC of the validations",
        aurocs,
        x,
        Axis("AUROC", 0, 1),
        reference=("by chance", 0.5),
    )
    for title, losses in _LOSSES.items():
        yield _chart(series, title, losses, x, None)
    units = options.competition.num_competitive_units
    axis = Axis("unit, counted from 0", -0.5, units - 0.5, whole=True)
    yield _chart(series, "Best units", _UNITS, x, axis, kind="dots")


def _chart(
    series: dict[str, np.ndarray],
    title: str,
    names: dict[str, str],
    x: Axis,
    y: Axis | None,
    *,
    kind: str = "line",
    reference: tuple[str, float] | None = None,
) -> str:
    """A chart of some columns over the steps; empty where nothing was logged of them.

    Args:
        series: of all columns.
        title: of the chart.
        names: column to its name in the legend.
        x: the axis of the steps.
        y: the other axis; around the values where None.
        kind: as of `Series`.
        reference: name and height of a line to compare with.
    """
    present = {name: series[name] for name in names if name in series}
    if not present:
        return ""
    every = np.concatenate(list(present.values()))
    last = ", ".join(f"{names[name]} {points[-1, 1]:.4g}" for name, points in present.items())
    return line_chart(
        title,
        f"{title} over the training steps, at last: {last}",
        x,
        y or axis_around("loss", every[:, 1]),
        list(_lines(present, names, kind)),
        reference=reference and (reference[0], (x.low, reference[1]), (x.high, reference[1])),
    )


def _lines(series: dict[str, np.ndarray], names: dict[str, str], kind: str) -> Iterator[Series]:
    """The series that a chart shows; a long one as its running mean, over all its points."""
    noise = []
    for look, (name, points) in enumerate(series.items()):
        if kind == "line" and len(points) > _FEW:
            noise.append(Series(names[name], thin_series(points), look, "raw"))
            window = round(len(points) * _MEAN_OVER)
            mean = thin_series(running_mean(points, window))
            yield Series(f"{names[name]}, running mean", mean, look)
        else:
            yield Series(names[name], thin_series(points), look, kind)
    yield from noise
