"""``python -m benchmarks.floor``: how far a step is from what the machine could do at best.

The floor is the larger of two times: the step's multiplications and additions at the rate of a
large matrix product, and the optimizer's bytes at the rate of a large copy, added up, since the
one cannot hide behind the other where they follow each other. Both rates are measured here.
"""

import argparse
import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import make_model, median_seconds, time_steps
from crn.system.hardware import has_fast_bfloat16, pick_device, set_up_cpu
from crn.training.trainer import quiet_lightning

# Adam reads parameter, gradient and two moments, and writes all but the gradient; float32.
BYTES_PER_PARAMETER = 7 * 4


def main() -> None:
    """Print the two rates and a row for every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["32:1", "64:16", "128:16"])
    parser.add_argument("--repeats", type=int, default=3, help="steps (default: 3)")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    set_up_cpu()
    quiet_lightning()
    device = pick_device(arguments.cpu)
    bf16 = has_fast_bfloat16(device)
    dtype = torch.bfloat16 if bf16 else torch.float32
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rate = 2 * side**3 / median_seconds(lambda: a @ b, 5)
    source = torch.randn(64 * 1024 * 1024, device=device)
    target = torch.empty_like(source)
    bandwidth = 8 * source.numel() / median_seconds(lambda: target.copy_(source), 5)
    print(f"matrix product, {dtype}: {rate / 1e9:.0f} GFLOP/s; copy: {bandwidth / 1e9:.1f} GB/s")
    columns = ("GFLOP", "GB", "floor s", "step s", "step / floor")
    print(f"{'px:batch':<10}" + "".join(f"{column:>14}" for column in columns))
    for size in arguments.sizes:
        imsize, batch_size = map(int, size.split(":"))
        model = make_model(imsize, batch_size, units=2)
        x = torch.rand(batch_size, 3, imsize, imsize) * 2 - 1
        with FlopCounterMode(display=False) as counter:
            model.method.training_losses(x, (0, 1))[0].backward()
        model.zero_grad()
        flop = counter.get_total_flops()
        moved = BYTES_PER_PARAMETER * sum(p.numel() for p in model.method.units.parameters())
        floor = flop / rate + moved / bandwidth
        median = statistics.median(time_steps(model, x, arguments.repeats, arguments.cpu, bf16))
        values = (flop / 1e9, moved / 1e9, floor, median, median / floor)
        print(f"{size:<10}" + "".join(f"{value:>14.2f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
