"""The repository's W&B sweeps, read and started as the installed wandb does it."""

import math
from collections.abc import Sequence
from typing import Any

from conftest import REPOSITORY
from wandb import wandb_agent
from wandb.sdk.launch.sweeps.utils import load_sweep_config

SEARCH = "hyperparameter_optimization_sweep.yml"
CATEGORIES = "wandb_sweep.yml"
SWEEPS = (SEARCH, CATEGORIES)
METRIC = "metrics/max_roc_auc"


def load(name: str) -> dict[str, Any]:
    """The sweep as `wandb sweep` reads it."""
    config = load_sweep_config(str(REPOSITORY / name))
    assert config is not None
    return config


def values_of(parameter: dict[str, Any]) -> list[Any]:
    """All values of a parameter, or both ends and the middle of a continuous one."""
    match parameter:
        case {"value": value, **rest}:
            values = [value]
        case {"values": [*values], **rest}:
            pass
        case {"distribution": "int_uniform", "min": int(low), "max": int(high), **rest}:
            values = list(range(low, high + 1))
        case {
            "distribution": "log_uniform_values",
            "min": float(low),
            "max": float(high),
            **rest,
        }:
            assert 0 < low < high
            values = [low, math.sqrt(low * high), high]
        case _:
            raise AssertionError(f"not a kind of parameter that W&B takes: {parameter}")
    assert values
    assert not rest, f"W&B refuses these keys: {rest}"
    return values


def configurations(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Configurations in which every value of every parameter comes up."""
    values = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    count = max(map(len, values.values()))
    return [{name: v[i % len(v)] for name, v in values.items()} for i in range(count)]


def make_agent(command: Sequence[str]) -> wandb_agent.Agent:
    """An agent that has been told a sweep's command, without the server that tells it."""
    agent = wandb_agent.Agent(api=None, queue=None)
    agent._sweep_command = list(command)
    return agent


def run_command(program: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """What the server sends to an agent to have a configuration run."""
    arguments = {name: {"value": value} for name, value in configuration.items()}
    return {"type": "run", "run_id": "run1", "program": program, "args": arguments}
