"""The metrics of a run of inference as a short text, for the terminal."""

from collections.abc import Iterator
from typing import Any

from crn.config import SCORES
from crn.evaluation.results import InferenceResults
from crn.system.text import counted, printable
from datasets.samples import ANOMALOUS, NORMAL, TEST

MOST_ANOMALOUS_SHOWN = 5

_WORDS = {NORMAL: "  (normal)", ANOMALOUS: "  (anomalous)", None: ""}


def metrics_table(results: InferenceResults) -> str:
    """Lines that tell how well scores and maps tell anomalous from normal, and what is where."""
    return "\n".join(_lines(results))


def _lines(results: InferenceResults) -> Iterator[str]:
    metrics = results.metrics
    dataset = metrics["dataset"]
    if metrics["scores"] is None:
        yield f"{counted(dataset['test'], 'image')} without labels"
    else:
        yield f"{dataset['test']} test images, {dataset['anomalous']} of them anomalous"
        yield from _scores(results)
        yield from _kinds(metrics)
    yield from _threshold(metrics)
    yield "most anomalous:"
    test = [image for image in results.images if image.split == TEST]
    test.sort(key=lambda image: -image.scores[results.score])
    for image in test[:MOST_ANOMALOUS_SHOWN]:
        yield f"  {image.scores[results.score]:.6f}  {printable(image.key)}{_WORDS[image.label]}"


def _scores(results: InferenceResults) -> Iterator[str]:
    yield f"{'score':<16}{'AUROC':>7}{'95 %':>14}{'AP':>8}{'max F1':>8}"
    for name in SCORES:
        row = results.metrics["scores"][name]
        asked = "  <- --anomaly-score" if name == results.score else ""
        yield f"{name:<16}{_ranking(row)}{row['max_f1']:>8.3f}{asked}"


def _kinds(metrics: dict[str, Any]) -> Iterator[str]:
    """A row for each kind of defect and one for all; nothing where that tells nothing new."""
    kinds, pixels = metrics["kinds"], metrics["pixels"]
    if len(kinds) < 2 and pixels is None:
        return
    rows = [(printable(kind), row) for kind, row in kinds.items()]
    width = max(16, *(len(name) + 2 for name, _ in rows))
    header = f"{'kind of defect':<{width}}{'AUROC':>7}{'95 %':>14}{'AP':>8}{'images':>8}"
    yield header + (f"{'pixel AUROC':>13}{'pixel AP':>10}{'AUPRO':>8}" if pixels else "")
    every = metrics["scores"][metrics["anomaly_score"]] | {
        "images": metrics["dataset"]["anomalous"],
        "pixels": pixels,
    }
    for name, row in [*rows, ("all", every)]:
        yield f"{name:<{width}}{_ranking(row)}{row['images']:>8}{_pixels(row['pixels'])}"


def _ranking(row: dict[str, Any]) -> str:
    low, high = row["auroc_95"]
    interval = f"{low:.3f}-{high:.3f}"
    return f"{row['auroc']:>7.3f}{interval:>14}{row['average_precision']:>8.3f}"


def _pixels(row: dict[str, float] | None) -> str:
    if row is None:
        return ""
    return f"{row['auroc']:>13.3f}{row['average_precision']:>10.3f}{row['aupro']:>8.3f}"


def _threshold(metrics: dict[str, Any]) -> Iterator[str]:
    threshold, decisions = metrics["threshold"], metrics["decisions"]
    if decisions is None:
        yield (
            "no threshold, so no decisions: --threshold-from takes that of an earlier inference "
            "on a data set with normal training images"
        )
        return
    yield (
        f"threshold {threshold['image']:.6g} (of pixels {threshold['pixel']:.6g}): "
        f"{threshold['quantile']:g} quantile, from {threshold['source']}"
    )
    if decisions["f1"] is None:
        yield f"above it: {decisions['above']:,} of {counted(decisions['of'], 'image')}"
        return
    found, missed = decisions["true_positives"], decisions["false_negatives"]
    wrong, right = decisions["false_positives"], decisions["true_negatives"]
    yield (
        f"above it are {found} of {found + missed} anomalous and {wrong} of {wrong + right} "
        f"normal test images; F1 {decisions['f1']:.3f}"
    )
