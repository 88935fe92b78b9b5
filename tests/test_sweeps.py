"""The W&B sweeps: what they make `wandb agent` run is what train.py takes, and logs.

Command lines come from the installed wandb's own agent, and one of them is run by it, offline.
"""

import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from wandb import wandb_agent
from wandb.apis.public.sweeps import _upsert_sweep
from wandb.sdk.launch.sweeps.utils import load_sweep_config

from crn.command_line import parse_options
from crn.config import GROUPS

ROOT = Path(__file__).parent.parent
SEARCH = "hyperparameter_optimization_sweep.yml"
CATEGORIES = "wandb_sweep.yml"
SWEEPS = (SEARCH, CATEGORIES)
METRIC = "metrics/max_roc_auc"

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


def load(name: str) -> dict[str, Any]:
    """The sweep as `wandb sweep` reads it."""
    config = load_sweep_config(str(ROOT / name))
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


def make_agent(sweep: dict[str, Any]) -> wandb_agent.Agent:
    """An agent that has been told the sweep's command, without the server that tells it."""
    agent = wandb_agent.Agent(api=None, queue=None)
    agent._sweep_command = list(sweep["command"])
    return agent


def run_command(program: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """What the server sends to an agent to have a configuration run."""
    arguments = {name: {"value": value} for name, value in configuration.items()}
    return {"type": "run", "run_id": "run1", "program": program, "args": arguments}


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the environment of an agent that leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SWEEP_ID": "sweep1",
        # The agent sets these itself; here they are for the fixture to take back.
        "WANDB_RUN_ID": "",
        "WANDB_SWEEP_PARAM_PATH": "",
        # /usr/bin/env python has to be this interpreter, as in an active environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def command_lines(in_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that gives the words which `wandb agent` starts configurations of a sweep with."""

    class Process:
        def __init__(self, command=None, **_: Any) -> None:
            started.append(command)

    def words(sweep: dict[str, Any], wanted: list[dict[str, Any]]) -> list[list[str]]:
        started.clear()
        agent = make_agent(sweep)
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


def test_interpreter_is_that_of_the_active_environment(in_folder: Path) -> None:
    said = subprocess.run(
        ["/usr/bin/env", "python", "-c", "import sys; print(sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == sys.prefix


def test_search_space() -> None:
    sweep = load(SEARCH)
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["method"] == "bayes"
    assert sweep["metric"] == {"name": METRIC, "goal": "maximize"}
    values = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    assert {name: v[0] for name, v in values.items() if len(v) == 1} == {
        "mode": "train",
        "model": "crn",
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
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["method"] == "grid"
    assert sweep["metric"] == {"name": METRIC, "goal": "maximize"}
    values = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    paths = values.pop("dataset-path")
    assert sorted(paths) == [f"datasets/mvtec/{category}" for category in MVTEC_CATEGORIES]
    assert len(paths) == 15
    assert values == {
        "mode": ["train"],
        "model": ["crn"],
        "dataset": ["MVTec"],
        "training-steps": [20_000],
        "seed": [41_020],
        "auto-set-name": [True],
        "wandb": [True],
    }


def write_miniature_mvtec(category: Path) -> None:
    """Four images to train on, and two normal and two damaged ones to test."""
    draw = np.random.default_rng(0)
    for folder, count in {"train/good": 4, "test/good": 2, "test/bent": 2}.items():
        (category / folder).mkdir(parents=True)
        for index in range(count):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(category / folder / f"{index:03d}.png")


def recorded(folder: Path) -> dict[str, Any]:
    """What an offline run has stored in its .wandb file, as the installed wandb reads it."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    said = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(said.stdout)


def test_the_metric_is_what_an_agents_run_logs(in_folder: Path) -> None:
    sweep = load(SEARCH)
    write_miniature_mvtec(in_folder / "datasets/mvtec/cable")
    first = configurations(sweep)[0]
    small = {"training-steps": 2, "num-competitive-units": 2, "max-network-depth": 2}
    configuration = first | small | {"demo": True, "cpu": True}

    agent = make_agent(sweep)
    program = str(ROOT / sweep["program"])
    response = agent._process_command(run_command(program, configuration))
    assert "exception" not in response, response
    (process,) = agent._run_processes.values()
    try:
        assert process.wait(timeout=120) == 0
    finally:
        if process.poll() is None:
            process.kill()

    with (in_folder / "logged_metrics/version_0/metrics.csv").open() as file:
        in_csv = [row for row in csv.DictReader(file) if row.get(METRIC)]
    best = max(float(row["metrics/roc_auc"]) for row in in_csv)
    assert float(in_csv[-1][METRIC]) == best

    run = recorded(in_folder / "logged_metrics")
    assert run["state"] == "finished"
    assert run["run_id"] == "run1"
    for name in (sweep["metric"]["name"] for sweep in map(load, SWEEPS)):
        assert run["summary"][name] == pytest.approx(best)
    # What the sweep asked for and what the program made of it: both spellings are there.
    for name, value in configuration.items():
        assert run["config"][name] == value
        assert run["config"][name.replace("-", "_")] == value
