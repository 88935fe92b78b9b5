"""Anomaly maps of a run: as the model made them, and as they score."""

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
        plain: (N, S, S) as the model made them, at its size.
        scored: (N, S, S), those that image scores are pooled from, `smoothed`: thresholds of
            pixels, pixel metrics, overlays and stored maps are of these.
    """

    plain: Tensor
    scored: Tensor

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value of the scored maps."""
        low, high = self.scored.aminmax()
        return float(low), float(high)


def at_size(anomaly_map: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A map (S, S) brought to (height, width), bilinear, float32."""
    return interpolate(anomaly_map[None, None], size, mode="bilinear")[0, 0].numpy()


def sigma_in_pixels(percent: float, size: int) -> float:
    """The standard deviation of ``--map-smoothing`` in pixels of the model's image size."""
    return percent / 100 * size


def smoothing_matrix(percent: float, size: int) -> Tensor:
    """The matrix A (S, S) for which A M A^T is the map M smoothed by a Gaussian.

    The map is mirrored at its edges, so that its mean, the image's score, stays what it was:
    torchvision's Gaussian blur would change it, and takes no kernel wider than the map. Two
    multiplications by a constant are quick on every device, and are all that an exported graph
    needs.

    Args:
        percent: standard deviation of the Gaussian in percent of the size; 0 smooths nothing.
        size: S, width and height of the maps.
    """
    from scipy.ndimage import gaussian_filter1d

    # SciPy would divide by the square of 0; so small a Gaussian stays within its pixel.
    sigma = max(sigma_in_pixels(percent, size), 0.01)
    return torch.from_numpy(gaussian_filter1d(np.eye(size), sigma, axis=0)).float()


def smoothed(maps: Tensor, matrix: Tensor) -> Tensor:
    """Maps (B, S, S), each smoothed by a `smoothing_matrix` (S, S)."""
    return matrix @ maps @ matrix.T
