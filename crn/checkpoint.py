"""Checkpoints: written whole or not at all, and read as data, never as code."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crn.config import ModelConfig, Options, flag
from crn.errors import UserError
from crn.files import written_whole
from crn.scores import ordered_pairs
from crn.standing import Standing
from crn.unit import CompetitiveUnit

# Parts of a checkpoint and their types: what scoring needs, and what training needs besides.
_PARTS = {"state_dict": dict, "hyper_parameters": dict, "progress": dict}
_TRAINING_PARTS = {
    "optimizer_states": list,
    "random_state": dict,
    "loops": dict,
    "global_step": int,
    "epoch": int,
}
_PROGRESS = {"step": int, "max_roc_auc": float, "training_seconds": float}


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Save so that under ``path`` there is either the whole new checkpoint or what was there.

    Raises:
        UserError: the system refuses to write it.
    """
    with written_whole(path) as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            # After a full disk or a signal torch fails to end its archive, and shows that instead.
            raise (error.__context__ or error) from None


def read_checkpoint(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    """Read a checkpoint of this program on the CPU; weights stay on disk until they are used.

    Returns:
        The checkpoint, and the configuration in it.

    Raises:
        UserError: the file is no checkpoint, is damaged, or is of another program or version.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, since it is no checkpoint or holds more than numbers and text; "
            "give one that this program wrote"
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError, KeyError):
        raise UserError(f"{path}: not a checkpoint, or a damaged one") from None
    if not _has(checkpoint, _PARTS) or not _has(checkpoint["progress"], _PROGRESS):
        raise UserError(f"{path}: not a checkpoint of this program")
    try:
        config = ModelConfig.from_plain_values(checkpoint["hyper_parameters"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its options are not those of this version of the program ({error})"
        ) from None
    return checkpoint, config


def refuse_contradictions(
    options: Options, config: ModelConfig, path: Path, names: Iterable[str]
) -> None:
    """Refuse flags that were typed and differ from what the checkpoint was trained with.

    Args:
        names: the options that have to agree.

    Raises:
        UserError: the first flag that does not.
    """
    trained = {
        "model": config.model,
        **vars(config.network),
        **vars(config.competition),
        **vars(config.optimization),
    }
    asked = options.flat()
    for name in names:
        if name in options.given and asked[name] != trained[name]:
            raise UserError(
                f"{flag(name)} {asked[name]} contradicts {path}, which was trained with "
                f"{trained[name]}: leave the flag out"
            )


def read_training(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    """As `read_checkpoint`, for one that training is to go on from.

    Raises:
        UserError: see `read_checkpoint`; or what training needs is missing or does not fit.
    """
    checkpoint, config = read_checkpoint(path)
    count = config.competition.num_competitive_units
    if not _has(checkpoint, _TRAINING_PARTS) or not _has(
        checkpoint["random_state"], {"cpu": torch.Tensor, "cuda": list}
    ):
        raise UserError(f"{path}: holds no training state, so training cannot go on from it")
    if checkpoint["global_step"] != checkpoint["progress"]["step"] * min(2, count):
        raise UserError(f"{path}: its step counts contradict each other; it is damaged")
    for index in range(count):
        _check_state(path, _unit_state(checkpoint, index), config)
    _standing(path, checkpoint, count)
    _check_optimizers(path, checkpoint["optimizer_states"], config)
    return checkpoint, config


def _has(part: Any, types: dict[str, type]) -> bool:
    return isinstance(part, dict) and all(isinstance(part.get(k), t) for k, t in types.items())


def _unit_state(checkpoint: dict[str, Any], index: int) -> dict[str, Any]:
    return _below(checkpoint["state_dict"], f"units.{index}.")


def _below(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _check_state(path: Path, state: dict[str, Any], config: ModelConfig) -> None:
    """Refuse weights of one unit that do not fit the configuration or are not finite."""
    with torch.device("meta"):
        expected = CompetitiveUnit(config.network).state_dict()
    wrong = sorted(
        expected.keys() ^ state.keys()
        or {
            name
            for name, like in expected.items()
            if not isinstance(state[name], Tensor)
            or (state[name].shape, state[name].dtype) != (like.shape, like.dtype)
        }
    )
    if wrong:
        raise UserError(f"{path}: its weights do not fit its options (first: {wrong[0]})")
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise UserError(f"{path}: holds weights that are not finite; the training diverged")


def _check_optimizers(path: Path, states: list[Any], config: ModelConfig) -> None:
    """Refuse optimizer states that are not those of the units."""
    with torch.device("meta"):
        shapes = [p.shape for p in CompetitiveUnit(config.network).parameters()]
    fits = len(states) == config.competition.num_competitive_units and all(
        _has(state, {"state": dict, "param_groups": list})
        and set(state["state"]) <= set(range(len(shapes)))
        and all(
            tensor.ndim == 0 or tensor.shape == shapes[index]
            for index, buffers in state["state"].items()
            for tensor in buffers.values()
            if isinstance(tensor, Tensor)
        )
        for state in states
    )
    if not fits:
        raise UserError(f"{path}: its optimizer states do not fit its options; it is damaged")


def _standing(path: Path, checkpoint: dict[str, Any], count: int) -> Standing:
    standing = Standing(count)
    try:
        standing.load_state_dict(_below(checkpoint["state_dict"], "standing."))
    except (RuntimeError, TypeError, AttributeError):
        raise UserError(f"{path}: its running figures do not fit its number of units") from None
    return standing


@dataclass(frozen=True)
class TrainedUnits:
    """The units of a checkpoint that scoring needs.

    Attributes:
        config: what the model was trained with.
        step: training steps it had.
        units: index to network, in eval mode.
        pairs: (generator, discriminator) indices to score with.
    """

    config: ModelConfig
    step: int
    units: dict[int, CompetitiveUnit]
    pairs: list[tuple[int, int]]


def load_units(path: Path, pairs: str, device: torch.device) -> TrainedUnits:
    """Read the best generator and discriminator, or all units; no others are read from the disk.

    Args:
        pairs: "best" or "all".

    Raises:
        UserError: see `read_checkpoint`; or the weights do not fit or are not finite.
    """
    checkpoint, config = read_checkpoint(path)
    count = config.competition.num_competitive_units
    standing = _standing(path, checkpoint, count)
    chosen = (
        ordered_pairs(count)
        if pairs == "all"
        else [(standing.best_generator(), standing.best_discriminator())]
    )
    units = {}
    for index in sorted({unit for pair in chosen for unit in pair}):
        state = _unit_state(checkpoint, index)
        _check_state(path, state, config)
        with torch.device("meta"):
            unit = CompetitiveUnit(config.network)
        unit.load_state_dict(state, assign=True)
        units[index] = unit.to(device).eval().requires_grad_(False)
    return TrainedUnits(config, checkpoint["progress"]["step"], units, chosen)
