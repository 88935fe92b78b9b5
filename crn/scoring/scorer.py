"""From the anomaly maps of a method to those that score: combined, measured, and pooled."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from crn.config import SCORES, ModelConfig, Scoring
from crn.methods.base import Method, Pair
from crn.methods.maps import Maps, combined
from crn.methods.smoothing import smoothed, smoothing_matrix
from crn.scoring.kinds import KINDS, MeasuredMap, logarithm
from crn.scoring.patch_distribution import PatchDistribution
from crn.scoring.patch_features import CoarsePatches
from crn.scoring.pretrained import PretrainedFeatures

# Deviations smaller than this share of their mean are taken for so large: where normal images
# hardly differ, a few of them do not tell by how much.
LEAST_DEVIATION = 0.25
# The map of a `PatchDistribution`, beside those of the networks, which have the names of scores.
PATCHES = "patches"
# Of the pixels with the highest values, the share that "top" pools.
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
    """All that is between the maps of a method's networks and the scores of images.

    It chooses the pairs of networks, smooths and combines their maps, adds that of the patches
    where ``--maps`` says so, measures them against normal images, and pools them.

    Attributes:
        patches: the distribution of patches, where the model has one.
        map_names: those that are measured: the names of scores for the networks, and `PATCHES`.
        mean, deviation: (2, M, S, S), over normal images, of the M smoothed maps and of their
            logarithms; 0 and 1 before there are any.
        step: of the networks that they are about; -1 before there are any.
    """

    mean: Tensor
    deviation: Tensor
    step: Tensor
    matrix: Tensor

    def __init__(self, config: ModelConfig, scoring: Scoring | None = None) -> None:
        """Make room for the statistics of a model.

        Args:
            config: of the model, which decides what is measured.
            scoring: how to score, where that is not as the model was trained.

        Raises:
            UserError: the network of the pretrained features cannot be had.
        """
        super().__init__()
        self.scoring = scoring or config.scoring
        self.kind = KINDS[self.scoring.maps]
        self.uses_patches = self.kind.has_patches or not config.has_networks
        size = config.network.imsize
        self.patches: PatchDistribution | None = None
        if KINDS[config.scoring.maps].has_patches or not config.has_networks:
            is_pretrained = config.pretrained.features is not None
            self.patches = PatchDistribution(
                PretrainedFeatures(config.pretrained) if is_pretrained else CoarsePatches(size)
            )
        networks = SCORES if config.has_networks else ()
        self.map_names = (*networks, *([PATCHES] if self.patches is not None else []))
        self.register_buffer("mean", torch.zeros(2, len(self.map_names), size, size))
        self.register_buffer("deviation", torch.ones(2, len(self.map_names), size, size))
        self.register_buffer("step", torch.tensor(-1))
        self.register_buffer(
            "matrix", smoothing_matrix(self.scoring.map_smoothing, size), persistent=False
        )

    def forward(
        self,
        method: Method,
        x: Tensor,
        distances: Tensor | None = None,
        pairs: Sequence[Pair] | None = None,
    ) -> Scored:
        """Score images; the arguments are those of `smooth_maps`."""
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
            distances: (B, G, G), what `patches` makes of the same images; of x where None.
            pairs: of the networks; those of ``--pairs`` where None.

        Returns:
            (B, 3, S, S) in [-1, 1], or None without networks; and those of the maps (B, S, S) of
            `map_names` that count.
        """
        reconstruction: Tensor | None = None
        maps: Maps = {}
        if method.networks:
            pairs = method.pairs(self.scoring.pairs) if pairs is None else pairs
            each = ((r, self.smooth(m)) for r, m in method.anomaly_maps(method.contrast(x), pairs))
            z, maps = combined(each, lowest=self.scoring.pairs == "lowest")
            reconstruction = method.contrast.as_images(z, x)
        if self.uses_patches:
            assert self.patches is not None
            distances = self.patches(x) if distances is None else distances
            size = self.matrix.shape[-1]
            enlarged = interpolate(distances[:, None], size=size, mode="bilinear")[:, 0]
            maps |= self.smooth({PATCHES: enlarged})
        return reconstruction, maps

    def smooth(self, maps: Maps) -> Maps:
        """Maps (B, S, S), smoothed by ``--map-smoothing``."""
        return {name: smoothed(pixels, self.matrix) for name, pixels in maps.items()}

    def measured(self, maps: Maps) -> tuple[Maps, Maps]:
        """The maps (B, S, S) that score, of smooth ones, and the scores (B,), for each score."""
        scored = {name: self._scored(maps, name) for name in SCORES}
        return scored, {name: self._pooled(pixels) for name, pixels in scored.items()}

    def _scored(self, maps: Maps, score: str) -> Tensor:
        """The map (B, S, S) that is pooled to one of `SCORES`."""
        measured = (self._measured(maps[name], name) for name in (score, PATCHES) if name in maps)
        return self.kind(*measured)

    def _measured(self, pixels: Tensor, name: str) -> MeasuredMap:
        index = self.map_names.index(name)
        measured = MeasuredMap(pixels, self.mean[:, index], self.deviation[:, index])
        if self.patches is None or not self.uses_patches:
            return measured
        features = self.patches.features
        if name == PATCHES:
            measured = replace(measured, is_logarithmic=features.is_logarithmic)
        else:
            measured = replace(measured, weight=features.weight_of_networks)
        return replace(measured, most_shift=features.most_shift)

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
            batches: from `smooth_maps`.

        Returns:
            (2 * 2 * M * S * S + 1,) float64: sums and sums of squares, and the count, so that
            several processes can add theirs up.
        """
        first, second = torch.zeros_like(self.mean).double(), torch.zeros_like(self.mean).double()
        count = 0
        for maps in batches:
            pixels = torch.stack([maps[name] for name in self.map_names])
            both = torch.stack([pixels, logarithm(pixels)]).double()
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
