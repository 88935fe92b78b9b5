"""The base class of methods: networks that are trained together and make anomaly maps."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from crn.config import ModelConfig
from crn.methods.contrast import LocalContrast
from crn.methods.maps import Maps

# The losses of a training step by name: detached tensors of any shape.
Losses = dict[str, Tensor]

# The indices of a generator and a discriminator.
Pair = tuple[int, int]


class Method(nn.Module, ABC):
    """Networks that are trained together, each with an optimizer of its own.

    Other state of a method is in buffers, so that checkpoints carry it.

    Attributes:
        contrast: turns images into what the networks see.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.contrast = LocalContrast(config.network)

    @property
    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks by name; the names are also their paths in the module."""

    def trained_in(self, seed: int, step: int) -> tuple[int, ...]:  # noqa: ARG002
        """The indices of the networks that a training step updates, a function of seed and step."""
        return tuple(range(len(self.networks)))

    @abstractmethod
    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:
        """Compute the loss that a training step minimises.

        Args:
            x: images as `contrast` gives them, (B, 3, S, S) in [-1, 1].
            trained: the networks from `trained_in`.

        Returns:
            A scalar whose gradient in every trained network is the gradient of its own loss; and
            the losses that it consists of.
        """

    def logged(self, losses: Losses) -> Losses:
        """The scalars to log of a training step."""
        return {f"losses/{name}": loss.mean() for name, loss in losses.items()}

    def remember(self, trained: Sequence[int], losses: Losses) -> None:
        """Update the state of the method after a step, without copies to the host."""

    def state(self) -> dict[str, float]:
        """The state to log at a validation."""
        return {}

    def not_finite(self, trained: Sequence[int]) -> str:  # noqa: ARG002
        """The networks with losses that are not finite, in words; ``trained`` are the last ones."""
        return " and ".join(self.networks)

    @abstractmethod
    def pairs(self, which: str) -> list[Pair]:
        """The pairs that score, for a value of ``--pairs``."""

    def scoring_networks(self, pairs: Sequence[Pair]) -> list[str]:  # noqa: ARG002
        """The names of the networks in the pairs."""
        return list(self.networks)

    @abstractmethod
    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Maps]]:
        """Yield reconstructions and anomaly maps, pair by pair.

        Args:
            x: images as `contrast` gives them, (B, 3, S, S) in [-1, 1].
            pairs: indices of generators and discriminators.

        Yields:
            The reconstructions (B, 3, S, S), and for each of `SCORES` a map (B, S, S), higher where
            more anomalous.
        """
