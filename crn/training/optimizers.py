"""Optimizers and learning rates by name."""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from crn.config import Optimization


def make_optimizer(
    config: Optimization, parameters: Iterable[Parameter], fused: bool = True
) -> Optimizer:
    """The optimizer that ``config.optimizer`` names; ``fused``: one kernel may do a whole step."""
    kinds: dict[str, Callable[..., Optimizer]] = {
        "adam": partial(torch.optim.Adam, fused=fused),
        "adamw": partial(torch.optim.AdamW, fused=fused),
        "radam": torch.optim.RAdam,
        "nadam": torch.optim.NAdam,
        "rmsprop": partial(torch.optim.RMSprop, momentum=config.momentum),
        "sgd": partial(torch.optim.SGD, momentum=config.momentum, fused=fused),
    }
    return kinds[config.optimizer](parameters, lr=config.lr)


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a copy of a state into an optimizer, which keeps its own settings."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": deepcopy(state["state"]), "param_groups": groups})


def learning_rate(config: Optimization, step: int) -> float:
    """The learning rate of a training step, counted from 0.

    It depends on the share of the steps that are done. So a scheduler means the same for every
    batch size and length, and needs no state in a checkpoint.
    """
    progress = min(1.0, step / config.training_steps)
    passed = sum(progress * 100 >= milestone for milestone in config.lr_steps)
    share = {
        "": 1.0,
        "step": config.lr_factor**passed,
        "exponential": config.lr_factor**progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
    }
    return config.lr * share[config.lr_scheduler]
