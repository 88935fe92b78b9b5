"""No networks of its own: the frozen features of a pretrained network score alone."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from crn.methods.base import Losses, Method, Pair
from crn.methods.maps import Maps


class FeaturesAlone(Method):
    """The baseline of all that is trained: its anomaly maps are those of the patches alone."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """None."""
        return {}

    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:
        """There is nothing to train, so that no training step asks for it."""
        raise NotImplementedError

    def pairs(self, which: str) -> list[Pair]:  # noqa: ARG002
        """None."""
        return []

    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Maps]]:  # noqa: ARG002
        """No map is of networks."""
        return iter(())
