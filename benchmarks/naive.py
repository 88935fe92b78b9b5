"""The training step as one would first write it: the yardstick, which the program never imports.

Eight forward passes, every convolution as it is defined, contiguous tensors, default Adam, and
every loss read back to the host.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from crn.config import ModelConfig, Network
from crn.methods.encoder_decoder import RECONSTRUCTIONS


class NaiveUnit(nn.Module):
    """`EncoderDecoder` with batch norm and nearest upsampling, under the same names."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        depth = min(network.imsize.bit_length() - 1, network.max_network_depth)
        widths = [min(64 * 2**level, 512) for level in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            above = widths[level - 1] if level else 3
            has_norm = 0 < level < depth - 1
            down = [nn.Conv2d(above, width, 4, stride=2, padding=1, bias=not has_norm)]
            self.down.append(nn.Sequential(*down, *([nn.BatchNorm2d(width)] if has_norm else [])))
            channels = width * (1 if level == depth - 1 else 2)
            up = [nn.Conv2d(channels, above, 3, padding=1, bias=level == 0)]
            self.up.append(nn.Sequential(*up, *([nn.BatchNorm2d(above)] if level else [])))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct (B, 3, S, S)."""
        h = self.down[0](x)
        skips = []
        for down in self.down[1:]:
            h = leaky_relu(h, 0.2)
            skips.append(h)
            h = down(h)
        for level in reversed(range(len(self.up))):
            if skips and level < len(self.up) - 1:
                h = torch.cat([skips.pop(), h], dim=1)
            h = self.up[level](nn.functional.interpolate(relu(h), scale_factor=2))
        return torch.tanh(h)


class NaiveStep:
    """Two units and their optimizers."""

    def __init__(self, config: ModelConfig, units: nn.ModuleList) -> None:
        """Copy the weights of the program's units, so that both start alike."""
        self.weights = config.competition
        like = next(units.parameters())
        self.units = [NaiveUnit(config.network).to(like) for _ in units]
        for mine, theirs in zip(self.units, units, strict=True):
            _copy_weights(theirs, mine)
        self.optimizers = [
            torch.optim.Adam(unit.parameters(), lr=config.optimization.lr) for unit in self.units
        ]

    def __call__(self, x: Tensor, i: int, j: int, autocast: bool = False) -> dict[str, float]:
        """Train both units on x; returns the mean losses of the two directions."""
        w = self.weights
        for optimizer in (self.optimizers[i], self.optimizers[j]):
            optimizer.zero_grad(set_to_none=False)
        sums = {"reconstruction": 0.0, "feedback": 0.0, "margin": 0.0}
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            for generator, discriminator in ((i, j), (j, i)):
                g, d = self.units[generator], self.units[discriminator]
                r = g(x)
                reconstruction = (x - r).abs().mean()
                with torch.no_grad():
                    judged = d(r)
                feedback = (r - judged).abs().mean()
                discrimination = (r.detach() - d(r.detach())).abs().mean()
                own_reconstruction = (x - d(x)).abs().mean()
                loss = w.reconstruction_weight * reconstruction + w.feedback_weight * feedback
                loss = loss - w.discrimination_weight * discrimination
                loss.backward()
                sums["reconstruction"] += reconstruction.item() / 2
                sums["feedback"] += feedback.item() / 2
                sums["margin"] += (discrimination.item() - own_reconstruction.item()) / 2
        for optimizer in (self.optimizers[i], self.optimizers[j]):
            optimizer.step()
        return sums


@torch.no_grad()
def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    for mine, theirs in zip(_with_weights(target), _with_weights(source), strict=True):
        mine.weight.copy_(theirs.weight)
        if mine.bias is not None:
            mine.bias.copy_(theirs.bias)


def _with_weights(unit: nn.Module) -> list[nn.Module]:
    """The layers; of two batch norms that share their weights the first."""
    return [
        module
        for name, module in unit.named_modules()
        if hasattr(module, "weight") and not name.endswith(RECONSTRUCTIONS)
    ]
