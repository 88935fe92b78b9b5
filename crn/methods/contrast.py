"""Images less their local mean: light that differs from image to image is no damage."""

import torch
from torch import Tensor, nn

from crn.config import Network
from crn.methods.smoothing import smoothed, smoothing_matrix


class LocalContrast(nn.Module):
    """From images to what the networks see, and back to images that people can look at.

    With ``--local-contrast`` P the networks see z = 2 (x - m), where m is the local mean, by a
    Gaussian whose standard deviation is P percent of the width; with 0 they see the images.
    """

    matrix: Tensor | None

    def __init__(self, network: Network) -> None:
        super().__init__()
        percent = network.local_contrast
        matrix = smoothing_matrix(percent, network.imsize) if percent else None
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Z of images x, both (B, 3, S, S) in [-1, 1], the range of the networks' tanh."""
        if self.matrix is None:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return (2 * (x - smoothed(x, self.matrix))).clamp(-1, 1)

    def as_images(self, z: Tensor, x: Tensor) -> Tensor:
        """Reconstructions z with the local means of the images x that they are of."""
        if self.matrix is None:
            return z
        return (z / 2 + smoothed(x, self.matrix)).clamp(-1, 1)
