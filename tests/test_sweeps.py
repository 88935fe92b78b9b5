"""The W&B sweep files: what they make `wandb` run is what train.py takes. Without the internet.

`wandb sweep` and `wandb agent` are the installed ones, and what agents start is train.py, as they
start it: with the sweep file's command and parameters. Only `SHORT` is appended.
"""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, write_mvtec_category
from experiments import CATEGORIES, METRIC, SEARCH, rows_of
from wandb import wandb_agent
from wandb.util import get_core_path
from wandb_server import API_KEY, ENTITY, SWEEP, WandbServer

from crn.command_line import parse_options
from datasets import layouts

SHORT = ("--demo", "--cpu", "--training-steps=2", "--imsize=8", "--max-network-depth=1")
# Far more than anything here takes.
TIMEOUT = 300

both_sweeps = pytest.mark.parametrize("name", [SEARCH, CATEGORIES])


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / name).read_text())


def values_of(parameter: dict[str, Any]) -> list[Any]:
    """All values of a parameter, or both ends and the middle of a continuous one."""
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return parameter["values"]
    low, high = parameter["min"], parameter["max"]
    if parameter["distribution"] == "int_uniform":
        return list(range(low, high + 1))
    assert parameter["distribution"] == "log_uniform_values"
    return [low, math.sqrt(low * high), high]


def configurations(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Configurations in which every value of every parameter comes up."""
    values = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    count = max(map(len, values.values()))
    return [{name: v[i % len(v)] for name, v in values.items()} for i in range(count)]


def started(sweep: dict[str, Any], configuration: dict[str, Any], *more: str) -> Any:
    """What an agent starts that is told to run a configuration, without the server that tells it.

    Args:
        more: words for the end of the sweep's command.
    """
    agent = wandb_agent.Agent(api=None, queue=None)
    agent._sweep_command = [*sweep["command"], *more]
    arguments = {name: {"value": value} for name, value in configuration.items()}
    command = {"type": "run", "run_id": "run1", "program": sweep["program"], "args": arguments}
    response = agent._process_command(command)
    assert "exception" not in response, response
    (process,) = agent._run_processes.values()
    return process


# --- what is searched ---


@both_sweeps
def test_program_accepts_every_value(name: str, wandb_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        wandb_agent, "AgentProcess", lambda command=None, **_: SimpleNamespace(words=command)
    )
    sweep = load(name)
    for configuration in configurations(sweep):
        words = started(sweep, configuration).words
        assert words[:3] == ["/usr/bin/env", "python", "train.py"]
        options = parse_options(words[3:])
        parsed = options.flat()
        expected = {flag.replace("-", "_"): value for flag, value in configuration.items()}
        assert options.given == expected.keys()
        assert {option: parsed[option] for option in expected} == expected


def test_search_space() -> None:
    """The defaults are within what is searched, those of ranges in the middle."""
    sweep = load(SEARCH)
    assert sweep["metric"] == {"name": METRIC, "goal": "maximize"}
    defaults = parse_options(["--dataset=MVTec", "--dataset-path=any"]).flat()
    for name, parameter in sweep["parameters"].items():
        candidates = values_of(parameter)
        default = defaults[name.replace("-", "_")]
        if "distribution" not in parameter:
            assert len(candidates) == 1 or default in candidates, name
        elif isinstance(default, float):
            assert candidates[1] == pytest.approx(default), name
        else:
            assert default in candidates, name


def test_all_categories_of_mvtec() -> None:
    paths = [configuration["dataset-path"] for configuration in configurations(load(CATEGORIES))]
    assert paths == [f"datasets/mvtec/{category}" for category in layouts.CATEGORIES]


# --- runs ---


@pytest.fixture
def in_repository(wandb_folder: Path) -> Path:
    """A working directory like the repository's root, with five categories in miniature."""
    (wandb_folder / "train.py").symlink_to(REPOSITORY / "train.py")
    for category in ("bottle", "cable", "capsule", "carpet", "grid"):
        write_mvtec_category(wandb_folder / "datasets/mvtec" / category)
    return wandb_folder


@pytest.fixture
def online(in_repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[WandbServer], None]:
    """Have a stand-in take all requests, those for other hosts included."""

    def go_online(server: WandbServer) -> None:
        for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, server.url)
            monkeypatch.setenv(name.upper(), server.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1")

    return go_online


def wandb(*words: str | Path) -> str:
    """Run the command `wandb`, and return what it has said, which is shown where a test fails."""
    log = Path(f"{words[0]}.log")
    # No pipe, which what it has started may hold open for longer.
    with log.open("w") as out:
        status = subprocess.run(
            ["wandb", *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=TIMEOUT
        ).returncode
    print(said := log.read_text())
    assert status == 0
    return said


def logged(version: int) -> tuple[dict[str, Any], list[float]]:
    """The options that a run has had, and its values of the sweeps' metric."""
    folder = Path(f"logged_metrics/version_{version}")
    values = [float(row[METRIC]) for row in rows_of(folder / "metrics.csv") if row[METRIC]]
    return yaml.safe_load((folder / "hparams.yaml").read_text()), values


def as_options(configuration: dict[str, Any]) -> dict[str, Any]:
    """What a configuration makes of train.py's options, with what `SHORT` does to it."""
    options = {flag.replace("-", "_"): value for flag, value in configuration.items()}
    shortened = {"training_steps": 2, "imsize": 8, "max_network_depth": 1}
    return options | shortened | {"demo": True, "cpu": True}


@pytest.mark.parametrize(("name", "count"), [(SEARCH, 2), (CATEGORIES, 0)])
def test_a_sweep_from_its_file_to_its_last_run(online, name: str, count: int) -> None:
    sweep = load(name)
    wanted = configurations(sweep)[3 : 3 + count]
    with WandbServer(wanted) as server:
        online(server)
        said = wandb("sweep", REPOSITORY / name)
        assert server.sweep == sweep
        identity = f"{ENTITY}/{sweep['project']}/{SWEEP}"
        assert f"Run sweep agent with: wandb agent {identity}\n" in said
        server.sweep["command"] += SHORT
        wandb("agent", identity)
    assert server.refused == []
    assert [run.exit_status for run in server.runs.values()] == [0] * count
    for number, (run, configuration) in enumerate(zip(server.runs.values(), wanted, strict=True)):
        options, values = logged(number)
        assert as_options(configuration).items() <= options.items()
        # The agent's words and the program's own.
        assert configuration.items() <= run.config.items()
        assert options.items() <= run.config.items()
        assert run.sweep == SWEEP
        assert [row[METRIC] for row in run.history if METRIC in row] == pytest.approx(values)
        assert run.summary[METRIC] == pytest.approx(max(values))


@both_sweeps
def test_an_agents_run_offline(in_repository: Path, name: str) -> None:
    sweep = load(name)
    configuration = configurations(sweep)[2]
    process = started(sweep, configuration, *SHORT)
    try:
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()

    options, values = logged(0)
    assert as_options(configuration).items() <= options.items()
    run = recorded(in_repository / "logged_metrics")
    assert (run["state"], run["run_id"]) == ("finished", "run1")
    assert run["name"] == ("crn-MVTec-capsule-41020" if name == CATEGORIES else "")
    assert run["summary"][METRIC] == pytest.approx(max(values))
    assert configuration.items() <= run["config"].items()
    assert options.items() <= run["config"].items()


def recorded(folder: Path) -> dict[str, Any]:
    """What an offline run has stored in its .wandb file, as ``wandb leet inspect`` reads it."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    # What that command starts, without starting Python again.
    inspect = [get_core_path(), "leet", "inspect", "--no-observability", "--summary", "--json"]
    said = subprocess.run(
        [*inspect, "--run-file", file, folder / "wandb"], capture_output=True, check=True
    )
    return json.loads(said.stdout)


@pytest.mark.parametrize(
    ("environment", "words", "reason"),
    [
        ({"WANDB_MODE": "online", "WANDB_API_KEY": ""}, (), "No API key configured"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "bad"}, (), "API key"),
        ({"WANDB_MODE": "offline"}, ("--experiment", "a/b"), "Invalid project name 'a/b'"),
    ],
    ids=["no login", "bad key", "bad name"],
)
def test_what_wandb_refuses_ends_with_one_line_before_the_work(
    run_train, read_only_panorama: Path, tmp_path: Path, environment, words, reason
) -> None:
    finished = run_train(
        "--demo", "--cpu", "--dataset", "Panorama", "--dataset-path", read_only_panorama,
        "--wandb", *words, cwd=tmp_path, HOME=str(tmp_path), **environment,
    )  # fmt: skip
    assert finished.returncode == 2, finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if "train.py: error" in line]
    assert line.startswith("train.py: error: --wandb: W&B cannot be used (")
    assert reason in line
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "logged_metrics/version_0").exists()
