"""``python -m benchmarks.scaling``: the cost of a step against batch size, image size and units.

One of the three varies in every table, around 64 pixels, 16 images and 4 units. The memory is that
of all parameters, their gradients and the optimizers' moments, which is what units cost.
"""

import argparse
import statistics

import torch

from benchmarks.step import make_model, seconds
from crn.system.hardware import pick_device, set_up_cpu

BASE = {"imsize": 64, "batch_size": 16, "units": 4}
VALUES = {"imsize": (32, 64, 128), "batch_size": (1, 4, 16, 32), "units": (2, 4, 8, 12)}


def main() -> None:
    """Print a table for each of the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="steps of each (default: 3)")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    set_up_cpu()
    device = pick_device(arguments.cpu)
    for varied, values in VALUES.items():
        print(f"\n{varied:<12}{'median s':>10}{'ms / image':>12}{'GB of units':>13}")
        for value in values:
            shape = BASE | {varied: value}
            model = make_model(**shape).to(device)
            optimizers = model.configure_optimizers()
            x = torch.rand(shape["batch_size"], 3, shape["imsize"], shape["imsize"], device=device)

            def step(x, model=model, optimizers=optimizers):
                players = model.players
                total, _ = model.method.play(x, players)
                total.backward()
                for player in players:
                    optimizers[player].step()
                    optimizers[player].zero_grad()
                model.step += 1

            step(x)
            median = statistics.median(seconds(step, x) for _ in range(arguments.repeats))
            parameters = sum(p.numel() for p in model.parameters())
            print(
                f"{value:<12}{median:>10.3f}{1000 * median / shape['batch_size']:>12.1f}"
                f"{parameters * 4 * 3 / 1e9 + 2 * parameters / shape['units'] * 4 / 1e9:>13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
