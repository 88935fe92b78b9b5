"""A baseline without networks to train: the frozen features of a pretrained network score."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from crn.methods.base import Losses, Method, Pair
from crn.methods.maps import Maps


class FeaturesAlone(Method):
    """The baseline of all trained methods: the patch distances are its only anomaly maps."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """There are none."""
        return {}

    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:
        """Never called, since there is nothing to train."""
        raise NotImplementedError

    def pairs(self, which: str) -> list[Pair]:  # noqa: ARG002
        """There are none."""
        return []

    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Maps]]:  # noqa: ARG002
        """There are no maps of networks."""
        return iter(())
