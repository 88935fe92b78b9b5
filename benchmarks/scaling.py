"""``python -m benchmarks.scaling``: the cost of a step against the sizes of all that has one.

Images, batches, the number of units or their width varies in a table, around 64 pixels, 16 images
and 4 units of width 64. The memory is that of all parameters, their gradients and the optimizers'
moments, which is what units cost.
"""

import argparse
import statistics

import torch

from benchmarks.step import make_model, time_steps
from crn.system.hardware import set_up_cpu
from crn.training.trainer import quiet_lightning

BASE = {"imsize": 64, "batch_size": 16, "units": 4, "width": 64}
VALUES = {
    "imsize": (32, 64, 128),
    "batch_size": (1, 4, 16, 32),
    "units": (2, 4, 8, 12),
    "width": (8, 16, 32, 64),
}


def main() -> None:
    """Print a table for each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    # Few would mostly measure units that take their first step, and so get memory for it.
    parser.add_argument("--repeats", type=int, default=20, help="steps of each (default: 20)")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    set_up_cpu()
    quiet_lightning()
    for varied, values in VALUES.items():
        print(f"\n{varied:<12}{'median s':>10}{'ms / image':>12}{'GB of units':>13}")
        for value in values:
            shape = BASE | {varied: value}
            model = make_model(**shape)
            x = torch.rand(shape["batch_size"], 3, shape["imsize"], shape["imsize"])
            times = time_steps(model, x, arguments.repeats, arguments.cpu)
            median = statistics.median(times)
            parameters = sum(p.numel() for p in model.parameters())
            print(
                f"{value:<12}{median:>10.3f}{1000 * median / shape['batch_size']:>12.1f}"
                f"{parameters * 4 * 3 / 1e9 + 2 * parameters / shape['units'] * 4 / 1e9:>13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
