"""Anomaly maps of generators and discriminators.

In every map, higher means more anomalous. This orientation follows from what the networks are
trained to do, never from labels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

# Values by the names of scores, `crn.config.SCORES`.
Maps = dict[str, Tensor]


def maps_of(x: Tensor, r: Tensor, f: Tensor) -> Maps:
    """The three maps of CRN, each the mean over channels of an absolute difference.

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


def merged(pairs: Iterable[tuple[Tensor, Maps]], lowest: bool) -> tuple[Tensor, Maps]:
    """Merge several pairs of networks: the mean reconstruction, and the mean or lowest maps.

    Args:
        pairs: the reconstruction (B, 3, H, W) and the maps (B, H, W) of at least one pair.
        lowest: take the lowest value of the maps at each pixel, not their mean.
    """
    each, count = iter(pairs), 1
    total, maps = next(each)
    for r, more in each:
        total, count = total + r, count + 1
        merge = torch.minimum if lowest else torch.add
        maps = {name: merge(pixels, more[name]) for name, pixels in maps.items()}
    return total / count, maps if lowest else {n: pixels / count for n, pixels in maps.items()}
