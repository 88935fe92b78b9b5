"""Metrics of anomaly scores; higher scores mean more anomalous, and no metric turns that round."""

import numpy as np
from numpy.typing import ArrayLike


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: how likely an anomalous image scores higher than a normal one.

    Args:
        scores: (N,), finite.
        labels: (N,), 1 for anomalous, 0 for normal; both have to occur.

    Raises:
        ValueError: a score is not finite, or one class is missing.
    """
    from sklearn.metrics import roc_auc_score

    labels = np.asarray(labels)
    if len(np.unique(labels)) < 2:
        raise ValueError("the AUROC needs normal and anomalous images")
    return float(roc_auc_score(labels, np.asarray(scores)))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision, the area under the precision-recall curve; arguments as `auroc`."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(np.asarray(labels), np.asarray(scores)))
