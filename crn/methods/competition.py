"""Competitive reconstruction networks (Mattes et al. 2023)."""

import random
from collections.abc import Iterator, Sequence
from itertools import groupby, permutations

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from crn.config import ModelConfig
from crn.methods.base import Losses, Method, Pair
from crn.methods.encoder_decoder import RECONSTRUCTIONS, EncoderDecoder
from crn.methods.maps import Maps, maps_of

# Decay of the moving averages that choose the best units. A unit is trained in two of N steps; ten
# of these average out the noise of single batches.
DECAY = 0.9
# lambda of the balance: how fast k adapts.
BALANCE_RATE = 0.01


class CompetitiveReconstructionNetworks(Method):
    """A pool of N units that compete in changing pairs; each is generator and discriminator.

    Attributes:
        units: the networks U_1 to U_N.
        reconstruction_loss: (N,), moving average of |x - r| of each unit as generator.
        discrimination_margin: (N,), moving average of its |r - f| as discriminator minus its own
            |x - r| as generator.
        times_trained: (N,), number of steps that trained each unit; it corrects the averages for
            their start at 0.
        k: (N,), with --balance, the weight w_disc of each unit.
    """

    reconstruction_loss: Tensor
    discrimination_margin: Tensor
    times_trained: Tensor
    k: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weights = config.competition
        count = config.competition.num_competitive_units
        self.units = nn.ModuleList(EncoderDecoder(config.network) for _ in range(count))
        for name in ("reconstruction_loss", "discrimination_margin", "times_trained", "k"):
            self.register_buffer(name, torch.zeros(count))

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All units."""
        return {f"units.{index}": unit for index, unit in enumerate(self.units)}

    def trained_in(self, seed: int, step: int) -> tuple[int, ...]:
        """Two different units, or the only one, which then competes with itself."""
        if len(self.units) == 1:
            return (0,)
        draw = random.Random(f"pair {seed} {step}")
        return tuple(draw.sample(range(len(self.units)), 2))

    def training_losses(self, x: Tensor, trained: Sequence[int]) -> tuple[Tensor, Losses]:
        """Let two units compete in both roles, with four forward passes.

        Unit g as generator, d as discriminator, |.| the mean absolute difference, sg() without
        gradient (section 3.2)::

            L_gen(g)  = w_rec |x - r| + w_fb |r - sg(f)|    r = U_g(x)
            L_disc(d) = - w_disc |sg(r) - f|                f = U_d(sg(r))

        With --balance gamma, w_disc is k_d, as in BEGAN (Berthelot et al. 2017): it grows while the
        |r - f| of unit d is below gamma times its own |x - r|, else it falls.

        Returns:
            As `Method.training_losses`; the losses are "reconstruction" |x - r| and "feedback"
            |r - f|, each (P,) for the P units as generators; and "discriminator" (P,), the L_disc
            of the unit opposite each of them.
        """
        w = self.weights
        r = {unit: self.units[unit](x) for unit in trained}
        total = x.new_zeros(())
        losses: dict[str, list[Tensor]]
        losses = {name: [] for name in ("reconstruction", "feedback", "discriminator")}
        for g, d in zip(trained, reversed(trained), strict=True):
            f = self.units[d](r[g].detach(), RECONSTRUCTIONS)
            reconstruction = l1_loss(r[g], x)
            feedback = l1_loss(r[g], f.detach())
            weight = self.k[d] if w.balance else w.discrimination_weight
            discriminator = -weight * l1_loss(f, r[g].detach())
            total = total + w.reconstruction_weight * reconstruction
            total = total + w.feedback_weight * feedback
            total = total + discriminator
            losses["reconstruction"].append(reconstruction.detach())
            losses["feedback"].append(feedback.detach())
            losses["discriminator"].append(discriminator.detach())
        return total, {name: torch.stack(values) for name, values in losses.items()}

    def logged(self, losses: Losses) -> Losses:
        """The mean over the units of each loss, and of the loss of each role."""
        w, logged = self.weights, super().logged(losses)
        logged["losses/generator"] = (
            w.reconstruction_weight * logged["losses/reconstruction"]
            + w.feedback_weight * logged["losses/feedback"]
        )
        if w.balance:
            logged["balance/k"] = self.k.mean()
        return logged

    @torch.no_grad()
    def remember(self, trained: Sequence[int], losses: Losses) -> None:
        """Update the moving averages of the units of a step."""
        own = losses["reconstruction"].to(self.reconstruction_loss)
        # A unit has distorted the reconstruction of the other one.
        distorted = losses["feedback"].to(own).flip(0)
        margin = distorted - own
        step = BALANCE_RATE * (self.weights.balance * own - distorted)
        for place, unit in enumerate(trained):
            self.reconstruction_loss[unit].lerp_(own[place], 1 - DECAY)
            self.discrimination_margin[unit].lerp_(margin[place], 1 - DECAY)
            self.times_trained[unit] += 1
            self.k[unit].add_(step[place]).clamp_(0, 1)

    def best_pair(self) -> tuple[int, int]:
        """Indices of the best generator and the best discriminator.

        The best generator is the unit with the lowest |x - r|; the best discriminator is the one of
        the *other* units with the highest margin, since U_i(U_i(x)) is never trained. Units that
        have not been trained come last; a single unit is both (section 3.3).
        """
        corrected = 1 - DECAY**self.times_trained
        trained = self.times_trained > 0
        loss = torch.where(trained, self.reconstruction_loss / corrected, torch.inf).tolist()
        margin = torch.where(trained, self.discrimination_margin / corrected, -torch.inf).tolist()
        generator = min(range(len(loss)), key=loss.__getitem__)
        others = [unit for unit in range(len(margin)) if unit != generator] or [generator]
        return generator, max(others, key=margin.__getitem__)

    def state(self) -> dict[str, float]:
        """The indices of the best pair."""
        generator, discriminator = self.best_pair()
        return {"units/best_generator": generator, "units/best_discriminator": discriminator}

    def not_finite(self, trained: Sequence[int]) -> str:
        """The units whose moving averages are not finite, else the units of the step."""
        diverged = (~self.reconstruction_loss.isfinite()).nonzero().flatten().tolist()
        return "units " + " and ".join(map(str, diverged or sorted(trained)))

    def pairs(self, which: str) -> list[Pair]:
        """The best pair; all ordered pairs; or, for "lowest", a ring: each unit in each role once.

        Units are paired with others; only a single unit is paired with itself.
        """
        if which == "best":
            return [self.best_pair()]
        count = len(self.units)
        if which == "all" and count > 1:
            return list(permutations(range(count), 2))
        return [(unit, (unit + 1) % count) for unit in range(count)]

    def scoring_networks(self, pairs: Sequence[Pair]) -> list[str]:
        """The units in the pairs."""
        return [f"units.{unit}" for unit in sorted({unit for pair in pairs for unit in pair})]

    def anomaly_maps(self, x: Tensor, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Maps]]:
        """Yield reconstructions and the maps of `maps_of`; each generator reconstructs once."""
        for generator, group in groupby(sorted(pairs), key=lambda pair: pair[0]):
            r = self.units[generator](x)
            for _, discriminator in group:
                yield r, maps_of(x, r, self.units[discriminator](r, RECONSTRUCTIONS))
