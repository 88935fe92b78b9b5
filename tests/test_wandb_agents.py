"""Sweeps as W&B runs them, without the internet.

`wandb sweep` and `wandb agent` are the installed ones, and what agents start is train.py, as they
start it: with the sweep file's command and parameters. Only `SHORT` is appended.
"""

import csv
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, write_mvtec_category
from sweep_files import (
    CATEGORIES,
    METRIC,
    SEARCH,
    SWEEPS,
    configurations,
    load,
    make_agent,
    run_command,
)
from wandb.util import get_core_path
from wandb_server import API_KEY, ENTITY, SWEEP, WandbServer

SHORT = ("--demo", "--cpu", "--training-steps=2", "--imsize=8", "--max-network-depth=1")
# Far more than anything here takes.
TIMEOUT = 300


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
    """Run the command `wandb` as in a terminal of its own, and return what was said there.

    It is shown where a test fails. Nothing that was started there is left.
    """
    with open(f"{words[0]}.log", "w+") as terminal:
        process = subprocess.Popen(
            ["wandb", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        try:
            status = process.wait(TIMEOUT)
        finally:
            kill_session(process.pid)
            process.wait()
            terminal.seek(0)
            said = terminal.read()
            print(said)
    assert status == 0
    return said


def kill_session(leader: int) -> None:
    """Kill the processes of a session; those in process groups of their own only on Linux."""
    # PermissionError is what macOS says where all of a group have ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(folder.name)) == leader:
                os.kill(int(folder.name), signal.SIGKILL)


def logged(version: int) -> tuple[dict[str, Any], list[float]]:
    """The options that a run has had, and its values of the sweeps' metric."""
    folder = Path(f"logged_metrics/version_{version}")
    with (folder / "metrics.csv").open(newline="") as file:
        values = [float(row[METRIC]) for row in csv.DictReader(file) if row[METRIC]]
    return yaml.safe_load((folder / "hparams.yaml").read_text()), values


def as_options(configuration: dict[str, Any]) -> dict[str, Any]:
    """What a configuration makes of train.py's options, with what `SHORT` does to it."""
    options = {flag.replace("-", "_"): value for flag, value in configuration.items()}
    shortened = {"training_steps": 2, "imsize": 8, "max_network_depth": 1}
    return options | shortened | {"demo": True, "cpu": True}


@pytest.mark.parametrize("name", [SEARCH, pytest.param(CATEGORIES, marks=pytest.mark.long)])
def test_a_sweep_from_its_file_to_its_last_run(online, name: str) -> None:
    sweep = load(name)
    wanted = configurations(sweep)[3:5]
    assert wanted[0] != wanted[1]
    with WandbServer(wanted) as server:
        online(server)
        said = wandb("sweep", REPOSITORY / name)
        assert server.sweep == sweep
        identity = f"{ENTITY}/{sweep['project']}/{SWEEP}"
        assert f"Run sweep agent with: wandb agent {identity}\n" in said
        server.sweep["command"] += SHORT
        wandb("agent", identity)
    assert server.refused == []
    assert [run.exit_status for run in server.runs.values()] == [0, 0]
    for number, (run, configuration) in enumerate(zip(server.runs.values(), wanted, strict=True)):
        options, values = logged(number)
        assert as_options(configuration).items() <= options.items()
        # The agent's words and the program's own.
        assert configuration.items() <= run.config.items()
        assert options.items() <= run.config.items()
        assert run.sweep == SWEEP
        metric = sweep["metric"]["name"]
        assert [row[metric] for row in run.history if metric in row] == pytest.approx(values)
        assert run.summary[metric] == pytest.approx(max(values))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", SWEEPS)
def test_an_agents_run_offline(in_repository: Path, name: str, number: int) -> None:
    sweep = load(name)
    configuration = configurations(sweep)[number]
    agent = make_agent([*sweep["command"], *SHORT])
    response = agent._process_command(run_command(sweep["program"], configuration))
    assert "exception" not in response, response
    (process,) = agent._run_processes.values()
    try:
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()

    options, values = logged(0)
    assert as_options(configuration).items() <= options.items()
    run = recorded(in_repository / "logged_metrics")
    assert (run["state"], run["run_id"]) == ("finished", "run1")
    category = Path(configuration["dataset-path"]).name
    assert run["name"] == (f"crn-MVTec-{category}-41020" if name == CATEGORIES else "")
    assert run["summary"][sweep["metric"]["name"]] == pytest.approx(max(values))
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


def test_the_stand_in_notices_what_it_cannot_answer(online) -> None:
    with WandbServer([]) as server:
        online(server)
        query = json.dumps({"query": "query Unknown { a }"}).encode()
        # urlopen's own opener may have been made before the proxies were set.
        opener = urllib.request.build_opener()
        for request in ("https://api.example.org/", "http://example.org/", f"{server.url}/x"):
            with pytest.raises(OSError, match="404"):
                opener.open(request, timeout=TIMEOUT)
        with pytest.raises(OSError, match="404"):
            opener.open(f"{server.url}/graphql", query, timeout=TIMEOUT)
    assert server.refused == [
        "CONNECT api.example.org:443",
        "GET http://example.org/",
        "GET /x",
        "POST Unknown",
    ]


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
    run_train,
    read_only_panorama: Path,
    tmp_path: Path,
    environment: dict,
    words: tuple,
    reason: str,
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
