"""Checkpoints that are damaged, malicious, or not checkpoints: refused in one line.

Every run is a process of its own. The long form damages more of them at random:

    CASES=300 python -m pytest -n0 -s -m long tests/test_hostile_checkpoints.py
"""

import copy
import os
import pickle
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
    """Resumes training from a checkpoint, or scores with it, each time in a new folder.

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


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (open, (str(self.marker), "w"))


def test_the_trap_works(tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "marker"))
    assert not (tmp_path / "marker").exists()
    pickle.loads(trap).close()
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["pickle", "torch file", "torch file of long ago", "hidden"])
def test_code_in_a_checkpoint_does_not_run(
    user, contents, tmp_path_factory, kind: str, mode: str
) -> None:
    marker = tmp_path_factory.mktemp("trap") / "marker"
    trap = {"state_dict": Trap(marker), "hyper_parameters": Trap(marker)}
    if kind == "pickle":
        user.path.write_bytes(pickle.dumps(trap))
    elif kind == "hidden":
        torch.save({**contents["crn"], "callbacks": Trap(marker)}, user.path)
    else:
        torch.save(trap, user.path, _use_new_zipfile_serialization=kind == "torch file")
    user.refuse(mode)
    assert not marker.exists()


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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("write", [compressed, leading_upwards, lists_of_lists, a_large_number])
def test_files_made_to_do_harm(user, contents, write: Callable, mode: str) -> None:
    write(user.path, copy.deepcopy(contents["crn"]))
    user.refuse(mode)


@pytest.mark.parametrize("mode", MODES)
def test_another_archive_with_the_same_files_is_used(user, contents, mode: str) -> None:
    """The files above are not refused for the way they were packed."""
    pack(user.path, packed(user.path, contents["crn"]))
    assert user.use(mode).refused == ""


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"PK\x03\x04rest", {"weights": torch.ones(2)}, [1, 2]]
)
def test_another_file_as_checkpoint(user, content: object) -> None:
    if isinstance(content, bytes):
        user.path.write_bytes(content)
    else:
        torch.save(content, user.path)
    user.refuse("inference")


# --- checkpoints of another model or version ---

OPTIONS = "its options are not those of this version of the program"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda content: content["hyper_parameters"].update(model="dagan"), "weights do not fit"),
        (lambda content: content["hyper_parameters"]["network"].update(attention=4), OPTIONS),
        (lambda content: content["hyper_parameters"].update(model="diffusion"), OPTIONS),
        (lambda content: content.pop("format"), "is of an older version"),
        (lambda content: content.update(format=99), "is of a newer version"),
    ],
)
def test_other_versions_say_so(user, changed, change: Callable, mention: str, mode: str) -> None:
    changed(change)
    assert mention in user.refuse(mode)


# --- checkpoints with a wrong part ---

# Replacements of a tensor.
WRONG: dict[str, Callable[[torch.Tensor], object]] = {
    "another shape": lambda tensor: tensor.flatten()[1:].clone(),
    "another type": lambda tensor: tensor.long(),
    "not finite": lambda tensor: torch.full_like(tensor, torch.nan),
    "sparse": lambda tensor: tensor.to_sparse(),
    "text": lambda tensor: "x" * 100_000,
}


def damage(tensors: dict[str, Any], name: str, kind: str) -> None:
    tensors[name] = WRONG[kind](tensors[name])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", [*WRONG, "missing", "too many"])
def test_wrong_weights(user, changed, model: str, kind: str) -> None:
    def change(content: Content) -> None:
        weights = content["state_dict"]
        name = next(name for name, value in weights.items() if value.ndim == 4)
        if kind == "missing":
            del weights[name]
        elif kind == "too many":
            weights[name + "\x1b]0;taken\x07"] = weights[name]
        else:
            damage(weights, name, kind)

    changed(change, model)
    for mode in MODES:
        user.refuse(mode)


def optimizer_state(content: Content) -> dict[str, Any]:
    return next(iter(content["optimizer_states"][0]["state"].values()))


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda content, kind=kind: damage(optimizer_state(content), "exp_avg", kind)
            for kind in ("another shape", "not finite", "text")
        ),
        lambda content: optimizer_state(content).pop("exp_avg"),
        lambda content: content["optimizer_states"].pop(),
        lambda content: content["optimizer_states"].append({}),
        lambda content: content["random_state"].pop("cpu"),
        lambda content: content["random_state"].update(cpu=torch.zeros(9, dtype=torch.uint8)),
        lambda content: content.pop("random_state"),
    ],
)
def test_wrong_training_states(user, changed, change: Callable[[Content], object]) -> None:
    """Scoring does without them."""
    changed(change)
    user.refuse("train")
    assert user.use("inference").refused == ""


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda content, part=part, value=value: content.update({part: value})
            for part in ("state_dict", "hyper_parameters", "progress")
            for value in ({}, [1])
        ),
        lambda content: content.pop("state_dict"),
        lambda content: content["hyper_parameters"].update(seed="one"),
        lambda content: content["hyper_parameters"]["network"].update(imsize=100),
        *(
            lambda content, name=name, value=value: content["progress"].update({name: value})
            for name, values in {
                "step": (-1, 10**30, 1.0, None),
                "max_roc_auc": (2.0, float("nan"), None),
                "training_seconds": (-1.0, float("inf"), None),
            }.items()
            for value in values
        ),
    ],
)
def test_wrong_parts(user, changed, change: Callable[[Content], object]) -> None:
    changed(change)
    for mode in MODES:
        user.refuse(mode)


@pytest.mark.parametrize(
    "text", ["../../taken", "<script>alert(1)</script>", "\x1b]0;taken\x07", "x" * 1_000_000]
)
@pytest.mark.parametrize("place", ["value", "name"])
def test_text_stays_text(user, changed, place: str, text: str) -> None:
    new = {"norm": text} if place == "value" else {text: 1}
    changed(lambda content: content["hyper_parameters"]["network"].update(new))
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
