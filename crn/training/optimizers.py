"""Optimizers and learning rates by name."""

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from crn.config import Optimization


def make_optimizer(config: Optimization, parameters: Iterable[Parameter]) -> Optimizer:
    """The optimizer that ``config.optimizer`` names, fused into one kernel where torch has that."""
    lr = config.lr
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, lr=lr, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=lr, fused=True)
        case "radam":
            return torch.optim.RAdam(parameters, lr=lr)
        case "nadam":
            return torch.optim.NAdam(parameters, lr=lr)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=lr, momentum=config.momentum)
        case "sgd":
            return torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, fused=True)
        case unknown:
            raise ValueError(f"no such optimizer: {unknown}")


def learning_rate(config: Optimization, step: int) -> float:
    """The learning rate of a training step, counted from 0.

    It depends on the share of the training that is done, so that a scheduler means the same for
    every batch size and length, and a resumed training needs no state to continue it.
    """
    progress = min(1.0, step / config.training_steps)
    match config.lr_scheduler:
        case "":
            return config.lr
        case "step":
            passed = sum(progress * 100 >= milestone for milestone in config.lr_steps)
            return config.lr * config.lr_factor**passed
        case "exponential":
            return config.lr * config.lr_factor**progress
        case "cosine":
            return config.lr * (1 + math.cos(math.pi * progress)) / 2
        case unknown:
            raise ValueError(f"no such scheduler: {unknown}")


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Use ``lr`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
