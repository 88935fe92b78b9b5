"""Metrics of anomaly scores; higher scores mean more anomalous, and no metric turns that round."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from crn.torchmetrics import classification


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


def _ranked(scores: ArrayLike, labels: ArrayLike) -> tuple[Tensor, Tensor]:
    """Ranks in [0, 1], equal for equal scores: torchmetrics squashes what is not in that range."""
    values, targets = torch.as_tensor(scores), torch.as_tensor(labels)
    if not values.isfinite().all():
        raise ValueError("the scores have to be finite")
    if len(targets.unique()) < 2:
        raise ValueError("the metric needs normal and anomalous images")
    ranks = values.unique(return_inverse=True)[1].double()
    return ranks / ranks.max().clamp(min=1), targets.long()
