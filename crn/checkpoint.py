"""Checkpoints: written whole or not at all, and read as data, never as code."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crn.config import ModelConfig, Options, flag
from crn.errors import UserError
from crn.files import written_whole
from crn.scores import ordered_pairs
from crn.standing import Standing
from crn.unit import CompetitiveUnit

_PARTS = ("state_dict", "hyper_parameters", "progress", "random_state")


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Save so that under ``path`` there is either the whole new checkpoint or what was there."""
    with written_whole(path) as file:
        torch.save(checkpoint, file)


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
    except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or any(part not in checkpoint for part in _PARTS):
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
    state = checkpoint["state_dict"]
    count = config.competition.num_competitive_units
    standing = Standing(count)
    try:
        standing.load_state_dict(_below(state, "standing."))
        chosen = (
            ordered_pairs(count)
            if pairs == "all"
            else [(standing.best_generator(), standing.best_discriminator())]
        )
        units = {}
        for index in sorted({unit for pair in chosen for unit in pair}):
            with torch.device("meta"):
                unit = CompetitiveUnit(config.network)
            unit.load_state_dict(_below(state, f"units.{index}."), assign=True)
            units[index] = unit.to(device).eval().requires_grad_(False)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights do not fit its options ({reason})") from None
    for unit in units.values():
        if not all(bool(tensor.isfinite().all()) for tensor in unit.state_dict().values()):
            raise UserError(f"{path}: holds weights that are not finite; the training diverged")
    return TrainedUnits(config, checkpoint["progress"]["step"], units, chosen)


def _below(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
