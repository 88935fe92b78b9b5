"""What all methods have in common: networks that play against each other, and score images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crn.methods.scores import Maps

# The losses of a step by their name, each a tensor of any shape.
Terms = dict[str, Tensor]


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
    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names, which are also those of their places in the module."""

    @abstractmethod
    def draw(self, seed: int, step: int) -> tuple[int, ...]:
        """Which networks play in a training step: indices, a function of seed and step."""

    @abstractmethod
    def play(self, x: Tensor, players: Sequence[int]) -> tuple[Tensor, Terms]:
        """Let networks play with one batch.

        Args:
            x: images, (B, 3, S, S) in [-1, 1].
            players: the networks that `draw` has given.

        Returns:
            A scalar whose gradients are, in every network that plays, those of what it minimises;
            and the terms of the losses.
        """

    @abstractmethod
    def losses(self, terms: Terms) -> Terms:
        """What is logged of a step, as scalars."""

    @abstractmethod
    def record(self, players: Sequence[int], terms: Terms) -> None:
        """Remember how a step went; nothing is copied to the host."""

    @abstractmethod
    def suspects(self, players: Sequence[int]) -> str:
        """Whose losses are not finite, in words; ``players`` are those of the latest step."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """What is logged of the method at a validation."""

    @abstractmethod
    def scorer(self, pairs: str) -> Scorer:
        """How to score: with the best networks ("best") or the mean over all pairs ("all")."""
