"""The W&B sweep files: what they make `wandb agent` run is what train.py takes.

Command lines come from the installed wandb's own agent.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from sweep_files import (
    CATEGORIES,
    METRIC,
    SEARCH,
    SWEEPS,
    configurations,
    load,
    make_agent,
    run_command,
    values_of,
)
from wandb import wandb_agent
from wandb.apis.public.sweeps import _upsert_sweep

from crn.command_line import parse_options
from crn.config import GROUPS

MVTEC_CATEGORIES = [
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
]
OPTIMIZERS = ["adam", "adamw", "radam", "nadam", "rmsprop", "sgd"]
SCHEDULERS = ["", "step", "exponential", "cosine"]


@pytest.fixture
def command_lines(wandb_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that gives the words which `wandb agent` starts configurations of a sweep with."""

    class Process:
        def __init__(self, command=None, **_: Any) -> None:
            started.append(command)

    def words(sweep: dict[str, Any], wanted: list[dict[str, Any]]) -> list[list[str]]:
        started.clear()
        agent = make_agent(sweep["command"])
        for configuration in wanted:
            response = agent._process_command(run_command(sweep["program"], configuration))
            assert "exception" not in response, response
        return list(started)

    started: list[list[str]] = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    return words


@pytest.mark.parametrize("name", SWEEPS)
def test_wandb_accepts_the_sweep(name: str) -> None:
    class Service:
        def execute_graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
            sent.update(variables)
            return {"upsertSweep": {"sweep": {"name": "sweep1"}, "configValidationWarnings": []}}

    class Api:
        settings: dict[str, Any] = {"entity": None, "project": None}  # noqa: RUF012
        _service_api = Service()

    sent: dict[str, Any] = {}
    sweep = load(name)
    _upsert_sweep(Api(), sweep)
    # Nothing had to be guessed, and nothing is lost on the way to the server.
    assert yaml.safe_load(sent["config"]) == sweep
    # W&B refuses other keys.
    assert sweep.keys() <= {
        *("name", "description", "project", "entity", "program", "command"),
        *("method", "metric", "parameters", "early_terminate", "run_cap"),
    }


@pytest.mark.parametrize("name", SWEEPS)
def test_parameters_are_flags(name: str) -> None:
    flags = {
        f.name.replace("_", "-") for group in GROUPS.values() for f in dataclasses.fields(group)
    }
    assert load(name)["parameters"].keys() <= flags


@pytest.mark.parametrize("name", SWEEPS)
def test_program_accepts_every_value(name: str, command_lines) -> None:
    sweep = load(name)
    wanted = configurations(sweep)
    for parameter, description in sweep["parameters"].items():
        for value in values_of(description):
            assert any(value == configuration[parameter] for configuration in wanted)

    started = command_lines(sweep, wanted)
    assert len(started) == len(wanted)
    for words, configuration in zip(started, wanted, strict=True):
        assert words[:3] == ["/usr/bin/env", "python", "train.py"]
        options = parse_options(words[3:])
        parsed = options.flat()
        expected = {flag.replace("-", "_"): value for flag, value in configuration.items()}
        assert options.given == expected.keys()
        assert {option: parsed[option] for option in expected} == expected


def test_no_scheduler_arrives_as_an_empty_word(command_lines) -> None:
    sweep = load(SEARCH)
    first = configurations(sweep)[0] | {"lr-scheduler": ""}
    (words,) = command_lines(sweep, [first])
    assert "--lr-scheduler=" in words
    options = parse_options(words[3:])
    assert options.optimization.lr_scheduler == ""
    assert "lr_scheduler" in options.given


def test_interpreter_is_that_of_the_active_environment(wandb_folder: Path) -> None:
    said = subprocess.run(
        ["/usr/bin/env", "python", "-c", "import sys; print(sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == sys.prefix


def test_search_space() -> None:
    sweep = load(SEARCH)
    assert (REPOSITORY / sweep["program"]).is_file()
    assert sweep["method"] == "bayes"
    assert sweep["metric"] == {"name": METRIC, "goal": "maximize"}
    values = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    assert {name: v[0] for name, v in values.items() if len(v) == 1} == {
        "mode": "train",
        "model": "crn",
        "recipe": "published",
        "dataset": "MVTec",
        "dataset-path": "datasets/mvtec/cable",
        "training-steps": 10_000,
        "wandb": True,
    }
    assert values["num-competitive-units"] == list(range(10, 17))
    assert sorted(values["optimizer"]) == sorted(OPTIMIZERS)
    assert sorted(values["lr-scheduler"]) == sorted(SCHEDULERS)
    # The defaults are within what is searched, for numbers drawn from a range in its middle.
    defaults = parse_options(["--dataset=MVTec", "--dataset-path=any"]).flat()
    for name, candidates in values.items():
        default = defaults[name.replace("-", "_")]
        if "distribution" not in sweep["parameters"][name]:
            assert len(candidates) == 1 or default in candidates, name
        elif isinstance(default, float):
            assert candidates[1] == pytest.approx(default), name
        else:
            assert default in candidates, name


def test_all_categories_of_mvtec() -> None:
    sweep = load(CATEGORIES)
    assert (REPOSITORY / sweep["program"]).is_file()
    assert sweep["method"] == "grid"
    assert sweep["metric"] == {"name": METRIC, "goal": "maximize"}
    values = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    paths = values.pop("dataset-path")
    assert sorted(paths) == [f"datasets/mvtec/{category}" for category in MVTEC_CATEGORIES]
    assert len(paths) == 15
    assert values == {
        "mode": ["train"],
        "model": ["crn"],
        "recipe": ["published"],
        "dataset": ["MVTec"],
        "training-steps": [20_000],
        "seed": [41_020],
        "auto-set-name": [True],
        "wandb": [True],
    }
