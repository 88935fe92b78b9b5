"""``python -m benchmarks.convolution``: the forms of the unit's convolutions, size by size.

Forward and backward, medians in milliseconds. `crn.methods.convolution` has its
thresholds from here.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from benchmarks.step import seconds
from crn.methods.convolution import fold_kernel, halve_by_product, upsample_by_product
from crn.system.hardware import pick_device, set_up_cpu

# Channels in and out, and the input's height: the layers of a unit for 128 pixels.
UP = ((512, 512, 1), (1024, 512, 2), (1024, 512, 4), (1024, 256, 8), (512, 128, 16), (256, 64, 32))
DOWN = ((512, 512, 2), (512, 512, 4), (512, 512, 8), (256, 512, 16), (128, 256, 32), (64, 128, 64))

UP_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda x, w: conv2d(interpolate(x, scale_factor=2.0), w, padding=1),
    "folded": lambda x, w: conv_transpose2d(x, fold_kernel(w), stride=2, padding=1),
    "product": lambda x, w: upsample_by_product(x, w, None),
}
DOWN_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda x, w: conv2d(x, w, stride=2, padding=1),
    "product": lambda x, w: halve_by_product(x, w, None),
}


def milliseconds(form: Callable, x: Tensor, weight: Tensor) -> float:
    """Time forward and backward once."""
    x.grad = weight.grad = None
    return 1000 * seconds(lambda: form(x, weight).sum().backward())


def main() -> None:
    """Print a table for each kind of layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    set_up_cpu()
    device = pick_device(arguments.cpu)
    for title, layers, forms, kernel in (
        ("up", UP, UP_FORMS, 3),
        ("down", DOWN, DOWN_FORMS, 4),
    ):
        print(f"\n{title + ': in, out, height':<22}" + "".join(f"{name:>10}" for name in forms))
        for channels, width, height in layers:
            shape = (arguments.batch, channels, height, height)
            x = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
            x.requires_grad_()
            weight = torch.randn(width, channels, kernel, kernel, device=device).requires_grad_()
            times: dict[str, list[float]] = {name: [] for name in forms}
            for _ in range(arguments.repeats + 1):
                for name, form in forms.items():
                    times[name].append(milliseconds(form, x, weight))
            medians = [statistics.median(values[1:]) for values in times.values()]
            layer = f"{channels}, {width}, {height}"
            print(f"{layer:<22}" + "".join(f"{median:>10.1f}" for median in medians), flush=True)


if __name__ == "__main__":
    main()
