"""Thresholds from normal training images, or from an earlier inference."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from crn.config import Scoring
from crn.errors import UserError
from crn.evaluation.results import QUANTILES, Thresholds, read_metrics
from crn.system.text import shortened

log = logging.getLogger(__name__)

# With fewer images a quantile near 1 depends on a few of them, and the user is told.
FEW_IMAGES = 100


def thresholds_from_training(
    scores: np.ndarray, maps: Tensor, trained: np.ndarray, quantile: float
) -> Thresholds:
    """Thresholds from the normal training images.

    Args:
        scores: (N,), scores of all images.
        maps: (N, S, S), their anomaly maps.
        trained: (N,) bool, true for normal training images; without any there are no thresholds.
        quantile: from 0 to 1, of the scores of these images, and of all pixels of their maps.
    """
    if not trained.any():
        return Thresholds()
    normal, count = scores[trained], int(trained.sum())
    if count < FEW_IMAGES:
        log.warning(
            "a threshold from %d normal training images is rough: up to %.0f %% of new normal "
            "images may be above it, and more if maps are measured against these few",
            *(count, 100 * most_above(count, quantile)),
        )
    return Thresholds(
        float(np.quantile(normal, quantile)),
        float(np.quantile(maps.numpy()[trained], quantile)),
        quantile,
        f"{count} normal training images",
        {f"{each:g}": float(np.quantile(normal, each)) for each in QUANTILES},
    )


def most_above(count: int, quantile: float) -> float:
    """Upper 95 % confidence limit of the share of new normal images above a threshold, 0 to 1.

    The share above the k-th highest of n scores of the same distribution is Beta(k, n + 1 - k).

    Args:
        count: n, the number of normal images that the threshold is a quantile of.
        quantile: from 0 to 1.
    """
    from scipy.stats import beta

    above = (count - 1) * (1 - quantile)
    return float(beta.ppf(0.95, above + 1, count - above))


def thresholds_from_file(path: Path, scoring: Scoring, weights: str) -> Thresholds:
    """Thresholds from ``--threshold-from``, the metrics.json of an earlier inference.

    Raises:
        UserError: the file cannot be read, contains no thresholds, or is about another model (by
            the fingerprint ``weights``), another score or other maps.
    """
    try:
        earlier = read_metrics(path)
    except OSError as error:
        raise UserError(
            f"--threshold-from {path}: cannot be read ({error.strerror}); give the metrics.json of "
            "an earlier inference"
        ) from None
    except ValueError:
        raise UserError(
            f"--threshold-from {path}: not a metrics.json; give that of an earlier inference"
        ) from None
    same = {
        "--anomaly-score": (earlier.anomaly_score, scoring.anomaly_score),
        "--maps": (earlier.maps.kind, scoring.maps),
        "--pooling": (earlier.maps.pooling, scoring.pooling),
        "--map-smoothing": (earlier.maps.smoothing, scoring.map_smoothing),
        "--pairs": (earlier.model.pairs, scoring.pairs),
    }
    for name, (theirs, mine) in same.items():
        if theirs != mine:
            raise UserError(
                f"--threshold-from {path}: was made with {name} {shortened(str(theirs))}, not "
                f"{mine}; give the same here"
            )
    if earlier.model.weights != weights:
        raise UserError(
            f"--threshold-from {path}: was made with another model, "
            f"{shortened(earlier.model.checkpoint)}; give one that was made with this --model-input"
        )
    if earlier.threshold.image is None:
        raise UserError(
            f"--threshold-from {path}: contains no threshold; give that of an inference on a data "
            "set with normal training images"
        )
    return replace(earlier.threshold, source=str(path))
