"""The report of an inference run: its metrics, and every image."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from crn.config import SCORES
from crn.evaluation.results import (
    AUROC_UNDEFINED,
    InferenceResults,
    Metrics,
    ScoredImage,
    ScoreMetrics,
)
from crn.report.charts import Axis, Chart, Series, histogram_chart
from crn.report.curves import precision_recall, roc
from crn.report.gallery import Panels, gallery_data
from crn.report.overlays import ColourScale, legend
from crn.report.pages import REPORT_FILE, decimal, typed_settings, write_page
from crn.system.text import counted
from datasets.samples import ANOMALOUS, NORMAL, TEST

log = logging.getLogger(__name__)


def write_inference_report(
    folder: Path,
    files: Path,
    results: InferenceResults,
    shown: Sequence[Panels],
    scale: ColourScale,
) -> None:
    """Write report.html in a folder; an earlier report is renamed and keeps its pictures.

    The pictures of all images are in ``files``, from `files_folder`.
    """
    path, metrics = folder / REPORT_FILE, results.metrics
    write_page(
        path,
        "inference.html",
        {
            "model": {name: (value, False) for name, value in vars(metrics.model).items()},
            **typed_settings(results.options, ("run", "data", "scoring", "output")),
        },
        gallery_data(results, shown, files, folder),
        name=Path(metrics.dataset.path).name or metrics.dataset.layout,
        metrics=metrics,
        auroc_undefined=AUROC_UNDEFINED,
        charts=list(_charts(results)),
        legend=legend(scale, metrics.dataset.masks > 0),
    )
    log.info("wrote %s", path)


def _charts(results: InferenceResults) -> Iterator[Chart]:
    """The charts; without labels only the histogram."""
    test = [image for image in results.images if image.split == TEST]
    if results.metrics.scores is not None:
        yield from _curves(results.metrics, results.metrics.scores, test)
    yield _histogram(results.metrics, test)


def _curves(
    metrics: Metrics, scores: Mapping[str, ScoreMetrics], test: list[ScoredImage]
) -> Iterator[Chart]:
    labels = np.array([image.label for image in test])
    names = sorted(SCORES, key=lambda name: name != metrics.anomaly_score)
    values = {name: np.array([image.scores[name] for image in test]) for name in names}
    rates, precision = [], []
    if metrics.decisions is not None:
        above = np.array([image.decision for image in test]) == 1
        recall = above[labels == ANOMALOUS].mean()
        rates = [(above[labels == NORMAL].mean(), recall)]
        precision = [(recall, labels[above].mean())] if above.any() else []
    curves = {f"{name} {decimal(scores[name].auroc)}": roc(values[name], labels) for name in names}
    yield Chart(
        "ROC curve",
        "ROC curves. AUROC: " + ", ".join(curves),
        Axis("normal images above (false alarms)", 0, 1),
        Axis("anomalous images above (found)", 0, 1),
        _series(curves, "line", [(0, 0), (1, 1)], rates),
    )
    curves = {
        f"{name} {decimal(scores[name].average_precision)}": precision_recall(values[name], labels)
        for name in names
    }
    yield Chart(
        "Precision and recall",
        "Precision-recall curves. Average precision: " + ", ".join(curves),
        Axis("recall (anomalous images found)", 0, 1),
        Axis("precision (alarms that are right)", 0, 1),
        _series(curves, "steps", [(0, labels.mean()), (1, labels.mean())], precision),
    )


def _series(
    curves: Mapping[str, np.ndarray],
    kind: str,
    chance: Sequence[tuple[float, float]],
    threshold: Sequence[tuple[float, float]],
) -> list[Series]:
    """Curves by their names, the line of chance, and the point of the threshold, if any."""
    return [
        *(Series(name, points, look, kind) for look, (name, points) in enumerate(curves.items())),
        Series("by chance", np.array(chance), kind="reference"),
        *(Series("at the threshold", np.array([point]), kind="mark") for point in threshold),
    ]


def _histogram(metrics: Metrics, test: list[ScoredImage]) -> Chart:
    name = metrics.anomaly_score
    groups: dict[str, list[float]] = {}
    for label, word in ((NORMAL, " normal"), (ANOMALOUS, " anomalous"), (None, "")):
        values = [image.scores[name] for image in test if image.label == label]
        if values:
            groups[f"{len(values):,}{word}" if word else counted(len(values), "image")] = values
    return histogram_chart("Test scores", f"{name} score", groups, metrics.threshold.image)
