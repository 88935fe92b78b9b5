"""sweep.py and tables.py as the tests run them: in their process, or to be stopped and killed."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Finished

# The repository's sweeps, and the metric that they optimise.
SEARCH, CATEGORIES = "hyperparameter_optimization_sweep.yml", "wandb_sweep.yml"
METRIC = "metrics/max_roc_auc"


def in_process(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """A function that runs a program in the working folder: ``run("tiny.yml", "--count", 3)``."""

    def run(*words: Any) -> Finished:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Finished(status, *capsys.readouterr())

    return run


@contextmanager
def processes(program: str, folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts a program as a process in a folder, which ends with the block."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, REPOSITORY / program, *map(str, words)],
            cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))
