"""DAGAN, the baseline of the paper on CRN (Tang et al. 2020, Sensors 20(12), 3336)."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from crn.config import ModelConfig
from crn.methods.base import Losses, Method, Pair
from crn.methods.encoder_decoder import RECONSTRUCTIONS, EncoderDecoder
from crn.methods.maps import Maps


class DualAutoEncoderGAN(Method):
    """A generator with skip connections against a discriminator that is an autoencoder.

    As in BEGAN (Berthelot et al. 2017) the discriminator tells real from fake by how well it
    reproduces an image: real ones well, the generator's reconstructions badly.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weights = config.adversarial
        self.generator = EncoderDecoder(config.network)
        self.discriminator = EncoderDecoder(config.network, skips=False)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The generator and the discriminator."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:  # noqa: ARG002
        """Train both networks at once, from the same forward passes.

        With r = G(x), d = D(x), f = D(r) and mean squared differences |.|²::

            L_G = w_con |x - r|² + w_adv |r - f|²
            L_D = w_d |x - d|² - w_adv |r - f|²

        The last terms differ only in sign, so one term serves both: its gradient is reversed on
        its way to the generator.

        Returns:
            As `Method.training_losses`; the losses are "reconstruction" |x - r|², "feedback"
            |r - f|² and "discriminator_reconstruction" |x - d|², scalars.
        """
        w = self.weights
        r = self.generator(x)
        reversed_r = 2 * r.detach() - r  # equals r, with its gradient times -1
        reconstruction = mse_loss(r, x)
        feedback = mse_loss(self.discriminator(reversed_r, RECONSTRUCTIONS), reversed_r)
        discriminator_reconstruction = mse_loss(self.discriminator(x), x)
        total = (
            w.contextual_loss_weight * reconstruction
            + w.discriminator_reconstruction_loss_weight * discriminator_reconstruction
            - w.adversarial_loss_weight * feedback
        )
        return total, {
            "reconstruction": reconstruction.detach(),
            "feedback": feedback.detach(),
            "discriminator_reconstruction": discriminator_reconstruction.detach(),
        }

    def logged(self, losses: Losses) -> Losses:
        """Each loss, and the totals that the two networks minimise."""
        w = self.weights
        adversarial = w.adversarial_loss_weight * losses["feedback"]
        real = w.discriminator_reconstruction_loss_weight * losses["discriminator_reconstruction"]
        return super().logged(losses) | {
            "losses/generator": w.contextual_loss_weight * losses["reconstruction"] + adversarial,
            "losses/discriminator": real - adversarial,
        }

    def pairs(self, which: str) -> list[Pair]:  # noqa: ARG002
        """The only pair."""
        return [(0, 1)]

    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Maps]]:  # noqa: ARG002
        """Yield r = G(x) and its maps in [0, 2]; the discriminator reconstructs images itself.

        They are ``reconstruction`` |x - G(x)|, ``discrimination`` |x - D(x)|, and ``residual``, the
        mean of the two, which is the score of Tang et al. (2020).
        """
        r = self.generator(x)
        by_generator, by_discriminator = ((x - y).abs().mean(1) for y in (r, self.discriminator(x)))
        residual = (by_generator + by_discriminator) / 2
        maps = {"reconstruction": by_generator, "residual": residual}
        yield r, maps | {"discrimination": by_discriminator}
