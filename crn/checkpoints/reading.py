"""Reading checkpoints, as data and never as code, and the models in them."""

import hashlib
import logging
import math
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crn.checkpoints.writing import FORMAT
from crn.config import MANY, SCORES, ModelConfig, Network, Options, Pretrained, Scoring
from crn.errors import UserError
from crn.methods import Method, Pair, make_method
from crn.option import flag, option_names
from crn.scoring.held_out import HeldOut
from crn.scoring.kinds import KINDS
from crn.scoring.scorer import Scored, Scorer
from crn.system.hardware import is_finite
from crn.system.text import shortened

log = logging.getLogger(__name__)

# What names of weights start with, by the attribute of `crn.training.module.TrainingModule`.
METHOD, SCORER = "method.", "scorer."
# The part with the attributes of a `HeldOut`, where the model has patches.
HELD_OUT = "held_out"

# Parts of a checkpoint and their types.
_PARTS: dict[str, type] = {"state_dict": dict, "hyper_parameters": dict, "progress": dict}
_PROGRESS = {
    "step": int,
    "training_seconds": float,
    "max_roc_auc": float,
    "best_step": int,
    "data": str,
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of this program; its weights stay on disk until they are used.

    Attributes:
        path: the file.
        content: what is in it; of the weights nothing is known yet.
        config: what the model was trained with.
    """

    path: Path
    content: dict[str, Any]
    config: ModelConfig

    @property
    def progress(self) -> dict[str, Any]:
        """How far the training was, and what its best validation."""
        return self.content["progress"]

    @property
    def has_pretrained_weights(self) -> bool:
        """Whether it carries those of the features, so that they are not taken from elsewhere."""
        return bool(below(self.content["state_dict"], f"{SCORER}patches.features."))

    def decide(self, options: Options) -> Options:
        """Options in which those of the trained model stand, as far as scoring needs them.

        Raises:
            UserError: a flag that was typed contradicts the model.
        """
        self.refuse_contradictions(options, ModelConfig.option_names())
        trained = self.config.values()
        decided = {"model", "recipe", *option_names(Network, Scoring, Pretrained)}
        return options.replace(**{n: trained[n] for n in decided if n not in options.given})

    def refuse_contradictions(self, options: Options, names: Iterable[str]) -> None:
        """Refuse flags that were typed and differ from what the model was trained with.

        Args:
            options: of the run.
            names: the options that have to agree.

        Raises:
            UserError: the first flag that does not.
        """
        trained, asked = self.config.values(), options.values()
        for name in names:
            if name in options.given and asked[name] != trained[name]:
                raise UserError(
                    f"{flag(name)} {_words(asked[name])} contradicts {self.path}, which was "
                    f"trained with {shortened(_words(trained[name]))}: leave the flag out"
                )

    def model(self, scoring: Scoring, device: torch.device) -> "TrainedModel":
        """The networks that score; no others are read from the disk.

        Args:
            scoring: how they score.
            device: where they go.

        Raises:
            UserError: the weights do not fit or are not finite, or the statistics of normal images
                that ``scoring`` needs are not in the checkpoint.
        """
        method, scorer = empty_model(self.config, scoring)
        self._refuse_maps_without_statistics(scoring, scorer)
        state = below(self.content["state_dict"], METHOD)
        networks = method.networks

        def load(module: nn.Module, mine: dict[str, Any], expected: dict[str, Tensor]) -> None:
            check_state(self.path, mine, expected)
            module.load_state_dict(mine, strict=False, assign=True)

        # What the method remembers beside its networks decides which of them score.
        prefixes = tuple(f"{name}." for name in networks)
        load(method, *(_without(each, prefixes) for each in (state, method.state_dict())))
        load(scorer, below(self.content["state_dict"], SCORER), scorer.state_dict())
        if scorer.kind.is_measured:
            self._check_statistics(scoring, int(scorer.step))
        pairs = method.pairs(scoring.pairs)
        parts = {name: networks[name] for name in method.scoring_networks(pairs)}
        for name, network in parts.items():
            load(network, below(state, f"{name}."), network.state_dict())
        parts |= {"contrast": method.contrast, "scorer": scorer}
        for part in parts.values():
            part.to(device).eval().requires_grad_(False)
        return TrainedModel(
            replace(self.config, scoring=scoring),
            self.progress["step"],
            method,
            scorer,
            parts,
            tuple(pairs),
            self._held_out(scorer),
        )

    def _held_out(self, scorer: Scorer) -> HeldOut | None:
        """The distances of the images that the patches were fitted to, if the model has any."""
        if not scorer.uses_patches or scorer.patches is None:
            return None
        side, held_out = scorer.patches.features.side, self.content.get(HELD_OUT)
        if held_out is None:
            log.warning(
                "%s: is of an earlier version, whose statistics are of images that its patches "
                "were fitted to, so that thresholds are too low: train again",
                self.path,
            )
            return None
        count = len(held_out["identities"]) if has(held_out, {"identities": Tensor}) else 0
        shapes = {
            "identities": (torch.Size((count, 16)), torch.uint8),
            "distances": (torch.Size((count, side, side)), torch.float32),
        }
        if count == 0 or not all(fits(held_out.get(n), *shape) for n, shape in shapes.items()):
            raise UserError(f"{self.path}: its distances of training images are damaged")
        return HeldOut(**{name: held_out[name] for name in shapes})

    def _refuse_maps_without_statistics(self, scoring: Scoring, scorer: Scorer) -> None:
        trained = self.config.scoring.maps
        missing = scorer.kind.is_measured and not KINDS[trained].is_measured
        if missing or (scorer.uses_patches and scorer.patches is None):
            raise UserError(
                f"--maps {scoring.maps}: {self.path} was trained with --maps {trained} and holds "
                f"no statistics for that; train with --maps {scoring.maps}"
            )

    def _check_statistics(self, scoring: Scoring, step: int) -> None:
        if step < 0:
            raise UserError(
                f"{self.path}: has reached no validation, which measures normal images for --maps "
                f"{scoring.maps}; train on, or give --maps plain"
            )
        trained, asked = self.config.scoring, scoring
        for name in ("pairs", "map_smoothing"):
            theirs, mine = getattr(trained, name), getattr(asked, name)
            if theirs != mine:
                raise UserError(
                    f"{flag(name)} {mine}: the statistics of normal images in {self.path} are with "
                    f"{theirs}; leave the flag out, or give --maps plain"
                )
        if step != self.progress["step"]:
            log.warning(
                "%s: its statistics of normal images are of step %d, of the last validation",
                self.path,
                step,
            )


@dataclass(frozen=True)
class TrainedModel:
    """What scoring needs of a checkpoint.

    Attributes:
        config: what the model was trained with, and how it scores.
        step: training steps it had.
        method: in eval mode; networks that do not score are without weights.
        scorer: what makes scores of its maps.
        parts: the networks that score, and what is before and behind them, by names.
        pairs: the (generator, discriminator) indices that score.
        held_out: what is known of the images that its patches were fitted to.
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
        """Width and height of the images that the patches are of; None where they do not count."""
        patches = self.scorer.patches
        return patches.features.image_size if self.scorer.uses_patches and patches else None

    def score(self, x: Tensor, distances: Tensor | None = None) -> Scored:
        """What the model makes of images.

        Args:
            x: (B, 3, S, S) in [-1, 1].
            distances: (B, G, G), what ``scorer.patches`` makes of the same images in the size
                `patch_image_size`; where None, of x, if it has this size.
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


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program on the CPU.

    Raises:
        UserError: the file is no checkpoint, is damaged, or is of another program or version.
    """
    content = _read_plain(path)
    if not has(content, _PARTS):
        raise UserError(f"{path}: not a checkpoint of this program")
    version = content.get("format", 1)
    if version not in (4, FORMAT):
        which = "an older" if version in range(FORMAT) else "a newer"
        raise UserError(
            f"{path}: is of {which} version of this program, whose networks are not those of this "
            "one: train again, or use that version"
        )
    progress = content["progress"]
    if not (
        has(progress, _PROGRESS)
        and 0 <= progress["step"] <= MANY
        and 0 <= progress["best_step"] <= progress["step"]
        and -1 <= progress["max_roc_auc"] <= 1
        and 0 <= progress["training_seconds"] < math.inf
    ):
        raise UserError(f"{path}: its progress is wrong; it is damaged")
    try:
        config = ModelConfig.from_plain_values(content["hyper_parameters"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its options are not those of this version of the program "
            f"({shortened(str(error))})"
        ) from None
    if version == 4:
        content["state_dict"] = _from_format_4(content["state_dict"], config)
    return Checkpoint(path, content, config)


def load_model(path: Path, device: torch.device, **scoring: Any) -> TrainedModel:
    """The networks of a checkpoint that score, as trained or with other options of `Scoring`.

    Raises:
        UserError: see `read_checkpoint` and `Checkpoint.model`.
    """
    checkpoint = read_checkpoint(path)
    return checkpoint.model(replace(checkpoint.config.scoring, **scoring), device)


def _read_plain(path: Path) -> Any:
    """What `torch.save` has written, without running code; tensors stay on disk until used.

    Raises:
        UserError: the file is none, is damaged, or holds more than numbers, text and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing: what would unpack to more than the file's size is no
            # checkpoint, and might fill the memory.
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise pickle.UnpicklingError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about kinds of tensor
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, since it is no checkpoint or holds more than numbers and text; "
            "give one that this program wrote"
        ) from error
    except Exception as error:
        # Readers raise whatever a damaged file makes them stumble over.
        raise UserError(f"{path}: not a checkpoint, or a damaged one") from error


def has(part: Any, types: dict[str, type]) -> bool:
    """Whether something is a dictionary with values of these types."""
    if not isinstance(part, dict):
        return False
    values = [(part.get(name), kind) for name, kind in types.items()]
    return all(isinstance(v, t) and not isinstance(v, bool) for v, t in values)


def empty_model(config: ModelConfig, scoring: Scoring | None = None) -> tuple[Method, Scorer]:
    """A method and its scorer, without memory for their weights."""
    with torch.device("meta"):
        return make_method(config), Scorer(config, scoring)


def _from_format_4(state: dict[Any, Any], config: ModelConfig) -> dict[Any, Any]:
    """Weights by today's names, and without the patches that every kind of maps had."""
    has_patches = KINDS[config.scoring.maps].has_patches
    result = {}
    for key, value in state.items():
        name = str(key).replace("method.map_scorer.", SCORER)
        name = name.replace("method.patches.", f"{SCORER}patches.")
        if not has_patches:
            if name.startswith(f"{SCORER}patches."):
                continue
            if name in (f"{SCORER}mean", f"{SCORER}deviation") and isinstance(value, Tensor):
                value = value[:, : len(SCORES)]
        result[name] = value
    return result


def below(state: dict[Any, Any], prefix: str) -> dict[str, Any]:
    """The values whose names start with a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if isinstance(key, str) and key.startswith(prefix)
    }


def _without(state: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


def fits(value: Any, shape: torch.Size, dtype: torch.dtype) -> bool:
    """Whether something is a tensor of this shape and type."""
    # Not a sparse one, for example.
    is_plain = isinstance(value, Tensor) and value.layout == torch.strided
    return is_plain and (value.shape, value.dtype) == (shape, dtype)


def check_state(path: Path, state: dict[str, Any], expected: dict[str, Tensor]) -> None:
    """Refuse tensors that are not those expected or are not finite.

    Raises:
        UserError: there is one.
    """
    wrong = sorted(
        expected.keys() ^ state.keys()
        or {n for n, like in expected.items() if not fits(state[n], like.shape, like.dtype)},
        key=str,
    )
    if wrong:
        first = shortened(str(wrong[0]))
        raise UserError(f"{path}: its weights do not fit its options (first: {first})")
    if not all(map(is_finite, state.values())):
        raise UserError(f"{path}: holds weights that are not finite; the training diverged")


def _words(value: Any) -> str:
    """A value of an option, as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
