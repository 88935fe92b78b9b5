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
    """Write report.html; an earlier report is renamed and stays whole.

    Args:
        folder: folder of the page.
        files: folder of its pictures, from `files_folder`.
        results: results of the run.
        shown: the pictures of all images.
        scale: the colours of overlays.
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
    values = {name: np.array([image.scores[name] for image in test]) for name in SCORES}
    names = sorted(SCORES, key=lambda name: name != metrics.anomaly_score)
    counts, dataset = metrics.decisions, metrics.dataset
    roc_mark, precision_mark = [], []
    if (
        counts is not None
        and counts.true_positives is not None
        and counts.false_positives is not None
    ):
        recall = counts.true_positives / dataset.anomalous
        roc_mark = [_mark(counts.false_positives / dataset.normal, recall)]
        if counts.above:
            precision_mark = [_mark(recall, counts.true_positives / counts.above)]
    aurocs = {name: f"{name} {decimal(scores[name].auroc)}" for name in names}
    yield Chart(
        "ROC curve",
        "ROC curves. AUROC: " + ", ".join(aurocs.values()),
        Axis("normal images above (false alarms)", 0, 1),
        Axis("anomalous images above (found)", 0, 1),
        [
            *(Series(aurocs[n], roc(values[n], labels), look) for look, n in enumerate(names)),
            Series("by chance", np.array([[0, 0], [1, 1]]), kind="reference"),
            *roc_mark,
        ],
    )
    share = labels.mean()
    precisions = {name: f"{name} {decimal(scores[name].average_precision)}" for name in names}
    yield Chart(
        "Precision and recall",
        "Precision-recall curves. Average precision: " + ", ".join(precisions.values()),
        Axis("recall (anomalous images found)", 0, 1),
        Axis("precision (alarms that are right)", 0, 1),
        [
            *(
                Series(precisions[name], precision_recall(values[name], labels), look, "steps")
                for look, name in enumerate(names)
            ),
            Series("by chance", np.array([[0, share], [1, share]]), kind="reference"),
            *precision_mark,
        ],
    )


def _mark(x: float, y: float) -> Series:
    return Series("at the threshold", np.array([[x, y]]), kind="mark")


def _histogram(metrics: Metrics, test: list[ScoredImage]) -> Chart:
    name = metrics.anomaly_score
    scores = {
        label: [image.scores[name] for image in test if image.label == label]
        for label in (NORMAL, ANOMALOUS, None)
    }
    groups = {
        f"{len(scores[NORMAL]):,} normal": scores[NORMAL],
        f"{len(scores[ANOMALOUS]):,} anomalous": scores[ANOMALOUS],
        counted(len(scores[None]), "image"): scores[None],
    }
    known = {words: values for words, values in groups.items() if values}
    return histogram_chart("Test scores", f"{name} score", known, metrics.threshold.image)
