"""The kinds of anomaly maps that score: a class for each choice of ``--maps``.

A standardised map is (smoothed map - mean) / deviation, at each pixel over normal images: errors
are larger in some places than in others, and only their excess is anomalous. A centred map is less
its own median: what differs in a whole image, such as its light or the roughness of its texture, is
not damage. A combined map is the sum of two centred maps. The networks' map tells what they cannot
draw; the patches' map tells what looks unlike normal images at its place, however well it is drawn.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

# How much of an image's median is taken off at most, in deviations. The medians of normal images
# deviate by one or less; an image that is further off has more wrong with it than its light.
MOST_SHIFT = 2.0
# A step of gray in 8 bits, in [-1, 1]: errors below it are hardly told from none.
GRAY_STEP = 2 / 255


@dataclass(frozen=True)
class MeasuredMap:
    """A smoothed map of some images, beside those of normal images.

    Attributes:
        pixels: (B, S, S).
        mean, deviation: (2, S, S), over normal images: of the map and of its logarithm.
        is_logarithmic: whether its logarithm tells by how much it is beyond them.
        weight: of its excess where maps are added.
    """

    pixels: Tensor
    mean: Tensor
    deviation: Tensor
    is_logarithmic: bool = True
    weight: float = 1.0

    def standardised(self) -> Tensor:
        """The map in deviations from its mean over normal images."""
        return (self.pixels - self.mean[0]) / self.deviation[0]

    def excess(self) -> Tensor:
        """The same, of the logarithm where that tells: how many times larger the map is."""
        if not self.is_logarithmic:
            return self.standardised()
        return (logarithm(self.pixels) - self.mean[1]) / self.deviation[1]


class MapKind(ABC):
    """One choice of ``--maps``.

    Attributes:
        is_measured: whether maps are measured against those of normal images.
        has_patches: whether the map of the patches counts beside that of the networks.
    """

    is_measured = True
    has_patches = False

    @abstractmethod
    def __call__(self, *maps: MeasuredMap) -> Tensor:
        """The map (B, S, S) that scores.

        Args:
            maps: that of the networks, if there are any, and that of the patches, if it counts.
        """


class PlainMaps(MapKind):
    """As the networks make them."""

    is_measured = False

    def __call__(self, *maps: MeasuredMap) -> Tensor:
        """The map itself."""
        (one,) = maps
        return one.pixels


class StandardisedMaps(MapKind):
    """In deviations from the mean over normal images, at each pixel."""

    def __call__(self, *maps: MeasuredMap) -> Tensor:
        """The map against those of normal images."""
        (one,) = maps
        return one.standardised()


class CentredMaps(MapKind):
    """The excess over normal images, less its own median."""

    def __call__(self, *maps: MeasuredMap) -> Tensor:
        """The weighted sum of the maps' excess, each less its own median."""
        first, *rest = (each.weight * less_median(each.excess()) for each in maps)
        return sum(rest, start=first)


class CombinedMaps(CentredMaps):
    """Those of the networks and of the patches, added."""

    has_patches = True


KINDS: dict[str, MapKind] = {
    "plain": PlainMaps(),
    "standardised": StandardisedMaps(),
    "centred": CentredMaps(),
    "combined": CombinedMaps(),
}


def logarithm(maps: Tensor) -> Tensor:
    """Of what maps are beyond `GRAY_STEP`, with their sign: 0 stays 0, and the order is kept."""
    return maps.sign() * (1 + maps.abs() / GRAY_STEP).log()


def less_median(maps: Tensor) -> Tensor:
    """Maps (B, S, S), each less its own median, of which no more than `MOST_SHIFT` is taken off."""
    pixels = maps.flatten(1)
    # Exported graphs have no other way to a median.
    median = pixels.topk(pixels.shape[1] // 2 + 1).values[:, -1, None, None]
    return maps - median.clamp(-MOST_SHIFT, MOST_SHIFT)
