"""Scores that need no training, to hold models against: what does not beat them has learned little.

None of them looks at a test label. Three are how far a figure of an image is from its mean over the
normal training images, in standard deviations; the fourth is the distance from their mean image.
The others make anomaly maps, of which the highest value counts, measured against normal images; and
once more scored as the balanced recipe scores the maps of trained networks, patches aside.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from torch import Tensor

from crn.config import GROUPS, RECIPES, ModelConfig, Network, Options
from crn.errors import UserError
from crn.evaluation.metrics import auroc
from crn.experiments.folder import write_json
from crn.experiments.jobs import say
from crn.experiments.tables.summary import BASELINES
from crn.experiments.tables.trainings import DataSet
from crn.methods.anomaly_maps import MAP_NAMES, AnomalyMapScorer
from crn.methods.contrast import LocalContrast
from crn.methods.encoder_decoder import IMAGES, EncoderDecoder
from crn.methods.patch_distribution import PatchDistribution, coarse_patches
from crn.methods.smoothing import smoothed, smoothing_matrix
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_images
from datasets.samples import ANOMALOUS, TEST, TRAIN, list_samples

_BATCH = 32
# Channels of the first level of the untrained network.
_WIDTH = 16

Maps = Callable[[Tensor], Tensor]


def baseline_aurocs(data: DataSet, size: int, folder: Path) -> dict[str, float] | str:
    """AUROC of each of `BASELINES` on the test images of a data set; the error where that fails.

    Args:
        data: the data set.
        size: width and height of the images.
        folder: in which the figures are kept, since decoding takes its time.
    """
    path = folder / "baselines" / f"{data.name}-{size}.json"
    try:
        return {name: float(json.loads(path.read_text())[name]) for name in BASELINES}
    except (OSError, ValueError, KeyError, TypeError):
        say(f"{data.name}: baselines")
    try:
        samples = list_samples(LAYOUTS[data.layout], data.path)
        pixels = read_images(samples, size, cpu_count()).pixels
    except UserError as error:
        say(f"{data.name}: {error}")
        return str(error)
    train, test = (
        normalize(pixels[[i for i, sample in enumerate(samples) if sample.split == split]])
        for split in (TRAIN, TEST)
    )
    labels = [int(sample.label == ANOMALOUS) for sample in samples if sample.split == TEST]
    scores = scores_of_figures(train, test) | scores_of_maps(train, test)
    aurocs = {name: auroc(scores[name], labels) for name in BASELINES}
    path.parent.mkdir(exist_ok=True)
    write_json(path, aurocs)
    return aurocs


def scores_of_figures(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Anomaly scores of whole images; higher is more anomalous.

    Args:
        train: normal images, (N, 3, S, S), on any scale.
        test: images, (M, 3, S, S), on the same.

    Returns:
        For each of the first four of `BASELINES` the scores (M,).
    """
    known, figures = _figures(train), _figures(test)
    scores = {}
    for name, values in known.items():
        # All training images may be alike.
        spread = values.std(correction=0).clamp(min=1e-12)
        scores[name] = (figures[name] - values.mean()).abs() / spread
    scores["mean image"] = (test - train.mean(0)).abs().mean((1, 2, 3))
    return scores


def _figures(images: Tensor) -> dict[str, Tensor]:
    """The figures (N,) of images."""
    down, across = (images.diff(dim=dim).square().mean((1, 2, 3)) for dim in (2, 3))
    return {
        "brightness": images.mean((1, 2, 3)),
        "contrast": images.std((1, 2, 3), correction=0),
        # Of neighbouring pixels.
        "gradient energy": down + across,
    }


@torch.no_grad()
def scores_of_maps(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Anomaly scores by maps that need no training.

    Args:
        train: normal images, (N, 3, S, S) in [-1, 1].
        test: images, (M, 3, S, S), in the same range.

    Returns:
        For each but the first four of `BASELINES` the scores (M,).
    """
    size = train.shape[-1]
    defaults: dict[str, Any] = {name: group() for name, group in GROUPS.items()}
    # The images as the balanced recipe sees them, and the scoring of its maps.
    recipe = RECIPES["balanced"] | {"imsize": size, "width": _WIDTH, "seed": 0}
    balanced = Options(**defaults).replace(**recipe).model_config()
    plain, standardised, centred = (
        replace(balanced, scoring=replace(balanced.scoring, maps=maps, pooling=pooling))
        for maps, pooling in (("plain", "max"), ("standardised", "max"), ("centred", "top"))
    )
    mean = train.mean(0)
    local = smoothing_matrix(balanced.network.local_contrast, size)

    def from_mean(x: Tensor) -> Tensor:
        return (x - mean).abs().mean(1)

    def high_pass(x: Tensor) -> Tensor:
        return (x - smoothed(x, local)).abs().mean(1)

    features = _distance_of_features(train, balanced.network)
    patches = _distance(coarse_patches, train)
    baselines: dict[str, tuple[ModelConfig, Maps]] = {
        "standardised mean image": (standardised, from_mean),
        "high-pass image": (standardised, high_pass),
        # A Mahalanobis distance is measured against normal images already.
        "untrained features": (plain, features),
        "coarse patches": (plain, patches),
        "centred mean image": (centred, from_mean),
        "centred high-pass image": (centred, high_pass),
        "centred untrained features": (centred, features),
        "centred coarse patches": (centred, patches),
    }
    return {name: _scores(maps, train, test, of) for name, (of, maps) in baselines.items()}


def _scores(maps: Maps, train: Tensor, test: Tensor, config: ModelConfig) -> Tensor:
    """Scores (M,) by the maps that are made of batches of images."""
    scorer = AnomalyMapScorer(config)

    def smooth_maps(images: Tensor) -> Iterator[dict[str, Tensor]]:
        return (scorer.smooth(dict.fromkeys(MAP_NAMES, maps(b))) for b in images.split(_BATCH))

    if config.scoring.maps != "plain":
        scorer.measure(scorer.sums(smooth_maps(train)), step=0)
    asked = config.scoring.anomaly_score
    return torch.cat([scorer(each)[1][asked] for each in smooth_maps(test)])


def _distance_of_features(train: Tensor, network: Network) -> Maps:
    """Mahalanobis distance of an untrained network's features from normal ones, at each position.

    They are those of the first level of a network as it is before training, which sees what it
    would be trained on. The first two levels tell transistors apart better, the first alone the
    other three sets of docs/results.md.
    """
    contrast = LocalContrast(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = EncoderDecoder(network).eval().down[0]
    return _distance(lambda x: first(contrast(x), IMAGES), train)


def _distance(features: Maps, train: Tensor) -> Maps:
    """That of features (B, F, H, H)."""
    distribution = PatchDistribution(features, train.shape[-1])
    distribution.fit(distribution.sums(train.split(_BATCH)))
    return distribution
