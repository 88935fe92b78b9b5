"""The encoder-decoder of all methods: a U-Net or, without skip connections, an autoencoder."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from crn.config import Network
from crn.methods.convolution import HalvingConv, NearestConv

# Levels have at most this many times the channels of the first one.
_WIDEST = 8

# The kinds of input. Batch norm keeps running statistics of each, since the two differ by design:
# adversaries are trained to tell them apart.
IMAGES, RECONSTRUCTIONS = "images", "reconstructions"


# It doubles height and width.
_TransposedConv = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1)


class EncoderDecoder(nn.Module):
    """Encoder-decoder with skip connections (Ronneberger et al. 2015, Isola et al. 2017).

    With d = min(log2(imsize), max_network_depth) levels of w_k = width * min(2^k, 8) channels::

        x        (B, 3, S, S)
        level 0  (B, w_0, S/2, S/2)                 S/2   (B, 3, S, S), tanh
        level k  (B, w_k, S/2^(k+1), S/2^(k+1))  -> up_k  (B, w_(k-1), S/2^k, S/2^k)

    and the input of every up_k but the innermost is concatenated with the activated output of the
    encoder at its size, unless ``skips`` is false.

    In training, batch norm normalises by the batch; in evaluation by running statistics, one set
    for `IMAGES` and one for `RECONSTRUCTIONS`. Instance norm normalises every image by its own
    statistics, in training and evaluation alike.
    """

    def __init__(self, network: Network, skips: bool = True) -> None:
        super().__init__()
        depth = min(int(math.log2(network.imsize)), network.max_network_depth)
        widths = [network.width * min(2**level, _WIDEST) for level in range(depth)]
        innermost = depth - 1
        self._skips = skips
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            above = widths[level - 1] if level else 3
            norm = network.norm if 0 < level < innermost else "none"
            self.down.append(_Level(HalvingConv(above, width, bias=norm != "batch"), norm, width))
            norm = network.norm if level else "none"
            skip = width if skips and level < innermost else 0
            is_wide_inner = 0 < level < innermost and above == network.width * _WIDEST
            upsample = NearestConv if network.improved else _TransposedConv
            convolution = upsample(width + skip, above, bias=norm != "batch")
            dropout = network.use_dropout and is_wide_inner
            self.up.append(_Level(convolution, norm, above, dropout))
        if not next(self.parameters()).is_meta:
            for each in (*self.down, *self.up):
                each.initialize()

    def forward(self, x: Tensor, given: str = IMAGES) -> Tensor:
        """Reconstruct images.

        Args:
            x: (B, 3, S, S) in [-1, 1].
            given: whether they are `IMAGES` or another network's `RECONSTRUCTIONS`.

        Returns:
            (B, 3, S, S) in [-1, 1].
        """
        h = self.down[0](x.contiguous(memory_format=torch.channels_last), given)
        skips = []
        for down in self.down[1:]:
            h = leaky_relu(h, 0.2)
            skips.append(h)
            h = down(h, given)
        h = self.up[-1](relu(h), given)
        for up in reversed(self.up[:-1]):
            h = relu(h)
            if self._skips:
                # Rectified separately, so that backward passes whole tensors, not slices of one.
                h = torch.cat([relu(skips.pop()), h], dim=1)
            h = up(h, given)
        return torch.tanh(h)


class _Level(nn.Module):
    """A convolution, and the norm and the dropout that follow it.

    Attributes:
        norms: the norm of each kind of input; those of batch norm share weights and shifts.
    """

    def __init__(
        self, convolution: nn.Module, norm: str, channels: int, dropout: bool = False
    ) -> None:
        super().__init__()
        self.convolution = convolution
        # Batch norm has its own shift, beside which a bias of the convolution has no effect.
        norms: list[nn.Module]
        if norm == "batch":
            first, second = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
            second.weight, second.bias = first.weight, first.bias
            norms = [first, second]
        elif norm == "instance":
            norms = [nn.InstanceNorm2d(channels)] * 2
        else:
            norms = [nn.Identity()] * 2
        self.norms = nn.ModuleDict(dict(zip((IMAGES, RECONSTRUCTIONS), norms, strict=True)))
        self.dropout = nn.Dropout(0.5) if dropout else nn.Identity()

    def forward(self, h: Tensor, given: str) -> Tensor:
        return self.dropout(self.norms[given](self.convolution(h)))

    def initialize(self) -> None:
        """Draw the weights that `_Convolution` has not drawn already."""
        if isinstance(self.convolution, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out")
            if self.convolution.bias is not None:
                nn.init.zeros_(self.convolution.bias)
        norm = self.norms[IMAGES]
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 1.0, 0.02)
