"""The encoder-decoder network of all methods: a U-Net, or an autoencoder without its skips."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from crn.config import Network
from crn.methods.convolution import HalvingConv, NearestConv

_FIRST_WIDTH = 64
_LARGEST_WIDTH = 512


class EncoderDecoder(nn.Module):
    """Encoder-decoder with skip connections (Ronneberger et al. 2015, Isola et al. 2017).

    With d = min(log2(imsize), max_network_depth) levels of w_k = min(64 * 2^k, 512) channels::

        x        (B, 3, S, S)
        level 0  (B, w_0, S/2, S/2)                 S/2   (B, 3, S, S), tanh
        level k  (B, w_k, S/2^(k+1), S/2^(k+1))  -> up_k  (B, w_(k-1), S/2^k, S/2^k)

    and the input of every up_k but the innermost is concatenated with the activated output of the
    encoder at its size, unless ``skips`` is false.
    """

    def __init__(self, network: Network, skips: bool = True) -> None:
        super().__init__()
        depth = min(int(math.log2(network.imsize)), network.max_network_depth)
        widths = [min(_FIRST_WIDTH * 2**level, _LARGEST_WIDTH) for level in range(depth)]
        innermost = depth - 1
        self._skips = skips
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            above = widths[level - 1] if level else 3
            self.down.append(_down(above, width, network.norm if 0 < level < innermost else "none"))
            skip = width if skips and level < innermost else 0
            is_wide_inner = 0 < level < innermost and above == _LARGEST_WIDTH
            self.up.append(
                _up(
                    width + skip,
                    above,
                    norm=network.norm if level else "none",
                    improved=network.improved,
                    dropout=network.use_dropout and is_wide_inner,
                )
            )
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            x: (B, 3, S, S) in [-1, 1].

        Returns:
            (B, 3, S, S) in [-1, 1].
        """
        h = self.down[0](x.contiguous(memory_format=torch.channels_last))
        skips = []
        for down in self.down[1:]:
            h = leaky_relu(h, 0.2)
            skips.append(h)
            h = down(h)
        h = self.up[-1](relu(h))
        for up in reversed(self.up[:-1]):
            h = relu(h)
            if self._skips:
                # Rectified apart, so that backward hands on whole tensors and not slices of one.
                h = torch.cat([relu(skips.pop()), h], dim=1)
            h = up(h)
        return torch.tanh(h)


def _norm(kind: str, channels: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    if kind == "instance":
        return [nn.InstanceNorm2d(channels, track_running_stats=True)]
    return []


def _down(channels: int, width: int, norm: str) -> nn.Sequential:
    """Halve height and width."""
    # Batch norm has a shift of its own; beside it a bias would do nothing.
    return nn.Sequential(HalvingConv(channels, width, bias=norm != "batch"), *_norm(norm, width))


def _up(channels: int, width: int, *, norm: str, improved: bool, dropout: bool) -> nn.Sequential:
    """Double height and width."""
    bias = norm != "batch"
    upsample = (
        NearestConv(channels, width, bias)
        if improved
        else nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=bias)
    )
    return nn.Sequential(upsample, *_norm(norm, width), *([nn.Dropout(0.5)] if dropout else []))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
