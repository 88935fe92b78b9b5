"""Anomaly maps of generators and discriminators.

In every map, higher means more anomalous. This orientation follows from what the networks are
trained to do, never from labels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from crn.methods.encoder_decoder import RECONSTRUCTIONS

Reconstruct = Callable[..., Tensor]
Maps = dict[str, Tensor]


def maps_of(x: Tensor, r: Tensor, f: Tensor) -> Maps:
    """The three maps, each the mean over channels of an absolute difference.

    Args:
        x: images, (B, 3, H, W) in [-1, 1].
        r: the generator's reconstructions of x.
        f: the discriminator's answers to r.

    Returns:
        For each of `SCORES` a map (B, H, W): ``reconstruction`` |x - r| and ``residual`` |x - f|
        in [0, 2], and ``discrimination`` -|r - f| in [-2, 0], since discriminators learn to distort
        the reconstructions of normal images and distort unknown things less.
    """
    return {
        "reconstruction": (x - r).abs().mean(1),
        "residual": (x - f).abs().mean(1),
        "discrimination": -(r - f).abs().mean(1),
    }


def maps_of_pairs(
    x: Tensor, units: Sequence[Reconstruct], pairs: Iterable[tuple[int, int]]
) -> Iterator[tuple[Tensor, Maps]]:
    """Yield reconstructions and anomaly maps pair by pair; each generator reconstructs once.

    Args:
        x: images, (B, 3, H, W) in [-1, 1].
        units: networks that take images and, as discriminators, `RECONSTRUCTIONS`.
        pairs: (generator, discriminator) indices.

    Yields:
        The generator's reconstructions (B, 3, H, W), and the maps of `maps_of`.
    """
    for generator, group in groupby(sorted(pairs), key=lambda pair: pair[0]):
        r = units[generator](x)
        for _, discriminator in group:
            yield r, maps_of(x, r, units[discriminator](r, RECONSTRUCTIONS))


def combined(maps: Iterable[tuple[Tensor, Maps]], lowest: bool = False) -> tuple[Tensor, Maps]:
    """Combine several pairs: the mean reconstruction, and the mean or lowest maps.

    Args:
        maps: at least one reconstruction (B, 3, H, W) with its maps (B, H, W).
        lowest: take the lowest value of the maps at each pixel, not their mean.
    """
    combine = torch.minimum if lowest else torch.add
    each = iter(maps)
    total, result = next(each)
    count = 1
    for r, more in each:
        total = total + r
        result = {name: combine(pixels, more[name]) for name, pixels in result.items()}
        count += 1
    share = 1 if lowest else count
    return total / count, {name: pixels / share for name, pixels in result.items()}


def maps_of_autoencoders(
    x: Tensor, generator: Reconstruct, discriminator: Reconstruct
) -> tuple[Tensor, Maps]:
    """Reconstruction and anomaly maps of DAGAN, whose discriminator also reconstructs images.

    Args:
        x: images, (B, 3, H, W) in [-1, 1].
        generator, discriminator: the networks G and D.

    Returns:
        G(x), and maps (B, H, W) in [0, 2]: ``reconstruction`` |x - G(x)|, ``discrimination``
        |x - D(x)|, and ``residual``, the mean of the two, which is the score of Tang et al. (2020).
    """
    r, d = generator(x), discriminator(x)
    by_generator, by_discriminator = (x - r).abs().mean(1), (x - d).abs().mean(1)
    return r, {
        "reconstruction": by_generator,
        "residual": (by_generator + by_discriminator) / 2,
        "discrimination": by_discriminator,
    }


def ordered_pairs(units: int) -> list[tuple[int, int]]:
    """All (generator, discriminator) pairs of different units; (0, 0) for a single unit."""
    if units == 1:
        return [(0, 0)]
    return [(g, d) for g in range(units) for d in range(units) if g != d]


def ring_of_pairs(units: int) -> list[tuple[int, int]]:
    """A ring of (generator, discriminator) pairs in which every unit has both roles once."""
    return [(unit, (unit + 1) % units) for unit in range(units)]
