"""Metrics of anomaly maps against masks, pixel by pixel, at the masks' own size.

Values are counted in a quarter of a million equal bins, so memory does not grow with the number of
pixels. A pair of a normal and an anomalous pixel in one bin counts half, as equal values do, so the
AUROC is wrong by at most half the share of such pairs: below 1e-4 where the values spread over a
tenth of the bins.
"""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from crn.evaluation.results import PixelMetrics

BINS = 1 << 18
# Area under the per-region overlap is taken up to this false positive rate (Bergmann et al. 2021).
FALSE_POSITIVE_LIMIT = 0.3

# Pixels that touch at a side or a corner belong to one region, as in the evaluation of MVTec AD.
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


_no_counts = partial(np.zeros, BINS)


@dataclass
class PixelCounts:
    """How many normal and anomalous pixels have which anomaly value.

    Attributes:
        low, high: the range of the bins; values beyond count in the first and the last one.
        normal, anomalous: (BINS,) numbers of pixels.
        overlap: (BINS,) shares of anomalous regions, a pixel of a region of n being 1 / n.
    """

    low: float
    high: float
    normal: np.ndarray = field(default_factory=_no_counts)
    anomalous: np.ndarray = field(default_factory=_no_counts)
    overlap: np.ndarray = field(default_factory=_no_counts)

    def add(
        self,
        values: np.ndarray,
        mask: np.ndarray | None = None,
        ignored: np.ndarray | None = None,
    ) -> None:
        """Count the pixels of one anomaly map.

        Args:
            values: (H, W) float32; higher means more anomalous.
            mask: (H, W) bool, true where anomalous; None where nothing is.
            ignored: (H, W) bool, true where pixels of a mask do not count; None where all count.
        """
        scale = np.float32(BINS / (self.high - self.low or 1))
        bins = ((values - np.float32(self.low)) * scale).clip(0, BINS - 1).astype(np.int32)
        if mask is None:
            self.normal += np.bincount(bins.ravel(), minlength=BINS)
            return
        from scipy.ndimage import label

        normal = ~mask if ignored is None else ~(mask | ignored)
        self.normal += np.bincount(bins[normal], minlength=BINS)
        self.anomalous += np.bincount(bins[mask], minlength=BINS)
        regions, _ = label(mask, _EIGHT_NEIGHBOURS)
        sizes = np.bincount(regions.ravel())
        self.overlap += np.bincount(bins[mask], 1 / sizes[regions[mask]], minlength=BINS)

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        """The counts of both; they have to have the same range."""
        assert (self.low, self.high) == (other.low, other.high)
        return PixelCounts(
            self.low,
            self.high,
            self.normal + other.normal,
            self.anomalous + other.anomalous,
            self.overlap + other.overlap,
        )

    def metrics(self) -> PixelMetrics | None:
        """Pixel AUROC, average precision and AUPRO; None without pixels of both kinds."""
        if not self.normal.any() or not self.anomalous.any():
            return None
        return PixelMetrics(self.auroc(), self.average_precision(), self.aupro())

    def auroc(self) -> float:
        """Area under the ROC curve of the pixels."""
        true, false = _rates(self.anomalous), _rates(self.normal)
        return float(np.trapezoid(true, false))

    def average_precision(self) -> float:
        """Average precision of the pixels."""
        true, false = (counts[::-1].cumsum() for counts in (self.anomalous, self.normal))
        precision = true / np.maximum(true + false, 1)
        return float((self.anomalous[::-1] * precision).sum() / true[-1])

    def aupro(self, limit: float = FALSE_POSITIVE_LIMIT) -> float:
        """Area under the per-region overlap (Bergmann et al. 2021), 1 at best.

        The overlap is the share of an anomalous region that is above the threshold, in the mean
        over regions, so that small ones count as much as large ones. It is integrated over the
        false positive rate of the pixels from 0 to ``limit`` and divided by ``limit``.
        """
        overlap, false = _rates(self.overlap), _rates(self.normal)
        inside = false <= limit
        x = np.append(false[inside], limit)
        y = np.append(overlap[inside], np.interp(limit, false, overlap))
        return float(np.trapezoid(y, x) / limit)


def _rates(counts: np.ndarray) -> np.ndarray:
    """The share above each threshold, from the highest threshold, (BINS + 1,), 0 to 1."""
    above = np.append(0, counts[::-1].cumsum())
    return above / above[-1]
