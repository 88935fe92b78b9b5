"""``python -m benchmarks.feature_game``: games between units that reconstruct pretrained features.

For each variant and seed it trains four units on the frozen features of the pretrained recipe and
prints the AUROC of the lowest of their maps, alone and beside the Gaussian of the features.
docs/results.md has the table of all variants.
"""

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate, l1_loss, leaky_relu, relu

from crn.config import RECIPES, Pretrained
from crn.evaluation.metrics import auroc
from crn.methods.convolution import HalvingConv, NearestConv
from crn.methods.encoder_decoder import IMAGES, RECONSTRUCTIONS, _Level
from crn.methods.smoothing import smoothed, smoothing_matrix
from crn.scoring.kinds import MeasuredMap, centred, logarithm
from crn.scoring.patch_distribution import PatchDistribution
from crn.scoring.pretrained import PretrainedFeatures
from crn.scoring.scorer import LEAST_DEVIATION, TOP
from crn.system.hardware import set_up_cpu
from datasets.layouts import LAYOUTS
from datasets.reader import image_batches, normalize
from datasets.samples import ANOMALOUS, TEST, TRAIN, list_samples

UNITS, BATCH, LR, RATE = 4, 16, 1e-3, 0.01
SIZE = 64  # width and height of anomaly maps


@dataclass(frozen=True)
class Variant:
    """How the units are trained.

    Attributes:
        width: channels of the first of three levels.
        steps: training steps of two units; of all units, half as many.
        feedback: weight w_fb of the game of the balanced recipe; None: there is no game.
        share: weight of the units that do not reconstruct best; None: all learn alike, two a step.
        per_cell: whether the best unit is that of each cell, not of each image.
        cka, cosine: weights of the penalties for like features and for like errors.
        sees: share of the channels that each unit sees.
        noise: standard deviation of noise on the input.
    """

    width: int = 64
    steps: int = 400
    feedback: float | None = None
    share: float | None = None
    per_cell: bool = True
    cka: float = 0.0
    cosine: float = 0.0
    sees: float = 1.0
    noise: float = 0.0


VARIANTS = {
    "control": Variant(),
    "game": Variant(feedback=0.3),
    "game-untold": Variant(feedback=0.0),
    "best-of-cell": Variant(share=0.05),
    "best-of-cell-only": Variant(share=0.0),
    "best-of-image": Variant(share=0.05, per_cell=False),
    "all-units": Variant(share=1.0),
    "cka": Variant(cka=1.0),
    "cosine": Variant(cosine=0.3),
    "half-views": Variant(sees=0.5),
    "width-16": Variant(width=16),
    "width-8": Variant(width=8),
    "noise": Variant(noise=1.0),
    "quarter": Variant(steps=100),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, choices=LAYOUTS)
    parser.add_argument("--dataset-path", required=True, type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    arguments = parser.parse_args()
    set_up_cpu()
    train, test, labels = features_of(LAYOUTS[arguments.dataset], arguments.dataset_path)
    patches = gaussian_map(train, test)
    mean, deviation = (each(train, dim=(0, 2, 3), keepdim=True) for each in (torch.mean, torch.std))
    train, test = (train - mean) / deviation, (test - mean) / deviation
    print(f"the Gaussian alone: {auroc(pooled(centred(patches)), labels):.3f}")
    print(f"{'variant':<20}{'seed':>5}{'alone':>8}{'beside':>8}{'error':>8}")
    for name in arguments.variants:
        for seed in arguments.seeds:
            units = trained_units(train, VARIANTS[name], seed)
            (normal, error), (maps, _) = lowest_map(units, train), lowest_map(units, test)
            alone = auroc(pooled(centred(measured(normal, maps))), labels)
            limited = measured(normal, maps, most_shift=patches.most_shift, weight=0.5)
            beside = auroc(pooled(centred(limited, patches)), labels)
            print(f"{name:<20}{seed:>5}{alone:>8.3f}{beside:>8.3f}{error:>8.3f}", flush=True)


class Unit(nn.Module):
    """An encoder-decoder without skip connections, from features (B, C, 16, 16) to the same."""

    def __init__(self, width: int, channels: int, seen: Tensor) -> None:
        """Draw the weights.

        Args:
            width: channels of the first level.
            channels: C.
            seen: (C,), 1 for the channels that it sees, 0 for the others.
        """
        super().__init__()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate((width, 2 * width, 4 * width)):
            above = width * 2 ** (level - 1) if level else channels
            norm = "batch" if level == 1 else "none"
            self.down.append(_Level(HalvingConv(above, wide, norm == "none"), norm, wide))
            norm = "batch" if level else "none"
            self.up.append(_Level(NearestConv(wide, above, norm == "none"), norm, above))
        for each in (*self.down, *self.up):
            each.initialize()
        self.register_buffer("seen", seen.view(1, -1, 1, 1))

    def forward(self, z: Tensor, given: str = IMAGES) -> Tensor:
        """Reconstruct features or, as ``given`` says, reconstructions of another unit."""
        z = (z * self.seen).contiguous(memory_format=torch.channels_last)
        h = self.down[0](z, given)
        h = self.middle = self.down[1](leaky_relu(h, 0.2), given)
        h = self.down[2](leaky_relu(h, 0.2), given)
        for up in reversed(self.up):
            h = up(relu(h), given)
        return h


@torch.inference_mode()
def features_of(layout, root: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The features (N, F, G, G) of the training and test images, and the labels of the latter."""
    recipe = RECIPES["pretrained"]
    features = PretrainedFeatures(Pretrained(recipe["features"], recipe["features_size"]))
    features.load_pretrained()
    samples = list_samples(layout, root)
    splits = []
    for split in (TRAIN, TEST):
        some = [sample for sample in samples if sample.split == split]
        batches = image_batches(some, features.image_size)
        splits.append(torch.cat([features(normalize(x)).half().float() for x in batches]))
    labels = [sample.label == ANOMALOUS for sample in samples if sample.split == TEST]
    return splits[0], splits[1], torch.tensor(labels).int()


def gaussian_map(train: Tensor, test: Tensor) -> MeasuredMap:
    """The map of the features' Gaussian, as the pretrained recipe measures it."""
    recipe = RECIPES["pretrained"]
    features = PretrainedFeatures(Pretrained(recipe["features"], recipe["features_size"]))
    fit = PatchDistribution(features)
    held_out = fit.fit_held_out(train, slice(None), len(train), lambda sums: sums)
    distances = torch.cat([fit.distances(batch) for batch in test.split(32)])
    maps = smooth(held_out), smooth(distances)
    return measured(*maps, is_logarithmic=False, most_shift=features.most_shift)


def trained_units(z: Tensor, variant: Variant, seed: int) -> list[Unit]:
    """Train the units on standardised features (N, C, G, G), each by |z - r|."""
    torch.manual_seed(seed)
    chance, channels = torch.Generator().manual_seed(seed), z.shape[1]
    seen = torch.ones(UNITS, channels)
    for unit in range(UNITS if variant.sees < 1 else 0):
        hidden = torch.randperm(channels, generator=chance)[: round((1 - variant.sees) * channels)]
        seen[unit, hidden] = 0
    units = [Unit(variant.width, channels, each) for each in seen]
    optimizers = [torch.optim.Adam(unit.parameters(), LR, fused=True) for unit in units]
    steps = variant.steps if variant.share is None else variant.steps // 2
    k, order = [0.0] * UNITS, torch.empty(0, dtype=torch.long)
    for step in range(steps):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(z), generator=chance)])
        x, order = z[order[:BATCH]], order[BATCH:]
        who = random.Random(f"pair {seed} {step}").sample(range(UNITS), 2)
        if variant.share is not None:
            who = list(range(UNITS))
        total = _losses(variant, units, who, x, k, chance)
        for unit in who:
            optimizers[unit].zero_grad()
            optimizers[unit].param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * step / steps)) / 2
        total.backward()
        for unit in who:
            optimizers[unit].step()
    return [unit.eval() for unit in units]


def _losses(
    variant: Variant,
    units: Sequence[Unit],
    who: Sequence[int],
    x: Tensor,
    k: list[float],
    chance: torch.Generator,
) -> Tensor:
    """The sum of the losses of a step; updates k."""
    inputs = [x for _ in who]
    if variant.noise:
        inputs = [x + variant.noise * torch.randn(x.shape, generator=chance) for _ in who]
    with torch.autocast("cpu", torch.bfloat16):
        r = [units[unit](each) for unit, each in zip(who, inputs, strict=True)]
        middles = [units[unit].middle for unit in who]
        f = []
        if variant.feedback is not None:
            others = zip(reversed(who), r, strict=True)
            f = [units[d](each.detach(), RECONSTRUCTIONS) for d, each in others]
    r, f = [each.float() for each in r], [each.float() for each in f]
    if variant.share is not None:
        errors = torch.stack([(x - each).abs().mean(1) for each in r])
        judged = errors.detach()
        if not variant.per_cell:
            judged = judged.mean((2, 3), keepdim=True)
        best = torch.zeros_like(judged).scatter_(0, judged.argmin(0, keepdim=True), 1)
        return UNITS * ((best + variant.share * (1 - best)) * errors).mean()
    own = [l1_loss(each, x) for each in r]
    total = own[0] + own[1]
    if variant.cka:
        total = total + variant.cka * cka(*middles)
    if variant.cosine:
        total = total + variant.cosine * cosine_similarity(x - r[0], x - r[1], dim=1).mean()
    for index, answer in enumerate(f):
        d = who[1 - index]
        distorted = l1_loss(answer, r[index].detach())
        total = total + variant.feedback * l1_loss(r[index], answer.detach()) - k[d] * distorted
        k[d] = min(max(k[d] + RATE * (own[1 - index] - distorted).item(), 0.0), 1.0)
    return total


def cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear CKA of features (B, C, H, W), with a sample for each position."""
    a, b = (each.float().permute(0, 2, 3, 1).flatten(0, 2) for each in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)
    return (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())


@torch.inference_mode()
def lowest_map(units: Sequence[Unit], z: Tensor) -> tuple[Tensor, float]:
    """The lowest of the units' smoothed maps (N, S, S), and the mean of |z - r|."""
    maps, errors = [], []
    for unit in units:
        with torch.autocast("cpu", torch.bfloat16):
            r = torch.cat([unit(batch).float() for batch in z.split(64)])
        maps.append(smooth((z - r).square().mean(1).sqrt()))
        errors.append(float((z - r).abs().mean()))
    return torch.stack(maps).amin(0), sum(errors) / len(errors)


def smooth(maps: Tensor) -> Tensor:
    """Maps (N, G, G), enlarged to (N, S, S) and smoothed."""
    large = interpolate(maps[:, None], size=SIZE, mode="bilinear")[:, 0]
    return smoothed(large, smoothing_matrix(1.8, SIZE))


def measured(normal: Tensor, maps: Tensor, **how) -> MeasuredMap:
    """Maps (N, S, S) with the statistics of normal images, as `Scorer.measure` has them."""
    both = torch.stack([normal, logarithm(normal)])
    mean, deviation = both.mean(1), both.std(1, correction=0)
    least = LEAST_DEVIATION * deviation.mean((1, 2), keepdim=True)
    return MeasuredMap(maps, mean, deviation.maximum(least).clamp(min=1e-6), **how)


def pooled(maps: Tensor) -> Tensor:
    """The mean of the highest 1 % of each map: (N, S, S) to (N,)."""
    return maps.flatten(1).topk(math.ceil(TOP * SIZE * SIZE)).values.mean(1)


if __name__ == "__main__":
    main()
