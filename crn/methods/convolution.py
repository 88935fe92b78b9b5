"""The two convolutions of a competitive unit, each in the fastest of several equal forms.

A convolution library spends much of the time of a small convolution on rearranging weights and
images. On a CPU a plain matrix product over channels-last images is often faster, and upsampling
then takes fewer multiplications, too. ``python -m benchmarks.convolution`` measures the forms.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, linear, pad

# On a CPU, halving convolutions with at most this many output positions (images x height x width)
# are computed as a matrix product.
_PRODUCT_UP_TO = 256
# On a GPU, upsampling uses a folded kernel from this many input positions on; with fewer, folding
# costs more than it saves.
_FOLD_FROM = 512


class _Convolution(nn.Module):
    """The parameters of a convolution with square kernels.

    Attributes:
        kernel: the weights in the order that a matrix product reads, so that no step rearranges
            them; `weight` is a view in the order of torch's convolutions.
        bias: (C',) or None.
    """

    # The permutation from the dimensions of `weight` to those of `kernel`, and its inverse.
    _stored: tuple[int, ...]
    _shown: tuple[int, ...]

    def __init__(self, in_channels: int, out_channels: int, size: int, bias: bool) -> None:
        super().__init__()
        shape = (out_channels, in_channels, size, size)
        self.kernel = nn.Parameter(torch.empty([shape[dim] for dim in self._stored]))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        # Kaiming normal, fan out (He et al. 2015). kaiming_normal_ would need `weight`, in whose
        # memory order drawing is ten times slower. On the meta device torch would import its
        # compiler to draw, which takes two seconds.
        if not self.kernel.is_meta:
            nn.init.normal_(self.kernel, std=math.sqrt(2 / (out_channels * size * size)))

    @property
    def weight(self) -> Tensor:
        """The kernel as (C', C, K, K), without a copy."""
        return self.kernel.permute(self._shown)


class HalvingConv(_Convolution):
    """4x4 convolution of stride 2 and padding 1: (B, C, H, W) to (B, C', H/2, W/2)."""

    _stored, _shown = (0, 2, 3, 1), (0, 3, 1, 2)

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 4, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) to (B, C', H/2, W/2)."""
        if is_exporting() or x.device.type != "cpu" or x[:, 0].numel() > 4 * _PRODUCT_UP_TO:
            return conv2d(x, self.weight, self.bias, stride=2, padding=1)
        return halve_by_product(x, self.weight, self.bias)


class NearestConv(_Convolution):
    """Nearest x2, then a 3x3 convolution with padding 1: (B, C, H, W) to (B, C', 2H, 2W)."""

    _stored, _shown = (2, 3, 0, 1), (2, 3, 0, 1)

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample (B, C, H, W) to (B, C', 2H, 2W)."""
        # In an exported graph the folded kernel is a constant.
        if is_exporting() or (x.device.type != "cpu" and x[:, 0].numel() >= _FOLD_FROM):
            return conv_transpose2d(x, fold_kernel(self.weight), self.bias, stride=2, padding=1)
        if x.device.type == "cpu":
            return upsample_by_product(x, self.weight, self.bias)
        return conv2d(interpolate(x, scale_factor=2.0), self.weight, self.bias, padding=1)


def halve_by_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """4x4 convolution of stride 2 and padding 1 as one matrix product.

    Args:
        x: (B, C, H, W), H and W even.
        weight: (C', C, 4, 4).
        bias: (C',) or None.

    Returns:
        (B, C', H/2, W/2).
    """
    batch, channels, height, width = x.shape
    # A 4x4 patch is two by two blocks of 2x2 pixels, and a block belongs to four patches.
    blocks = pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).view(
        batch, height // 2 + 1, 2, width // 2 + 1, 2, channels
    )
    rows = torch.stack((blocks[:, :-1], blocks[:, 1:]), dim=2).permute(0, 1, 4, 2, 3, 5, 6)
    patches = torch.stack((rows[:, :, :-1], rows[:, :, 1:]), dim=5)  # (B, H/2, W/2, 2,2, 2,2, C)
    kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (C', 4*4*C)
    return linear(patches.flatten(3), kernel, bias).permute(0, 3, 1, 2)


def upsample_by_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest x2 and a 3x3 convolution with padding 1 as one matrix product.

    Every output pixel is a sum of nine taps, each a kernel entry times an *input* pixel. The taps
    are computed once for every input pixel and then added up. For four output pixels and a pair of
    channels this takes 9 multiplications; the plain form takes 36, a folded kernel 16.

    Args:
        x: (B, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C',) or None.

    Returns:
        (B, C', 2H, 2W).
    """
    out_channels, in_channels = weight.shape[:2]
    kernel = weight.permute(2, 3, 0, 1).reshape(9 * out_channels, in_channels)
    taps = linear(x.permute(0, 2, 3, 1), kernel).unflatten(3, (3, 3, out_channels))
    y = _AddUpTaps.apply(taps).permute(0, 3, 1, 2)
    return y if bias is None else y + bias.view(-1, 1, 1)


class _AddUpTaps(torch.autograd.Function):
    """Add taps (B, H, W, 3, 3, C') up to output pixels (B, 2H, 2W, C').

    Rows and columns are added up one after the other, without the copies of autograd.
    """

    @staticmethod
    def forward(ctx, taps: Tensor) -> Tensor:  # noqa: ARG004
        batch, height, width, _, _, channels = taps.shape
        rows = taps.new_empty(batch, height, 2, width, 3, channels)
        _spread(taps.unbind(3), rows.unbind(2), dim=1)
        rows = rows.flatten(1, 2)
        pixels = taps.new_empty(batch, 2 * height, width, 2, channels)
        _spread(rows.unbind(3), pixels.unbind(3), dim=2)
        return pixels.flatten(2, 3)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # noqa: ARG004
        batch, height, width, channels = gradient.shape
        pixels = gradient.reshape(batch, height, width // 2, 2, channels)
        rows = gradient.new_empty(batch, height, width // 2, 3, channels)
        _collect(pixels.unbind(3), rows.unbind(3), dim=2)
        rows = rows.unflatten(1, (height // 2, 2))
        taps = gradient.new_empty(batch, height // 2, width // 2, 3, 3, channels)
        _collect(rows.unbind(2), taps.unbind(3), dim=1)
        return taps


def _spread(taps: Sequence[Tensor], pixels: Sequence[Tensor], dim: int) -> None:
    """Along one dimension, add three taps of every position up to its two pixels.

    Nearest upsampling turns position h into pixels 2h and 2h+1, so a kernel at pixel 2h sees the
    positions h-1, h, h, and at pixel 2h+1 the positions h, h, h+1.
    """
    first, middle, last = taps
    even, odd = pixels
    others = first.shape[dim] - 1
    torch.add(middle, last, out=even)
    even.narrow(dim, 1, others).add_(first.narrow(dim, 0, others))
    torch.add(first, middle, out=odd)
    odd.narrow(dim, 0, others).add_(last.narrow(dim, 1, others))


def _collect(pixels: Sequence[Tensor], taps: Sequence[Tensor], dim: int) -> None:
    """The adjoint of `_spread`: from gradients of pixels to gradients of taps."""
    even, odd = pixels
    first, middle, last = taps
    others = even.shape[dim] - 1
    torch.add(even, odd, out=middle)
    first.copy_(odd)
    first.narrow(dim, 0, others).add_(even.narrow(dim, 1, others))
    last.copy_(even)
    last.narrow(dim, 1, others).add_(odd.narrow(dim, 0, others))


def fold_kernel(weight: Tensor) -> Tensor:
    """The kernel of the transposed convolution that equals nearest x2 and a 3x3 convolution.

    It is ``weight`` convolved with a 2x2 block of ones: an output pixel depends on 2x2 input pixels
    only, whose weights are sums of kernel entries.

    Args:
        weight: (C', C, 3, 3), of a convolution that follows nearest x2.

    Returns:
        (C, C', 4, 4), for `conv_transpose2d` with stride 2 and padding 1.
    """
    folded = 4 * avg_pool2d(weight, 2, stride=1, padding=1)
    # A transposed convolution is written from its input, so its kernel is the mirrored one.
    return folded.flip(2, 3).transpose(0, 1)
