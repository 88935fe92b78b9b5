"""From the anomaly maps of a method to those that score: combined, measured, and pooled."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from crn.config import SCORES, ModelConfig, Scoring
from crn.methods.base import Method, Pair
from crn.methods.maps import Maps, merged
from crn.methods.smoothing import smoothed, smoothing_matrix
from crn.scoring.kinds import KINDS, MeasuredMap, logarithm
from crn.scoring.patch_distribution import PatchDistribution
from crn.scoring.patch_features import CoarsePatches
from crn.scoring.pretrained import PretrainedFeatures

# Smallest deviation of a pixel, as a share of the mean deviation: where normal images hardly
# differ, a few of them do not tell by how much.
LEAST_DEVIATION = 0.25
# Name of the map of a `PatchDistribution`; the maps of networks have the names of scores.
PATCHES = "patches"
# Share of the pixels, those with the highest values, that "top" pools.
TOP = 0.01


@dataclass(frozen=True)
class Scored:
    """Images and what a model makes of them.

    Attributes:
        reconstruction: (B, 3, S, S) in [-1, 1]; None of a model without networks of its own.
        maps: for each of `SCORES` the anomaly maps (B, S, S) that score.
        scores: for each of `SCORES` the anomaly scores (B,).
    """

    reconstruction: Tensor | None
    maps: Maps
    scores: Maps


class Scorer(nn.Module):
    """Turns the anomaly maps of a method's networks into scores of images.

    It chooses the pairs of networks, smooths and merges their maps, adds the map of the patches if
    ``--maps`` says so, measures the maps against those of normal images, and pools them.

    Attributes:
        patches: the distribution of patches, if the model has one.
        uses_patches: whether it counts.
        map_names: the measured maps: names of scores for the networks, and `PATCHES`.
        mean, deviation: (2, M, S, S), over normal images, of the M smoothed maps and of their
            logarithms; 0 and 1 before `measure`.
        step: training steps of the networks when they were measured; -1 before.
    """

    mean: Tensor
    deviation: Tensor
    step: Tensor
    matrix: Tensor

    def __init__(self, config: ModelConfig, scoring: Scoring | None = None) -> None:
        """Make room for the statistics of a model.

        Args:
            config: decides what is measured.
            scoring: how to score, if not as the model was trained.

        Raises:
            UserError: the network of the pretrained features cannot be built.
        """
        super().__init__()
        self.scoring = scoring or config.scoring
        self.kind = KINDS[self.scoring.maps]
        self.uses_patches = self.kind.has_patches or not config.has_networks
        size = config.network.imsize
        self.patches: PatchDistribution | None = None
        self.map_names: tuple[str, ...] = SCORES if config.has_networks else ()
        if KINDS[config.scoring.maps].has_patches or not config.has_networks:
            is_pretrained = config.pretrained.features is not None
            self.patches = PatchDistribution(
                PretrainedFeatures(config.pretrained) if is_pretrained else CoarsePatches(size)
            )
            self.map_names += (PATCHES,)
        self.register_buffer("mean", torch.zeros(2, len(self.map_names), size, size))
        self.register_buffer("deviation", torch.ones_like(self.mean))
        self.register_buffer("step", torch.tensor(-1))
        matrix = smoothing_matrix(self.scoring.map_smoothing, size)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(
        self,
        method: Method,
        x: Tensor,
        distances: Tensor | None = None,
        pairs: Sequence[Pair] | None = None,
    ) -> Scored:
        """Score images; the arguments are as in `smooth_maps`."""
        reconstruction, maps = self.smooth_maps(method, x, distances, pairs)
        return Scored(reconstruction, *self.measured(maps))

    def smooth_maps(
        self,
        method: Method,
        x: Tensor,
        distances: Tensor | None = None,
        pairs: Sequence[Pair] | None = None,
    ) -> tuple[Tensor | None, Maps]:
        """Reconstructions and smoothed maps, before they are measured.

        Args:
            method: the networks.
            x: images, (B, 3, S, S) in [-1, 1].
            distances: (B, G, G), by `patches` from the same images; None: from x.
            pairs: pairs of networks; None: by ``--pairs``.

        Returns:
            Reconstructions (B, 3, S, S) in [-1, 1], None without networks; and the maps (B, S, S)
            of `map_names` that count.
        """
        reconstruction: Tensor | None = None
        maps: Maps = {}
        if method.networks:
            pairs = method.pairs(self.scoring.pairs) if pairs is None else pairs
            each = ((r, self.smooth(m)) for r, m in method.anomaly_maps(method.contrast(x), pairs))
            z, maps = merged(each, lowest=self.scoring.pairs == "lowest")
            reconstruction = method.contrast.as_images(z, x)
        if self.uses_patches:
            assert self.patches is not None
            distances = self.patches(x) if distances is None else distances
            size = self.matrix.shape[-1]
            enlarged = interpolate(distances[:, None], size=size, mode="bilinear")[:, 0]
            maps |= self.smooth({PATCHES: enlarged})
        return reconstruction, maps

    def smooth(self, maps: Maps) -> Maps:
        """Smooth maps (B, S, S) by ``--map-smoothing``."""
        return {name: smoothed(pixels, self.matrix) for name, pixels in maps.items()}

    def measured(self, maps: Maps) -> tuple[Maps, Maps]:
        """From smoothed maps (B, S, S): for each of `SCORES`, maps that score and scores (B,)."""
        measured = {name: self._measured(pixels, name) for name, pixels in maps.items()}
        scored = {
            score: self.kind.score(*(measured[n] for n in (score, PATCHES) if n in measured))
            for score in SCORES
        }
        return scored, {name: self._pooled(pixels) for name, pixels in scored.items()}

    def _measured(self, pixels: Tensor, name: str) -> MeasuredMap:
        index = self.map_names.index(name)
        statistics = self.mean[:, index], self.deviation[:, index]
        if self.patches is None or not self.uses_patches:
            return MeasuredMap(pixels, *statistics)
        features, is_patches = self.patches.features, name == PATCHES
        return MeasuredMap(
            pixels,
            *statistics,
            is_logarithmic=features.is_logarithmic or not is_patches,
            most_shift=features.most_shift,
            weight=1.0 if is_patches else features.weight_of_networks,
        )

    def _pooled(self, pixels: Tensor) -> Tensor:
        if self.scoring.pooling == "max":
            return pixels.amax((1, 2))
        if self.scoring.pooling == "top":
            count = math.ceil(TOP * pixels.shape[1] * pixels.shape[2])
            return pixels.flatten(1).topk(count).values.mean(1)
        return pixels.mean((1, 2))

    @torch.no_grad()
    def sums(self, batches: Iterable[Maps]) -> Tensor:
        """Sums over the smoothed maps of normal images, which several processes can add up.

        Args:
            batches: from `smooth_maps`.

        Returns:
            (2 * 2 * M * S * S + 1,) float64: sums and sums of squares of the maps and of their
            logarithms, and the number of images.
        """
        sums, count = torch.stack([self.mean, self.mean]).double().zero_(), 0
        for maps in batches:
            pixels = torch.stack([maps[name] for name in self.map_names])
            both = torch.stack([pixels, logarithm(pixels)]).double()
            sums += torch.stack([both.sum(2), both.square().sum(2)])
            count += both.shape[2]
        return torch.cat([sums.flatten(), sums.new_tensor([count])])

    @torch.no_grad()
    def measure(self, sums: Tensor, step: int) -> None:
        """Set mean and deviation from `sums`, after training step ``step``."""
        first, second = (each.view_as(self.mean) for each in sums[:-1].chunk(2))
        mean = first / sums[-1]
        deviation = (second / sums[-1] - mean.square()).clamp(min=0).sqrt()
        least = LEAST_DEVIATION * deviation.mean((2, 3), keepdim=True)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.maximum(least).clamp(min=1e-6))
        self.step.fill_(step)
