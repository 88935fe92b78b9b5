"""How well each unit has been doing: the running figures that choose the best two (section 3.3)."""

import torch
from torch import Tensor, nn

# A unit plays in two of N steps; ten plays average out the noise of single batches.
DECAY = 0.9


class Standing(nn.Module):
    """Exponential moving averages of each unit's success, kept as buffers so that they are saved.

    - ``reconstruction_loss`` (N,): |x - r| of the unit as generator; low is good.
    - ``discrimination_margin`` (N,): |r - f| for the partner's reconstruction less the unit's own
      |x - r|; high is good.
    - ``plays`` (N,): how often the unit has played, to correct the averages for their start at 0.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("reconstruction_loss", torch.zeros(units))
        self.register_buffer("discrimination_margin", torch.zeros(units))
        self.register_buffer("plays", torch.zeros(units))

    @torch.no_grad()
    def update(self, unit: int, reconstruction: Tensor, discrimination: Tensor) -> None:
        """Record a step of one unit; nothing is copied to the host.

        Args:
            unit: its index.
            reconstruction: |x - r| of its own reconstruction, a scalar.
            discrimination: |r - f| of its answer to the partner's reconstruction, a scalar.
        """
        margin = discrimination - reconstruction
        for figure, value in (
            (self.reconstruction_loss, reconstruction),
            (self.discrimination_margin, margin),
        ):
            figure[unit].lerp_(value.detach().to(figure.dtype), 1 - DECAY)
        self.plays[unit] += 1

    def best_generator(self) -> int:
        """The unit with the lowest running reconstruction loss, among those that have played."""
        return int(self._average(self.reconstruction_loss, unknown=torch.inf).argmin())

    def best_discriminator(self) -> int:
        """The unit with the highest running margin, among those that have played."""
        return int(self._average(self.discrimination_margin, unknown=-torch.inf).argmax())

    def _average(self, total: Tensor, unknown: float) -> Tensor:
        corrected = total / (1 - DECAY**self.plays)
        return torch.where(self.plays > 0, corrected, unknown)
