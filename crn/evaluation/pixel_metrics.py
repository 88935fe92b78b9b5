"""Metrics of anomaly maps against masks, pixel by pixel, at the masks' own size.

Values are counted in a quarter of a million equal bins, so memory does not grow with the number of
pixels. A pair of a normal and an anomalous pixel in one bin counts half, as equal values do, so the
AUROC is wrong by at most half the share of such pairs: below 1e-4 where the values spread over a
tenth of the bins.
"""

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from crn.evaluation.results import PixelMetrics

BINS = 1 << 18
# Area under the per-region overlap is taken up to this false positive rate (Bergmann et al. 2021).
FALSE_POSITIVE_LIMIT = 0.3

# Pixels that touch at a side or a corner belong to one region, as in the evaluation of MVTec AD.
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def at_size(anomaly_map: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Resize a map (S, S) to (height, width), bilinear; float32."""
    return interpolate(anomaly_map[None, None], size, mode="bilinear")[0, 0].numpy()


def count_pixels(
    values: np.ndarray,
    low: float,
    high: float,
    mask: np.ndarray | None = None,
    ignored: np.ndarray | None = None,
) -> np.ndarray:
    """Count the pixels of one anomaly map by their values; the counts of several maps add up.

    Args:
        values: (H, W) float32; higher means more anomalous.
        low, high: the range of the bins; values beyond count in the first and the last one.
        mask: (H, W) bool, true where anomalous; None where nothing is.
        ignored: (H, W) bool, true where pixels of a mask do not count; None where all count.

    Returns:
        (3, BINS): numbers of normal pixels, numbers of anomalous pixels, and shares of anomalous
        regions, a pixel of a region of n being 1 / n.
    """
    from scipy.ndimage import label

    scale = np.float32(BINS / (high - low or 1))
    bins = ((values - np.float32(low)) * scale).clip(0, BINS - 1).astype(np.int32)
    mask = np.zeros(bins.shape, bool) if mask is None else mask
    normal = ~mask if ignored is None else ~(mask | ignored)
    regions, _ = label(mask, _EIGHT_NEIGHBOURS)
    shares = 1 / np.bincount(regions.ravel())[regions[mask]]
    counted = ((bins[normal], None), (bins[mask], None), (bins[mask], shares))
    return np.stack([np.bincount(each, weights, minlength=BINS) for each, weights in counted])


def pixel_metrics(counts: np.ndarray) -> PixelMetrics | None:
    """Pixel AUROC, average precision and AUPRO; None without pixels of both kinds.

    Args:
        counts: (3, BINS), a sum of `count_pixels`.
    """
    if not counts[:2].any(1).all():
        return None
    # Of the pixels above each threshold, from the highest threshold, (BINS + 1,).
    false, true, _ = (np.append(0, each[::-1].cumsum()) for each in counts)
    precision = true[1:] / np.maximum(true + false, 1)[1:]
    return PixelMetrics(
        auroc=float(np.trapezoid(true / true[-1], false / false[-1])),
        average_precision=float((counts[1, ::-1] * precision).sum() / true[-1]),
        aupro=aupro(counts),
    )


def aupro(counts: np.ndarray) -> float:
    """Area under the per-region overlap (Bergmann et al. 2021), from 0 to 1.

    The overlap is the share of an anomalous region that is above the threshold, averaged over
    regions, so that small ones count as much as large ones. It is integrated over the false
    positive rate of the pixels from 0 to `FALSE_POSITIVE_LIMIT` and divided by that.

    Args:
        counts: (3, BINS), as in `pixel_metrics`.
    """
    false, _, overlap = (np.append(0, each[::-1].cumsum()) / each.sum() for each in counts)
    inside = false <= FALSE_POSITIVE_LIMIT
    x = np.append(false[inside], FALSE_POSITIVE_LIMIT)
    y = np.append(overlap[inside], np.interp(FALSE_POSITIVE_LIMIT, false, overlap))
    return float(np.trapezoid(y, x) / FALSE_POSITIVE_LIMIT)
