"""Gaussian smoothing by two matrix products, which works on every device and in ONNX graphs."""

import numpy as np
import torch
from torch import Tensor


def sigma_in_pixels(percent: float, size: int) -> float:
    """Convert a standard deviation in percent of the width to pixels."""
    return percent / 100 * size


def smoothing_matrix(percent: float, size: int) -> Tensor:
    """The matrix A (S, S) for which A M A^T is the map M smoothed by a Gaussian.

    The map is mirrored at its edges, which keeps its mean; torchvision's Gaussian blur changes it
    and takes no kernel wider than the map.

    Args:
        percent: standard deviation of the Gaussian in percent of the size; 0 smooths nothing.
        size: S, width and height of the maps.
    """
    from scipy.ndimage import gaussian_filter1d

    # SciPy would divide by 0 squared; such a small Gaussian stays within its pixel.
    sigma = max(sigma_in_pixels(percent, size), 0.01)
    return torch.from_numpy(gaussian_filter1d(np.eye(size), sigma, axis=0)).float()


def smoothed(maps: Tensor, matrix: Tensor) -> Tensor:
    """Maps (..., S, S), each smoothed by a `smoothing_matrix` (S, S)."""
    return matrix @ maps @ matrix.T
