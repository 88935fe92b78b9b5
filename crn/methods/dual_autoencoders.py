"""DAGAN, the baseline of the paper on CRN (Tang et al. 2020, Sensors 20(12), 3336)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from crn.config import Adversarial, ModelConfig
from crn.methods.base import Method, Scorer, Terms
from crn.methods.encoder_decoder import EncoderDecoder
from crn.methods.scores import score_autoencoders


class DualAutoEncoderGAN(Method):
    """A generator with skip connections against a discriminator that is an autoencoder.

    As in BEGAN (Berthelot et al. 2017) the discriminator tells real from fake by how well it
    reproduces an image: real ones well, the generator's reconstructions badly.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weights = config.adversarial
        self.generator = EncoderDecoder(config.network)
        self.discriminator = EncoderDecoder(config.network, skips=False)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The two."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def draw(self, seed: int, step: int) -> tuple[int, ...]:  # noqa: ARG002
        """Both, always."""
        return 0, 1

    def play(self, x: Tensor, players: Sequence[int]) -> tuple[Tensor, Terms]:  # noqa: ARG002
        """Train both networks at once, from the same forward passes.

        With r = G(x), d = D(x), f = D(r) and mean squared differences |.|²::

            L_G = w_con |x - r|² + w_adv |r - f|²
            L_D = w_d |x - d|² - w_adv |r - f|²

        The last term is the same for both but for its sign, so the gradient of L_D's is turned
        round on its way to the generator.

        Returns:
            As `Method.play`; the terms are "reconstruction" |x - r|², "feedback" |r - f|² and
            "discriminator_reconstruction" |x - d|², scalars.
        """
        r = self.generator(x)
        given = _TurnGradient.apply(r)
        terms = {
            "reconstruction": mse_loss(r, x),
            "feedback": mse_loss(self.discriminator(given), given),
            "discriminator_reconstruction": mse_loss(self.discriminator(x), x),
        }
        total = self.weights.contextual_loss_weight * terms["reconstruction"]
        total = total + discriminator_loss(terms, self.weights)
        return total, {name: term.detach() for name, term in terms.items()}

    def losses(self, terms: Terms) -> Terms:
        """Each term, and what the two networks minimise."""
        return {
            **{f"losses/{name}": term for name, term in terms.items()},
            "losses/generator": generator_loss(terms, self.weights),
            "losses/discriminator": discriminator_loss(terms, self.weights),
        }

    def record(self, players: Sequence[int], terms: Terms) -> None:
        """Nothing: there is only one of each."""

    def suspects(self, players: Sequence[int]) -> str:  # noqa: ARG002
        """Both networks."""
        return "generator and discriminator"

    def figures(self) -> dict[str, float]:
        """None."""
        return {}

    def scorer(self, pairs: str) -> Scorer:  # noqa: ARG002
        """The only pair that there is."""

        def score(x: Tensor) -> tuple[Tensor, Any]:
            return score_autoencoders(x, self.generator, self.discriminator)

        return Scorer(tuple(self.networks), ((0, 1),), score)


def generator_loss(terms: Terms, weights: Adversarial) -> Tensor:
    """L_G = w_con |x - r|² + w_adv |r - f|²."""
    return (
        weights.contextual_loss_weight * terms["reconstruction"]
        + weights.adversarial_loss_weight * terms["feedback"]
    )


def discriminator_loss(terms: Terms, weights: Adversarial) -> Tensor:
    """L_D = w_d |x - d|² - w_adv |r - f|²."""
    return (
        weights.discriminator_reconstruction_loss_weight * terms["discriminator_reconstruction"]
        - weights.adversarial_loss_weight * terms["feedback"]
    )


class _TurnGradient(torch.autograd.Function):
    """The identity, whose gradient is turned round (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return -gradient
