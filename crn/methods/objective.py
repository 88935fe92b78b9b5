"""What the two units of a training step minimise (Mattes et al. 2023)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import l1_loss

from crn.config import Competition


@dataclass(frozen=True)
class GeneratorLosses:
    """The terms of one unit as generator and of its partner as discriminator; scalars.

    Attributes:
        reconstruction: |x - r|, the mean absolute difference of image and reconstruction.
        feedback: |r - sg(f)|, of the reconstruction and the discriminator's answer to it.
        discrimination: |sg(r) - f|, the same number with the discriminator's gradient.
    """

    reconstruction: Tensor
    feedback: Tensor
    discrimination: Tensor

    def total(self, weights: Competition) -> Tensor:
        """L_gen + L_disc, each of which has the gradients of one of the two units."""
        return generator_loss(self.reconstruction, self.feedback, weights) + discriminator_loss(
            self.discrimination, weights
        )


def generator_losses(x: Tensor, r: Tensor, f: Tensor) -> GeneratorLosses:
    """The terms of one direction of play.

    Args:
        x: images, (B, 3, H, W).
        r: the generator's reconstruction of x, with its graph.
        f: the discriminator's answer to ``r.detach()``, with its graph.
    """
    return GeneratorLosses(l1_loss(r, x), l1_loss(r, f.detach()), l1_loss(f, r.detach()))


def generator_loss(reconstruction: Tensor, feedback: Tensor, weights: Competition) -> Tensor:
    """L_gen = w_rec |x - r| + w_fb |r - sg(f)|."""
    return weights.reconstruction_weight * reconstruction + weights.feedback_weight * feedback


def discriminator_loss(discrimination: Tensor, weights: Competition) -> Tensor:
    """L_disc = -w_disc |sg(r) - f|."""
    return -weights.discrimination_weight * discrimination
