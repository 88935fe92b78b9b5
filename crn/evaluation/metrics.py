"""Metrics of anomaly scores; higher scores mean more anomalous, and no metric turns that round."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from crn.system.torchmetrics import classification

BOOTSTRAP_RESAMPLES = 1000
BOOTSTRAP_SEED = 0

_LARGEST_TABLE = 1 << 22  # counts of the bootstrap that are in memory at a time


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: how likely an anomalous image scores higher than a normal one.

    Args:
        scores: (N,), finite.
        labels: (N,), 1 for anomalous, 0 for normal; both have to occur.

    Raises:
        ValueError: a score is not finite, or one class is missing.
    """
    return float(classification.binary_auroc(*_ranked(scores, labels)))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision, the area under the precision-recall curve; arguments as `auroc`."""
    return float(classification.binary_average_precision(*_ranked(scores, labels)))


def auroc_interval(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """95 % confidence interval of the AUROC over the choice of the test images.

    A percentile bootstrap, stratified: every resample draws as many normal and as many anomalous
    images as there are, with replacement. It knows nothing of the chance in training, and is too
    narrow where there are only a few images, or where the AUROC is 1.

    Args:
        scores, labels: as `auroc`.
    """
    # Scores only matter by their ranks, so a resample is how often it has each distinct score.
    values, ranks = np.unique(np.asarray(scores), return_inverse=True)
    labels = np.asarray(labels)
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    at_a_time = max(1, _LARGEST_TABLE // len(values))
    aurocs = []
    for start in range(0, BOOTSTRAP_RESAMPLES, at_a_time):
        resamples = min(at_a_time, BOOTSTRAP_RESAMPLES - start)
        normal, anomalous = (
            _resampled_counts(ranks[labels == label], resamples, len(values), generator)
            for label in (0, 1)
        )
        # Mann-Whitney: pairs in which the normal image scores lower, ties counted half.
        lower = normal.cumsum(1) - normal / 2
        aurocs.append((anomalous * lower).sum(1) / normal[0].sum() / anomalous[0].sum())
    low, high = np.quantile(np.concatenate(aurocs), (0.025, 0.975))
    return float(low), float(high)


def _resampled_counts(
    ranks: np.ndarray, resamples: int, distinct: int, generator: np.random.Generator
) -> np.ndarray:
    """How often each rank comes in each resample of ``ranks``, (resamples, distinct)."""
    drawn = generator.choice(ranks, (resamples, len(ranks)))
    rows = np.arange(resamples)[:, None] * distinct
    counts = np.bincount((drawn + rows).ravel(), minlength=resamples * distinct)
    return counts.reshape(resamples, distinct)


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
    decisions, labels = np.asarray(decisions, bool), np.asarray(labels, bool)
    right, wrong = decisions & labels, decisions & ~labels
    counts = {
        "true_positives": int(right.sum()),
        "false_positives": int(wrong.sum()),
        "true_negatives": int((~decisions & ~labels).sum()),
        "false_negatives": int((~decisions & labels).sum()),
    }
    return counts | {"f1": 2 * counts["true_positives"] / max(1, decisions.sum() + labels.sum())}


def _ranked(scores: ArrayLike, labels: ArrayLike) -> tuple[Tensor, Tensor]:
    """Ranks in [0, 1], equal for equal scores: torchmetrics squashes what is not in that range."""
    values, targets = torch.as_tensor(scores), torch.as_tensor(labels)
    if not values.isfinite().all():
        raise ValueError("the scores have to be finite")
    if len(targets.unique()) < 2:
        raise ValueError("the metric needs normal and anomalous images")
    ranks = values.unique(return_inverse=True)[1].double()
    return ranks / ranks.max().clamp(min=1), targets.long()
