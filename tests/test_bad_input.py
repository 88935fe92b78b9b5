"""Mistakes that users make: each ends with status 2 and one line that names the file or flag.

`test_corpus.py` has broken images, and `test_hostile_checkpoints.py` damaged checkpoints.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
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
    file, folder = tmp_path / "images.zip", tmp_path / "empty"
    file.write_bytes(b"PK")
    for path in (tmp_path / "nowhere", file, "a" * 300):
        refuse(run_main(*data_of(layout, path)), path, "no such folder", "--dataset-path")
    folder.mkdir()
    first = "train" if layout == "MVTec" else "good_ones"
    refuse(run_main(*data_of(layout, folder)), folder, first)


@pytest.mark.parametrize(
    ("layout", "part"),
    [
        ("MVTec", "train/good"),
        ("MVTec", "test"),
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


@pytest.mark.parametrize("missing", ["height_files", "intensity_files"])
def test_images_without_a_partner(run_main, road_images: Path, missing: str) -> None:
    folder = road_images / "bad_ones"
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


def test_no_checkpoint(use, trained: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.ckpt", trained.parent, "a" * 300):
        refuse(use(path), "--model-input", path)


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
        *(("--imsize", size) for size in ("100", "-64", "64.0", "big")),
        *(("--training-steps", number) for number in ("-1", "0", "1.5", "many")),
        *(("--lr", word) for word in ("0", "-1", "nan", "inf", "fast")),
        *(("--lr-steps", word) for word in ("a", "-5", "101")),
        *(("--use-dropout", word) for word in ("2", "yes", "")),
        ("--lr-factor", "1.5"), ("--momentum", "2"), ("--seed", "-1"), ("--mode", "test"),
        ("--optimizer", "adamax"), ("--lr-scheduler", "linear"), ("--dataset", "mvtec"),
        *((flag, "") for flag in ("--dataset-path", "--checkpoint-path", "--log-dir")),
        *((flag,) for flag in ("--batch-size", "--dataset-path", "--lr-steps")),
        *(("--learning-rate",), ("--imsize64",), ("stray",), ("--batch", "5"), ("--model-in", "5")),
    ],
    ids=" ".join,
)  # fmt: skip
def test_flags_that_are_wrong(run_main, words: tuple[str, ...]) -> None:
    refuse(run_main(*data_of("MVTec", "somewhere"), *words), *words)


@pytest.mark.parametrize(
    ("words", "mentions"),
    [
        (("--two\nlines",), ("two", "lines")),
        (("--epochs", "2", "--training-steps", "5"), ("--epochs", "--training-steps")),
        (("--mode", "inference"), ("--model-input",)),
        (("--save-maps", "1"), ("--save-maps", "inference")),
        (("--anomaly-score-file", "scores.csv"), ("--anomaly-score-file", "inference")),
    ],
)
def test_flags_that_do_not_go_together(run_main, words: tuple, mentions: tuple) -> None:
    refuse(run_main(*data_of("MVTec", "somewhere"), *words), *mentions)


def test_missing_dataset(run_main, tmp_path: Path) -> None:
    refuse(run_main("--dataset-path", tmp_path), "--dataset")
    refuse(run_main("--dataset", "MVTec"), "--dataset-path")


@pytest.mark.parametrize(("flag", "word"), [("--training-steps", "5"), ("--wandb", "1")])
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
def test_output_below_a_file(
    run_main, read_only_road_images: Path, tmp_path: Path, flag: str
) -> None:
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file/folder/log.txt"
    refuse(run_main(*data_of("RoadImages", read_only_road_images), flag, path), flag, path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["folder", "file/scores.csv", "device"])
def test_scores_file_that_cannot_be_written(
    run_main, read_only_panorama: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "device")
    scoring = ("--mode", "inference", "--cpu", "--model-input", trained)
    output = ("--anomaly-score-file", tmp_path / name)
    refuse(run_main(*data_of("Panorama", read_only_panorama), *scoring, *output), output[0])


def test_process(run_train, tmp_path: Path) -> None:
    words = ("--dataset", "MVTec", "--dataset-path", ".", "--imsise", "64")
    result = run_train(*words, cwd=tmp_path)
    refuse(Finished(result.returncode, result.stdout, result.stderr), "--imsise")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
