"""What all methods have in common: networks that are trained together and score images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crn.methods.scores import Maps

# The losses of a training step by their names, detached; each a tensor of any shape.
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Scorer:
    """The networks of a method that score images, and how.

    Attributes:
        networks: their names in the method.
        pairs: (generator, discriminator) indices that are averaged over.
        score: from images (B, 3, S, S) in [-1, 1] to reconstructions of them and, for each of
            `SCORES`, anomaly maps (B, S, S).
    """

    networks: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    score: Callable[[Tensor], tuple[Tensor, Maps]]


class Method(nn.Module, ABC):
    """Networks that are trained together, each with an optimizer of its own.

    Whatever the method has to remember beside them is a buffer, so that checkpoints carry it.
    """

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names, which are also those of their places in the module."""
        return dict(self.named_children())

    def trained_in(self, seed: int, step: int) -> tuple[int, ...]:  # noqa: ARG002
        """The indices of the networks that a training step updates, a function of seed and step."""
        return tuple(range(len(self.networks)))

    @abstractmethod
    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:
        """Compute what a training step minimises.

        Args:
            x: images, (B, 3, S, S) in [-1, 1].
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
    def scorer(self, pairs: str) -> Scorer:
        """How to score: with the best networks ("best") or the mean over all pairs ("all")."""
