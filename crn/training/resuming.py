"""Training on from a checkpoint."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crn.checkpoints.flags import options_to_resume
from crn.checkpoints.model import empty_model
from crn.checkpoints.reading import METHOD, SCORER, Checkpoint, check_state, has, read_checkpoint
from crn.command_line import refuse_flags_of_others
from crn.config import BEST, ModelConfig, Options
from crn.errors import UserError
from crn.methods import Method
from crn.system.files import set_aside, written_whole
from crn.system.hardware import is_finite
from crn.training.optimizers import load_optimizer_state, make_optimizer

log = logging.getLogger(__name__)

# Parts of a checkpoint that only training needs, and their types.
_TRAINING_PARTS: dict[str, type] = {"optimizer_states": list, "random_state": dict}


def resume(options: Options) -> tuple[Options, Checkpoint | None]:
    """Read ``--model-input``, if it is given.

    Returns:
        The options, with those of the checkpoint where no flag was typed, and the checkpoint.

    Raises:
        UserError: the checkpoint cannot be used, or a flag contradicts it.
    """
    if options.run.model_input is None:
        return options, None
    checkpoint = read_training(options.run.model_input)
    options = options_to_resume(checkpoint, options)
    refuse_flags_of_others(options, "model")
    return options, checkpoint


def read_training(path: Path) -> Checkpoint:
    """Read a checkpoint and check all that training goes on from.

    Raises:
        UserError: see `read_checkpoint`; or a part that training needs is missing or does not fit.
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
    _check_optimizer_states(path, content["optimizer_states"], config, method)
    return checkpoint


def keep_best_state(
    checkpoint: Checkpoint, options: Options, test_images: str, is_first: bool
) -> bool:
    """Copy the best state so far to ``--checkpoint-path``, if this is the first process.

    Returns:
        Whether the best validation so far still counts: its state exists, and neither the score nor
        the fingerprint of the test images has changed.
    """
    folder, progress = options.output.checkpoint_path, checkpoint.progress
    if progress["max_roc_auc"] < 0:
        return True
    if checkpoint.config.scoring != options.scoring:
        why = "it was of another score"
    elif progress["data"] != test_images:
        why = "it was of other test images"
    elif folder is None:
        return True
    elif (best := _best_state_of(checkpoint)) is not None:
        if is_first:
            _copy(best, folder / BEST)
        return True
    else:
        why = f"there is no {BEST} of it beside {checkpoint.path}"
    log.info("the best validation so far is forgotten: %s", why)
    return False


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both exist and are one file."""
    return one.exists() and other.exists() and one.samefile(other)


def _best_state_of(checkpoint: Checkpoint) -> Path | None:
    """The file with the best state so far: best.ckpt beside the checkpoint, or the checkpoint."""
    mine, path = checkpoint.progress, checkpoint.path.with_name(BEST)
    try:
        theirs = read_checkpoint(path).progress
    except UserError:
        theirs = {"step": None}
    same = ("max_roc_auc", "best_step", "data")
    if theirs["step"] == mine["best_step"] and all(theirs[name] == mine[name] for name in same):
        return path
    return checkpoint.path if mine["step"] == mine["best_step"] else None


def _copy(source: Path, target: Path) -> None:
    if not is_same_file(source, target):
        set_aside(target)
        with open(source, "rb") as file, written_whole(target) as copied:
            shutil.copyfileobj(file, copied)


def _check_random_state(path: Path, state: dict[str, Any]) -> None:
    """Reject states that torch's random generators do not take."""
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


def _check_optimizer_states(
    path: Path, states: list[Any], config: ModelConfig, method: Method
) -> None:
    """Reject states with which the optimizers of the networks, one each, cannot make a step."""
    try:
        for network, state in zip(method.networks.values(), states, strict=True):
            optimizer = make_optimizer(config.optimization, network.parameters(), fused=False)
            load_optimizer_state(optimizer, state)
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            values = [value for each in state["state"].values() for value in each.values()]
            tensors = [value for value in values if isinstance(value, Tensor)]
            if not all(each.is_floating_point() and is_finite(each) for each in tensors):
                raise ValueError("wrong numbers")
    except Exception as error:
        # Damaged states make torch raise errors of any kind.
        raise UserError(f"{path}: its optimizer states are damaged") from error
