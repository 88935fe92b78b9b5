"""Scores that need no training, to compare models with; docs/experiments.md explains them.

None of them looks at a test label.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from torch import Tensor
from torch.nn.functional import interpolate

from crn.config import GROUPS, RECIPES, SCORES, ModelConfig, Network, Options
from crn.errors import UserError
from crn.evaluation.metrics import auroc
from crn.evaluation.results import AUROC_UNDEFINED
from crn.experiments.folder import write_json
from crn.experiments.jobs import say
from crn.experiments.tables.runs import DataSet
from crn.experiments.tables.summary import BASELINES, UNTRAINED_SEEDS
from crn.methods.contrast import LocalContrast
from crn.methods.encoder_decoder import IMAGES, EncoderDecoder
from crn.methods.smoothing import smoothed, smoothing_matrix
from crn.scoring.patch_distribution import PatchDistribution
from crn.scoring.patch_features import CoarsePatches, PatchFeatures
from crn.scoring.scorer import Scorer
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_images
from datasets.samples import ANOMALOUS, TEST, TRAIN, list_samples

_BATCH = 32
# Channels of the first level of the untrained network.
_WIDTH = 16
# Numbers (N,) that describe images (N, 3, S, S).
_DESCRIPTIONS = {
    "brightness": lambda x: x.mean((1, 2, 3)),
    "contrast": lambda x: x.std((1, 2, 3), correction=0),
    "gradient energy": lambda x: sum(x.diff(dim=d).square().mean((1, 2, 3)) for d in (2, 3)),
}


def baseline_aurocs(data: DataSet, size: int, folder: Path) -> dict[str, list[float]] | str:
    """AUROCs of each of `BASELINES` on the test images of a data set; the error if that fails.

    The images are ``size`` pixels wide and high. The folder keeps the results for the same files.
    """
    path = folder / "baselines" / f"{data.name}-{size}.json"
    try:
        samples = list_samples(LAYOUTS[data.layout], data.path)
        if not any(sample.label == ANOMALOUS for sample in samples):
            raise UserError(f"{data.path}: {AUROC_UNDEFINED}")
        identities = [[s.key, s.split, s.label, s.identity().hex()] for s in samples]
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("samples") == identities and kept["aurocs"].keys() == set(BASELINES):
            return kept["aurocs"]
        say(f"{data.name}: baselines")
        pixels = read_images(samples, size, cpu_count()).pixels
    except (UserError, OSError) as error:
        say(f"{data.name}: {error}")
        return str(error)
    train, test = (
        normalize(pixels[[i for i, sample in enumerate(samples) if sample.split == split]])
        for split in (TRAIN, TEST)
    )
    labels = [int(sample.label == ANOMALOUS) for sample in samples if sample.split == TEST]
    scores = [scores_of_numbers(train, test), scores_of_maps(train, test)]
    scores += [scores_of_features(train, test, seed) for seed in UNTRAINED_SEEDS]
    aurocs = {
        name: [auroc(each[name], labels) for each in scores if name in each] for name in BASELINES
    }
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"samples": identities, "aurocs": aurocs})
    return aurocs


def scores_of_numbers(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Anomaly scores (M,) by single numbers of an image, for the first four of `BASELINES`.

    Args:
        train: normal images, (N, 3, S, S) in [-1, 1].
        test: images, (M, 3, S, S), in the same range.
    """
    scores = {}
    for name, describe in _DESCRIPTIONS.items():
        normal = describe(train)
        # All training images may be alike.
        deviation = normal.std(correction=0).clamp(min=1e-12)
        scores[name] = (describe(test) - normal.mean()).abs() / deviation
    return scores | {"mean image": (test - train.mean(0)).abs().mean((1, 2, 3))}


@torch.no_grad()
def scores_of_maps(train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """As `scores_of_numbers`, by maps without a network: the other ones except the features."""
    size, mean = train.shape[-1], train.mean(0)
    local = smoothing_matrix(_balanced(size).network.local_contrast, size)
    from_mean, high_pass = (
        ((train - a).abs().mean(1), (test - b).abs().mean(1))
        for a, b in ((mean, mean), (smoothed(train, local), smoothed(test, local)))
    )
    patches = _distances(CoarsePatches(size), train, test)
    return {
        "standardised mean image": _scores(from_mean, "standardised"),
        "high-pass image": _scores(high_pass, "standardised"),
        # A Mahalanobis distance is measured against normal images already.
        "coarse patches": _scores(patches, "plain"),
        "centred mean image": _scores(from_mean, "centred"),
        "centred high-pass image": _scores(high_pass, "centred"),
        "centred coarse patches": _scores(patches, "centred"),
    }


@torch.no_grad()
def scores_of_features(train: Tensor, test: Tensor, seed: int) -> dict[str, Tensor]:
    """As `scores_of_numbers`, by features of an untrained network; the seed is of its weights."""
    features = _UntrainedFeatures(_balanced(train.shape[-1]).network, seed)
    maps = _distances(features, train, test)
    return {
        "untrained features": _scores(maps, "plain"),
        "centred untrained features": _scores(maps, "centred"),
    }


def _balanced(size: int) -> ModelConfig:
    """The balanced recipe with a narrow network."""
    defaults: dict[str, Any] = {name: group() for name, group in GROUPS.items()}
    recipe = RECIPES["balanced"] | {"model": "crn", "imsize": size, "width": _WIDTH, "seed": 0}
    return Options(**defaults).replace(**recipe).model_config()


def _scores(maps: tuple[Tensor, Tensor], kind: str) -> Tensor:
    """Scores (M,) by a kind of ``--maps``, from those of normal and tested images: (N or M, S, S).

    Centred maps are pooled as by the recipe; of others the highest value counts.
    """
    config = _balanced(maps[0].shape[-1])
    pooling = config.scoring.pooling if kind == "centred" else "max"
    config = replace(config, scoring=replace(config.scoring, maps=kind, pooling=pooling))
    scorer = Scorer(config)
    normal, tested = (scorer.smooth(dict.fromkeys(SCORES, each)) for each in maps)
    if scorer.kind.is_measured:
        scorer.measure(scorer.sums([normal]), step=0)
    return scorer.measured(tested)[1][config.scoring.anomaly_score]


class _UntrainedFeatures(PatchFeatures):
    """Features of the first level of a network before training.

    The first two levels tell transistors apart better, the first alone the other three sets of
    docs/results.md.
    """

    def __init__(self, network: Network, seed: int) -> None:
        super().__init__()
        self.contrast = LocalContrast(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = EncoderDecoder(network).eval().down[0]
        self.image_size, self.channels = network.imsize, network.width
        self.side = network.imsize // 2

    def forward(self, images: Tensor) -> Tensor:
        return self.first(self.contrast(images), IMAGES)


def _distances(features: PatchFeatures, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Mahalanobis distances (N, S, S) and (M, S, S); of a normal image by a fit to others."""
    distribution = PatchDistribution(features)
    normal, tested = (
        torch.cat([features(batch) for batch in images.split(_BATCH)]) for images in (train, test)
    )
    count, size = len(train), train.shape[-1]
    held_out = distribution.fit_held_out(normal, slice(0, count), count, lambda sums: sums)
    of_train, of_test = (
        interpolate(each[:, None], size=size, mode="bilinear")[:, 0]
        for each in (held_out, distribution.distances(tested))
    )
    return of_train, of_test
