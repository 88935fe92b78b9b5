"""sweep.py: what it starts, what it records, and that nothing is lost or done twice.

The programs that it starts are real processes: a stand-in for train.py that takes no time, and once
train.py itself.
"""

import itertools
import shlex
import shutil
import signal
import subprocess
import sys
import time
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Finished
from experiments import CATEGORIES, METRIC, SEARCH, in_process, processes, rows_of, wait_for
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from crn.command_line import parse_options
from crn.errors import UserError
from crn.experiments.jobs import Outcome
from crn.experiments.sweep.file import read_sweep
from crn.experiments.sweep.study import Study
from sweep import main

# Logs x as the metric, last after a better and a worse value. On SIGTERM it leaves a file and ends,
# as train.py does. While the file "hold" is there it goes on.
STAND_IN = """
import os, pathlib, signal, sys, time

def save(number, frame):
    (folder / "saved").touch()
    sys.exit(128 + number)

flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(flags["log-dir"], "version_0")
folder.mkdir(parents=True)
signal.signal(signal.SIGTERM, save)
x = flags.get("x", "0.5")
end = flags.get("end")
if end == "fail":
    print("a warning", file=sys.stderr)
    sys.exit("the reason\\n\\n")
if end == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if end != "silent":
    value = "nan" if end == "nan" else x
    (folder / "metrics.csv").write_text(
        f"epoch,metrics/max_roc_auc,other\\n0,1000,1\\n1,-1000,1\\n2,{value},1\\n3,,2\\n"
    )
if end == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "ready").touch()
while pathlib.Path("hold").exists():
    time.sleep(0.01)
"""

Rows = list[dict[str, str]]


def write_sweep(folder: Path, parameters: dict[str, Any], **keys: Any) -> Path:
    """A sweep over a stand-in."""
    (folder / "program.py").write_text(STAND_IN)
    content = {
        "program": "program.py",
        "method": "grid",
        "metric": {"name": METRIC, "goal": "maximize"},
        "parameters": parameters,
    }
    path = folder / "tiny.yml"
    path.write_text(yaml.safe_dump(content | keys, sort_keys=False))
    return path


def results(folder: Path) -> Rows:
    return rows_of(folder / "results.csv")


def states(rows: Rows) -> dict[str, int]:
    return Counter(row["state"] for row in rows)


def points(rows: Rows, *names: str, state: str = "complete") -> list[tuple[str, ...]]:
    return sorted(tuple(row[n] for n in names) for row in rows if row["state"] == state)


def product(*values: list[Any]) -> list[tuple[str, ...]]:
    return sorted(tuple(map(str, point)) for point in itertools.product(*values))


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch, capsys) -> Callable[..., Finished]:
    monkeypatch.chdir(tmp_path)
    return in_process(main, capsys)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable]:
    with processes("sweep.py", tmp_path) as start:
        yield start
        (tmp_path / "hold").unlink(missing_ok=True)


def test_a_grid_is_complete_and_ends_by_itself(tmp_path: Path, sweep) -> None:
    parameters = {
        "x": {"values": [1, 2, 3, 4]},
        "k": {"min": 4, "max": 5},
        "fixed": {"value": "a b"},
        "wandb": {"value": True},
    }
    write_sweep(tmp_path, parameters)
    finished = sweep("tiny.yml", "--workers", 2)
    assert finished.status == 0
    folder = tmp_path / "sweeps/tiny"
    rows = results(folder)
    assert (folder / "results.csv").read_bytes().startswith(BOM_UTF8 + b"number,")
    # The last parameter changes fastest.
    assert [(row["x"], row["k"]) for row in rows] == product([1, 2, 3, 4], [4, 5])
    assert list(rows[0]) == [
        *("number", "state", "x", "k", "fixed"),
        *(METRIC, "seconds", "folder", "error"),
    ]
    for row in rows:
        assert float(row[METRIC]) == float(row["x"])
        assert float(row["seconds"]) >= 0
        words = shlex.split((tmp_path / row["folder"] / "command.txt").read_text())
        assert words == [
            *(sys.executable, "program.py", f"--x={row['x']}", f"--k={row['k']}", "--fixed=a b"),
            f"--log-dir={row['folder']}/logged_metrics",
        ]
    # Of the best runs the first is shown first.
    heads, best, *_ = finished.out.splitlines()
    assert heads.split() == ["run", METRIC, "seconds", "x", "k"]
    assert best.split()[1] == best.split()[3] == "4"
    assert "8 complete: sweeps/tiny/results.csv" in finished.out

    # Nothing is left to do.
    assert sweep("tiny.yml").status == 0
    assert results(folder) == rows


def test_count_is_of_the_whole_sweep(tmp_path: Path, sweep) -> None:
    write_sweep(tmp_path, {"x": {"values": list(range(9))}}, run_cap=2)
    folder = tmp_path / "elsewhere"
    for words, expected in (((), 2), (("--count", 5), 5), (("--count", 4), 5)):
        assert sweep("tiny.yml", "--folder", folder, *words).status == 0
        rows = results(folder)
        assert points(rows, "x") == product(range(expected))
        assert len(rows) == expected


@pytest.mark.parametrize("storage", ["sqlite:///shared.db", "shared.log"])
def test_two_folders_share_a_storage(tmp_path: Path, start, sweep, storage: str) -> None:
    write_sweep(tmp_path, {"x": {"values": [1, 2, 3]}, "k": {"values": [1, 2]}})
    (tmp_path / "hold").touch()
    words = ("tiny.yml", "--storage", storage, "--workers", 2, "--folder")
    calls = [start(*words, folder) for folder in ("one", "two")]
    # Four programs at a time, so that both calls take part.
    wait_for(lambda: len(list(tmp_path.glob("*/runs/*/*/*/ready"))) == 4)
    (tmp_path / "hold").unlink()
    said = [call.communicate(timeout=60) for call in calls]
    assert [call.returncode for call in calls] == [0, 0], said
    done = [err.count(" after ") for _, err in said]
    assert min(done) >= 2
    assert sum(done) == 6
    # Each writes the results of both, of the other at the latest when called again.
    for folder in ("one", "two"):
        assert sweep(*words, folder).status == 0
        rows = results(tmp_path / folder)
        assert points(rows, "x", "k") == product([1, 2, 3], [1, 2])
        assert len(rows) == 6
        mine = [row["folder"] for row in rows if (tmp_path / row["folder"]).is_dir()]
        assert all(path.startswith(f"{folder}/runs/") for path in mine)
    write_sweep(tmp_path, {"x": {"value": 1}})
    assert_refused(sweep(*words, "one"), f"--storage {storage}: was started with other parameters")


@pytest.mark.parametrize("storage", [(), ("--storage", "sqlite:///shared.db")])
def test_goes_on_after_kill_9(tmp_path: Path, start, sweep, storage: tuple[str, ...]) -> None:
    write_sweep(tmp_path, {"x": {"values": [1, 2, 3]}, "k": {"values": [1, 2]}})
    folder = tmp_path / "sweeps/tiny"

    def second_call(*words: Any) -> Finished:
        call = start("tiny.yml", *storage, *words)
        out, err = call.communicate(timeout=30)
        return Finished(call.returncode, out, err)

    assert sweep("tiny.yml", "--count", 2, *storage).status == 0
    (tmp_path / "hold").touch()
    killed = start("tiny.yml", "--workers", 2, *storage)
    wait_for(lambda: len(list(folder.glob("runs/000[23]/*/*/ready"))) == 2)
    assert_refused(second_call(), "another run is writing it")
    killed.kill()
    killed.wait()
    # The programs that it has started go on, and nobody would learn what comes of them: they are
    # done again, but not beside each other.
    assert_refused(second_call(), "another run is writing it")
    if storage:
        # Another folder leaves them alone.
        assert second_call("--folder", "other", "--count", 4).status == 0
        assert states(results(tmp_path / "other")) == {"complete": 2, "running": 2}
    (tmp_path / "hold").unlink()
    wait_for(lambda: sweep("tiny.yml", "--workers", 2, *storage).status == 0)
    rows = results(folder)
    assert points(rows, "x", "k") == product([1, 2, 3], [1, 2])
    assert states(rows) == {"complete": 6}
    aside = {path.name for path in folder.glob("runs/*-v1")}
    assert aside == {"0002-v1", "0003-v1"}


# As on Lustre without the mount option: neither kind of lock is there.
_NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
int flock(int file, int operation) { errno = ENOSYS; return -1; }
static int call(const char *name, int file, int command, void *argument) {
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK) {
        errno = ENOSYS;
        return -1;
    }
    return real(file, command, argument);
}
#define FORWARD(name) int name(int file, int command, ...) { \\
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest); \\
    return call(#name, file, command, argument); }
FORWARD(fcntl)
FORWARD(fcntl64)
"""


@pytest.fixture(scope="session")
def without_locks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which programs find no locks on any file system."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and LD_PRELOAD")
    folder = tmp_path_factory.mktemp("without_locks")
    (folder / "locks.c").write_text(_NO_LOCKS)
    library = folder / "locks.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, folder / "locks.c", "-ldl"], check=True
    )
    return {"LD_PRELOAD": str(library)}


def test_a_file_system_without_locks(tmp_path: Path, run_python, without_locks) -> None:
    write_sweep(tmp_path, {"x": {"values": [1, 2, 3]}})
    finished = run_python(
        REPOSITORY / "sweep.py", "tiny.yml", "--workers", "2", cwd=tmp_path, **without_locks
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    assert points(results(tmp_path / "sweeps/tiny"), "x") == product([1, 2, 3])


def test_ctrl_c_stops_the_programs_and_says_how_to_go_on(tmp_path: Path, start, sweep) -> None:
    write_sweep(tmp_path, {"x": {"distribution": "uniform", "min": 0, "max": 1}}, method="bayes")
    folder = tmp_path / "sweeps/tiny"
    call = ("tiny.yml", "--count", "3", "--workers", "2")
    (tmp_path / "hold").touch()
    process = start(*call)
    wait_for(lambda: len(list(folder.glob("runs/*/*/*/ready"))) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"to go on: python sweep.py {shlex.join(call)}" in err
    assert "Traceback" not in err
    assert len(list(folder.glob("runs/*/*/*/saved"))) == 2
    rows = results(folder)
    assert states(rows) == {"interrupted": 2}
    stopped = points(rows, "x", state="interrupted")

    (tmp_path / "hold").unlink()
    assert sweep(*call).status == 0
    rows = results(folder)
    assert states(rows) == {"complete": 3}
    assert set(stopped) < set(points(rows, "x"))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, start) -> None:
    write_sweep(tmp_path, {"x": {"value": 1}, "end": {"value": "stubborn"}})
    (tmp_path / "hold").touch()
    process = start("tiny.yml")
    wait_for(lambda: list(tmp_path.glob("sweeps/tiny/runs/*/*/*/ready")))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert states(results(tmp_path / "sweeps/tiny")) == {"interrupted": 1}


def test_failed_runs_are_recorded_and_the_rest_goes_on(tmp_path: Path, sweep) -> None:
    endings = ["fail", "die", "silent", "nan", "well"]
    write_sweep(tmp_path, {"end": {"values": endings}})
    finished = sweep("tiny.yml")
    assert finished.status == 0
    rows = results(tmp_path / "sweeps/tiny")
    assert [(row["end"], row["state"], row["error"]) for row in rows] == [
        ("fail", "failed", "the reason"),
        ("die", "failed", "killed by SIGKILL"),
        ("silent", "failed", f"did not log {METRIC}, which needs anomalous test images"),
        ("nan", "failed", f"the last {METRIC} is nan"),
        ("well", "complete", ""),
    ]
    assert [row[METRIC] for row in rows] == ["", "", "", "", "0.5"]
    assert "run 0: failed (the reason) after" in finished.err

    # They are not repeated, unless that is asked for.
    folder = tmp_path / "sweeps/tiny"
    sweep("tiny.yml")
    assert results(folder) == rows
    sweep("tiny.yml", "--retry-failed")
    assert [row["error"] for row in results(folder)] == [row["error"] for row in rows]
    assert {path.name for path in folder.glob("runs/*-v1")} == {f"000{n}-v1" for n in range(4)}


def test_where_no_run_completes_the_status_says_so(tmp_path: Path, sweep) -> None:
    write_sweep(tmp_path, {"end": {"value": "fail"}})
    assert sweep("tiny.yml").status == 1
    write_sweep(tmp_path, {"x": {"value": 1}}, command=["no-such-command", "${program}", "${args}"])
    finished = sweep("tiny.yml", "--folder", "other")
    assert finished.status == 2
    assert finished.err.splitlines()[-1].startswith("sweep.py: error: no-such-command: cannot be")


def test_where_less_is_better(tmp_path: Path, sweep) -> None:
    metric = {"name": METRIC, "goal": "minimize"}
    write_sweep(tmp_path, {"x": {"values": [2, 3, 1]}}, metric=metric)
    shown = [line.split() for line in sweep("tiny.yml").out.splitlines()[1:4]]
    assert [row[3] for row in shown] == ["1", "2", "3"]


def suggestions(path: Path, folder: str, counts: tuple[int, ...], seed: int) -> list[dict]:
    """What a study suggests where runs log their x at once; opened again for each of ``counts``."""
    tried = []
    path.with_name(folder).mkdir()
    for count in counts:
        study = Study(read_sweep(path), path.with_name(folder), count=count, seed=seed)
        while (job := study.next_job()) is not None:
            tried.append([run.params for run in study.runs().values()][-1])
            job.ended(Outcome(tried[-1]["x"]))
    return tried


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_bayes_moves_towards_the_goal(tmp_path: Path, goal: str) -> None:
    metric = {"name": METRIC, "goal": goal}
    path = write_sweep(tmp_path, {"x": {"min": 0.0, "max": 1.0}}, method="bayes", metric=metric)
    values = [tried["x"] for tried in suggestions(path, "study", (16,), seed=1)]
    # Optuna draws the first ten at random.
    mean = sum(values[11:]) / 5
    assert mean > 0.7 if goal == "maximize" else mean < 0.3


@pytest.mark.parametrize(("method", "count"), [("bayes", 12), ("random", 4)])
def test_a_seed_suggests_the_same_in_one_call_and_in_two(
    tmp_path: Path, method: str, count: int
) -> None:
    parameters = {
        "x": {"distribution": "log_uniform_values", "min": 0.1, "max": 10},
        "k": {"min": 1, "max": 5},
        "c": {"values": ["", "a"]},
    }
    path = write_sweep(tmp_path, parameters, method=method)
    tried = suggestions(path, "one", (count,), seed=1)
    assert suggestions(path, "two", (2, count), seed=1) == tried
    assert len({point["x"] for point in tried}) == count
    assert all(0.1 <= point["x"] <= 10 for point in tried)
    assert {point["k"] for point in tried} <= set(range(1, 6))
    assert {point["c"] for point in tried} == {"", "a"}
    assert suggestions(path, "other", (1,), seed=2)[0] != tried[0]


@pytest.mark.parametrize(("name", "count"), [(SEARCH, 8), (CATEGORIES, 15)])
def test_the_repositorys_sweeps(tmp_path: Path, sweep, name: str, count: int) -> None:
    # By its name, its command lines are checked as those of train.py.
    (tmp_path / "train.py").write_text(STAND_IN)
    words = ["--count", count] if name == SEARCH else []
    assert sweep(REPOSITORY / name, "--workers", 2, *words).status == 0
    rows = results(tmp_path / "sweeps" / Path(name).stem)
    assert states(rows) == {"complete": count}
    description = yaml.safe_load((REPOSITORY / name).read_text())
    assert list(rows[0])[2:-4] == [p for p in description["parameters"] if p != "wandb"]
    for row in rows:
        words = shlex.split((tmp_path / row["folder"] / "command.txt").read_text())
        assert words[:2] == [sys.executable, "train.py"]
        given = dict(word[2:].split("=", 1) for word in words[2:])
        parsed = parse_options(words[2:]).flat()
        assert given.pop("log-dir") == parsed["log_dir"] == f"{row['folder']}/logged_metrics"
        assert given == {flag: row[flag] for flag in given}
        assert {flag: str(parsed[flag.replace("-", "_")]) for flag in given} == given
        assert not parsed["wandb"]


def test_trains(tmp_path: Path, road_images: Path, run_python) -> None:
    finished = run_python(
        *(REPOSITORY / "sweep.py", SEARCH, "--count", "1", "--folder", tmp_path / "sweep", "--"),
        *("--demo", "--cpu", "--dataset", "RoadImages", "--dataset-path", road_images),
        *("--training-steps", "2", "--max-network-depth", "1", "--num-competitive-units", "2"),
        *("--batch-size", "2"),
        cwd=REPOSITORY,
    )
    (row,) = results(tmp_path / "sweep")
    assert (finished.returncode, row["state"], row["error"]) == (0, "complete", ""), finished.stderr
    log_dir = tmp_path / "sweep/runs/0000/logged_metrics"
    logged = [r[METRIC] for r in rows_of(log_dir / "version_0/metrics.csv") if r[METRIC]]
    assert float(row[METRIC]) == float(logged[-1])


def test_help_is_quick_and_needs_nothing_heavy(tmp_path: Path, run_python) -> None:
    code = """
import sys
from sweep import main
try:
    main(["--help"])
finally:
    print(sorted({"optuna", "torch", "yaml", "numpy"} & sys.modules.keys()))
"""
    finished = run_python("-c", code, cwd=tmp_path)
    assert "--retry-failed" in finished.stdout
    assert finished.stdout.endswith("[]\n")


def choice(*texts: str) -> CategoricalDistribution:
    return CategoricalDistribution(texts)


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"value": None}, choice("None")),
        ({"values": [[30, 60], "", True, 1, "1"]}, choice("[30, 60]", "", "True", "1")),
        ({"distribution": "categorical", "values": [3, 4]}, choice("3", "4")),
        ({"min": 1, "max": 3}, IntDistribution(1, 3)),
        ({"min": "1e-4", "max": 1}, FloatDistribution(1e-4, 1)),
        ({"distribution": "uniform", "min": 1, "max": 3}, FloatDistribution(1, 3)),
        ({"distribution": "log_uniform_values", "min": 1, "max": 3}, FloatDistribution(1, 3, True)),
    ],
)
def test_parameters(tmp_path: Path, description: dict[str, Any], expected: Any) -> None:
    path = write_sweep(tmp_path, {"x": description}, method="random")
    assert read_sweep(path).distributions == {"x": expected}


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"distribution": "log_uniform", "min": 0, "max": 1}, "distribution: Input should be"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "probabilities: Extra inputs are not"),
        ({"distribution": "uniform", "min": 1}, "give value, values, or min and max"),
        ({"distribution": "int_uniform", "min": 1.5, "max": 3}, "whole numbers for int_uniform"),
        ({"min": "low", "max": 1}, "min: Input should be a valid number"),
        ({"min": 3, "max": 1}, "`low <= high` must hold"),
    ],
)
def test_parameters_that_are_refused(tmp_path: Path, description: Any, said: str) -> None:
    path = write_sweep(tmp_path, {"x": description}, method="random")
    with pytest.raises(UserError) as caught:
        read_sweep(path)
    assert str(caught.value).startswith(f"{path}: parameters: x: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words", "said"),
    [
        ({"method": "bayes"}, (), "--count is missing"),
        ({"method": "hyperband"}, (), "method: Input should be 'grid', 'random' or 'bayes'"),
        ({"program": "gone.py"}, (), "program gone.py: no such file"),
        (
            {"metric": {"name": "a", "goal": "up"}},
            (),
            "metric: goal: Input should be 'maximize' or",
        ),
        ({"parameters": {"x": {"min": 0.5, "max": 1}}}, (), "a grid needs values"),
        ({"parameters": {"log-dir": {"value": "a"}}}, (), "--log-dir: leave it out"),
        ({}, ("--", "--log-dir", "a"), "--log-dir: leave it out"),
        ({"command": ["${args_json}"]}, (), "${args_json} is not known"),
        ({"command": ["${program}"]}, (), "command needs ${args} once"),
        ({"early_terminate": {"type": "hyperband"}}, (), "early_terminate: Extra inputs are not"),
        ({}, ("--count", "0"), "--count: takes a whole number from 1 on, not '0'"),
        ({}, ("--cpu",), "unrecognized arguments: --cpu"),
        ({}, ("--folder", "tiny.yml"), "--folder tiny.yml: cannot be written to"),
        ({}, ("--storage", "no/file.log"), "--storage no/file.log: cannot be used"),
        ({}, ("--storage", "no://base"), "--storage no://base: cannot be used"),
        ({}, ("--storage", "mysql://host/a"), "--storage mysql://host/a: cannot be used"),
    ],
)
def test_bad_input(tmp_path: Path, sweep, keys: dict[str, Any], words, said: str) -> None:
    write_sweep(tmp_path, **({"parameters": {"x": {"value": 1}}} | keys))
    assert_refused(sweep("tiny.yml", *words), said)
    assert not (tmp_path / "sweeps/tiny/results.csv").exists()


def assert_refused(finished: Finished, said: str) -> None:
    assert (finished.status, finished.out) == (2, "")
    assert finished.err.startswith("sweep.py: error: ")
    assert finished.err.count("\n") == 1
    assert said in finished.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "other.yml: cannot be read (No such file or directory)"),
        ("a: [1", "other.yml: is not YAML: "),
        ("", "other.yml: is not a sweep"),
    ],
)
def test_files_that_are_no_sweep(tmp_path: Path, sweep, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "other.yml").write_text(content)
    assert_refused(sweep("other.yml"), said)


@pytest.mark.parametrize(
    ("parameters", "words", "said"),
    [
        ({"batch_size": {"value": 4}}, (), "unrecognized arguments: --batch_size=4"),
        ({"optimizer": {"values": ["adam", "adma"]}}, (), "--optimizer takes adam, "),
        ({"lr": {"min": 0.0, "max": 0.1}}, (), "--lr takes above 0"),
        ({"lr": {"value": 1}}, ("--", "--demoo"), "unrecognized arguments: --demoo"),
    ],
)
def test_what_train_py_refuses_is_not_started(
    tmp_path: Path, sweep, parameters: dict[str, Any], words, said: str
) -> None:
    fixed = {"dataset": {"value": "MVTec"}, "dataset-path": {"value": "a"}}
    write_sweep(tmp_path, fixed | parameters, method="random", program="train.py")
    (tmp_path / "train.py").write_text(STAND_IN)
    assert_refused(sweep("tiny.yml", "--count", 1, *words), said)
    assert not (tmp_path / "sweeps").exists()


def test_optuna_is_missing(tmp_path: Path, sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path, {"x": {"value": 1}}, method="random")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert_refused(sweep("tiny.yml", "--count", 1), "pip install -r requirements-sweep.txt")


def test_the_folder_of_another_sweep(tmp_path: Path, sweep) -> None:
    write_sweep(tmp_path, {"x": {"value": 1}})
    assert sweep("tiny.yml").status == 0
    folder = tmp_path / "sweeps/tiny"
    rows = results(folder)
    finished = sweep("tiny.yml", "--", "--k=2")
    assert_refused(finished, "--folder sweeps/tiny: was started with other arguments after --;")
    write_sweep(tmp_path, {"x": {"value": 2}})
    assert_refused(sweep("tiny.yml"), "--folder sweeps/tiny: was started with other parameters")
    assert results(folder) == rows

    # What a study that somebody has removed left is kept, and not taken for that of the new one.
    (folder / "journal.log").unlink()
    assert sweep("tiny.yml").status == 0
    assert rows_of(folder / "results-v1.csv") == rows
    assert (folder / "runs/0000-v1/command.txt").exists()
    assert points(results(folder), "x") == [("2",)]
