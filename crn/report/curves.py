"""The points of the curves in charts."""

import numpy as np
from numpy.typing import ArrayLike

MOST_POINTS = 500


def roc(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The ROC curve, from (0, 0) to (1, 1).

    Args:
        scores: (N,), finite; higher is more anomalous.
        labels: (N,), 1 for anomalous and 0 for normal; both have to occur.

    Returns:
        (P, 2), false and true positive rates.
    """
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, scores)
    return np.stack([false, true], axis=1)


def precision_recall(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The precision-recall curve; arguments as `roc`.

    Returns:
        (P, 2), recall and precision, from recall 1 to 0. Precision is constant from each point to
        the next; the area below these steps is average precision.
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    precision[-1] = precision[-2]  # sklearn ends with a 1 that belongs to no image
    return np.stack([recall, precision], axis=1)


def thin_series(points: np.ndarray) -> np.ndarray:
    """At most `MOST_POINTS` of the points (P, 2) of a noisy series, sorted by x.

    The first, last, lowest and highest point of each stretch stay, so that the band of the noise
    looks the same.
    """
    if len(points) <= MOST_POINTS:
        return points
    chosen = set()
    for stretch in np.array_split(np.arange(len(points)), MOST_POINTS // 4):
        values = points[stretch, 1]
        chosen |= {stretch[0], stretch[values.argmin()], stretch[values.argmax()], stretch[-1]}
    return points[sorted(chosen)]


def running_mean(points: np.ndarray, window: int) -> np.ndarray:
    """The points (P, 2) averaged over ``window`` points around each, fewer at the ends."""
    total = np.append(0, points[:, 1].cumsum())
    places = np.arange(len(points))
    start = (places - window // 2).clip(0)
    end = (places + window // 2 + 1).clip(max=len(points))
    return np.stack([points[:, 0], (total[end] - total[start]) / (end - start)], axis=1)
