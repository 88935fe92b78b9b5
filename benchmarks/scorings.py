"""``python -m benchmarks.scorings CHECKPOINT``: AUROC of a model, scored in all ways there are.

For each, the statistics of normal images are measured over the training images.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from crn.checkpoints.model import model_of
from crn.checkpoints.reading import Checkpoint, read_checkpoint
from crn.config import MAPS, PAIRS, SCORES
from crn.evaluation.metrics import auroc
from crn.infer import patch_distances
from crn.scoring.scorer import PATCHES, Scorer
from crn.system.hardware import set_up_cpu
from datasets.layouts import LAYOUTS
from datasets.reader import Images, normalize, read_images
from datasets.samples import ANOMALOUS, TEST, TRAIN, Sample, list_samples

POOLINGS = ("mean", "max", "top")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dataset", required=True, choices=LAYOUTS)
    parser.add_argument("--dataset-path", required=True, type=Path)
    arguments = parser.parse_args()
    set_up_cpu()
    checkpoint = read_checkpoint(arguments.checkpoint)
    samples = list_samples(LAYOUTS[arguments.dataset], arguments.dataset_path)
    images = read_images(samples, checkpoint.config.network.imsize)
    is_train = torch.tensor([sample.split == TRAIN for sample in samples])
    labels = [int(sample.label == ANOMALOUS) for sample in samples if sample.split == TEST]
    print(f"{'score':<16}{'pairs':<8}{'maps':<14}" + "".join(f"{each:>8}" for each in POOLINGS))
    for pairs in PAIRS:
        every = smooth_maps(checkpoint, pairs, samples, images)
        train, test = ({k: v[mask] for k, v in every.items()} for mask in (is_train, ~is_train))
        for score, maps in product(SCORES, MAPS):
            found = [
                auroc(scores(checkpoint, maps, each, train, test)[score], labels)
                for each in POOLINGS
            ]
            row = "".join(f"{value:>8.3f}" for value in found)
            print(f"{score:<16}{pairs:<8}{maps:<14}{row}", flush=True)


@torch.inference_mode()
def smooth_maps(
    checkpoint: Checkpoint, pairs: str, samples: Sequence[Sample], images: Images
) -> dict[str, Tensor]:
    """Smooth maps (N, S, S) of all images, for each of the scorer's `map_names`."""
    cpu = torch.device("cpu")
    # Of other pairs there are no statistics yet.
    config = replace(checkpoint.config, scoring=replace(checkpoint.config.scoring, pairs=pairs))
    model = model_of(replace(checkpoint, config=config), config.scoring, cpu)
    distances = patch_distances(model, samples, images, cpu)
    parts = []
    for start in range(0, len(samples), 32):
        some = slice(start, start + 32)
        away = None if distances is None else distances[some]
        x = normalize(images.pixels[some])
        parts.append(model.scorer.smooth_maps(model.method, x, away, model.pairs)[1])
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.inference_mode()
def scores(
    checkpoint: Checkpoint,
    maps: str,
    pooling: str,
    train: dict[str, Tensor],
    test: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Scores (N,) of smoothed test maps, for each of `SCORES`."""
    scoring = replace(checkpoint.config.scoring, maps=maps, pooling=pooling)
    scorer = Scorer(checkpoint.config, scoring)
    scorer.measure(scorer.sums([train]), step=0)
    if not scorer.uses_patches:
        test = {name: pixels for name, pixels in test.items() if name != PATCHES}
    return scorer.measured(test)[1]


if __name__ == "__main__":
    main()
