"""The kinds of anomaly maps that score: a class for each choice of ``--maps``.

A standardised map is (smoothed map - mean) / deviation, at each pixel over normal images: errors
are larger in some places than in others, and only their excess is anomalous. From a centred map its
own median is subtracted: what differs in a whole image, such as its light or the roughness of its
texture, is not damage. A combined map is the sum of two centred maps. The networks' map tells what
they cannot draw; the patches' map tells what looks unlike normal images at its place, however well
it is drawn.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

# A step of gray in 8 bits, in [-1, 1]: errors below it are hardly told from none.
GRAY_STEP = 2 / 255


@dataclass(frozen=True)
class MeasuredMap:
    """A smoothed map of some images, beside those of normal images.

    Attributes:
        pixels: (B, S, S).
        mean, deviation: (2, S, S), over normal images: of the map and of its logarithm.
        is_logarithmic: whether its logarithm tells by how much it is beyond them.
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
    """The excess over normal images, minus its own median."""

    def __call__(self, *maps: MeasuredMap) -> Tensor:
        """The weighted sum of the maps' excess, minus the median of the sum.

        Where medians are limited, those of the single maps are subtracted instead.
        """
        total, *rest = (each.weight * self._limited(each) for each in maps)
        total = sum(rest, start=total)
        return total - median(total) if maps[0].most_shift is None else total

    @staticmethod
    def _limited(one: MeasuredMap) -> Tensor:
        excess, most = one.excess(), one.most_shift
        return excess if most is None else excess - median(excess).clamp(-most, most)


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


def median(maps: Tensor) -> Tensor:
    """The median of each map (B, S, S), as (B, 1, 1); exported graphs have no other way to it."""
    pixels = maps.flatten(1)
    return pixels.topk(pixels.shape[1] // 2 + 1).values[:, -1, None, None]
