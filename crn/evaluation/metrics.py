"""Metrics of anomaly scores and maps; higher means more anomalous, and no metric reverses that.

scikit-learn and SciPy are imported where they are used, which saves half a second at the start.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from crn.config import SCORES, Options
from crn.evaluation.pixel_metrics import at_size, count_pixels, pixel_metrics
from crn.evaluation.results import (
    Bootstrap,
    DatasetFacts,
    Decisions,
    KindMetrics,
    MapFacts,
    Metrics,
    ModelFacts,
    PixelMetrics,
    ScoredImage,
    ScoreMetrics,
    Thresholds,
)
from crn.methods.smoothing import sigma_in_pixels
from datasets.samples import ANOMALOUS, NORMAL, TEST

BOOTSTRAP_RESAMPLES = 1000
BOOTSTRAP_SEED = 0

_MOST_DRAWN = 1 << 22  # the bootstrap's scores in memory at a time


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the probability that an anomalous image scores above a normal one.

    Args:
        scores: (N,), finite.
        labels: (N,), 1 for anomalous, 0 for normal; both have to occur.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision, the area under the precision-recall curve; arguments as `auroc`."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def auroc_interval(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """95 % confidence interval of the AUROC, over the choice of test images; arguments as `auroc`.

    A percentile bootstrap, stratified: every resample draws as many normal and as many anomalous
    images as there are, with replacement. It does not cover variation between training runs, and
    is too narrow for a few images, or if the AUROC is 1.
    """
    from scipy.stats import bootstrap

    scores, labels = np.asarray(scores), np.asarray(labels)
    groups = [scores[labels == label] for label in (0, 1)]
    low, high = bootstrap(
        # SciPy needs two of each: one image is equivalent to two equal ones.
        [np.repeat(group, 2) if len(group) == 1 else group for group in groups],
        _aurocs,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=max(1, _MOST_DRAWN // len(scores)),
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(low), float(high)


def _aurocs(normal: np.ndarray, anomalous: np.ndarray, axis: int = -1) -> np.ndarray:
    """The AUROC of scores (..., N) and (..., M) along the last axis, by Mann-Whitney's U."""
    from scipy.stats import rankdata

    count = anomalous.shape[axis]
    ranks = rankdata(np.concatenate([anomalous, normal], axis), axis=axis)[..., :count]
    return (ranks.mean(axis) - (count + 1) / 2) / normal.shape[axis]


def max_f1(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The highest F1 of any threshold, and that threshold; arguments as `auroc`.

    The labels choose the threshold, so it is an upper bound and not a result.

    Returns:
        F1 from 0 to 1, and the threshold; images above it are called anomalous.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, values = precision_recall_curve(labels, np.asarray(scores, np.float64))
    # The last point of the curve, where no image is called anomalous, has no value.
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1[:-1].argmax())
    below = values[best - 1] if best else np.nextafter(values[0], -np.inf)
    return float(f1[best]), float((below + values[best]) / 2 if best else below)


def confusion(decisions: Sequence[int], labels: Sequence[int | None]) -> Decisions:
    """Counts of right and wrong decisions, and F1, which needs anomalous images.

    Args:
        decisions, labels: (N,), 1 for anomalous, 0 for normal; labels are None if unknown.
    """
    from sklearn.metrics import confusion_matrix, f1_score

    above, of = sum(decisions), len(decisions)
    if None in labels:
        return Decisions(above, of)
    (tn, fp), (fn, tp) = confusion_matrix(labels, decisions, labels=(0, 1)).tolist()
    f1 = float(f1_score(labels, decisions, zero_division=0)) if ANOMALOUS in labels else None
    return Decisions(above, of, tp, fp, tn, fn, f1)


def evaluate(
    options: Options,
    model: ModelFacts,
    thresholds: Thresholds,
    images: Sequence[ScoredImage],
    maps: Tensor,
    masks: Sequence[np.ndarray | None],
    ignored: Sequence[np.ndarray | None],
) -> Metrics:
    """All metrics of a run.

    Args:
        options, model: of the run.
        thresholds: of the score that was asked for.
        images: the N images that were scored.
        maps: their anomaly maps (N, S, S).
        masks: their masks (H, W) bool; None for an image without one.
        ignored: pixels of masks (H, W) bool that do not count; None if all count.
    """
    scoring = options.scoring
    test = [image for image in images if image.split == TEST]
    labels = [image.label for image in test]
    has_both = {*labels} == {NORMAL, ANOMALOUS}
    count = sum(mask is not None for mask in masks)
    low, high = map(float, maps.aminmax())
    pixels = _pixel_metrics(images, maps, (low, high), masks, ignored) if count else {}
    return Metrics(
        model,
        DatasetFacts(
            layout=str(options.data.dataset),
            path=str(options.data.dataset_path),
            train=len(images) - len(test),
            test=len(test),
            normal=labels.count(NORMAL),
            anomalous=labels.count(ANOMALOUS),
            unlabelled=labels.count(None),
            masks=count,
        ),
        scoring.anomaly_score,
        thresholds,
        MapFacts(
            scoring.maps,
            scoring.pooling,
            scoring.map_smoothing,
            sigma_in_pixels(scoring.map_smoothing, model.imsize),
            low,
            high,
        ),
        scores={name: _score_metrics(test, name) for name in SCORES} if has_both else None,
        decisions=None if thresholds.image is None else confusion(_decisions(test), labels),
        decisions_at=_decisions_at(thresholds, test, scoring.anomaly_score),
        pixels=pixels.get(None),
        kinds=_kinds(test, scoring.anomaly_score, pixels) if has_both else None,
        bootstrap=Bootstrap(BOOTSTRAP_RESAMPLES, BOOTSTRAP_SEED),
    )


def _decisions(images: Iterable[ScoredImage]) -> list[int]:
    """Decisions, 1 above the threshold; none without a threshold."""
    return [image.decision for image in images if image.decision is not None]


def _decisions_at(
    thresholds: Thresholds, images: Sequence[ScoredImage], score: str
) -> dict[str, Decisions] | None:
    """The decisions at each of `QUANTILES`; None without thresholds."""
    if thresholds.image_at is None:
        return None
    labels = [image.label for image in images]
    return {
        quantile: confusion([int(image.scores[score] > limit) for image in images], labels)
        for quantile, limit in thresholds.image_at.items()
    }


def _score_metrics(images: Iterable[ScoredImage], name: str) -> ScoreMetrics:
    scores, labels = zip(*((image.scores[name], image.label) for image in images), strict=True)
    return ScoreMetrics(
        auroc(scores, labels),
        auroc_interval(scores, labels),
        average_precision(scores, labels),
        *max_f1(scores, labels),
    )


def _kinds(
    test: Sequence[ScoredImage], score: str, pixels: dict[str | None, PixelMetrics | None]
) -> dict[str, KindMetrics]:
    normal = [image for image in test if image.label == NORMAL]
    result = {}
    for kind in sorted({image.kind for image in test if image.label == ANOMALOUS and image.kind}):
        mine = [image for image in test if image.kind == kind and image.label == ANOMALOUS]
        decisions, ranking = _decisions(mine), _score_metrics([*normal, *mine], score)
        result[kind] = KindMetrics(
            len(mine),
            sum(decisions) if decisions else None,
            ranking.auroc,
            ranking.auroc_95,
            ranking.average_precision,
            pixels.get(kind),
        )
    return result


def _pixel_metrics(
    images: Sequence[ScoredImage],
    maps: Tensor,
    ends: tuple[float, float],
    masks: Sequence[np.ndarray | None],
    ignored: Sequence[np.ndarray | None],
) -> dict[str | None, PixelMetrics | None]:
    """Pixel metrics of each kind of defect, and of all test images under None.

    Anomalous images without a mask do not count; all pixels of normal ones are normal.
    """
    counts: dict[str | None, np.ndarray] = {}
    for image, scored, mask, left_out in zip(images, maps, masks, ignored, strict=True):
        if image.split == TEST and (mask is not None or image.label == NORMAL):
            mine = count_pixels(at_size(scored, image.size), *ends, mask, left_out)
            counts[image.kind] = counts.get(image.kind, 0) + mine
    normal = counts.pop("good")
    by_kind = {kind: pixel_metrics(normal + mine) for kind, mine in counts.items()}
    return by_kind | {None: pixel_metrics(sum(counts.values(), start=normal))}
