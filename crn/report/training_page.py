"""The report of a training run: its curves over the steps, from metrics.csv."""

import csv
import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
_UNITS = {
    "units/best_generator": "best generator",
    "units/best_discriminator": "best discriminator",
}
# Logged at every validation.
_TIME = "metrics/training_time"
_NOTHING = "The run ended before it logged anything"
# A series with more points than `_FEW` is noisy: its mean over this share of them is shown as well.
_FEW = 200
_MEAN_OVER = 0.03


def write_training_report(folder: Path, options: Options) -> None:
    """Write report.html beside the metrics.csv that it shows, in logged_metrics/version_N."""
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
    series = defaultdict(list)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = float(row.pop("step"))
                for name, cell in row.items():
                    if cell:
                        series[name].append((step, float(cell)))
    return {name: np.array(sorted(points)) for name, points in series.items()}


def _validations(series: dict[str, np.ndarray]) -> dict[str, Any]:
    """The last and the best AUROC with their steps, and the training time, for the template.

    The step of the best is None if the run was resumed after it.
    """
    aurocs, best = series["metrics/roc_auc"], series["metrics/max_roc_auc"][:, 1].max()
    steps = aurocs[aurocs[:, 1] == best, 0]
    return {
        "last_step": aurocs[-1, 0],
        "last": aurocs[-1, 1],
        "best": best,
        "best_step": steps[0] if len(steps) else None,
        "time": _duration(series[_TIME][-1, 1]),
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _charts(series: dict[str, np.ndarray], options: Options) -> Iterator[Chart]:
    """The charts of what was logged."""
    steps = np.concatenate([points[:, 0] for points in series.values()])
    low, high = float(steps.min()), float(steps.max())
    # From 0, unless the run was resumed late; the same for all charts.
    x = Axis("training step", 0 if low < high / 4 else low, max(high, low + 1), whole=True)
    asked = options.scoring.anomaly_score
    aurocs = {
        column: f"{name}, last {decimal(series[column][-1, 1])}"
        for name in sorted(SCORES, key=lambda name: name != asked)
        if (column := f"metrics/roc_auc_{name}") in series
    }
    units = Axis(
        *("unit, counted from 0", -0.5, options.competition.num_competitive_units - 0.5), whole=True
    )
    for title, names, y in (
        ("AUROC of the validations", aurocs, Axis("AUROC", 0, 1)),
        *((title, losses, None) for title, losses in _LOSSES.items()),
        ("Best units", _UNITS, units),
    ):
        present = {words: series[name] for name, words in names.items() if name in series}
        if not present:
            continue
        lines = list(_lines(present, "dots" if names is _UNITS else "line"))
        if names is aurocs:
            chance = np.array([[x.low, 0.5], [x.high, 0.5]])
            lines.append(Series("by chance", chance, kind="reference"))
        last = ", ".join(f"{words} {points[-1, 1]:.4g}" for words, points in present.items())
        description = f"{title} over the training steps, at last: {last}"
        values = np.concatenate([points[:, 1] for points in present.values()])
        yield Chart(title, description, x, y or axis_around("loss", values), lines)


def _lines(series: dict[str, np.ndarray], kind: str) -> Iterator[Series]:
    """The series of a chart; a long one as its running mean, over its faint raw points."""
    noise = []
    for look, (name, points) in enumerate(series.items()):
        if kind == "line" and len(points) > _FEW:
            noise.append(Series(name, thin_series(points), look, "raw"))
            mean = running_mean(points, round(len(points) * _MEAN_OVER))
            yield Series(f"{name}, running mean", thin_series(mean), look)
        else:
            yield Series(name, thin_series(points), look, kind)
    yield from noise
