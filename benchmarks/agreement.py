"""``python -m benchmarks.agreement``: how far the program's losses are from the plain step's.

Both start from the same weights and take the same steps. Rounding makes them drift apart, since
Adam divides every gradient by its size; in float64 they would still agree to ten digits.
"""

import argparse

import torch

from benchmarks.naive import NaiveStep
from benchmarks.step import make_model, program_step
from crn.system.hardware import pick_device, set_up_cpu

NAMES = ("reconstruction", "feedback")


def losses(imsize: int, batch_size: int, steps: int, bf16: bool, device: torch.device) -> tuple:
    """Losses (steps, 2) of the program's and of the plain step, on the same batches."""
    model = make_model(imsize, batch_size, units=2).to(device)
    naive = NaiveStep(model.config, model.method.units)
    program = program_step(model, bf16)
    torch.manual_seed(1)
    rows: tuple[list, list] = ([], [])
    for _ in range(steps):
        x = torch.rand(batch_size, 3, imsize, imsize, device=device) * 2 - 1
        for row, step in zip(rows, (program, lambda x: naive(x, 0, 1)), strict=True):
            taken = step(x)
            row.append([float(torch.as_tensor(taken[n]).detach()) for n in NAMES])
    return tuple(torch.tensor(row, dtype=torch.float64) for row in rows)


def main() -> None:
    """Print the largest relative difference of any loss after some numbers of steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["32:1", "32:16", "64:16"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bf16", action="store_true", help="the program in bfloat16")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    set_up_cpu()
    device = pick_device(arguments.cpu)
    shown = sorted({1, arguments.steps // 2, arguments.steps})
    print(f"{'px:batch':<10}" + "".join(f"{f'{count} steps':>12}" for count in shown))
    for size in arguments.sizes:
        imsize, batch_size = map(int, size.split(":"))
        mine, plain = losses(imsize, batch_size, arguments.steps, arguments.bf16, device)
        difference = ((mine - plain) / plain).abs()
        largest = (difference[:count].max().item() for count in shown)
        print(f"{size:<10}" + "".join(f"{value:>12.1e}" for value in largest), flush=True)


if __name__ == "__main__":
    main()
