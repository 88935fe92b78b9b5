"""From the anomaly maps of networks to those that score: smoothed, standardised, and pooled."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from crn.config import SCORES, ModelConfig
from crn.methods.scores import Maps
from crn.methods.smoothing import smoothed, smoothing_matrix

# Deviations smaller than this share of their mean are taken for so large: where normal images
# hardly differ, a few of them do not tell by how much.
LEAST_DEVIATION = 0.25
# A step of gray in 8 bits, in [-1, 1]: errors below it are hardly told from none.
GRAY_STEP = 2 / 255
# The map of a `PatchDistribution`, beside those of the networks, which have the names of scores.
PATCHES = "patches"
MAP_NAMES = (*SCORES, PATCHES)
# Of the pixels with the highest values, the share that "top" pools.
TOP = 0.01


class AnomalyMapScorer(nn.Module):
    """Smooths anomaly maps, measures them against normal images, and pools them to image scores.

    A standardised map is (smoothed map - mean) / deviation, at each pixel over the normal training
    images: errors are larger in some places than in others, and only their excess is anomalous. A
    centred map is that of the logarithms, less its own median. It tells how many times larger an
    error is than elsewhere in the same image: what differs in a whole image, as its light or the
    roughness of its texture, is no damage. A combined map is the sum of two, centred: that of the
    networks, which tells what they cannot draw, and that of the patches, which tells what looks
    unlike normal images at its place however well it is drawn.

    Attributes:
        mean, deviation: (2, 4, S, S), of the smoothed maps of normal images and of their
            logarithms, for each of `MAP_NAMES`; 0 and 1 before there are any.
        step: of the networks that they are about; -1 before there are any.
    """

    mean: Tensor
    deviation: Tensor
    step: Tensor
    matrix: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scoring = config.scoring
        size = config.network.imsize
        self.register_buffer("mean", torch.zeros(2, len(MAP_NAMES), size, size))
        self.register_buffer("deviation", torch.ones(2, len(MAP_NAMES), size, size))
        self.register_buffer("step", torch.tensor(-1))
        self.register_buffer(
            "matrix", smoothing_matrix(config.scoring.map_smoothing, size), persistent=False
        )

    def smooth(self, maps: Maps) -> Maps:
        """Maps (B, S, S), smoothed by ``--map-smoothing``."""
        return {name: smoothed(pixels, self.matrix) for name, pixels in maps.items()}

    def forward(self, maps: Maps) -> tuple[Maps, Maps]:
        """The maps (B, S, S) that score, of smooth ones, and the scores (B,), for each score."""
        scored = {name: self._measured(maps, name) for name in SCORES}
        if self.scoring.maps == "combined":
            patches = self._measured(maps, PATCHES)
            scored = {name: pixels + patches for name, pixels in scored.items()}
        if self.scoring.maps in ("centred", "combined"):
            scored = {name: pixels - _median(pixels) for name, pixels in scored.items()}
        return scored, {name: self._pooled(pixels) for name, pixels in scored.items()}

    def _measured(self, maps: Maps, name: str) -> Tensor:
        """One of `MAP_NAMES` against those of normal images."""
        if self.scoring.maps == "plain":
            return maps[name]
        logarithmic = int(self.scoring.maps != "standardised")
        pixels = _logarithm(maps[name]) if logarithmic else maps[name]
        index = MAP_NAMES.index(name)
        return (pixels - self.mean[logarithmic, index]) / self.deviation[logarithmic, index]

    def _pooled(self, pixels: Tensor) -> Tensor:
        if self.scoring.pooling == "max":
            return pixels.amax((1, 2))
        if self.scoring.pooling == "top":
            count = math.ceil(TOP * pixels.shape[1] * pixels.shape[2])
            return pixels.flatten(1).topk(count).values.mean(1)
        return pixels.mean((1, 2))

    @torch.no_grad()
    def sums(self, batches: Iterable[Maps]) -> Tensor:
        """Of the smoothed maps of normal images and their logarithms sums, and how many maps.

        Args:
            batches: smoothed maps.

        Returns:
            (2 * 2 * 4 * S * S + 1,) float64: sums and sums of squares, and the count, so that
            several processes can add theirs up.
        """
        first, second = torch.zeros_like(self.mean).double(), torch.zeros_like(self.mean).double()
        count = 0
        for maps in batches:
            pixels = torch.stack([maps[name] for name in MAP_NAMES])
            both = torch.stack([pixels, _logarithm(pixels)]).double()
            first += both.sum(2)
            second += both.square().sum(2)
            count += both.shape[2]
        return torch.cat([first.flatten(), second.flatten(), first.new_tensor([count])])

    @torch.no_grad()
    def measure(self, sums: Tensor, step: int) -> None:
        """Take mean and deviation of normal images from `sums` of them."""
        first, second = (each.view_as(self.mean) for each in sums[:-1].chunk(2))
        mean = first / sums[-1]
        deviation = (second / sums[-1] - mean.square()).clamp(min=0).sqrt()
        least = LEAST_DEVIATION * deviation.mean((2, 3), keepdim=True)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.maximum(least).clamp(min=1e-6))
        self.step.fill_(step)


def _logarithm(maps: Tensor) -> Tensor:
    """Of what maps are beyond `GRAY_STEP`, with their sign: 0 stays 0, and the order is kept."""
    return maps.sign() * (1 + maps.abs() / GRAY_STEP).log()


def _median(maps: Tensor) -> Tensor:
    """The median of each map (B, S, S), as (B, 1, 1); exported graphs have no other way to it."""
    pixels = maps.flatten(1)
    return pixels.topk(pixels.shape[1] // 2 + 1).values[:, -1, None, None]
