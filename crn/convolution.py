"""The two convolutions of a competitive unit, each in the fastest of several equal forms.

Which form is fastest depends on the number of positions, images x height x width: with few, a
convolution library spends its time on rearranging weights, and one matrix product is better; with
many, upsampling pays for folding its kernel. ``python -m benchmarks.convolution`` measures them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, unfold

# On a CPU, outputs of at most so many positions are computed as a matrix product.
_PRODUCT_UP_TO = 256
# Upsampling is folded from so many input positions on; kernels that do not fit the processor's
# cache cost more to fold.
_FOLD_FROM = 128
_FOLD_LARGE_FROM = 512
_LARGE_KERNEL = 4_000_000

# The 1-d folding, 3 taps to 4: a row of it says where a tap of the 3x3 kernel goes. A transposed
# convolution is written from its input, so its kernel is the mirrored one.
_FOLD_1D = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
_FOLD = torch.kron(_FOLD_1D, _FOLD_1D)


class HalvingConv(nn.Conv2d):
    """4x4 convolution of stride 2 and padding 1: (B, C, H, W) to (B, C', H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) to (B, C', H/2, W/2)."""
        if _prefers_product(x, positions=x.shape[0] * x.shape[2] * x.shape[3] // 4):
            return conv_as_product(x, self.weight, self.bias, stride=2)
        return super().forward(x)


class NearestConv(nn.Conv2d):
    """Nearest x2, then a 3x3 convolution with padding 1: (B, C, H, W) to (B, C', 2H, 2W).

    An output pixel sees only 2x2 input pixels, whose weights are sums of kernel entries. So the
    whole is exactly a 4x4 transposed convolution of stride 2, with 4 multiplications per pixel and
    pair of channels in place of 9. The parameters are those of the 3x3 convolution in all forms.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample (B, C, H, W) to (B, C', 2H, 2W)."""
        positions = x.shape[0] * x.shape[2] * x.shape[3]
        fold_from = _FOLD_LARGE_FROM if self.weight.numel() > _LARGE_KERNEL else _FOLD_FROM
        if positions >= fold_from:
            kernel = fold_kernel(self.weight)
            return conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)
        enlarged = interpolate(x, scale_factor=2.0)
        if _prefers_product(x, positions=4 * positions):
            return conv_as_product(enlarged, self.weight, self.bias, stride=1)
        return conv2d(enlarged, self.weight, self.bias, padding=1)


def _prefers_product(x: Tensor, positions: int) -> bool:
    return x.device.type == "cpu" and positions <= _PRODUCT_UP_TO


def fold_kernel(weight: Tensor) -> Tensor:
    """The kernel of the transposed convolution: ``weight`` convolved with a 2x2 block of ones.

    Args:
        weight: (C', C, 3, 3), of a convolution that follows nearest x2.

    Returns:
        (C, C', 4, 4), for `conv_transpose2d` with stride 2 and padding 1.
    """
    out_channels, in_channels = weight.shape[:2]
    # Transposed before it is folded, since it is smaller then.
    taps = weight.transpose(0, 1).reshape(-1, 9)
    return (taps @ _FOLD.to(weight)).view(in_channels, out_channels, 4, 4)


def conv_as_product(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`conv2d` with padding 1 as one matrix product.

    Args:
        x: (B, C, H, W).
        weight: (C', C, K, K).
        bias: (C',) or None.
        stride: of the convolution.

    Returns:
        (B, C', H', W').
    """
    batch, _, height, width = x.shape
    out_channels, _, size, _ = weight.shape
    out_height, out_width = ((side + 2 - size) // stride + 1 for side in (height, width))
    patches = unfold(x, size, padding=1, stride=stride)  # (B, C*K*K, H'*W')
    rows = patches.transpose(1, 2).reshape(batch * out_height * out_width, -1)
    y = nn.functional.linear(rows, weight.reshape(out_channels, -1), bias)
    return y.view(batch, out_height, out_width, out_channels).permute(0, 3, 1, 2)
