"""Runs of the program in processes of their own, and checks of the files that they write."""

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

# Most bytes that a run may take; the libraries alone take 0.5 GB.
MOST_MEMORY = 1_500_000_000


class Finished(NamedTuple):
    """How a run ended.

    Attributes:
        refused: its line of error; empty if it succeeded.
        err: all its output.
        memory: its peak memory in bytes.
    """

    refused: str
    err: str
    memory: int


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def states(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint to resume from."""
    checkpoint = torch.load(path, weights_only=True)
    tensors = {f"model {k}": v for k, v in checkpoint["state_dict"].items()}
    for unit, optimizer in enumerate(checkpoint["optimizer_states"]):
        for parameter, state in optimizer["state"].items():
            tensors |= {f"optimizer {unit} {parameter} {k}": v for k, v in state.items()}
    return tensors


def step_of(path: Path) -> int:
    """The number of training steps of a checkpoint to resume from."""
    return read_training(path).progress["step"]


def assert_same_states(one: Path, other: Path) -> None:
    mine, theirs = states(one), states(other)
    assert mine.keys() == theirs.keys()
    assert [k for k in mine if not torch.equal(mine[k], theirs[k])] == []


def checked_run(folder: Path, words: Sequence[Any], is_privileged: bool = True) -> Finished:
    """Run the program in a new folder: it succeeds or ends with one line; no file is incomplete.

    Args:
        folder: the folder.
        words: its command line.
        is_privileged: False to deny root, too, files without permission.
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
    """All files that are not hidden are complete."""
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
    """The page has its last line, and every picture that it shows exists."""
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
    """No hidden file is left: no lock, and no unfinished file."""
    assert list(folder.rglob(".*")) == []


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
