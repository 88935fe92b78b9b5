"""How the programs start and end: closed streams, encodings, names of files, ways to run Python."""

import os
import pstats
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Finished, texture, write_image

from crn.command_line import parse_options
from crn.config import GROUPS
from crn.errors import UserError
from crn.option import flag, option_names, value_type

TRAIN = REPOSITORY / "train.py"
ONE_STEP = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--seed", 1, "--training-steps", 1, "--dataset", "Panorama",
)  # fmt: skip


def run_shell(folder: Path, words: tuple, redirections: str = "", **environment: str) -> Finished:
    """Run Python as a shell does."""
    command = f"exec {shlex.join(map(str, (sys.executable, *words)))} {redirections}"
    # No PYTHONPATH: a program finds its own modules.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        check=False,
    )
    return Finished(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@pytest.mark.parametrize("redirections", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, read_only_panorama: Path, redirections: str) -> None:
    words = (*ONE_STEP, "--dataset-path", read_only_panorama, "--checkpoint-path", "kept")
    assert run_shell(tmp_path, (TRAIN, *words), redirections).status == 0
    assert (tmp_path / "kept/last.ckpt").exists()


def test_an_error_where_stderr_is_closed(tmp_path: Path) -> None:
    assert run_shell(tmp_path, (TRAIN, "--unheard-of"), "2>&-") == (2, "", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_results_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    code = """
from crn.system.program import print_result, program

@program("x")
def main(argv):
    print_result("0.5 ± 0.1 –")
    return 0

main([])
"""
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", code]
    printed = subprocess.check_output(words, cwd=tmp_path, env=os.environ | environment)
    assert printed.decode(encoding).strip() in ("0.5 ± 0.1 \\u2013", "0.5 \\xb1 0.1 \\u2013")


@pytest.mark.parametrize("program", ["train.py", "sweep.py", "tables.py", "pointcloud.py"])
def test_python_that_finds_only_installed_packages(tmp_path: Path, program: str) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("no -P before Python 3.11")
    words = ("-P", REPOSITORY / program, "--help")
    finished = run_shell(tmp_path, words, PYTHONPATH=str(REPOSITORY))
    assert (finished.status, finished.err) == (0, "")


def test_a_profile_is_written(tmp_path: Path) -> None:
    finished = run_shell(tmp_path, ("-m", "cProfile", "-o", "profile", TRAIN, "--unheard-of"))
    assert "unrecognized arguments" in finished.err
    names = {name for _, _, name in pstats.Stats(str(tmp_path / "profile")).stats}
    assert "parse_options" in names


def test_names_in_utf8_under_the_locale_c(tmp_path: Path) -> None:
    root = tmp_path / "Straße"
    for name in ("good_ones/ä", "good_ones/ö", "good_ones/ü", "bad_ones/ß"):
        write_image(root / f"{name}.png", texture(len(name), 8, 8, 3))
    words = (*ONE_STEP, "--dataset-path", root, "--checkpoint-path", "Güte")
    finished = run_shell(tmp_path, (TRAIN, *words), LC_ALL="C")
    assert finished.status == 0, finished.err
    assert (tmp_path / "Güte/last.ckpt").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "2000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_that_wait(tmp_path: Path, run_python, monkeypatch, environment, expected) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    code = """
import os, sys
from train import main
assert main(["--unheard-of"]) == 2
assert "torch" not in sys.modules
print(os.environ.get("GOMP_SPINCOUNT"))
"""
    assert run_python("-c", code, cwd=tmp_path, **environment).stdout == f"{expected}\n"


def test_ctrl_c_when_all_is_done(tmp_path: Path, run_python) -> None:
    code = """
import atexit, os, signal
from crn.system.startup import leave
atexit.register(os.kill, os.getpid(), signal.SIGINT)
leave(3)
"""
    ended = run_python("-c", code, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (3, "")


# --- names of files ---

PATHS = [
    option_field.name
    for group in GROUPS.values()
    for option_field in group.__dataclass_fields__.values()
    if value_type(option_field) is Path
]
FOLDER = ("--dataset", "MVTec", "--dataset-path", "data")


def test_there_are_paths_among_the_options() -> None:
    assert {"dataset_path", "checkpoint_path", "anomaly_score_file", "log_dir"} <= set(PATHS)
    assert set(PATHS) <= set(option_names(*GROUPS.values()))


@pytest.mark.parametrize("name", ["checkpoint_path", "log_dir", "log_file", "dataset_path"])
def test_the_home_folder_in_names(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = parse_options([*FOLDER, f"{flag(name)}=~/a"]).flat()
    assert options[name] == str(tmp_path / "a")
    options = parse_options([*FOLDER, f"{flag(name)}=./~"]).flat()
    assert options[name] == "~"


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("text", ["s3://bucket/a", "gs://bucket/a", "https://host/a"])
def test_names_that_are_no_files_of_this_machine(name: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_options([*FOLDER, f"{flag(name)}={text}"])
    assert f"argument {flag(name)}: takes" in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ("sweep.py", "s3://a.yml", "--count", 1),
        ("sweep.py", "a.yml", "--folder=s3://b"),
        ("tables.py", "--table", "units", "--root=s3://b"),
        ("datasets/download.py", "roads", "--root=gs://b"),
    ],
)
def test_names_of_the_other_programs(tmp_path: Path, words: tuple) -> None:
    program = (REPOSITORY / words[0], *words[1:])
    finished = run_shell(tmp_path, program, PYTHONPATH=str(REPOSITORY))
    assert finished.status == 2
    assert finished.err.count("\n") == 1
    assert "takes" in finished.err
    assert not list(tmp_path.iterdir())


def test_the_home_folder_in_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    (tmp_path / "a.yml").write_text(
        "program: ~/own.py\nmethod: grid\nmetric: {name: a}\nparameters: {x: {value: 1}}\n"
    )
    words = (REPOSITORY / "sweep.py", "~/a.yml", "--folder=~/b")
    finished = run_shell(tmp_path, words, HOME=str(tmp_path))
    assert finished.status == 1  # it logs nothing
    assert "did not log a" in finished.err
    assert {path.name for path in tmp_path.iterdir()} == {"own.py", "a.yml", "b"}
