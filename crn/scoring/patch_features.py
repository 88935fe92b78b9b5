"""Features of the patches of an image: coarse pixels, or channels of a network."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, unfold

log = logging.getLogger(__name__)

# Width and height in pixels of the image that `CoarsePatches` are cut from.
_COARSE = 16
_PATCH, _STRIDE = 4, 2


class PatchFeatures(nn.Module, ABC):
    """Computes F features of each of G x G patches of an image.

    Attributes:
        image_size: L, width and height of the images.
        channels: F.
        side: G.
        least_variance: what a Gaussian of the features adds to each variance, as a share of the
            mean variance.
        is_logarithmic: whether distances of patches are measured by their logarithms.
        weight_of_networks: weight of the networks' map when the map of the patches is added to it.
        most_shift: as in `MeasuredMap`, for all maps if these patches count.
        storage: type of the stored features of many images.
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
        """Load published weights, if the features need any."""

    def say_how_many_are_small(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Log how many images, by (height, width), are smaller than those for the features."""
        if small := sum(max(size) < self.image_size for size in sizes):
            log.info(
                "%d of %d images are smaller than the %d pixels of the features: they are enlarged",
                *(small, len(sizes), self.image_size),
            )

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """The features (B, F, G, G) of images (B, 3, L, L) in [-1, 1]."""


class CoarsePatches(PatchFeatures):
    """Patches of 4 x 4 pixels, 2 pixels apart, of the image averaged to 16 x 16 pixels.

    L is a power of two, G = min(L, 16) / 2, and F = 3 * 4 * 4.
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
