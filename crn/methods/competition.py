"""Competitive reconstruction networks (Mattes et al. 2023)."""

import random
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from crn.config import ModelConfig
from crn.methods.base import Method, Scorer, Terms
from crn.methods.encoder_decoder import EncoderDecoder
from crn.methods.objective import discriminator_loss, generator_loss, generator_losses
from crn.methods.scores import ordered_pairs, score_pairs
from crn.methods.standing import Standing


class CompetitiveReconstructionNetworks(Method):
    """A pool of N units that train all against all: each is generator and discriminator.

    Attributes:
        units: the networks.
        standing: their running figures, which choose the best generator and discriminator.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weights = config.competition
        count = config.competition.num_competitive_units
        self.units = nn.ModuleList(EncoderDecoder(config.network) for _ in range(count))
        self.standing = Standing(count)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All units."""
        return {_name(index): unit for index, unit in enumerate(self.units)}

    def draw(self, seed: int, step: int) -> tuple[int, ...]:
        """Two different units, or the only one, which then plays itself."""
        if len(self.units) == 1:
            return (0,)
        draw = random.Random(f"pair {seed} {step}")
        return tuple(draw.sample(range(len(self.units)), 2))

    def play(self, x: Tensor, players: Sequence[int]) -> tuple[Tensor, Terms]:
        """Let two units play both roles against each other, with four forward passes.

        Returns:
            As `Method.play`; the terms "reconstruction" |x - r| and "feedback" |r - f| are (P,),
            of each of the P players as generator.
        """
        r = {unit: self.units[unit](x) for unit in players}
        losses = []
        for generator, discriminator in zip(players, reversed(players), strict=True):
            f = self.units[discriminator](r[generator].detach())
            losses.append(generator_losses(x, r[generator], f))
        total = torch.stack([each.total(self.weights) for each in losses]).sum()
        return total, {
            name: torch.stack([getattr(each, name).detach() for each in losses])
            for name in ("reconstruction", "feedback")
        }

    def losses(self, terms: Terms) -> Terms:
        """The means over the players of each term and of what the two roles minimise."""
        reconstruction, feedback = terms["reconstruction"].mean(), terms["feedback"].mean()
        return {
            "losses/reconstruction": reconstruction,
            "losses/feedback": feedback,
            "losses/generator": generator_loss(reconstruction, feedback, self.weights),
            "losses/discriminator": discriminator_loss(feedback, self.weights),
        }

    def record(self, players: Sequence[int], terms: Terms) -> None:
        """Update the standing of the players."""
        # What a unit was given to spoil is the reconstruction of its partner, the other player.
        discrimination = terms["feedback"].flip(0)
        for place, unit in enumerate(players):
            self.standing.update(unit, terms["reconstruction"][place], discrimination[place])

    def suspects(self, players: Sequence[int]) -> str:
        """The units in whose standing something is not finite, else the players."""
        spoilt = (~self.standing.reconstruction_loss.isfinite()).nonzero().flatten().tolist()
        return "units " + " and ".join(map(str, spoilt or sorted(players)))

    def figures(self) -> dict[str, float]:
        """The units that score."""
        generator, discriminator = self.best_pair()
        return {"units/best_generator": generator, "units/best_discriminator": discriminator}

    def best_pair(self) -> tuple[int, int]:
        """Indices of the best generator and the best discriminator."""
        return self.standing.best_generator(), self.standing.best_discriminator()

    def scorer(self, pairs: str) -> Scorer:
        """The best pair, or all ordered pairs of different units."""
        chosen = ordered_pairs(len(self.units)) if pairs == "all" else [self.best_pair()]
        units = {index: self.units[index] for index in sorted({i for pair in chosen for i in pair})}
        return Scorer(
            tuple(map(_name, units)),
            tuple(chosen),
            partial(score_pairs, units=units, pairs=chosen),
        )


def _name(unit: int) -> str:
    return f"units.{unit}"
