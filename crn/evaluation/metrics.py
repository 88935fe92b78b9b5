"""Metrics of anomaly scores and maps; higher means more anomalous, and no metric turns that round.

scikit-learn and SciPy are imported where they are used: half a second that a start need not wait.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from crn.config import SCORES, Options
from crn.evaluation.maps import AnomalyMaps, at_size
from crn.evaluation.pixel_metrics import PixelCounts
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

_MOST_DRAWN = 1 << 22  # scores of the bootstrap that are in memory at a time


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: how likely an anomalous image scores higher than a normal one.

    Args:
        scores: (N,), finite.
        labels: (N,), 1 for anomalous, 0 for normal; both have to occur.

    Raises:
        ValueError: a score is not finite, or one class is missing.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_checked(labels, scores)))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision, the area under the precision-recall curve; arguments as `auroc`."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_checked(labels, scores)))


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The arguments of scikit-learn, which would only warn of a class that is missing."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if not np.isfinite(scores).all():
        raise ValueError("the scores have to be finite")
    if len(np.unique(labels)) < 2:
        raise ValueError("the metric needs normal and anomalous images")
    return labels, scores


def auroc_interval(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """95 % confidence interval of the AUROC over the choice of the test images.

    A percentile bootstrap, stratified: every resample draws as many normal and as many anomalous
    images as there are, with replacement. It knows nothing of the chance in training, and is too
    narrow where there are only a few images, or where the AUROC is 1.

    Args:
        scores, labels: as `auroc`.
    """
    from scipy.stats import bootstrap

    scores, labels = np.asarray(scores), np.asarray(labels)
    groups = [scores[labels == label] for label in (0, 1)]
    low, high = bootstrap(
        # SciPy wants two of each: a lone image is as good as two equal ones.
        [np.repeat(group, 2) if len(group) == 1 else group for group in groups],
        _aurocs,
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=max(1, _MOST_DRAWN // len(scores)),
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(low), float(high)


def _aurocs(normal: np.ndarray, anomalous: np.ndarray, axis: int = -1) -> np.ndarray:
    """The AUROC of scores (..., N) and (..., M), along the last axis: Mann-Whitney's U."""
    from scipy.stats import rankdata

    count = anomalous.shape[axis]
    ranks = rankdata(np.concatenate([anomalous, normal], axis), axis=axis)[..., :count]
    return (ranks.mean(axis) - (count + 1) / 2) / normal.shape[axis]


def max_f1(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The highest F1 that any threshold gives, and that threshold.

    It looks at the labels to choose the threshold, so it is no result: an upper bound.

    Args:
        scores, labels: as `auroc`.

    Returns:
        F1, and a threshold above which, and only above which, images are called anomalous.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, values = precision_recall_curve(
        np.asarray(labels), np.asarray(scores, np.float64)
    )
    # The last point of the curve, without any image called anomalous, has no value.
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1[:-1].argmax())
    below = values[best - 1] if best else np.nextafter(values[0], -np.inf)
    return float(f1[best]), float((below + values[best]) / 2 if best else below)


def confusion(decisions: Sequence[int], labels: Sequence[int | None]) -> Decisions:
    """Counts of right and wrong decisions, and F1, which needs anomalous images.

    Args:
        decisions, labels: (N,), 1 for anomalous, 0 for normal; None where nobody knows.
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
    maps: AnomalyMaps,
    masks: Sequence[np.ndarray | None],
    ignored: Sequence[np.ndarray | None],
) -> Metrics:
    """All metrics of a run.

    Args:
        options: of the run.
        model: what scored.
        thresholds: of the score that was asked for.
        images, maps, masks: in one order.
        ignored: pixels of masks (H, W) that do not count; None where all count.
    """
    scoring = options.scoring
    test = [image for image in images if image.split == TEST]
    labels = [image.label for image in test]
    has_both = {*labels} == {NORMAL, ANOMALOUS}
    count = sum(mask is not None for mask in masks)
    pixels = _pixel_metrics(images, maps, masks, ignored) if count else {}
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
            *maps.range,
        ),
        scores={name: _score_metrics(test, name) for name in SCORES} if has_both else None,
        decisions=None if thresholds.image is None else confusion(_decisions(test), labels),
        decisions_at=_decisions_at(thresholds, test, scoring.anomaly_score),
        pixels=pixels.get(None),
        kinds=_kinds(test, scoring.anomaly_score, pixels) if has_both else None,
        bootstrap=Bootstrap(BOOTSTRAP_RESAMPLES, BOOTSTRAP_SEED),
    )


def _decisions(images: Iterable[ScoredImage]) -> list[int]:
    """What is above the threshold; empty where there is none."""
    return [image.decision for image in images if image.decision is not None]


def _decisions_at(
    thresholds: Thresholds, images: Sequence[ScoredImage], score: str
) -> dict[str, Decisions] | None:
    """What other thresholds would give; None where there are none."""
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
    maps: AnomalyMaps,
    masks: Sequence[np.ndarray | None],
    ignored: Sequence[np.ndarray | None],
) -> dict[str | None, PixelMetrics | None]:
    """Pixel metrics of each kind of defect, and of all test images under None.

    Anomalous images without a mask do not count; all pixels of normal ones are normal.
    """
    counts: dict[str | None, PixelCounts] = defaultdict(lambda: PixelCounts(*maps.range))
    for image, scored, mask, left_out in zip(images, maps.scored, masks, ignored, strict=True):
        if image.split == TEST and (mask is not None or image.label == NORMAL):
            counts[image.kind].add(at_size(scored, image.size), mask, left_out)
    normal = counts.pop("good")
    every = sum(counts.values(), start=normal)
    by_kind = {kind: (normal + mine).metrics() for kind, mine in counts.items()}
    return by_kind | {None: every.metrics()}
