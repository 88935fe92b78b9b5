"""Metrics of anomaly scores; higher scores mean more anomalous, and no metric turns that round.

scikit-learn and SciPy are imported where they are used: half a second that a start need not wait.
"""

import numpy as np
from numpy.typing import ArrayLike

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


def confusion(decisions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Counts of right and wrong decisions, and F1; both (N,), 1 for anomalous, 0 for normal."""
    from sklearn.metrics import confusion_matrix, f1_score

    counts = confusion_matrix(labels, decisions, labels=(0, 1)).ravel().tolist()
    names = ("true_negatives", "false_positives", "false_negatives", "true_positives")
    f1 = float(f1_score(labels, decisions, zero_division=0.0))
    return dict(zip(names, counts, strict=True)) | {"f1": f1}
