"""Metrics of one run of inference, as metrics.json holds them.

Structure; every key is always there, and a value is None where it cannot be known::

    {
      "model": {"method": str, "checkpoint": str, "weights": str, "step": int, "imsize": int,
                "pairs": str},
      "dataset": {"layout": str, "path": str, "train": int, "test": int,
                  "normal": int, "anomalous": int, "unlabelled": int, "masks": int},
      "anomaly_score": str,
      "threshold": {"image": float, "pixel": float, "quantile": float, "source": str},
      "maps": {"smoothing": float, "sigma": float, "low": float, "high": float},
      "scores": {score: {"auroc": float, "auroc_95": [float, float], "average_precision": float,
                         "max_f1": float, "max_f1_threshold": float}} or None,
      "decisions": {"above": int, "of": int, "true_positives": int, "false_positives": int,
                    "true_negatives": int, "false_negatives": int, "f1": float} or None,
      "pixels": {"auroc": float, "average_precision": float, "aupro": float} or None,
      "kinds": {kind: {"images": int, "above": int, "auroc": float, "auroc_95": [float, float],
                       "average_precision": float, "pixels": as above or None}} or None,
      "bootstrap": {"resamples": int, "seed": int}
    }

All but "train" and "threshold" is about test images only. "weights" tells models apart. "above" are
the images above the threshold. "maps" has the smoothing in percent of the width, as typed, and in
pixels of the model's image size, and the range of the smoothed maps of all images, which is the
colour scale of the overlays. "pixels" is about the smoothed maps, brought to the size of the masks.
"kinds" are the kinds of defect, each against all normal test images.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from crn.checkpoints.reading import TrainedModel
from crn.config import SCORES, Options
from crn.evaluation.maps import AnomalyMaps, at_size, sigma_in_pixels
from crn.evaluation.metrics import (
    BOOTSTRAP_RESAMPLES,
    BOOTSTRAP_SEED,
    auroc,
    auroc_interval,
    average_precision,
    confusion,
    max_f1,
)
from crn.evaluation.pixel_metrics import PixelCounts
from crn.evaluation.results import ScoredImage
from crn.evaluation.thresholds import Thresholds
from crn.system.files import set_aside, written_whole
from datasets.masks import read_mask
from datasets.samples import ANOMALOUS, NORMAL, TEST, Sample

METRICS_FILE = "metrics.json"


def evaluate(
    options: Options,
    model: TrainedModel,
    weights: str,
    samples: Sequence[Sample],
    sizes: Sequence[tuple[int, int]],
    images: Sequence[ScoredImage],
    maps: AnomalyMaps,
    thresholds: Thresholds,
) -> dict[str, Any]:
    """All metrics of a run, as plain values.

    Args:
        options: of the run.
        model, weights: what scored, and its `fingerprint`.
        samples, sizes, images, maps: in one order; the samples have the masks, and the sizes are
            (height, width) of the image files.
        thresholds: of the score that was asked for.

    Raises:
        UserError: a mask cannot be read.
    """
    test = [image for image in images if image.split == TEST]
    labels = [image.label for image in test]
    labelled = None not in labels
    score, size = options.scoring.anomaly_score, model.config.network.imsize
    smoothing = options.scoring.map_smoothing
    masks = sum(sample.mask is not None for sample in samples)
    pixels = _pixel_metrics(samples, sizes, maps) if masks else {}
    return {
        "model": {
            "method": model.config.model,
            "checkpoint": str(options.run.model_input),
            "weights": weights,
            "step": model.step,
            "imsize": size,
            "pairs": options.scoring.pairs,
        },
        "dataset": {
            "layout": options.data.dataset,
            "path": str(options.data.dataset_path),
            "train": len(images) - len(test),
            "test": len(test),
            "normal": labels.count(NORMAL),
            "anomalous": labels.count(ANOMALOUS),
            "unlabelled": labels.count(None),
            "masks": masks,
        },
        "anomaly_score": score,
        "threshold": vars(thresholds),
        "maps": {
            "smoothing": smoothing,
            "sigma": sigma_in_pixels(smoothing, size),
            "low": maps.range[0],
            "high": maps.range[1],
        },
        "scores": {name: _score_metrics(test, name) for name in SCORES} if labelled else None,
        "decisions": _decisions(test) if thresholds.image is not None else None,
        "pixels": pixels.get(None),
        "kinds": _kinds(test, score, pixels) if labelled else None,
        "bootstrap": {"resamples": BOOTSTRAP_RESAMPLES, "seed": BOOTSTRAP_SEED},
    }


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json, whole or not at all; what an earlier run left there is renamed."""
    set_aside(path)
    # What is no text in a path is escaped as JSON escapes it.
    with written_whole(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(metrics, file, indent=2, allow_nan=False, ensure_ascii=False)
        file.write("\n")


def _scores_and_labels(
    images: Iterable[ScoredImage], name: str
) -> tuple[list[float], list[int | None]]:
    return [image.scores[name] for image in images], [image.label for image in images]


def _ranking(scores: list[float], labels: list[int | None]) -> dict[str, Any]:
    return {
        "auroc": auroc(scores, labels),
        "auroc_95": list(auroc_interval(scores, labels)),
        "average_precision": average_precision(scores, labels),
    }


def _score_metrics(test: Sequence[ScoredImage], name: str) -> dict[str, Any]:
    scores, labels = _scores_and_labels(test, name)
    f1, threshold = max_f1(scores, labels)
    return _ranking(scores, labels) | {"max_f1": f1, "max_f1_threshold": threshold}


def _above(images: Iterable[ScoredImage]) -> int | None:
    """How many images are above the threshold; None where there is none."""
    decisions = [image.decision for image in images]
    return None if None in decisions else sum(decisions)


def _decisions(test: Sequence[ScoredImage]) -> dict[str, Any]:
    labels = [image.label for image in test]
    counts = {"above": _above(test), "of": len(test)}
    if None not in labels:
        return counts | confusion([image.decision for image in test], labels)
    unknown = ("true_positives", "false_positives", "true_negatives", "false_negatives", "f1")
    return counts | dict.fromkeys(unknown)


def _kinds(
    test: Sequence[ScoredImage], score: str, pixels: dict[str | None, Any]
) -> dict[str, Any]:
    normal = [image for image in test if image.label == NORMAL]
    result = {}
    for kind in sorted({image.kind for image in test if image.label == ANOMALOUS}):
        mine = [image for image in test if image.kind == kind and image.label == ANOMALOUS]
        result[kind] = {
            "images": len(mine),
            "above": _above(mine),
            **_ranking(*_scores_and_labels(normal + mine, score)),
            "pixels": pixels.get(kind),
        }
    return result


def _pixel_metrics(
    samples: Sequence[Sample], sizes: Sequence[tuple[int, int]], maps: AnomalyMaps
) -> dict[str | None, Any]:
    """Pixel metrics of each kind of defect, and of all test images under None.

    Anomalous images without a mask do not count; all pixels of normal ones are normal.
    """

    def counts(label: int, kind: str | None) -> PixelCounts:
        result = PixelCounts(*maps.range)
        for index, sample in enumerate(samples):
            if (sample.split, sample.label, sample.kind) != (TEST, label, kind):
                continue
            if label == NORMAL or sample.mask is not None:
                mask = read_mask(sample, sizes[index])
                result.add(at_size(maps.smooth[index], sizes[index]), mask)
        return result

    normal = counts(NORMAL, "good")
    every, result = normal, {}
    for kind in sorted({s.kind for s in samples if s.label == ANOMALOUS and s.mask is not None}):
        mine = counts(ANOMALOUS, kind)
        result[kind] = (normal + mine).metrics()
        every = every + mine
    return result | {None: every.metrics()}
