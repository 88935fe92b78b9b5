"""``python -m benchmarks.inference``: images a second that one pair and all pairs score."""

import argparse
from itertools import permutations

import torch

from benchmarks.step import make_model, median_seconds
from crn.system.hardware import pick_device, set_up_cpu

UNITS = 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="batches of each (default: 5)")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    set_up_cpu()
    device = pick_device(arguments.cpu)
    print(f"{'pixels':<8}{'batch':>6}{'best pair':>12}{f'all {UNITS * (UNITS - 1)} pairs':>14}")
    for imsize in (32, 64, 128):
        for batch_size in (1, 64):
            model = make_model(imsize, batch_size, UNITS).to(device).eval()
            x = torch.rand(batch_size, 3, imsize, imsize, device=device) * 2 - 1
            rates = []
            for pairs in ([(0, 1)], list(permutations(range(UNITS), 2))):

                @torch.inference_mode()
                def score(x=x, model=model, pairs=pairs):
                    return model.scorer(model.method, x, None, pairs).scores["residual"].tolist()

                rates.append(batch_size / median_seconds(score, arguments.repeats))
            print(f"{imsize:<8}{batch_size:>6}{rates[0]:>12.1f}{rates[1]:>14.1f}", flush=True)


if __name__ == "__main__":
    main()
