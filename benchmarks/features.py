"""``python -m benchmarks.features``: what pretrained features and their statistics cost.

Seconds of the processor for all images of a data set: reading them, the network by batch size,
memory format and precision, and the fits with k folds. Configurations run in turn, and the medians
of their ratios to the first are printed beside their seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from crn.config import RECIPES, Pretrained
from crn.scoring.patch_distribution import PatchDistribution
from crn.scoring.pretrained import PretrainedFeatures
from crn.system.hardware import pick_device, set_up_cpu
from datasets.layouts import LAYOUTS
from datasets.reader import image_batches, normalize
from datasets.samples import TRAIN, list_samples

# Batch size, memory format and precision; the first is the program's.
CONFIGURATIONS = (
    (8, torch.channels_last, torch.float32),
    (32, torch.channels_last, torch.float32),
    (1, torch.channels_last, torch.float32),
    (32, torch.contiguous_format, torch.float32),
    (8, torch.contiguous_format, torch.float32),
    (32, torch.channels_last, torch.bfloat16),
    (8, torch.channels_last, torch.bfloat16),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, choices=LAYOUTS)
    parser.add_argument("--dataset-path", required=True, type=Path)
    parser.add_argument("--repeats", type=int, default=3, help="times of each (default: 3)")
    parser.add_argument("--images", type=int, default=64, help="images of each (default: 64)")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    set_up_cpu()
    device = pick_device(arguments.cpu)
    recipe = RECIPES["pretrained"]
    features = PretrainedFeatures(Pretrained(recipe["features"], recipe["features_size"]))
    features.load_pretrained()
    features.to(device)
    samples = list_samples(LAYOUTS[arguments.dataset], arguments.dataset_path)
    size = features.image_size

    start = time.process_time()
    pixels = torch.cat(list(image_batches(samples[: arguments.images], size)))
    images = normalize(pixels).to(device)
    share = len(samples) / len(images)
    print(f"{'part':<42}{'CPU s':>8}{'ratio':>8}")
    print(f"{f'reading {len(samples)} images':<42}{share * (time.process_time() - start):>8.1f}")

    seconds: list[list[float]] = [[] for _ in CONFIGURATIONS]
    for _ in range(arguments.repeats):
        for each, (batch, layout, precision) in zip(seconds, CONFIGURATIONS, strict=True):
            features.network.to(memory_format=layout)
            parts = [x.contiguous(memory_format=layout) for x in images.split(batch)]
            is_low = precision != torch.float32
            with torch.inference_mode(), torch.autocast(device.type, precision, enabled=is_low):
                each.append(share * _seconds(partial(run, features.network, parts)))
    for each, (batch, layout, precision) in zip(seconds, CONFIGURATIONS, strict=True):
        name = f"network: {batch:>2}, {str(layout)[6:]}, {str(precision)[6:]}"
        ratio = statistics.median(a / b for a, b in zip(each, seconds[0], strict=True))
        print(f"{name:<42}{statistics.median(each):>8.1f}{ratio:>8.2f}")

    count = sum(sample.split == TRAIN for sample in samples)
    made = torch.randn(count, features.channels, features.side, features.side)
    patches = PatchDistribution(features).to(device)
    fit = _seconds(lambda: patches.fit_held_out(made, slice(0, count), count, lambda sums: sums))
    print(f"{f'fits of {count} images':<42}{fit:>8.1f}")


def run(network: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    """Give all batches to a network."""
    for batch in batches:
        network(batch)


def _seconds(act: Callable[[], object]) -> float:
    """Of the processor; wall time where a GPU computes."""
    clock = time.process_time
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        clock = time.monotonic
    start = clock()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
