"""``python -m benchmarks.scorings CHECKPOINT``: AUROC of a model, scored in all ways there are.

The statistics of normal images are measured anew for each, over the training images.
"""

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from crn.checkpoints.reading import Checkpoint, read_checkpoint
from crn.config import MAPS, PAIRS, SCORES
from crn.evaluation.metrics import auroc
from crn.methods.anomaly_maps import MAP_NAMES, AnomalyMapScorer
from crn.system.hardware import set_up_cpu
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_images
from datasets.samples import ANOMALOUS, TEST, TRAIN, list_samples

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
    pixels = read_images(samples, checkpoint.config.network.imsize, 0).pixels
    splits = {
        name: pixels[[place for place, sample in enumerate(samples) if sample.split == name]]
        for name in (TRAIN, TEST)
    }
    labels = [int(sample.label == ANOMALOUS) for sample in samples if sample.split == TEST]
    print(f"{'score':<16}{'pairs':<8}{'maps':<14}" + "".join(f"{each:>8}" for each in POOLINGS))
    for pairs in PAIRS:
        train, test = (smooth_maps(checkpoint, pairs, splits[name]) for name in (TRAIN, TEST))
        for score, maps in product(SCORES, MAPS):
            found = [
                auroc(scores(checkpoint, maps, each, train, test)[score], labels)
                for each in POOLINGS
            ]
            row = "".join(f"{value:>8.3f}" for value in found)
            print(f"{score:<16}{pairs:<8}{maps:<14}{row}", flush=True)


@torch.inference_mode()
def smooth_maps(checkpoint: Checkpoint, pairs: str, pixels: Tensor) -> dict[str, Tensor]:
    """Smooth maps (N, S, S), for each of `MAP_NAMES`, of images (N, 3, S, S) uint8."""
    scoring = replace(checkpoint.config.scoring, pairs=pairs, maps="plain")
    model = checkpoint.model(scoring, torch.device("cpu"))
    batches = [
        model.method.smooth_maps(normalize(batch), model.pairs)[1] for batch in pixels.split(32)
    ]
    return {name: torch.cat([batch[name] for batch in batches]) for name in MAP_NAMES}


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
    scorer = AnomalyMapScorer(replace(checkpoint.config, scoring=scoring))
    scorer.measure(scorer.sums([train]), step=0)
    return scorer(test)[1]


if __name__ == "__main__":
    main()
