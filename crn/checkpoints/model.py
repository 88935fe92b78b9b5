"""The model in a checkpoint, as scoring needs it."""

import hashlib
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crn.checkpoints.reading import (
    METHOD,
    SCORER,
    Checkpoint,
    below,
    check_state,
    fits,
    has,
    read_checkpoint,
)
from crn.config import SCORES, ModelConfig, Scoring
from crn.errors import UserError
from crn.methods import Method, Pair, make_method
from crn.option import flag
from crn.scoring.kinds import KINDS
from crn.scoring.patch_distribution import HeldOut
from crn.scoring.scorer import Scored, Scorer

log = logging.getLogger(__name__)

# The part with the attributes of a `HeldOut`, if the model has patches.
HELD_OUT = "held_out"


@dataclass(frozen=True)
class TrainedModel:
    """A model that scores.

    Attributes:
        config: what the model was trained with, and how it scores.
        step: number of training steps.
        method: in eval mode; networks that do not score have no weights.
        scorer: turns its maps into scores.
        parts: the networks that score, and what comes before and after them, by name.
        pairs: the (generator, discriminator) indices that score.
        held_out: the images that its patches were fitted to, if it has any.
    """

    config: ModelConfig
    step: int
    method: Method
    scorer: Scorer
    parts: dict[str, nn.Module]
    pairs: tuple[Pair, ...]
    held_out: HeldOut | None = None

    @property
    def patch_image_size(self) -> int | None:
        """Width and height of the images that patches are taken from; None if none are used."""
        patches = self.scorer.patches
        return patches.features.image_size if self.scorer.uses_patches and patches else None

    def score(self, x: Tensor, distances: Tensor | None = None) -> Scored:
        """Score images.

        Args:
            x: (B, 3, S, S) in [-1, 1].
            distances: (B, G, G), the result of ``scorer.patches`` for the same images in the size
                `patch_image_size`; None: computed from x, which has to be of this size.
        """
        return self.scorer(self.method, x, distances, self.pairs)

    @cached_property
    def fingerprint(self) -> str:
        """16 characters that differ between any two models whose scores do not compare."""
        how = replace(self.config.scoring, anomaly_score=SCORES[0])  # all scores are of one model
        kind = (self.config.model, self.config.network, how, self.pairs)
        digest = hashlib.sha256(repr(kind).encode())
        for name in sorted(self.parts):
            for tensor in self.parts[name].state_dict().values():
                flat = tensor.detach().cpu().contiguous().numpy().reshape(-1)
                digest.update(memoryview(flat).cast("B"))
        return digest.hexdigest()[:16]


def load_model(path: Path, device: torch.device, **scoring: Any) -> TrainedModel:
    """The model in a file, which scores as trained or with other options of `Scoring`.

    Raises:
        UserError: see `read_checkpoint` and `model_of`.
    """
    checkpoint = read_checkpoint(path)
    return model_of(checkpoint, replace(checkpoint.config.scoring, **scoring), device)


def model_of(checkpoint: Checkpoint, scoring: Scoring, device: torch.device) -> TrainedModel:
    """The model in a checkpoint; networks that do not score are not read from the disk.

    Raises:
        UserError: the weights do not fit or are not finite, or the checkpoint lacks statistics of
            normal images that ``scoring`` needs.
    """
    path, config, content = checkpoint.path, checkpoint.config, checkpoint.content
    method, scorer = empty_model(config, scoring)
    _refuse_maps_without_statistics(checkpoint, scorer)
    networks, state = method.networks, below(content["state_dict"], METHOD)

    def load(module: nn.Module, mine: dict[str, Any], expected: dict[str, Tensor]) -> None:
        check_state(path, mine, expected)
        module.load_state_dict(mine, strict=False, assign=True)

    # The state of the method beside its networks decides which of them score.
    of_networks = tuple(f"{name}." for name in networks)
    beside = (
        {key: value for key, value in each.items() if not key.startswith(of_networks)}
        for each in (state, method.state_dict())
    )
    load(method, *beside)
    load(scorer, below(content["state_dict"], SCORER), scorer.state_dict())
    if scorer.kind.is_measured:
        _check_statistics(checkpoint, scorer)
    pairs = method.pairs(scoring.pairs)
    parts = {name: networks[name] for name in method.scoring_networks(pairs)}
    for name, network in parts.items():
        load(network, below(state, f"{name}."), network.state_dict())
    parts |= {"contrast": method.contrast, "scorer": scorer}
    for part in parts.values():
        part.to(device).eval().requires_grad_(False)
    step, held_out = checkpoint.progress["step"], _held_out(checkpoint, scorer)
    trained = replace(config, scoring=scoring)
    return TrainedModel(trained, step, method, scorer, parts, tuple(pairs), held_out)


def empty_model(config: ModelConfig, scoring: Scoring | None = None) -> tuple[Method, Scorer]:
    """A method and its scorer, without memory for their weights."""
    with torch.device("meta"):
        return make_method(config), Scorer(config, scoring)


def _held_out(checkpoint: Checkpoint, scorer: Scorer) -> HeldOut | None:
    """The distances of the images that the patches were fitted to, if the model has patches."""
    if not scorer.uses_patches or scorer.patches is None:
        return None
    path, held_out = checkpoint.path, checkpoint.content.get(HELD_OUT)
    if held_out is None:
        log.warning(
            "%s: is of an earlier version, whose statistics are of images that its patches were "
            "fitted to, so that thresholds are too low: train again",
            path,
        )
        return None
    side = scorer.patches.features.side
    count = len(held_out["identities"]) if has(held_out, {"identities": Tensor}) else 0
    shapes = {
        "identities": (torch.Size((count, 16)), torch.uint8),
        "distances": (torch.Size((count, side, side)), torch.float32),
    }
    if count == 0 or not all(fits(held_out.get(n), *shape) for n, shape in shapes.items()):
        raise UserError(f"{path}: its distances of training images are damaged")
    return HeldOut(**{name: held_out[name] for name in shapes})


def _refuse_maps_without_statistics(checkpoint: Checkpoint, scorer: Scorer) -> None:
    trained, asked = checkpoint.config.scoring.maps, scorer.scoring.maps
    missing = scorer.kind.is_measured and not KINDS[trained].is_measured
    if missing or (scorer.uses_patches and scorer.patches is None):
        raise UserError(
            f"--maps {asked}: {checkpoint.path} was trained with --maps {trained} and lacks the "
            f"statistics for that; train with --maps {asked}"
        )


def _check_statistics(checkpoint: Checkpoint, scorer: Scorer) -> None:
    path, step, asked = checkpoint.path, int(scorer.step), scorer.scoring
    if step < 0:
        raise UserError(
            f"{path}: is from before the first validation, so it lacks the statistics of normal "
            f"images for --maps {asked.maps}; train on, or give --maps plain"
        )
    for name in ("pairs", "map_smoothing"):
        theirs, mine = getattr(checkpoint.config.scoring, name), getattr(asked, name)
        if theirs != mine:
            raise UserError(
                f"{flag(name)} {mine}: the statistics of normal images in {path} were made with "
                f"{theirs}; leave the flag out, or give --maps plain"
            )
    if step != checkpoint.progress["step"]:
        log.warning(
            "%s: its statistics of normal images are of step %d, of the last validation", path, step
        )
