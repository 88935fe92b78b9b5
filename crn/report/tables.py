"""Tables of an inference run: the scores of all images as CSV, the metrics for the terminal."""

import csv
from collections.abc import Iterator
from pathlib import Path

from crn.config import SCORES
from crn.evaluation.results import (
    AUROC_UNDEFINED,
    DatasetFacts,
    Decisions,
    InferenceResults,
    KindMetrics,
    Metrics,
    PixelMetrics,
    ScoreMetrics,
)
from crn.system.files import set_aside, written_whole
from crn.system.text import SPREADSHEET_ENCODING, counted, printable, spreadsheet_cell
from datasets.samples import ANOMALOUS, NORMAL, TEST

SCORES_FILE = Path("anomaly_scores.csv")
MOST_ANOMALOUS_SHOWN = 5

_WORDS = {NORMAL: "  (normal)", ANOMALOUS: "  (anomalous)", None: ""}


def write_score_table(path: Path, results: InferenceResults) -> None:
    """Write a CSV file with a row for every image.

    The score that was asked for comes first, and unknown cells are empty.
    """
    threshold = results.metrics.threshold.image
    names = sorted(SCORES, key=lambda name: name != results.metrics.anomaly_score)
    set_aside(path)
    with written_whole(path, "w", newline="", encoding=SPREADSHEET_ENCODING) as file:
        table = csv.writer(file)
        table.writerow(["file", "split", "label", *names, "threshold", "decision"])
        for image in results.images:
            table.writerow(
                [
                    spreadsheet_cell(image.key),
                    image.split,
                    image.label,  # csv writes None as an empty cell
                    *(f"{image.scores[name]:.8g}" for name in names),
                    "" if threshold is None else f"{threshold:.8g}",
                    image.decision,
                ]
            )


def metrics_table(results: InferenceResults) -> str:
    """The metrics, decisions and most anomalous images as lines of text."""
    return "\n".join(_lines(results))


def _lines(results: InferenceResults) -> Iterator[str]:
    metrics = results.metrics
    if metrics.dataset.unlabelled:
        yield f"{counted(metrics.dataset.test, 'image')} without labels"
    elif metrics.scores is None:
        yield f"{counted(metrics.dataset.test, 'test image')}; {AUROC_UNDEFINED}"
    else:
        yield f"{metrics.dataset.test} test images, {metrics.dataset.anomalous} of them anomalous"
        yield from _scores(metrics.scores, metrics.anomaly_score)
        yield from _kinds(metrics)
    yield from _threshold(metrics)
    yield "most anomalous:"
    test = [(i.scores[metrics.anomaly_score], i) for i in results.images if i.split == TEST]
    test.sort(key=lambda row: -row[0])
    for score, image in test[:MOST_ANOMALOUS_SHOWN]:
        yield f"  {score:.6f}  {printable(image.key)}{_WORDS[image.label]}"


def _scores(metrics: dict[str, ScoreMetrics], asked: str) -> Iterator[str]:
    yield f"{'score':<16}{'AUROC':>7}{'95 %':>14}{'AP':>8}{'max F1':>8}"
    for name, row in metrics.items():
        remark = "  <- --anomaly-score" if name == asked else ""
        yield f"{name:<16}{_ranking(row)}{row.max_f1:>8.3f}{remark}"


def _kinds(metrics: Metrics) -> Iterator[str]:
    """A row for each kind of defect and one for all; nothing for a single kind without masks."""
    kinds, has_pixels = metrics.kinds or {}, metrics.pixels is not None
    if len(kinds) < 2 and not has_pixels:
        return
    rows = [(printable(kind), row) for kind, row in kinds.items()]
    width = max(16, *(len(name) + 2 for name, _ in rows))
    header = f"{'kind of defect':<{width}}{'AUROC':>7}{'95 %':>14}{'AP':>8}{'images':>8}"
    yield header + (f"{'pixel AUROC':>13}{'pixel AP':>10}{'AUPRO':>8}" if has_pixels else "")
    for name, row in [*rows, ("all", metrics.every_kind())]:
        yield f"{name:<{width}}{_ranking(row)}{row.images:>8}{_pixels(row.pixels)}"


def _ranking(row: ScoreMetrics | KindMetrics) -> str:
    low, high = row.auroc_95
    interval = f"{low:.3f}-{high:.3f}"
    return f"{row.auroc:>7.3f}{interval:>14}{row.average_precision:>8.3f}"


def _pixels(row: PixelMetrics | None) -> str:
    if row is None:
        return ""
    return f"{row.auroc:>13.3f}{row.average_precision:>10.3f}{row.aupro:>8.3f}"


def _threshold(metrics: Metrics) -> Iterator[str]:
    threshold, decisions = metrics.threshold, metrics.decisions
    if decisions is None:
        yield (
            "no threshold, so no decisions: --threshold-from takes one from an earlier inference "
            "on a data set with normal training images"
        )
        return
    yield (
        f"threshold {threshold.image:.6g} (of pixels {threshold.pixel:.6g}): "
        f"{threshold.quantile:g} quantile, from {threshold.source}"
    )
    if metrics.dataset.unlabelled:
        yield f"above it: {decisions.above:,} of {counted(decisions.of, 'image')}"
        return
    f1 = "" if decisions.f1 is None else f"; F1 {decisions.f1:.3f}"
    yield f"above it are {_above(decisions, metrics.dataset)} test images{f1}"
    for quantile, row in (metrics.decisions_at or {}).items():
        if quantile != f"{threshold.quantile:g}":
            yield f"at the {quantile} quantile: {_above(row, metrics.dataset)}"


def _above(row: Decisions, dataset: DatasetFacts) -> str:
    normal = f"{row.false_positives} of {dataset.normal} normal"
    if not dataset.anomalous:
        return normal
    return f"{row.true_positives} of {dataset.anomalous} anomalous and {normal}"
