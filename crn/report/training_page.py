"""The report of a training run: its curves over the steps, from metrics.csv."""

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crn.config import GROUPS, SCORES, Options
from crn.evaluation.results import AUROC_UNDEFINED
from crn.report.charts import Axis, Chart, Series, axis_around
from crn.report.curves import running_mean, thin_series
from crn.report.pages import REPORT_FILE, decimal, typed_settings, write_page

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
# Of every validation.
_TIME = "metrics/training_time"
_NOTHING = "The run ended before it logged anything"
# A series with more points than `_FEW` is noisy: its mean over this share of them is shown, too.
_FEW = 200
_MEAN_OVER = 0.03

_UNITS = {
    "units/best_generator": "best generator",
    "units/best_discriminator": "best discriminator",
}


@dataclass(frozen=True)
class Validations:
    """A summary of the validations of a run that have an AUROC.

    Attributes:
        last, last_step: AUROC and step of the last validation.
        best, best_step: the highest AUROC and its step; None if it was before the run was resumed.
        time: training time in words.
    """

    last: float
    last_step: float
    best: float
    best_step: float | None
    time: str


def write_training_report(folder: Path, options: Options) -> None:
    """Write report.html beside the metrics.csv that it shows.

    Args:
        folder: folder of the logs, logged_metrics/version_N.
        options: the resolved options of the run.
    """
    series, data = read_series(folder / "metrics.csv"), options.data.dataset_path
    path = folder / REPORT_FILE
    write_page(
        path,
        "training.html",
        typed_settings(options, GROUPS),
        name=data.name if data and data.name else options.data.dataset,
        options=options,
        last_step=max((points[-1, 0] for points in series.values()), default=0),
        validations=_validations(series) if "metrics/roc_auc" in series else None,
        note=AUROC_UNDEFINED if _TIME in series else None if series else _NOTHING,
        charts=list(_charts(series, options)) if series else [],
    )
    log.info("wrote %s", path)


def read_series(path: Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv as series (P, 2) of step and value, without empty cells.

    A run that was stopped before it logged anything has no file and no series.
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


def _validations(series: dict[str, np.ndarray]) -> Validations:
    aurocs = series["metrics/roc_auc"]
    best = series["metrics/max_roc_auc"][:, 1].max()
    steps = aurocs[aurocs[:, 1] == best, 0]
    return Validations(
        last=aurocs[-1, 1],
        last_step=aurocs[-1, 0],
        best=best,
        best_step=steps[0] if len(steps) else None,
        time=_duration(series[_TIME][-1, 1]),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _charts(series: dict[str, np.ndarray], options: Options) -> Iterator[Chart]:
    steps = np.concatenate([points[:, 0] for points in series.values()])
    low, high = float(steps.min()), float(steps.max())
    # From 0, except for a run that was resumed late; the same for all charts.
    x = Axis("training step", 0 if low < high / 4 else low, max(high, low + 1), whole=True)
    asked = options.scoring.anomaly_score
    names = sorted(SCORES, key=lambda name: name != asked)
    aurocs = {
        column: f"{name}, last {decimal(series[column][-1, 1])}"
        for name in names
        if (column := f"metrics/roc_auc_{name}") in series
    }
    chance = Series("by chance", np.array([[x.low, 0.5], [x.high, 0.5]]), kind="reference")
    units = options.competition.num_competitive_units
    whole = Axis("unit, counted from 0", -0.5, units - 0.5, whole=True)
    title = "AUROC of the validations"
    yield from _chart(series, title, aurocs, x, Axis("AUROC", 0, 1), more=(chance,))
    for title, losses in _LOSSES.items():
        yield from _chart(series, title, losses, x, None)
    yield from _chart(series, "Best units", _UNITS, x, whole, kind="dots")


def _chart(
    series: dict[str, np.ndarray],
    title: str,
    names: dict[str, str],
    x: Axis,
    y: Axis | None,
    *,
    kind: str = "line",
    more: Sequence[Series] = (),
) -> Iterator[Chart]:
    """A chart of some columns over the steps; none if nothing was logged of them.

    Args:
        series: the series of all columns.
        title: title of the chart.
        names: columns with their names in the legend.
        x: the axis of steps.
        y: the other axis; None: chosen to fit the values.
        kind: `Series.kind`.
        more: series to compare with.
    """
    present = {name: series[name] for name in names if name in series}
    if not present:
        return
    every = np.concatenate(list(present.values()))
    last = ", ".join(f"{names[name]} {points[-1, 1]:.4g}" for name, points in present.items())
    yield Chart(
        title,
        f"{title} over the training steps, at last: {last}",
        x,
        y or axis_around("loss", every[:, 1]),
        [*_lines(present, names, kind), *more],
    )


def _lines(series: dict[str, np.ndarray], names: dict[str, str], kind: str) -> Iterator[Series]:
    """The series of a chart; a long one as its running mean, over its faint raw points."""
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
