"""Images minus their local mean, since light that varies between images is not damage."""

import torch
from torch import Tensor, nn

from crn.config import Network
from crn.methods.smoothing import smoothed, smoothing_matrix


class LocalContrast(nn.Module):
    """Turns images into what the networks see, and reconstructions back into images.

    With ``--local-contrast`` P the networks see z = 2 (x - m); m is the local mean of x by a
    Gaussian whose standard deviation is P percent of the width. With 0 they see the images.
    """

    matrix: Tensor | None

    def __init__(self, network: Network) -> None:
        super().__init__()
        percent = network.local_contrast
        matrix = smoothing_matrix(percent, network.imsize) if percent else None
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute z from images x; both are (B, 3, S, S) in [-1, 1], the range of tanh."""
        if self.matrix is None:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return (2 * (x - smoothed(x, self.matrix))).clamp(-1, 1)

    def as_images(self, z: Tensor, x: Tensor) -> Tensor:
        """Turn reconstructions z into images by the local means of the original images x."""
        if self.matrix is None:
            return z
        return (z / 2 + smoothed(x, self.matrix)).clamp(-1, 1)
