"""Scores that need no training, to hold models against: what does not beat them has learned little.

None of them looks at a test label. Three are how far a figure of an image is from its mean over the
normal training images, in standard deviations; the fourth is the distance from their mean image.
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from crn.config import Options
from crn.errors import UserError
from crn.experiments.jobs import say
from crn.experiments.tables.trainings import DataSet
from crn.system.files import written_whole
from datasets.layouts import LAYOUTS
from datasets.samples import TEST, TRAIN, list_samples

if TYPE_CHECKING:
    from torch import Tensor

TRIVIAL = ("brightness", "contrast", "gradient energy", "mean image")

log = logging.getLogger(__name__)


def trivial_aurocs(data: DataSet, options: Options, folder: Path) -> dict[str, float] | str:
    """AUROC of each of `TRIVIAL` on the test images of a data set; the error where that fails.

    Args:
        data: the data set.
        options: of its trainings, for the size of the images.
        folder: in which the figures are kept, since decoding takes its time.
    """
    size = options.network.imsize
    path = folder / "trivial" / f"{data.name}-{size}.json"
    try:
        return {name: float(json.loads(path.read_text())[name]) for name in TRIVIAL}
    except (OSError, ValueError, KeyError, TypeError):
        say(f"{data.name}: trivial baselines")
    try:
        aurocs = _aurocs(data, size)
    except UserError as error:
        say(f"{data.name}: {error}")
        return str(error)
    path.parent.mkdir(exist_ok=True)
    with written_whole(path, "w", encoding="utf-8") as file:
        json.dump(aurocs, file)
    return aurocs


def _aurocs(data: DataSet, size: int) -> dict[str, float]:
    from joblib import cpu_count

    from crn.evaluation.metrics import auroc
    from datasets.reader import read_images

    samples = list_samples(LAYOUTS[data.layout], data.path)
    pixels = read_images(samples, size, cpu_count()).pixels
    train, test = (
        pixels[[i for i, sample in enumerate(samples) if sample.split == split]].float()
        for split in (TRAIN, TEST)
    )
    labels = [sample.label for sample in samples if sample.split == TEST]
    return {name: auroc(scores, labels) for name, scores in trivial_scores(train, test).items()}


def trivial_scores(train: "Tensor", test: "Tensor") -> "dict[str, Tensor]":
    """Anomaly scores of test images; higher is more anomalous.

    Args:
        train: normal images, (N, 3, S, S), on any scale.
        test: images, (M, 3, S, S), on the same.

    Returns:
        For each of `TRIVIAL` the scores (M,).
    """
    figures = {"brightness": _brightness, "contrast": _contrast, "gradient energy": _gradients}
    scores = {}
    for name, figure in figures.items():
        known = figure(train)
        # All training images may be alike.
        spread = known.std(correction=0).clamp(min=1e-12)
        scores[name] = (figure(test) - known.mean()).abs() / spread
    scores["mean image"] = (test - train.mean(0)).abs().mean((1, 2, 3))
    return scores


def _brightness(images: "Tensor") -> "Tensor":
    return images.mean((1, 2, 3))


def _contrast(images: "Tensor") -> "Tensor":
    return images.std((1, 2, 3), correction=0)


def _gradients(images: "Tensor") -> "Tensor":
    """Mean squared difference of neighbouring pixels, down and across."""
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))
