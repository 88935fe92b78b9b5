"""Mistakes that users make: each ends with status 2 and one line that names the file or flag.

`test_corpus.py` has broken images, and `test_hostile_checkpoints.py` damaged checkpoints.
"""

import importlib.util
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    Finished,
    data_of,
    refuse,
    write_mvtec_category,
    write_panorama,
    write_road_images,
)

DATA_SETS = {
    "MVTec": write_mvtec_category,
    "Panorama": write_panorama,
    "RoadImages": write_road_images,
}


# --- the folder of the data set ---


@pytest.mark.parametrize("layout", DATA_SETS)
def test_no_data_set(run_main, tmp_path: Path, layout: str) -> None:
    refuse(run_main(*data_of(layout, tmp_path / "nowhere")), tmp_path / "nowhere", "--dataset-path")
    file, folder = tmp_path / "images.zip", tmp_path / "empty"
    file.write_bytes(b"PK")
    refuse(run_main(*data_of(layout, file)), file, "not a folder")
    folder.mkdir()
    first = "train" if layout == "MVTec" else "good_ones"
    refuse(run_main(*data_of(layout, folder)), folder, first)


@pytest.mark.parametrize("name", ["a" * 300, "two\nlines"])
def test_odd_name_of_a_folder(run_main, name: str) -> None:
    refuse(run_main(*data_of("MVTec", name)), *name.split("\n"))


@pytest.mark.parametrize(
    ("layout", "part"),
    [
        ("MVTec", "train/good"),
        ("MVTec", "test"),
        ("Panorama", "good_ones"),
        ("RoadImages", "good_ones"),
        ("RoadImages", "bad_ones/height_files"),
    ],
)
def test_missing_part_of_a_data_set(run_main, tmp_path: Path, layout: str, part: str) -> None:
    root = DATA_SETS[layout](tmp_path / "data")
    shutil.rmtree(root / part)
    refuse(run_main(*data_of(layout, root)), root / part, "no such folder")


@pytest.mark.parametrize("name", ["good_ones", "bad_ones"])
def test_no_images_in_a_folder(run_main, panorama: Path, name: str) -> None:
    for file in (panorama / name).iterdir():
        file.unlink()
    (panorama / name / "Thumbs.db").touch()
    refuse(run_main(*data_of("Panorama", panorama)), panorama / name, "no images")


@pytest.mark.parametrize("name", ["good_ones", "bad_ones"])
@pytest.mark.parametrize("missing", ["height_files", "intensity_files"])
def test_images_without_a_partner(run_main, road_images: Path, name: str, missing: str) -> None:
    folder = road_images / name
    for stem in ("tile_0", "tile_2"):
        (folder / missing / f"{stem}.png").unlink()
    mentions = (folder / "height_files", folder / "intensity_files", "tile_0", "tile_2")
    result = run_main(*data_of("RoadImages", road_images))
    refuse(result, *mentions)
    assert "tile_1" not in result.err


def test_single_good_image(run_main, panorama: Path) -> None:
    for file in sorted((panorama / "good_ones").iterdir())[1:]:
        file.unlink()
    refuse(run_main(*data_of("Panorama", panorama)), panorama / "good_ones", "at least two")


def test_several_categories(run_main, mvtec_category: Path) -> None:
    shutil.copytree(mvtec_category, mvtec_category.with_name("bolt"))
    root = mvtec_category.parent
    refuse(run_main(*data_of("MVTec", root)), f"{root}: ", "several categories", root / "bolt")


def test_no_normal_test_images(run_main, mvtec_category: Path) -> None:
    shutil.rmtree(mvtec_category / "test/good")
    result = run_main(*data_of("MVTec", mvtec_category))
    refuse(result, mvtec_category, "no normal images to test on")


# --- checkpoints ---


@pytest.fixture
def trained(trained_models: dict[str, Path]) -> Path:
    """A checkpoint after two steps."""
    return trained_models["crn"]


@pytest.fixture
def changed(trained: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Write a checkpoint that differs from a good one by what a function does to it."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        content = torch.load(trained, weights_only=True)
        change(content)
        path = tmp_path / "changed.ckpt"
        torch.save(content, path)
        return path

    return write


@pytest.fixture(params=["train", "inference"])
def use(
    request: pytest.FixtureRequest, run_main, read_only_panorama: Path
) -> Callable[..., Finished]:
    """Use a checkpoint, to go on training and to score."""
    more = {"train": ("--training-steps", "4"), "inference": ()}[request.param]

    def run(checkpoint: Path | str, *flags: str) -> Finished:
        return run_main(
            *("--mode", request.param, "--cpu", *data_of("Panorama", read_only_panorama)),
            *("--model-input", checkpoint, *more, *flags),
        )

    return run


def test_an_unchanged_copy_is_used(use, changed) -> None:
    assert use(changed(lambda content: None)).status == 0


def test_no_checkpoint(use, trained: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.ckpt", trained.parent, "a" * 300):
        refuse(use(path), "--model-input", path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"hello\n", b"\x80\x02K\x01.", b"PK\x03\x04rest"),
        *({"weights": torch.ones(2)}, [1, 2], torch.ones(3), None),
    ],
)
def test_another_file_as_checkpoint(use, tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    refuse(use(path), path)


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


@pytest.mark.parametrize("kind", ["pickle", "torch file", "torch file of long ago", "hidden"])
def test_code_in_a_checkpoint_does_not_run(use, changed, tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "trap.ckpt", tmp_path / "marker"
    content = {"state_dict": Trap(marker), "hyper_parameters": Trap(marker)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif kind == "hidden":
        path = changed(lambda good: good.update(callbacks=Trap(marker)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch file")
    refuse(use(path), path)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["state_dict", "hyper_parameters", "progress"])
@pytest.mark.parametrize("value", [None, {}, [1]], ids=["missing", "empty", "list"])
def test_checkpoint_with_another_part(use, changed, part: str, value: object) -> None:
    def change(content: dict[str, Any]) -> None:
        content.pop(part) if value is None else content.update({part: value})

    path = changed(change)
    refuse(use(path), path)


def spoil_weights(content: dict[str, Any]) -> None:
    for name, tensor in content["state_dict"].items():
        if name.startswith("method.units.") and tensor.ndim == 4:
            tensor[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda content: content["hyper_parameters"]["network"].update(imsize=100), "imsize"),
        (lambda content: content["hyper_parameters"].update(seed="one"), "seed"),
        (
            lambda content: content["hyper_parameters"]["competition"].update(
                num_competitive_units=3
            ),
            "its weights do not fit its options",
        ),
        (spoil_weights, "not finite"),
    ],
)
def test_checkpoint_with_a_wrong_value(use, changed, change: Callable, mention: str) -> None:
    path = changed(change)
    refuse(use(path), path, mention)


@pytest.mark.parametrize(
    ("flag", "typed", "trained_with"),
    [
        ("--imsize", "64", "8"),
        ("--num-competitive-units", "3", "2"),
        ("--max-network-depth", "4", "2"),
        ("--improved", "0", "True"),
        ("--norm", "instance", "batch"),
    ],
)
def test_flags_that_contradict_the_checkpoint(
    use, trained: Path, flag: str, typed: str, trained_with: str
) -> None:
    refuse(use(trained, flag, typed), flag, typed, trained, f"trained with {trained_with}:")


# --- flags ---


@pytest.mark.parametrize(
    "words",
    [
        *(("--imsize", size) for size in ("100", "0", "-64", "2048", "64.0", "big")),
        *(
            (flag, number)
            for number in ("-1", "0", "1.5", "many")
            for flag in (
                "--training-steps", "--epochs", "--batch-size", "--num-competitive-units",
                "--max-network-depth", "--image-output-interval",
            )
        ),
        *(("--lr", word) for word in ("0", "-1", "nan", "inf", "fast")),
        *(("--lr-factor", word) for word in ("0", "1.5")),
        *(("--lr-steps", word) for word in ("a", "-5", "101")),
        ("--momentum", "2"), ("--reconstruction-weight", "-1"), ("--feedback-weight", "nan"),
        ("--num-workers", "-1"), ("--seed", "-1"), ("--seed", "x"), ("--improved", "maybe"),
        ("--optimizer", "adamax"), ("--lr-scheduler", "linear"), ("--norm", "layer"),
        ("--model", "gan"), ("--mode", "test"), ("--anomaly-score", "best"),
        ("--log-level", "loud"),
        *((flag, "") for flag in ("--dataset-path", "--checkpoint-path", "--log-dir")),
        *((flag,) for flag in ("--batch-size", "--lr", "--dataset-path", "--lr-steps")),
        *(("--use-dropout", word) for word in ("2", "yes", "", "-1")),
        *((flag,) for flag in ("--learning-rate", "--imsize64", "stray")),
        *((flag, "5") for flag in ("--batch", "--training", "--num-c", "--model-in")),
    ],
    ids=" ".join,
)  # fmt: skip
def test_flags_that_are_wrong(run_main, words: tuple[str, ...]) -> None:
    refuse(run_main(*data_of("MVTec", "somewhere"), *words), *words)


@pytest.mark.parametrize(
    ("words", "mentions"),
    [
        (("--imsize", "100"), ("32, 64, 128, 256",)),
        (("--lr-steps", "[30, often, 90]"), ("--lr-steps", "often")),
        (("--two\nlines",), ("two", "lines")),
        (("--dataset", "mvtec"), ("--dataset", "mvtec", "MVTec, Panorama, RoadImages")),
        (("--epochs", "2", "--training-steps", "5"), ("--epochs", "--training-steps")),
        (("--mode", "inference"), ("--model-input",)),
        (("--save-maps", "1"), ("--save-maps", "inference")),
        (("--anomaly-score-file", "scores.csv"), ("--anomaly-score-file", "inference")),
    ],
)
def test_what_flags_take_is_told(run_main, words: tuple, mentions: tuple) -> None:
    refuse(run_main(*data_of("MVTec", "somewhere"), *words), *mentions)


def test_missing_dataset(run_main, tmp_path: Path) -> None:
    refuse(run_main("--dataset-path", tmp_path), "--dataset")
    refuse(run_main("--dataset", "MVTec"), "--dataset-path")
    refuse(run_main(), "--dataset")


@pytest.mark.parametrize(
    ("flag", "word"),
    [("--training-steps", "5"), ("--checkpoint-path", "x"), ("--wandb", "1"), ("--log-dir", "x")],
)
def test_flags_of_training_in_inference(run_main, trained: Path, flag: str, word: str) -> None:
    scoring = ("--mode", "inference", "--model-input", trained)
    refuse(run_main(*data_of("MVTec", "somewhere"), *scoring, flag, word), flag, "train")


def test_wandb_without_its_package(run_main, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "wandb" else find(name, *more),
    )
    result = run_main(*data_of("MVTec", "somewhere"), "--wandb")
    refuse(result, "--wandb", "pip install wandb")


# --- outputs ---


@pytest.mark.parametrize(
    "flag", ["--checkpoint-path", "--image-output-path", "--log-dir", "--log-file"]
)
@pytest.mark.parametrize("below", ["", "folder", "folder/folder"])
def test_output_below_a_file(
    run_main, read_only_road_images: Path, tmp_path: Path, flag: str, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / below
    if flag == "--log-file":
        path = path / "log.txt"
    refuse(run_main(*data_of("RoadImages", read_only_road_images), flag, path), flag, path)
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_as_log_file(run_main, read_only_road_images: Path, tmp_path: Path) -> None:
    result = run_main(*data_of("RoadImages", read_only_road_images), "--log-file", tmp_path)
    refuse(result, "--log-file", tmp_path)


@pytest.mark.parametrize("name", ["folder", "file/scores.csv"])
def test_scores_file_that_cannot_be_written(
    run_main, read_only_panorama: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    scoring = ("--mode", "inference", "--cpu", "--model-input", trained)
    output = ("--anomaly-score-file", tmp_path / name)
    refuse(run_main(*data_of("Panorama", read_only_panorama), *scoring, *output), output[0])


# --- as a process ---


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        (("--dataset", "MVTec", "--dataset-path", "nowhere"), "nowhere"),
        (("--dataset", "MVTec", "--dataset-path", ".", "--imsise", "64"), "--imsise"),
    ],
)
def test_process(run_train, tmp_path: Path, words: tuple[str, ...], mention: str) -> None:
    result = run_train(*words, cwd=tmp_path)
    refuse(Finished(result.returncode, result.stdout, result.stderr), mention)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
