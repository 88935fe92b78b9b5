"""Anomaly maps of a run: as the model made them, and smoothed to localise anomalies."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class AnomalyMaps:
    """The maps of all images, of one score; higher means more anomalous.

    Attributes:
        plain: (N, S, S) at the model's size; image scores are the means of these.
        smooth: (N, S, S), `smoothed` ones: pixel metrics, overlays and stored maps are of these.
    """

    plain: Tensor
    smooth: Tensor

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value of the smooth maps."""
        low, high = self.smooth.aminmax()
        return float(low), float(high)


def at_size(anomaly_map: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A map (S, S) brought to (height, width), bilinear, float32."""
    return interpolate(anomaly_map[None, None], size, mode="bilinear")[0, 0].numpy()


def sigma_in_pixels(percent: float, size: int) -> float:
    """The standard deviation of ``--map-smoothing`` in pixels of the model's image size."""
    return percent / 100 * size


def smoothing_matrix(percent: float, size: int) -> Tensor:
    """The matrix A (S, S) for which A M A^T is the map M smoothed by a Gaussian.

    The map is mirrored at its edges, so that its mean stays what it was.

    Args:
        percent: standard deviation of the Gaussian in percent of the size; 0 smooths nothing.
        size: S, width and height of the maps.
    """
    from scipy.ndimage import gaussian_filter1d

    identity = np.eye(size)
    sigma = sigma_in_pixels(percent, size)
    # The kernel ends after 4 standard deviations; here that is within the pixel itself. Where the
    # square of sigma is 0, SciPy would divide by it.
    if sigma < 0.125:
        return torch.from_numpy(identity).float()
    return torch.from_numpy(gaussian_filter1d(identity, sigma, axis=0, mode="reflect")).float()


def smoothed(maps: Tensor, matrix: Tensor) -> Tensor:
    """Maps (B, S, S), each smoothed by a `smoothing_matrix` (S, S)."""
    return matrix @ maps @ matrix.T
