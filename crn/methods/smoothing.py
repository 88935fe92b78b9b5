"""Gaussian smoothing: two multiplications by a constant, on every device and in ONNX graphs."""

import numpy as np
import torch
from torch import Tensor


def sigma_in_pixels(percent: float, size: int) -> float:
    """A standard deviation in percent of the width, in pixels of an image of that size."""
    return percent / 100 * size


def smoothing_matrix(percent: float, size: int) -> Tensor:
    """The matrix A (S, S) for which A M A^T is the map M smoothed by a Gaussian.

    The map is mirrored at its edges, so that its mean stays what it was: torchvision's Gaussian
    blur would change it, and takes no kernel wider than the map.

    Args:
        percent: standard deviation of the Gaussian in percent of the size; 0 smooths nothing.
        size: S, width and height of the maps.
    """
    from scipy.ndimage import gaussian_filter1d

    # SciPy would divide by the square of 0; so small a Gaussian stays within its pixel.
    sigma = max(sigma_in_pixels(percent, size), 0.01)
    return torch.from_numpy(gaussian_filter1d(np.eye(size), sigma, axis=0)).float()


def smoothed(maps: Tensor, matrix: Tensor) -> Tensor:
    """Maps (..., S, S), each smoothed by a `smoothing_matrix` (S, S)."""
    return matrix @ maps @ matrix.T
