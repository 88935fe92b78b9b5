"""Whole runs of the program in processes of their own, and what they leave, used to its end."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from victims import Victim, run_and_measure

from crn.training.resuming import read_training

# Of a run, in bytes; the libraries alone take 0.5 GB.
MOST_MEMORY = 1_500_000_000


class Finished(NamedTuple):
    """How a run ended.

    Attributes:
        refused: its one line of error; empty where it ended right.
        err: all that it wrote.
        memory: bytes that it took at most.
    """

    refused: str
    err: str
    memory: int


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def states(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint that a training goes on from."""
    checkpoint = torch.load(path, weights_only=True)
    tensors = {f"model {k}": v for k, v in checkpoint["state_dict"].items()}
    for unit, optimizer in enumerate(checkpoint["optimizer_states"]):
        for parameter, state in optimizer["state"].items():
            tensors |= {f"optimizer {unit} {parameter} {k}": v for k, v in state.items()}
    return tensors


def step_of(path: Path) -> int:
    """The training steps of a checkpoint that a training can go on from."""
    return read_training(path).progress["step"]


def assert_same_states(one: Path, other: Path) -> None:
    mine, theirs = states(one), states(other)
    assert mine.keys() == theirs.keys()
    assert [k for k in mine if not torch.equal(mine[k], theirs[k])] == []


def checked_run(folder: Path, words: Sequence[Any], is_privileged: bool = True) -> Finished:
    """Run the program in a new folder: it ends right or with one line of error, nothing is half.

    Args:
        words: of its command line.
        is_privileged: False where root, too, is to be refused files.
    """
    folder.mkdir()
    status, err = Victim(folder, run_and_measure, words, is_privileged).end()
    assert "Traceback" not in err, err
    file = folder / "memory"
    memory = int(file.read_text())
    file.unlink()
    assert memory < MOST_MEMORY
    assert_nothing_is_unfinished(folder)
    assert_whole(folder)
    errors = [line for line in err.splitlines() if line.startswith("train.py: error: ")]
    assert status in (0, 2), err
    assert errors == (err.splitlines()[-1:] if status else []), err
    return Finished("".join(errors), err, memory)


def assert_whole(folder: Path) -> None:
    """Whatever has a name, hidden ones left out, can be used to its end."""
    for path in folder.rglob("[!.]*"):
        if path.suffix == ".html":
            assert_report_is_whole(path)
        elif path.suffix in (".png", ".jpg", ".tiff"):
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".csv":
            for row in read_table(path):
                assert None not in {*row, *row.values()}
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".ckpt":
            read_training(path)


def assert_report_is_whole(path: Path) -> None:
    """The page has its end, and every picture that it shows is there."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("</html>\n")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    if data is None:
        return
    for index, (_, _, _, _, _, _, panels, *_) in enumerate(data["images"]):
        names = [f"{index}.jpg", *(f"{index}-{data['panels'][panel]}.jpg" for panel in panels)]
        for name in names:
            with Image.open(path.parent / data["folder"] / name) as picture:
                picture.load()


def assert_nothing_is_unfinished(folder: Path) -> None:
    """No hidden file is left: no lock, and nothing that was being written."""
    assert list(folder.rglob(".*")) == []


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
