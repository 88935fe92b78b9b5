"""Checkpoints: written whole or not at all, and read as data, never as code."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from crn.checkpoints.writing import read_plain
from crn.config import MANY, Adversarial, Competition, ModelConfig, Network, Optimization, Options
from crn.errors import UserError
from crn.methods import Method, Scorer, make_method
from crn.option import flag, option_names
from crn.system.files import written_whole
from crn.system.hardware import is_finite
from crn.system.text import shortened
from crn.training.optimizers import make_optimizer

# Options that a checkpoint decides where it is used; the batch size is also that of scoring.
DECIDED = {
    "model",
    *option_names(Network, Competition, Adversarial, Optimization),
} - {"batch_size"}

# What names of weights start with, by the attribute of `crn.training.module.TrainingModule`.
METHOD = "method."

# Parts of a checkpoint and their types: what scoring needs, and what training needs besides.
_PARTS = {"state_dict": dict, "hyper_parameters": dict, "progress": dict}
_TRAINING_PARTS = {"optimizer_states": list, "random_state": dict}
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

    Of the weights nothing is known yet.

    Returns:
        The checkpoint, and the configuration in it.

    Raises:
        UserError: the file is no checkpoint, is damaged, or is of another program or version.
    """
    checkpoint = read_plain(path)
    if not _has(checkpoint, _PARTS) or not _has(checkpoint["progress"], _PROGRESS):
        raise UserError(f"{path}: not a checkpoint of this program")
    progress = checkpoint["progress"]
    if not (
        0 <= progress["step"] <= MANY
        and -1 <= progress["max_roc_auc"] <= 1
        and 0 <= progress["training_seconds"] < math.inf
    ):
        raise UserError(f"{path}: its progress is out of range; it is damaged")
    try:
        config = ModelConfig.from_plain_values(checkpoint["hyper_parameters"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its options are not those of this version of the program "
            f"({shortened(str(error))})"
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
        **vars(config.adversarial),
        **vars(config.optimization),
    }
    asked = options.flat()
    for name in names:
        if name in options.given and asked[name] != trained[name]:
            raise UserError(
                f"{flag(name)} {asked[name]} contradicts {path}, which was trained with "
                f"{shortened(str(trained[name]))}: leave the flag out"
            )


def read_training(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    """As `read_checkpoint`, for one that training is to go on from.

    Returns:
        Of the checkpoint what training goes on from, all of it checked, and the configuration.

    Raises:
        UserError: see `read_checkpoint`; or what training needs is missing or does not fit.
    """
    checkpoint, config = read_checkpoint(path)
    if not _has(checkpoint, _TRAINING_PARTS):
        raise UserError(f"{path}: holds no training state, so training cannot go on from it")
    method = _empty_method(config)
    state = _below(checkpoint["state_dict"], METHOD)
    _check_state(path, state, method.state_dict())
    if len(state) != len(checkpoint["state_dict"]):
        raise UserError(f"{path}: holds weights of nothing that it should have; it is damaged")
    _check_random_state(path, checkpoint["random_state"])
    return {
        "progress": checkpoint["progress"],
        "random_state": checkpoint["random_state"],
        "state_dict": checkpoint["state_dict"],
        "optimizer_states": _optimizer_states(path, checkpoint["optimizer_states"], config, method),
    }, config


def _has(part: Any, types: dict[str, type]) -> bool:
    return isinstance(part, dict) and all(type(part.get(k)) is t for k, t in types.items())


def _empty_method(config: ModelConfig) -> Method:
    """The method without memory for its weights."""
    with torch.device("meta"):
        return make_method(config)


def _below(state: dict[Any, Any], prefix: str) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if isinstance(key, str) and key.startswith(prefix)
    }


def _without(state: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


def _fits(value: Any, shape: torch.Size, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and (value.shape, value.dtype) == (shape, dtype)


def _check_state(path: Path, state: dict[str, Any], expected: dict[str, Tensor]) -> None:
    """Refuse tensors that are not those expected or are not finite."""
    wrong = sorted(
        expected.keys() ^ state.keys()
        or {n for n, like in expected.items() if not _fits(state[n], like.shape, like.dtype)}
    )
    if wrong:
        raise UserError(
            f"{path}: its weights do not fit its options (first: {shortened(wrong[0])})"
        )
    if not all(map(is_finite, state.values())):
        raise UserError(f"{path}: holds weights that are not finite; the training diverged")


def _check_random_state(path: Path, state: dict[str, Any]) -> None:
    """Refuse what random generators do not take."""
    generators = [(torch.Generator(), state.get("cpu"))]
    cuda = state.get("cuda")
    if isinstance(cuda, list) and len(cuda) == torch.cuda.device_count():
        generators += [(torch.Generator(f"cuda:{i}"), each) for i, each in enumerate(cuda)]
    try:
        if not isinstance(cuda, list):
            raise TypeError
        for generator, theirs in generators:
            generator.set_state(theirs)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: its random state is damaged") from error


def _optimizer_states(
    path: Path, states: list[Any], config: ModelConfig, method: Method
) -> list[dict[str, Any]]:
    """The optimizers' states, with the settings that follow from the configuration.

    Raises:
        UserError: they are not those of the networks' optimizers.
    """
    networks = list(method.networks.values())
    if len(states) != len(networks):
        raise UserError(f"{path}: its optimizer states do not fit its options; it is damaged")
    return [
        _optimizer_state(path, state, config, [p.shape for p in network.parameters()])
        for state, network in zip(states, networks, strict=True)
    ]


def _optimizer_state(
    path: Path, state: Any, config: ModelConfig, shapes: list[torch.Size]
) -> dict[str, Any]:
    example = _example_of_optimizer(config, len(shapes))

    def fits(value: Any, like: Tensor | None, shape: torch.Size) -> bool:
        if like is None:
            return value is None
        # One figure for the whole parameter, or one for each of its numbers.
        fits = _fits(value, shape if like.ndim else like.shape, like.dtype)
        return fits and is_finite(value)

    if not (
        _has(state, {"state": dict})
        and state["state"].keys() <= example["state"].keys()
        and all(
            isinstance(buffers, dict)
            and buffers.keys() == example["state"][index].keys()
            and all(
                fits(buffers[name], like, shapes[index])
                for name, like in example["state"][index].items()
            )
            for index, buffers in state["state"].items()
        )
    ):
        raise UserError(f"{path}: its optimizer states do not fit its options; it is damaged")
    return {"state": state["state"], "param_groups": example["param_groups"]}


def _example_of_optimizer(config: ModelConfig, parameters: int) -> dict[str, Any]:
    """The state of an optimizer of so many small parameters, after a step."""
    small = [Parameter(torch.zeros(1)) for _ in range(parameters)]
    for parameter in small:
        parameter.grad = torch.zeros(1)
    optimizer = make_optimizer(config.optimization, small)
    optimizer.step()
    return optimizer.state_dict()


@dataclass(frozen=True)
class TrainedModel:
    """What scoring needs of a checkpoint.

    Attributes:
        config: what the model was trained with.
        step: training steps it had.
        networks: those that score, by their names, in eval mode.
        scorer: how they score.
    """

    config: ModelConfig
    step: int
    networks: dict[str, nn.Module]
    scorer: Scorer


def load_model(path: Path, pairs: str, device: torch.device) -> TrainedModel:
    """Read the networks that score; no others are read from the disk.

    Args:
        pairs: "best" or "all".

    Raises:
        UserError: see `read_checkpoint`; or the weights do not fit or are not finite.
    """
    checkpoint, config = read_checkpoint(path)
    method = _empty_method(config)
    state = _below(checkpoint["state_dict"], METHOD)
    networks = method.networks

    def load(module: nn.Module, mine: dict[str, Any], expected: dict[str, Tensor]) -> None:
        _check_state(path, mine, expected)
        module.load_state_dict(mine, strict=False, assign=True)

    # What the method remembers beside its networks decides which of them score.
    prefixes = tuple(f"{name}." for name in networks)
    load(method, *(_without(each, prefixes) for each in (state, method.state_dict())))
    scorer = method.scorer(pairs)
    used = {name: networks[name] for name in scorer.networks}
    for name, network in used.items():
        load(network, _below(state, f"{name}."), network.state_dict())
        network.to(device).eval().requires_grad_(False)
    return TrainedModel(config, checkpoint["progress"]["step"], used, scorer)
