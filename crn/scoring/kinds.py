"""The kinds of anomaly maps that score: one for each choice of ``--maps``.

A standardised map is (smoothed map - mean) / deviation, at each pixel over normal images: errors
are larger in some places than in others, and only their excess is anomalous. From a centred map its
own median is subtracted: what differs in a whole image, such as its light or the roughness of its
texture, is not damage. A combined map is the sum of two centred maps. The networks' map tells what
they cannot draw; the patches' map tells what looks unlike normal images at its place, however well
it is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# A step of gray in 8 bits, in [-1, 1]: smaller errors can hardly be told from none.
GRAY_STEP = 2 / 255


@dataclass(frozen=True)
class MeasuredMap:
    """A smoothed map of some images, and the statistics of this map over normal images.

    Attributes:
        pixels: (B, S, S).
        mean, deviation: (2, S, S), over normal images: of the map and of its logarithm.
        is_logarithmic: whether the excess is measured by the logarithm of the map.
        most_shift: how much of its median may be subtracted, in deviations; None if all of it may.
        weight: of its excess where maps are added.
    """

    pixels: Tensor
    mean: Tensor
    deviation: Tensor
    is_logarithmic: bool = True
    most_shift: float | None = None
    weight: float = 1.0

    def standardised(self) -> Tensor:
        """The map (B, S, S) in deviations from its mean over normal images."""
        return (self.pixels - self.mean[0]) / self.deviation[0]

    def excess(self) -> Tensor:
        """The weighted standardised map, or logarithm, minus its limited median; (B, S, S)."""
        excess = self.standardised()
        if self.is_logarithmic:
            excess = (logarithm(self.pixels) - self.mean[1]) / self.deviation[1]
        if self.most_shift is not None:
            excess = excess - median(excess).clamp(-self.most_shift, self.most_shift)
        return self.weight * excess


def centred(*maps: MeasuredMap) -> Tensor:
    """The sum of the maps' excess minus its median, unless each has subtracted its own."""
    total = torch.stack([each.excess() for each in maps]).sum(0)
    return total - median(total) if maps[0].most_shift is None else total


@dataclass(frozen=True)
class MapKind:
    """A choice of ``--maps``.

    Attributes:
        score: makes the map (B, S, S) that scores from the map of the networks, if there are any,
            and the map of the patches, if it counts.
        is_measured: whether maps are measured against those of normal images.
        has_patches: whether the map of the patches counts beside that of the networks.
    """

    score: Callable[..., Tensor]
    is_measured: bool = True
    has_patches: bool = False


KINDS = {
    "plain": MapKind(lambda only: only.pixels, is_measured=False),
    "standardised": MapKind(MeasuredMap.standardised),
    "centred": MapKind(centred),
    "combined": MapKind(centred, has_patches=True),
}


def logarithm(maps: Tensor) -> Tensor:
    """log(1 + |map| / GRAY_STEP) with the sign of the map: 0 stays 0, and the order is kept."""
    return maps.sign() * (1 + maps.abs() / GRAY_STEP).log()


def median(maps: Tensor) -> Tensor:
    """The median of each map (B, S, S), as (B, 1, 1); torch.median cannot be exported to ONNX."""
    pixels = maps.flatten(1)
    return pixels.topk(pixels.shape[1] // 2 + 1).values[:, -1, None, None]
