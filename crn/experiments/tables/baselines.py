"""Scores that need no training, to hold models against: what does not beat them has learned little.

None of them looks at a test label. Three are how far a figure of an image is from its mean over the
normal training images, in standard deviations; the fourth is the distance from their mean image.
The others make anomaly maps, of which the highest value counts, measured against normal images; and
once more scored as the balanced recipe scores the maps of trained networks, patches aside. Two of
them take an untrained network, and have a figure for each of `UNTRAINED_SEEDS`.
"""

import hashlib
import json
from collections.abc import Sequence
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
from datasets.samples import ANOMALOUS, TEST, TRAIN, Sample, list_samples

_BATCH = 32
# Channels of the first level of the untrained network.
_WIDTH = 16


def baseline_aurocs(data: DataSet, size: int, folder: Path) -> dict[str, list[float]] | str:
    """AUROC of each of `BASELINES` on the test images of a data set; the error where that fails.

    Args:
        data: the data set.
        size: width and height of the images.
        folder: in which the figures are kept, since decoding takes its time. They are used again
            for the same files only.

    Returns:
        For each baseline its figures: one, or one for each of `UNTRAINED_SEEDS`.
    """
    path = folder / "baselines" / f"{data.name}-{size}.json"
    try:
        samples = list_samples(LAYOUTS[data.layout], data.path)
        if not any(sample.label == ANOMALOUS for sample in samples):
            raise UserError(f"{data.path}: {AUROC_UNDEFINED}")
        fingerprint = _fingerprint(samples)
        if (kept := _kept(path, fingerprint)) is not None:
            return kept
        say(f"{data.name}: baselines")
        pixels = read_images(samples, size, cpu_count()).pixels
    except UserError as error:
        say(f"{data.name}: {error}")
        return str(error)
    train, test = (
        normalize(pixels[[i for i, sample in enumerate(samples) if sample.split == split]])
        for split in (TRAIN, TEST)
    )
    labels = [int(sample.label == ANOMALOUS) for sample in samples if sample.split == TEST]
    scores = {**scores_of_figures(train, test), **scores_of_maps(train, test)}
    aurocs = {name: [auroc(values, labels)] for name, values in scores.items()}
    for seed in UNTRAINED_SEEDS:
        for name, values in scores_of_features(train, test, seed).items():
            aurocs.setdefault(name, []).append(auroc(values, labels))
    aurocs = {name: aurocs[name] for name in BASELINES}
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"files": fingerprint, "aurocs": aurocs})
    return aurocs


def _fingerprint(samples: Sequence[Sample]) -> str:
    """16 characters that differ between any two sets of samples whose figures do not compare.

    Raises:
        UserError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    for sample in samples:
        try:
            digest.update(repr((sample.key, sample.split, sample.label)).encode())
            digest.update(sample.identity())
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _kept(path: Path, fingerprint: str) -> dict[str, list[float]] | None:
    """The figures that are kept of the same files; None where there are none."""
    try:
        kept = json.loads(path.read_text())
        if kept["files"] != fingerprint:
            return None
        return {name: [float(value) for value in kept["aurocs"][name]] for name in BASELINES}
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    """Anomaly scores by maps that need no training and no network.

    Args:
        train: normal images, (N, 3, S, S) in [-1, 1].
        test: images, (M, 3, S, S), in the same range.

    Returns:
        For each of the other `BASELINES`, but for the features, the scores (M,).
    """
    balanced, plain, standardised, centred = _configurations(train.shape[-1])
    mean = train.mean(0)
    local = smoothing_matrix(balanced.network.local_contrast, train.shape[-1])

    def from_mean(x: Tensor) -> Tensor:
        return (x - mean).abs().mean(1)

    def high_pass(x: Tensor) -> Tensor:
        return (x - smoothed(x, local)).abs().mean(1)

    maps = {
        "mean image": (from_mean(train), from_mean(test)),
        "high-pass image": (high_pass(train), high_pass(test)),
        "coarse patches": _distances(CoarsePatches(train.shape[-1]), train, test),
    }
    baselines = {
        "standardised mean image": (standardised, "mean image"),
        "high-pass image": (standardised, "high-pass image"),
        # A Mahalanobis distance is measured against normal images already.
        "coarse patches": (plain, "coarse patches"),
        **{f"centred {name}": (centred, name) for name in maps},
    }
    return {name: _scores(*maps[which], of) for name, (of, which) in baselines.items()}


@torch.no_grad()
def scores_of_features(train: Tensor, test: Tensor, seed: int) -> dict[str, Tensor]:
    """Anomaly scores by the features of an untrained network.

    Args:
        train, test: as for `scores_of_maps`.
        seed: of the network's weights.

    Returns:
        For the two of `BASELINES` the scores (M,).
    """
    balanced, plain, _, centred = _configurations(train.shape[-1])
    maps = _distances(UntrainedFeatures(balanced.network, seed), train, test)
    return {
        "untrained features": _scores(*maps, plain),
        "centred untrained features": _scores(*maps, centred),
    }


def _configurations(size: int) -> tuple[ModelConfig, ModelConfig, ModelConfig, ModelConfig]:
    """The balanced recipe with a narrow network, and with plain, standardised and centred maps."""
    defaults: dict[str, Any] = {name: group() for name, group in GROUPS.items()}
    # The images as the balanced recipe sees them, and the scoring of its maps.
    recipe = RECIPES["balanced"] | {"imsize": size, "width": _WIDTH, "seed": 0}
    balanced = Options(**defaults).replace(**recipe).model_config()
    plain, standardised, centred = (
        replace(balanced, scoring=replace(balanced.scoring, maps=maps, pooling=pooling))
        for maps, pooling in (("plain", "max"), ("standardised", "max"), ("centred", "top"))
    )
    return balanced, plain, standardised, centred


def _scores(train: Tensor, test: Tensor, config: ModelConfig) -> Tensor:
    """Scores (M,) by the maps of the test images, (M, S, S), beside those of the normal ones."""
    scorer = Scorer(config)
    normal, maps = (scorer.smooth(dict.fromkeys(SCORES, each)) for each in (train, test))
    if scorer.kind.is_measured:
        scorer.measure(scorer.sums([normal]), step=0)
    return scorer.measured(maps)[1][config.scoring.anomaly_score]


class UntrainedFeatures(PatchFeatures):
    """Those of the first level of a network as it is before training.

    It sees what it would be trained on. The first two levels tell transistors apart better, the
    first alone the other three sets of docs/results.md.
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
        """See `PatchFeatures`."""
        return self.first(self.contrast(images), IMAGES)


def _distances(features: PatchFeatures, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Mahalanobis distances of both splits, (N, S, S); of normal images by fits to others."""
    distribution = PatchDistribution(features)
    normal, tested = (
        torch.cat([features(batch) for batch in images.split(_BATCH)]) for images in (train, test)
    )
    count = len(train)
    held_out = distribution.fit_held_out(normal, slice(0, count), count, lambda sums: sums)
    size = train.shape[-1]
    of_train, of_test = (
        interpolate(each[:, None], size=size, mode="bilinear")[:, 0]
        for each in (held_out, distribution.distances(tested))
    )
    return of_train, of_test
