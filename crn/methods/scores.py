"""Anomaly maps of generators and discriminators, as they make them.

Every map is oriented so that higher means more anomalous. The orientation follows from
what the networks are trained to do, never from labels.
"""

from collections.abc import Callable, Iterable, Sequence
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
        in [0, 2]; ``discrimination`` in [-2, 0] is -|r - f|, since discriminators learn to distort
        the reconstructions of normal images, and what they distort less is what they do not know.
    """
    return {
        "reconstruction": (x - r).abs().mean(1),
        "residual": (x - f).abs().mean(1),
        "discrimination": -(r - f).abs().mean(1),
    }


def maps_of_pairs(
    x: Tensor,
    units: Sequence[Reconstruct],
    pairs: Iterable[tuple[int, int]],
    smooth: Callable[[Maps], Maps],
    lowest: bool = False,
) -> tuple[Tensor, Maps]:
    """Mean reconstruction and combined anomaly maps of pairs of units.

    Args:
        x: images, (B, 3, H, W) in [-1, 1].
        units: networks, which take images and, as a discriminator, `RECONSTRUCTIONS`.
        pairs: (generator, discriminator) indices; each generator reconstructs once.
        smooth: what becomes of the maps of each pair before they are combined.
        lowest: combine them by the lowest value at each pixel, else by their mean.

    Returns:
        The mean of the generators' reconstructions (B, 3, H, W), and the maps (B, H, W).
    """
    reconstructions = []
    combine = torch.minimum if lowest else torch.add
    combined: Maps = {}
    count = 0
    for generator, group in groupby(sorted(pairs), key=lambda pair: pair[0]):
        r = units[generator](x)
        reconstructions.append(r)
        for _, discriminator in group:
            count += 1
            f = units[discriminator](r, RECONSTRUCTIONS)
            for name, pixels in smooth(maps_of(x, r, f)).items():
                combined[name] = combine(combined[name], pixels) if name in combined else pixels
    mean = sum(reconstructions[1:], reconstructions[0]) / len(reconstructions)
    share = 1 if lowest else count
    return mean, {name: pixels / share for name, pixels in combined.items()}


def maps_of_autoencoders(
    x: Tensor, generator: Reconstruct, discriminator: Reconstruct
) -> tuple[Tensor, Maps]:
    """Reconstruction and anomaly maps of DAGAN, whose discriminator reconstructs images as well.

    Args:
        x: images, (B, 3, H, W) in [-1, 1].
        generator, discriminator: the networks G and D.

    Returns:
        G(x), and maps (B, H, W) in [0, 2]: ``reconstruction`` |x - G(x)|, ``discrimination``
        |x - D(x)|, and ``residual``, the mean of the two, by which Tang et al. (2020) score.
    """
    r, d = generator(x), discriminator(x)
    by_generator, by_discriminator = (x - r).abs().mean(1), (x - d).abs().mean(1)
    return r, {
        "reconstruction": by_generator,
        "residual": (by_generator + by_discriminator) / 2,
        "discrimination": by_discriminator,
    }


def ordered_pairs(units: int) -> list[tuple[int, int]]:
    """All (generator, discriminator) pairs of different units; (0, 0) where there is only one."""
    if units == 1:
        return [(0, 0)]
    return [(g, d) for g in range(units) for d in range(units) if g != d]


def ring_of_pairs(units: int) -> list[tuple[int, int]]:
    """As many (generator, discriminator) pairs as units, each of which has both roles once."""
    return [(unit, (unit + 1) % units) for unit in range(units)]
