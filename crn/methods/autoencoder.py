"""A plain autoencoder: the baseline without an adversary."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from crn.config import SCORES, ModelConfig
from crn.methods.base import Losses, Method, Pair
from crn.methods.encoder_decoder import EncoderDecoder
from crn.methods.maps import Maps


class Autoencoder(Method):
    """A unit of CRN that only learns to reproduce images."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.network = EncoderDecoder(config.network)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The only network."""
        return {"network": self.network}

    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:  # noqa: ARG002
        """Minimise |x - r| with r = U(x); the loss is "reconstruction", a scalar."""
        loss = l1_loss(self.network(x), x)
        return loss, {"reconstruction": loss.detach()}

    def pairs(self, which: str) -> list[Pair]:  # noqa: ARG002
        """The network paired with itself."""
        return [(0, 0)]

    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Maps]]:  # noqa: ARG002
        """The map |x - r| serves all scores."""
        r = self.network(x)
        yield r, dict.fromkeys(SCORES, (x - r).abs().mean(1))
