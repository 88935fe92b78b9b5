"""What all methods have in common: networks that are trained together and score images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crn.config import ModelConfig
from crn.methods.anomaly_maps import PATCHES, AnomalyMapScorer
from crn.methods.contrast import LocalContrast
from crn.methods.patch_distribution import PatchDistribution, coarse_patches
from crn.methods.scores import Maps

# The losses of a training step by their names, detached; each a tensor of any shape.
Losses = dict[str, Tensor]


# A generator's index and a discriminator's.
Pair = tuple[int, int]


@dataclass(frozen=True)
class Scored:
    """Images and what networks make of them.

    Attributes:
        reconstruction: (B, 3, S, S) in [-1, 1].
        maps: for each of `SCORES` the anomaly maps (B, S, S) that score.
        scores: for each of `SCORES` the anomaly scores (B,).
    """

    reconstruction: Tensor
    maps: Maps
    scores: Maps


class Method(nn.Module, ABC):
    """Networks that are trained together, each with an optimizer of its own.

    Whatever the method has to remember beside them is a buffer, so that checkpoints carry it.

    Attributes:
        contrast: what the networks see of images.
        patches: how unlikely the coarse look of images is, which the networks do not judge.
        map_scorer: what becomes of the anomaly maps.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.contrast = LocalContrast(config.network)
        self.patches = PatchDistribution(coarse_patches, config.network.imsize)
        self.map_scorer = AnomalyMapScorer(config)

    @property
    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names, which are also those of their places in the module."""

    def trained_in(self, seed: int, step: int) -> tuple[int, ...]:  # noqa: ARG002
        """The indices of the networks that a training step updates, a function of seed and step."""
        return tuple(range(len(self.networks)))

    @abstractmethod
    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:
        """Compute what a training step minimises.

        Args:
            x: images as `contrast` gives them, (B, 3, S, S) in [-1, 1].
            trained: the networks that `trained_in` has given.

        Returns:
            A scalar whose gradients are, in every network that is trained, those of what it
            minimises; and the losses that it is made of.
        """

    def logged(self, losses: Losses) -> Losses:
        """What is logged of a training step, as scalars."""
        return {f"losses/{name}": loss.mean() for name, loss in losses.items()}

    def remember(self, trained: Sequence[int], losses: Losses) -> None:
        """Keep what the method has to know of a step; nothing is copied to the host."""

    def state(self) -> dict[str, float]:
        """What is logged of the method at a validation."""
        return {}

    def not_finite(self, trained: Sequence[int]) -> str:  # noqa: ARG002
        """Whose losses are not finite, in words; ``trained`` are those of the latest step."""
        return " and ".join(self.networks)

    @abstractmethod
    def pairs(self, which: str) -> list[Pair]:
        """The pairs that score, for each choice of ``--pairs``."""

    def scoring_networks(self, pairs: Sequence[Pair]) -> list[str]:  # noqa: ARG002
        """The names of the networks that pairs are made of."""
        return list(self.networks)

    @abstractmethod
    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> tuple[Tensor, Maps]:
        """Reconstructions and smoothed anomaly maps.

        Args:
            x: images as `contrast` gives them, (B, 3, S, S) in [-1, 1].
            pairs: those whose maps are combined.

        Returns:
            (B, 3, S, S), and for each of `SCORES` (B, S, S), higher where more anomalous.
        """

    def smooth_maps(self, x: Tensor, pairs: Sequence[Pair]) -> tuple[Tensor, Maps]:
        """`anomaly_maps` of images (B, 3, S, S) in [-1, 1], and the map of their `PATCHES`."""
        z, maps = self.anomaly_maps(self.contrast(x), pairs)
        return z, maps | self.map_scorer.smooth({PATCHES: self.patches(x)})

    def score(self, x: Tensor, pairs: Sequence[Pair]) -> Scored:
        """Score images (B, 3, S, S) in [-1, 1] by pairs of networks."""
        z, maps = self.smooth_maps(x, pairs)
        return Scored(self.contrast.as_images(z, x), *self.map_scorer(maps))
