"""Reading checkpoints, as data and never as code."""

import math
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crn.checkpoints.writing import FORMAT
from crn.config import MANY, SCORES, ModelConfig
from crn.errors import UserError
from crn.scoring.kinds import KINDS
from crn.system.hardware import is_finite
from crn.system.text import shortened

# What names of weights start with, by the attribute of `crn.training.module.TrainingModule`.
METHOD, SCORER = "method.", "scorer."

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
        content: its parts; the weights have not been checked.
        config: what the model was trained with.
    """

    path: Path
    content: dict[str, Any]
    config: ModelConfig

    @property
    def progress(self) -> dict[str, Any]:
        """How far the training was, and its best validation."""
        return self.content["progress"]

    @property
    def has_pretrained_weights(self) -> bool:
        """Whether it holds the weights of the pretrained features."""
        return bool(below(self.content["state_dict"], f"{SCORER}patches.features."))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this program on the CPU.

    Raises:
        UserError: the file is not a checkpoint, is damaged, or is of another program or version.
    """
    content = _read_plain(path)
    if not has(content, _PARTS):
        raise UserError(f"{path}: not a checkpoint of this program")
    version = content.get("format", 1)
    if version not in (4, FORMAT):
        which = "an older" if version in range(FORMAT) else "a newer"
        raise UserError(
            f"{path}: is of {which} version of this program, whose networks differ: train again, "
            "or use that version"
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


def _read_plain(path: Path) -> Any:
    """What `torch.save` has written, without running code; tensors stay on disk until used.

    Raises:
        UserError: the file is not of that kind, is damaged, or holds more than numbers, text and
            tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not compress. A file that would unpack to more than its size is not a
            # checkpoint, and might fill the memory.
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise pickle.UnpicklingError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about kinds of tensor
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: rejected, since it is not a checkpoint or holds more than numbers and text; "
            "give one that this program wrote"
        ) from error
    except Exception as error:
        # Damaged files make readers raise errors of any kind.
        raise UserError(f"{path}: not a checkpoint, or a damaged one") from error


def _from_format_4(state: dict[Any, Any], config: ModelConfig) -> dict[Any, Any]:
    """Weights under today's names, and patches only if the maps use them."""
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


def has(part: Any, types: dict[str, type]) -> bool:
    """Whether something is a dictionary with values of these types."""
    if not isinstance(part, dict):
        return False
    values = [(part.get(name), kind) for name, kind in types.items()]
    return all(isinstance(v, t) and not isinstance(v, bool) for v, t in values)


def below(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The values whose names start with a prefix, under the rest of their names."""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if isinstance(key, str) and key.startswith(prefix)
    }


def fits(value: Any, shape: torch.Size, dtype: torch.dtype) -> bool:
    """Whether something is a dense tensor of this shape and type."""
    is_dense = isinstance(value, Tensor) and value.layout == torch.strided
    return is_dense and (value.shape, value.dtype) == (shape, dtype)


def check_state(path: Path, state: dict[str, Any], expected: dict[str, Tensor]) -> None:
    """Reject tensors whose names, shapes or types are not as expected, or that are not finite.

    Raises:
        UserError: names the first of them.
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
