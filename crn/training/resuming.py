"""What a training goes on from, and where its best state so far is."""

from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from crn.checkpoints.reading import (
    METHOD,
    SCORER,
    Checkpoint,
    check_state,
    empty_model,
    fits,
    has,
    read_checkpoint,
)
from crn.config import ModelConfig
from crn.errors import UserError
from crn.methods import Method
from crn.system.hardware import is_finite
from crn.training.optimizers import make_optimizer

# In --checkpoint-path.
BEST, LAST = "best.ckpt", "last.ckpt"

# Parts of a checkpoint that training needs besides, and their types.
_TRAINING_PARTS: dict[str, type] = {"optimizer_states": list, "random_state": dict}


def read_training(path: Path) -> Checkpoint:
    """As `read_checkpoint`, for one that training is to go on from.

    Returns:
        Of the checkpoint what training goes on from, all of it checked.

    Raises:
        UserError: see `read_checkpoint`; or what training needs is missing or does not fit.
    """
    checkpoint = read_checkpoint(path)
    content, config = checkpoint.content, checkpoint.config
    if not has(content, _TRAINING_PARTS):
        raise UserError(f"{path}: holds no training state, so training cannot go on from it")
    method, scorer = empty_model(config)
    expected = {METHOD + name: value for name, value in method.state_dict().items()}
    expected |= {SCORER + name: value for name, value in scorer.state_dict().items()}
    check_state(path, content["state_dict"], expected)
    _check_random_state(path, content["random_state"])
    kept = {name: content[name] for name in ("progress", "random_state", "state_dict")}
    states = _optimizer_states(path, content["optimizer_states"], config, method)
    return Checkpoint(path, kept | {"optimizer_states": states}, config)


def best_state_of(checkpoint: Checkpoint) -> Path | None:
    """The file with the best state that a training had until its checkpoint, if there is one.

    It is best.ckpt beside it, or the checkpoint itself.
    """
    mine, path = checkpoint.progress, checkpoint.path.with_name(BEST)
    try:
        theirs = read_checkpoint(path).progress
    except UserError:
        theirs = {"step": None}
    same = ("max_roc_auc", "best_step", "data")
    if theirs["step"] == mine["best_step"] and all(theirs[name] == mine[name] for name in same):
        return path
    return checkpoint.path if mine["step"] == mine["best_step"] else None


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both are there and are one file."""
    return one.exists() and other.exists() and one.samefile(other)


def _check_random_state(path: Path, state: dict[str, Any]) -> None:
    """Refuse what random generators do not take."""
    generators: list[tuple[torch.Generator, Any]] = [(torch.Generator(), state.get("cpu"))]
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
    shapes = [[each.shape for each in net.parameters()] for net in method.networks.values()]
    examples = [_example_of_optimizer(config, len(each)) for each in shapes]
    if len(states) != len(examples) or not all(map(_is_state_of, states, examples, shapes)):
        raise UserError(f"{path}: its optimizer states do not fit its options; it is damaged")
    return [
        {"state": state["state"], "param_groups": example["param_groups"]}
        for state, example in zip(states, examples, strict=True)
    ]


def _is_state_of(state: Any, example: dict[str, Any], shapes: list[torch.Size]) -> bool:
    """Whether a state is like an example, but of parameters of these shapes."""

    def agrees(value: Any, like: Tensor | None, shape: torch.Size) -> bool:
        if like is None:
            return value is None
        # One figure for the whole parameter, or one for each of its numbers.
        return fits(value, shape if like.ndim else like.shape, like.dtype) and is_finite(value)

    def belongs(index: Any, buffers: Any) -> bool:
        expected = example["state"].get(index)
        return (
            expected is not None
            and has(buffers, {})
            and buffers.keys() == expected.keys()
            and all(agrees(buffers[name], like, shapes[index]) for name, like in expected.items())
        )

    return has(state, {"state": dict}) and all(starmap(belongs, state["state"].items()))


def _example_of_optimizer(config: ModelConfig, parameters: int) -> dict[str, Any]:
    """The state of an optimizer of so many small parameters, after a step."""
    small = [Parameter(torch.zeros(1)) for _ in range(parameters)]
    for parameter in small:
        parameter.grad = torch.zeros(1)
    optimizer = make_optimizer(config.optimization, small)
    optimizer.step()
    return optimizer.state_dict()
