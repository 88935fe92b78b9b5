"""``python -m benchmarks.agreement``: how far the losses are from the plain step's, on a CPU.

Both start from the same weights and take the same steps. Rounding makes them drift apart, since
Adam divides every gradient by its size; in float64 they would still agree to ten digits.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.naive import NaiveStep
from benchmarks.step import make_model, train_steps
from crn.system.hardware import set_up_cpu
from crn.training.trainer import quiet_lightning

NAMES = ("reconstruction", "feedback")


def losses(imsize: int, batch_size: int, steps: int, bf16: bool) -> tuple[Tensor, Tensor]:
    """Losses (steps, 2) of the program's and of the plain step, on the same batches."""
    model = make_model(imsize, batch_size, units=2)
    naive = NaiveStep(model.config, model.method.units)
    torch.manual_seed(1)
    batches = torch.rand(steps, batch_size, 3, imsize, imsize) * 2 - 1
    mine, plain = train_steps(model, batches, bf16), [naive(x, 0, 1) for x in batches]
    return tuple(
        torch.tensor([[row[name] for name in NAMES] for row in rows], dtype=torch.float64)
        for rows in (mine, plain)
    )


def main() -> None:
    """Print the largest relative difference of any loss after some numbers of steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["32:1", "32:16", "64:16"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bf16", action="store_true", help="the program in bfloat16")
    arguments = parser.parse_args()
    set_up_cpu()
    quiet_lightning()
    shown = sorted({1, arguments.steps // 2, arguments.steps})
    print(f"{'px:batch':<10}" + "".join(f"{f'{count} steps':>12}" for count in shown))
    for size in arguments.sizes:
        imsize, batch_size = map(int, size.split(":"))
        mine, plain = losses(imsize, batch_size, arguments.steps, arguments.bf16)
        difference = ((mine - plain) / plain).abs()
        largest = (difference[:count].max().item() for count in shown)
        print(f"{size:<10}" + "".join(f"{value:>12.1e}" for value in largest), flush=True)


if __name__ == "__main__":
    main()
