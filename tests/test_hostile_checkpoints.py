"""Checkpoints that are damaged, of something else, or made to do harm: refused in one line.

Every run is a process of its own. The long form damages more of them at random, and prints figures:

    CASES=300 python -m pytest -n0 -s -m long tests/test_hostile_checkpoints.py
"""

import copy
import os
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import short_or_long
from damage import damaged
from outputs import Finished, checked_run, files_in

from crn.config import MODELS

MODES = ("train", "inference")

Content = dict[str, Any]


@pytest.fixture(scope="module")
def contents(trained_models: dict[str, Path]) -> dict[str, Content]:
    """A good checkpoint of each model."""
    return {model: torch.load(path, weights_only=True) for model, path in trained_models.items()}


class User:
    """Goes on training from checkpoints, or scores with them, each time in a new folder.

    Attributes:
        path: where checkpoints are put.
        most_memory: bytes that the largest run has taken.
    """

    def __init__(self, data: Path, folder: Path) -> None:
        self.path = folder / "it.ckpt"
        self.most_memory = 0
        self._data = data
        self._folder = folder
        self._count = 0

    def use(self, mode: str) -> Finished:
        self._count += 1
        folder = self._folder / f"run_{self._count}"
        data = ("--dataset", "Panorama", "--dataset-path", self._data)
        words = ["--mode", mode, "--cpu", *data, "--model-input", self.path]
        training = ("--training-steps", 3, "--checkpoint-path", "kept")
        words += training if mode == "train" else ("--pairs", "all")
        finished = checked_run(folder, words)
        self.most_memory = max(finished.memory, self.most_memory)
        last = "kept/last.ckpt" if mode == "train" else "metrics.json"
        assert (last in files_in(folder)) == (not finished.refused)
        assert {path.name for path in self._folder.iterdir()} <= {
            self.path.name, *(f"run_{number + 1}" for number in range(self._count)),
        }  # fmt: skip
        return finished

    def refuse(self, mode: str) -> str:
        """Use one that is to be refused, and return why."""
        finished = self.use(mode)
        assert finished.refused.startswith(f"train.py: error: {self.path}: "), finished.err
        assert finished.err == finished.refused + "\n"
        assert finished.refused.isprintable()
        assert len(finished.refused) < len(str(self.path)) + 500
        assert files_in(self._folder) == [self.path.name]
        return finished.refused


@pytest.fixture
def user(read_only_panorama: Path, tmp_path: Path) -> User:
    return User(read_only_panorama, tmp_path)


@pytest.fixture
def changed(user, contents) -> Callable[..., None]:
    """Store a checkpoint of a model in which a function has changed something."""

    def store(change: Callable[[Content], object], model: str = "crn") -> None:
        content = copy.deepcopy(contents[model])
        change(content)
        torch.save(content, user.path)

    return store


# --- files made to do harm ---


def packed(path: Path, content: Content) -> list[tuple[str, bytes]]:
    """The files of a checkpoint."""
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def pack(path: Path, files: list[tuple[str, bytes]], **more: Any) -> None:
    with zipfile.ZipFile(path, "w", **more) as archive:
        for name, data in files:
            archive.writestr(name, data)


def compressed(path: Path, content: Content) -> None:
    """A hundred kilobytes that would become a hundred megabytes."""
    files = packed(path, {**content, "more": torch.zeros(25_000_000)})
    pack(path, files, compression=zipfile.ZIP_DEFLATED)


def behind_something(path: Path, content: Content) -> None:
    torch.save(content, path)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())


def leading_upwards(path: Path, content: Content) -> None:
    pack(path, [("../taken/" + name, data) for name, data in packed(path, content)])


def lists_of_lists(path: Path, content: Content) -> None:
    """Deeper than anything recurses, in the pickle, which is all but the tensors' numbers."""
    pickled = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    files = packed(path, content)
    pack(path, [(n, pickled if n.endswith("/data.pkl") else data) for n, data in files])


def a_large_number(path: Path, content: Content) -> None:
    content["progress"]["step"] = 10**100_000
    torch.save(content, path)


HOSTILE = [compressed, behind_something, leading_upwards, lists_of_lists, a_large_number]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("write", HOSTILE)
def test_files_made_to_do_harm(user, contents, write: Callable, mode: str) -> None:
    write(user.path, copy.deepcopy(contents["crn"]))
    user.refuse(mode)


@pytest.mark.parametrize("mode", MODES)
def test_another_archive_with_the_same_files_is_used(user, contents, mode: str) -> None:
    """So what is refused above is not refused for how it was packed."""
    pack(user.path, packed(user.path, contents["crn"]))
    assert user.use(mode).refused == ""


# --- of another model or version ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("model", "other"), [("crn", "dagan"), ("dagan", "crn")])
def test_weights_of_the_other_model(user, changed, model: str, other: str, mode: str) -> None:
    changed(lambda content: content["hyper_parameters"].update(model=other), model)
    assert "its weights do not fit its options" in user.refuse(mode)


def of_the_first_version(content: Content) -> None:
    """From when there was one model."""
    del content["hyper_parameters"]["adversarial"]
    weights = content["state_dict"].items()
    content["state_dict"] = {name.removeprefix("method."): value for name, value in weights}


OPTIONS = "its options are not those of this version of the program"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (of_the_first_version, OPTIONS),
        (lambda content: content["hyper_parameters"]["network"].update(attention=4), OPTIONS),
        (lambda content: content["hyper_parameters"].update(model="diffusion"), OPTIONS),
        (lambda content: content.pop("format"), "is of an older version"),
        (lambda content: content.update(format=1), "is of an older version"),
        (lambda content: content.update(format=99), "is of a newer version"),
    ],
)
def test_other_versions_say_so(user, changed, change: Callable, mention: str, mode: str) -> None:
    changed(change)
    assert mention in user.refuse(mode)


# --- of which a part is wrong ---


def spoilt(tensor: torch.Tensor) -> torch.Tensor:
    """The same with a number that is none."""
    copied = tensor.clone()
    copied.view(-1)[-1] = torch.nan
    return copied


# What comes of a tensor.
WRONG = {
    "another shape": lambda tensor: tensor.flatten()[1:].clone(),
    "another type": lambda tensor: tensor.long(),
    "not finite": spoilt,
    "sparse": lambda tensor: tensor.to_sparse(),
    "number": lambda tensor: 1.0,
    "text": lambda tensor: "x" * 100_000,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", [*WRONG, "missing", "too many"])
def test_wrong_weights(user, changed, model: str, kind: str, mode: str) -> None:
    def change(content: Content) -> None:
        weights = content["state_dict"]
        name = next(name for name, value in weights.items() if value.ndim == 4)
        if kind == "missing":
            del weights[name]
        elif kind == "too many":
            weights[name + "\x1b]0;taken\x07"] = weights[name]
        else:
            weights[name] = WRONG[kind](weights[name])

    changed(change, model)
    user.refuse(mode)


@pytest.mark.parametrize("kind", [*WRONG, "missing"])
def test_wrong_optimizer_states(user, changed, kind: str) -> None:
    """Scoring does without them."""

    def change(content: Content) -> None:
        state = next(iter(content["optimizer_states"][0]["state"].values()))
        if kind == "missing":
            del state["exp_avg"]
        else:
            state["exp_avg"] = WRONG[kind](state["exp_avg"])

    changed(change)
    user.refuse("train")
    if kind != "sparse":  # which no checkpoint holds anywhere
        assert user.use("inference").refused == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["optimizer_states"].pop(),
        lambda content: content["optimizer_states"].append({}),
        lambda content: content["optimizer_states"][0].pop("state"),
        lambda content: content["random_state"].pop("cpu"),
        lambda content: content["random_state"].update(cpu=torch.zeros(3)),
        lambda content: content["random_state"].update(cpu=torch.zeros(9, dtype=torch.uint8)),
        lambda content: content["random_state"].update(cuda=None),
        lambda content: content.pop("random_state"),
    ],
)
def test_wrong_training_states(user, changed, change: Callable[[Content], object]) -> None:
    changed(change)
    user.refuse("train")
    assert user.use("inference").refused == ""


PROGRESS = {
    "step": [-1, 10**30, 1.0, None, True, "1"],
    "max_roc_auc": [2.0, float("nan"), 1, None],
    "training_seconds": [-1.0, float("inf"), float("nan"), None],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in PROGRESS.items() for value in values]
)
def test_wrong_progress(user, changed, name: str, value: Any, mode: str) -> None:
    changed(lambda content: content["progress"].update({name: value}))
    user.refuse(mode)


@pytest.mark.parametrize(
    "text", ["../../taken", "<script>alert(1)</script>", "\x1b]0;taken\x07", "x" * 1_000_000]
)
@pytest.mark.parametrize(
    "change",
    [
        lambda options, text: options.update(anomaly_score=text),
        lambda options, text: options.update({text: 1}),
        lambda options, text: options["network"].update(norm=text),
        lambda options, text: options["optimization"].update({text: 1}),
    ],
)
def test_text_stays_text(user, changed, change: Callable, text: str) -> None:
    changed(lambda content: change(content["hyper_parameters"], text))
    user.refuse("train")


# --- damage at random ---


@pytest.mark.parametrize("cases", short_or_long(20, "CASES", 300))
def test_checkpoints_that_are_damaged_at_random(user, contents, cases: int) -> None:
    seed = int(os.environ.get("SEED", "0"))
    chance = random.Random(seed)
    files = []
    for content in contents.values():
        torch.save(content, user.path)
        files.append(user.path.read_bytes())
    ends: Counter[tuple[str, str]] = Counter()
    for _ in range(cases):
        content, kind = damaged(chance.choice(files), chance)
        user.path.write_bytes(content)
        finished = user.use(chance.choice(MODES))
        ends[kind, "refused" if finished.refused else "used"] += 1
    print(f"\n{cases} checkpoints that are damaged at random, seed {seed}:")
    for (kind, end), count in sorted(ends.items()):
        print(f"  {kind:<20} {end:<8} {count:4}")
    print(f"none took more than {user.most_memory / 1e9:.2f} GB")
