"""What is looked at in the patches of an image: its coarse pixels, or features of a network."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, unfold

# Pixels of the image of which `CoarsePatches` are cut, across.
_COARSE = 16
_PATCH, _STRIDE = 4, 2


class PatchFeatures(nn.Module, ABC):
    """From images (B, 3, L, L) in [-1, 1] to F features of each patch, (B, F, G, G).

    Attributes:
        image_size: L.
        channels: F.
        side: G.
        least_variance: what a Gaussian of them adds to each variance, as a share of their mean.
        is_logarithmic: whether its distances are measured by their logarithms.
        weight_of_networks: that of the networks' map where the map of these patches is added.
        most_shift: of `MeasuredMap`, where these patches count.
        storage: in which the features of many images are kept.
    """

    image_size: int
    channels: int
    side: int
    least_variance = 0.0
    is_logarithmic = True
    weight_of_networks = 1.0
    most_shift: float | None = None
    storage = torch.float32

    def load_pretrained(self) -> None:
        """Take the weights that were trained elsewhere, if there are any."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """The features (B, F, G, G) of images (B, 3, L, L) in [-1, 1]."""


class CoarsePatches(PatchFeatures):
    """The patches of an image at 16 pixels across, 4 pixels wide and 2 apart.

    L is a power of two, G half of the lesser of L and 16, and F 3 * 4 * 4.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.channels = 3 * _PATCH**2
        self.side = min(image_size, _COARSE) // _STRIDE

    def forward(self, images: Tensor) -> Tensor:
        """See `PatchFeatures`."""
        coarse = avg_pool2d(images, max(1, self.image_size // _COARSE))
        patches = unfold(pad(coarse, (1, 1, 1, 1), mode="replicate"), _PATCH, stride=_STRIDE)
        return patches.unflatten(2, (self.side, self.side))
