"""Fitting the distribution of a model's patches to the normal training images."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from crn.scoring.patch_distribution import HeldOut, PatchDistribution
from crn.training.distributed import gather
from datasets.samples import TEST, TRAIN

if TYPE_CHECKING:
    from crn.training.data import InMemoryData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedPatches:
    """The distances of the patches of images, which do not change during a run.

    Attributes:
        normal: (N, G, G), of this process's training images, by fits without them.
        test: (M, G, G), of its test images.
        held_out: the distances of the training images of all processes.
    """

    normal: Tensor
    test: Tensor
    held_out: HeldOut


@torch.no_grad()
def fit_patches(
    patches: PatchDistribution, images: "InMemoryData", add_up: Callable[[Tensor], Tensor]
) -> FittedPatches:
    """Fit the patches to the normal training images, and measure both splits.

    The features of all training images are in memory until then; afterwards only distances are.
    ``add_up`` gives the sum of a tensor over all processes.

    Raises:
        UserError: a file cannot be read.
    """
    start, size = time.monotonic(), patches.features.image_size
    reads_files = size != images.train_pixels.shape[-1]
    if reads_files:
        patches.features.say_how_many_are_small(images.sizes)
    share = images.share(TRAIN)
    train = images.train[share]
    count = len(train) + len(images.test[images.share(TEST)])
    with tqdm(total=count, unit="image", desc="features", disable=None, leave=False) as bar:
        channels, side = patches.features.channels, patches.features.side
        features = torch.empty(len(train), channels, side, side, dtype=patches.features.storage)
        done = 0
        for x in images.images(TRAIN, size):
            features[done : done + len(x)] = patches.features(x)
            done += len(x)
            bar.update(len(x))
        normal = patches.fit_held_out(features, share, len(images.train), add_up).cpu()
        del features
        test = []
        for x in images.images(TEST, size):
            test.append(patches(x).cpu())
            bar.update(len(x))
    if reads_files:
        log.info("features of %d images: %.1f s", count, time.monotonic() - start)
    parts = gather(([sample.identity() for sample in train], normal))
    everyone = [each for part, _ in parts for each in part]
    held_out = HeldOut.of(everyone, torch.cat([distances for _, distances in parts]))
    return FittedPatches(normal, torch.cat(test), held_out)
