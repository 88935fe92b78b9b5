"""What all methods have in common: networks that are trained together and make anomaly maps."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from crn.config import ModelConfig
from crn.methods.contrast import LocalContrast
from crn.methods.maps import Maps

# The losses of a training step by their names, detached; each a tensor of any shape.
Losses = dict[str, Tensor]


# A generator's index and a discriminator's.
Pair = tuple[int, int]


class Method(nn.Module, ABC):
    """Networks that are trained together, each with an optimizer of its own.

    Whatever the method has to remember beside them is a buffer, so that checkpoints carry it.

    Attributes:
        contrast: what the networks see of images.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.contrast = LocalContrast(config.network)

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
    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Maps]]:
        """Yield reconstructions and anomaly maps, pair by pair.

        Args:
            x: images as `contrast` gives them, (B, 3, S, S) in [-1, 1].
            pairs: of which networks.

        Yields:
            (B, 3, S, S), and for each of `SCORES` (B, S, S), higher where more anomalous.
        """
