"""Optimizers and learning rates by name."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from crn.config import Optimization


def make_optimizer(config: Optimization, parameters: Iterable[Parameter]) -> Optimizer:
    """The optimizer that ``config.optimizer`` names, fused into one kernel where torch has that."""
    kinds: dict[str, Callable[..., Optimizer]] = {
        "adam": partial(torch.optim.Adam, fused=True),
        "adamw": partial(torch.optim.AdamW, fused=True),
        "radam": torch.optim.RAdam,
        "nadam": torch.optim.NAdam,
        "rmsprop": partial(torch.optim.RMSprop, momentum=config.momentum),
        "sgd": partial(torch.optim.SGD, momentum=config.momentum, fused=True),
    }
    return kinds[config.optimizer](parameters, lr=config.lr)


def learning_rate(config: Optimization, step: int) -> float:
    """The learning rate of a training step, counted from 0.

    It depends on the share of the training that is done, so that a scheduler means the same for
    every batch size and length, and a resumed training needs no state to continue it.
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
