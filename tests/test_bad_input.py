"""Mistakes that users make: each ends with status 2 and one line that names the file or flag."""

import copy
import importlib.util
import os
import pickle
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished, texture, write_image

SMALL = (
    *("--demo", "--cpu", "--seed", "1", "--training-steps", "2"),
    *("--max-network-depth", "2", "--num-competitive-units", "2"),
)


def assert_refused(status: int, err: str, *mentions: str | Path) -> None:
    """The run ended with status 2 and, at last, one line of error with everything mentioned."""
    assert "Traceback" not in err
    assert status == 2
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("train.py: error: ")] == lines[-1:]
    for mention in mentions:
        assert str(mention) in lines[-1]


def refuse(result: Finished, *mentions: str | Path) -> None:
    assert_refused(result.status, result.err, *mentions)
    assert result.out == ""


def roads(root: Path) -> tuple[str, ...]:
    return ("--dataset", "RoadImages", "--dataset-path", str(root))


def photographs(root: Path) -> tuple[str, ...]:
    return ("--dataset", "Panorama", "--dataset-path", str(root))


def category(root: Path) -> tuple[str, ...]:
    return ("--dataset", "MVTec", "--dataset-path", str(root))


# --- the folder of the data set ---


@pytest.mark.parametrize("layout", ["MVTec", "Panorama", "RoadImages"])
def test_missing_folder(run_main, tmp_path: Path, layout: str) -> None:
    root = tmp_path / "nowhere"
    refuse(run_main("--dataset", layout, "--dataset-path", root), root, "--dataset-path")


@pytest.mark.parametrize("layout", ["MVTec", "Panorama", "RoadImages"])
def test_file_instead_of_a_folder(run_main, tmp_path: Path, layout: str) -> None:
    file = tmp_path / "images.zip"
    file.write_bytes(b"PK")
    refuse(run_main("--dataset", layout, "--dataset-path", file), file, "not a folder")


@pytest.mark.parametrize("layout", ["MVTec", "Panorama", "RoadImages"])
def test_empty_folder(run_main, tmp_path: Path, layout: str) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    first = {"MVTec": "train", "Panorama": "good_ones", "RoadImages": "good_ones"}[layout]
    refuse(run_main("--dataset", layout, "--dataset-path", root), root, first)


def test_too_long_name_of_a_folder(run_main) -> None:
    name = "a" * 300
    refuse(run_main(*category(Path(name))), name)


def test_line_break_in_the_name_of_a_folder(run_main) -> None:
    refuse(run_main(*category(Path("two\nlines"))), "two", "lines")


@pytest.mark.parametrize("name", ["good_ones", "bad_ones"])
def test_no_images_in_a_folder(run_main, panorama: Path, name: str) -> None:
    for file in (panorama / name).iterdir():
        file.unlink()
    (panorama / name / "Thumbs.db").touch()
    refuse(run_main(*photographs(panorama)), panorama / name, "no images")


@pytest.mark.parametrize("name", ["good_ones", "bad_ones"])
def test_missing_half_of_a_panorama_set(run_main, panorama: Path, name: str) -> None:
    shutil.rmtree(panorama / name)
    refuse(run_main(*photographs(panorama)), panorama / name, "no such folder")


@pytest.mark.parametrize("name", ["good_ones", "bad_ones", "bad_ones/height_files"])
def test_missing_part_of_a_road_set(run_main, road_images: Path, name: str) -> None:
    shutil.rmtree(road_images / name)
    refuse(run_main(*roads(road_images)), road_images / name, "no such folder")


@pytest.mark.parametrize("name", ["good_ones", "bad_ones"])
@pytest.mark.parametrize("missing", ["height_files", "intensity_files"])
def test_images_without_a_partner(run_main, road_images: Path, name: str, missing: str) -> None:
    folder = road_images / name
    for stem in ("tile_0", "tile_2"):
        (folder / missing / f"{stem}.png").unlink()
    mentions = (folder / "height_files", folder / "intensity_files", "tile_0", "tile_2")
    result = run_main(*roads(road_images))
    refuse(result, *mentions)
    assert "tile_1" not in result.err


def test_single_good_image(run_main, panorama: Path) -> None:
    for file in sorted((panorama / "good_ones").iterdir())[1:]:
        file.unlink()
    refuse(run_main(*photographs(panorama)), panorama / "good_ones", "at least two")


def test_several_categories(run_main, mvtec_category: Path) -> None:
    shutil.copytree(mvtec_category, mvtec_category.with_name("bolt"))
    root = mvtec_category.parent
    refuse(run_main(*category(root)), f"{root}: ", "several categories", root / "bolt")


@pytest.mark.parametrize("name", ["train/good", "test"])
def test_missing_part_of_a_category(run_main, mvtec_category: Path, name: str) -> None:
    shutil.rmtree(mvtec_category / name)
    refuse(run_main(*category(mvtec_category)), mvtec_category / name, "no such folder")


@pytest.mark.parametrize(
    ("kept", "lacking"), [("good", "no anomalous images"), ("hole", "no normal images")]
)
def test_test_images_of_one_class(run_main, mvtec_category: Path, kept: str, lacking: str) -> None:
    for folder in (mvtec_category / "test").iterdir():
        if folder.name != kept:
            shutil.rmtree(folder)
    refuse(run_main(*category(mvtec_category)), mvtec_category, lacking)


def test_missing_mask(run_main, mvtec_category: Path) -> None:
    mask = mvtec_category / "ground_truth/hole/001_mask.png"
    mask.unlink()
    refuse(run_main(*category(mvtec_category)), mask, mvtec_category / "test/hole/001.png")


# --- the images ---


def png_header(width: int, height: int) -> bytes:
    """A PNG file that ends after the first bytes of its data."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.fixture
def image_of(panorama: Path) -> Callable[[str], Path]:
    """An image file that training, or testing, needs."""

    def path(split: str) -> Path:
        return panorama / {"train": "good_ones/p2.png", "test": "bad_ones/p1.png"}[split]

    return path


@pytest.mark.parametrize("split", ["train", "test"])
def test_text_called_an_image(run_main, panorama: Path, image_of, split: str) -> None:
    file = image_of(split)
    file.write_text("These are images.\n")
    refuse(run_main(*photographs(panorama), *SMALL), file, "not an image")


@pytest.mark.parametrize("split", ["train", "test"])
def test_truncated_image(run_main, panorama: Path, image_of, split: str) -> None:
    file = image_of(split)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refuse(run_main(*photographs(panorama), *SMALL), file)


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_image(run_main, panorama: Path, image_of, split: str) -> None:
    image_of(split).write_bytes(b"")
    refuse(run_main(*photographs(panorama), *SMALL), image_of(split))


def test_damaged_image_met_by_threads(run_main, panorama: Path, image_of) -> None:
    image_of("train").write_bytes(b"")
    result = run_main(*photographs(panorama), *SMALL, "--num-workers", "2")
    refuse(result, image_of("train"))


def test_huge_image_is_refused_by_its_header(run_main, panorama: Path, image_of) -> None:
    file = image_of("train")
    file.write_bytes(png_header(20_000, 20_000))
    assert file.stat().st_size < 200
    import crn.train  # noqa: F401  (so that its import is not timed)

    start = time.perf_counter()
    refuse(run_main(*photographs(panorama), *SMALL), file, "20000x20000")
    assert time.perf_counter() - start < 2


def test_a_name_that_is_no_text(run_main, panorama: Path, trained: Path) -> None:
    name = os.fsdecode(os.fsencode(str(panorama / "bad_ones")) + b"/\xff.png")
    try:
        write_image(Path(name), texture(0, 24, 24))
    except OSError:
        pytest.skip("this file system has no such names")
    scoring = ("--mode", "inference", "--cpu", "--model-input", trained)
    # Scored or refused, but not a crash.
    assert run_main(*photographs(panorama), *scoring).status in (0, 2)


# --- checkpoints ---


@pytest.fixture(scope="session")
def trained(
    run_train, read_only_road_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of a real training of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    result = run_train(
        *roads(read_only_road_images), *SMALL, "--checkpoint-path", "checkpoints", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def trained_content(trained: Path) -> dict[str, Any]:
    return torch.load(trained, weights_only=True)


@pytest.fixture
def changed(
    trained_content: dict[str, Any], tmp_path: Path
) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Write a checkpoint that differs from a good one by what a function does to it."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        content = copy.deepcopy(trained_content)
        change(content)
        path = tmp_path / "changed.ckpt"
        torch.save(content, path)
        return path

    return write


@pytest.fixture(params=["train", "inference"])
def use(
    request: pytest.FixtureRequest, run_main, read_only_road_images: Path
) -> Callable[..., Finished]:
    """Use a checkpoint, to go on training and to score."""
    more = {"train": ("--training-steps", "4"), "inference": ()}[request.param]

    def run(checkpoint: Path | str, *flags: str) -> Finished:
        return run_main(
            *("--mode", request.param, "--cpu", *roads(read_only_road_images)),
            *("--model-input", checkpoint, *more, *flags),
        )

    return run


def test_an_unchanged_copy_is_used(use, changed) -> None:
    assert use(changed(lambda content: None)).status == 0


def test_unknown_checkpoint(use, tmp_path: Path) -> None:
    refuse(use(tmp_path / "nowhere.ckpt"), "--model-input", tmp_path / "nowhere.ckpt")


def test_folder_instead_of_a_checkpoint(use, trained: Path) -> None:
    refuse(use(trained.parent), "--model-input", trained.parent)


def test_too_long_name_of_a_checkpoint(use) -> None:
    refuse(use("a" * 300), "--model-input", "a" * 300)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x80\x02K\x01.", b"PK\x03\x04rest"])
def test_another_file_as_checkpoint(use, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    refuse(use(path), path)


def test_truncated_checkpoint(use, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.ckpt"
    path.write_bytes(trained.read_bytes()[: trained.stat().st_size // 2])
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


@pytest.mark.parametrize("kind", ["pickle", "torch file", "torch file of long ago"])
def test_code_in_a_checkpoint_does_not_run(use, tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "trap.ckpt", tmp_path / "marker"
    content = {"state_dict": Trap(marker), "hyper_parameters": Trap(marker)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch file")
    refuse(use(path), path)
    assert not marker.exists()


def test_code_hidden_in_a_good_checkpoint_does_not_run(use, changed, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = changed(lambda content: content.update(callbacks=Trap(marker)))
    refuse(use(path), path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [{"weights": torch.ones(2)}, [1, 2], torch.ones(3), None])
def test_torch_file_of_another_program(use, tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    refuse(use(path), path)


@pytest.mark.parametrize("part", ["state_dict", "hyper_parameters", "progress"])
def test_checkpoint_without_a_part(use, changed, part: str) -> None:
    path = changed(lambda content: content.pop(part))
    refuse(use(path), path)


@pytest.mark.parametrize("part", ["state_dict", "hyper_parameters", "progress"])
@pytest.mark.parametrize("value", [{}, [1]], ids=["empty", "list"])
def test_checkpoint_with_another_part(use, changed, part: str, value: object) -> None:
    path = changed(lambda content: content.update({part: value}))
    refuse(use(path), path)


def test_checkpoint_of_unknown_options(use, changed) -> None:
    path = changed(lambda content: content["hyper_parameters"]["network"].update(attention=True))
    refuse(use(path), path, "attention")


def test_checkpoint_of_options_out_of_range(use, changed) -> None:
    path = changed(lambda content: content["hyper_parameters"]["network"].update(imsize=100))
    refuse(use(path), path, "imsize")


def test_checkpoint_of_a_wrong_seed(use, changed) -> None:
    path = changed(lambda content: content["hyper_parameters"].update(seed="one"))
    refuse(use(path), path, "seed")


def unit_weights(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith("method.units.") and tensor.ndim == 4
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(use, changed, value: float) -> None:
    def change(content: dict[str, Any]) -> None:
        for tensor in unit_weights(content).values():
            tensor[0, 0, 0, 0] = value

    path = changed(change)
    refuse(use(path), path, "finite")


def test_weights_of_another_shape(use, changed) -> None:
    def change(content: dict[str, Any]) -> None:
        for name, tensor in unit_weights(content).items():
            content["state_dict"][name] = tensor[:, :, :2, :2].clone()

    path = changed(change)
    refuse(use(path), path)


def test_weights_of_fewer_units(use, changed) -> None:
    def change(content: dict[str, Any]) -> None:
        content["hyper_parameters"]["competition"]["num_competitive_units"] = 3

    path = changed(change)
    refuse(use(path), path)


def test_a_checkpoint_to_score_with_cannot_be_resumed(
    run_main, read_only_road_images: Path, changed
) -> None:
    path = changed(lambda content: content.pop("optimizer_states"))
    data = roads(read_only_road_images)
    refuse(run_main(*data, "--cpu", "--model-input", path, "--training-steps", "4"), path)


@pytest.mark.parametrize(
    ("flag", "typed", "trained_with"),
    [
        ("--imsize", "64", "32"),
        ("--num-competitive-units", "3", "2"),
        ("--max-network-depth", "4", "2"),
        ("--improved", "0", "True"),
        ("--norm", "instance", "batch"),
    ],
)
def test_flags_that_contradict_the_checkpoint(
    use, trained: Path, flag: str, typed: str, trained_with: str
) -> None:
    refuse(use(trained, flag, typed), flag, typed, trained, trained_with)


def test_flags_that_agree_with_the_checkpoint(use, trained: Path) -> None:
    assert use(trained, "--imsize", "32", "--num-competitive-units", "2").status == 0


# --- flags ---


@pytest.mark.parametrize("size", ["100", "0", "-64", "2048", "64.0", "big"])
def test_image_size(run_main, read_only_road_images: Path, size: str) -> None:
    result = run_main(*roads(read_only_road_images), "--imsize", size)
    refuse(result, "--imsize", size)
    if size.lstrip("-").isdigit():
        refuse(result, "32, 64, 128, 256")


@pytest.mark.parametrize("number", ["-1", "0", "1.5", "many"])
@pytest.mark.parametrize(
    "flag",
    [
        "--training-steps",
        "--epochs",
        "--batch-size",
        "--num-competitive-units",
        "--max-network-depth",
        "--image-output-interval",
    ],
)
def test_counts(run_main, read_only_road_images: Path, flag: str, number: str) -> None:
    result = run_main(*roads(read_only_road_images), flag, number)
    refuse(result, flag, number)


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--lr", "0"),
        ("--lr", "-1"),
        ("--lr", "nan"),
        ("--lr", "inf"),
        ("--lr", "fast"),
        ("--lr-factor", "0"),
        ("--lr-factor", "1.5"),
        ("--lr-steps", "a"),
        ("--lr-steps", "-5"),
        ("--lr-steps", "101"),
        ("--momentum", "2"),
        ("--reconstruction-weight", "-1"),
        ("--feedback-weight", "nan"),
        ("--num-workers", "-1"),
        ("--seed", "-1"),
        ("--seed", "x"),
        ("--improved", "maybe"),
        ("--optimizer", "adamax"),
        ("--lr-scheduler", "linear"),
        ("--norm", "layer"),
        ("--model", "gan"),
        ("--mode", "test"),
        ("--anomaly-score", "best"),
        ("--log-level", "loud"),
    ],
)
def test_value_out_of_range(run_main, read_only_road_images: Path, flag: str, word: str) -> None:
    refuse(run_main(*roads(read_only_road_images), flag, word), flag, word)


def test_a_word_in_a_list(run_main, read_only_road_images: Path) -> None:
    result = run_main(*roads(read_only_road_images), "--lr-steps", "[30, often, 90]")
    refuse(result, "--lr-steps", "often")


@pytest.mark.parametrize("flag", ["--dataset-path", "--checkpoint-path", "--log-dir"])
def test_empty_name(run_main, read_only_road_images: Path, flag: str) -> None:
    refuse(run_main(*roads(read_only_road_images), flag, ""), flag)


@pytest.mark.parametrize("flag", ["--batch-size", "--lr", "--dataset-path", "--lr-steps"])
def test_flag_without_its_value(run_main, read_only_road_images: Path, flag: str) -> None:
    refuse(run_main(*roads(read_only_road_images), flag), flag)


def test_unknown_dataset(run_main, tmp_path: Path) -> None:
    result = run_main("--dataset", "mvtec", "--dataset-path", tmp_path)
    refuse(result, "--dataset", "mvtec", "MVTec, Panorama, RoadImages")


def test_missing_dataset(run_main, tmp_path: Path) -> None:
    refuse(run_main("--dataset-path", tmp_path), "--dataset")
    refuse(run_main("--dataset", "MVTec"), "--dataset-path")
    refuse(run_main(), "--dataset")


@pytest.mark.parametrize("word", ["--learning-rate", "--imsize64", "stray"])
def test_unknown_flag(run_main, read_only_road_images: Path, word: str) -> None:
    refuse(run_main(*roads(read_only_road_images), word), word)


def test_line_break_in_an_unknown_flag(run_main) -> None:
    refuse(run_main("--two\nlines"), "two", "lines")


def test_inference_without_a_checkpoint(run_main, read_only_road_images: Path) -> None:
    refuse(run_main(*roads(read_only_road_images), "--mode", "inference"), "--model-input")


@pytest.mark.parametrize(
    ("flag", "word"), [("--save-maps", "1"), ("--anomaly-score-file", "scores.csv")]
)
def test_flags_of_inference_in_training(
    run_main, read_only_road_images: Path, flag: str, word: str
) -> None:
    refuse(run_main(*roads(read_only_road_images), flag, word), flag, "inference")


@pytest.mark.parametrize(
    ("flag", "word"),
    [("--training-steps", "5"), ("--checkpoint-path", "x"), ("--wandb", "1"), ("--log-dir", "x")],
)
def test_flags_of_training_in_inference(
    run_main, read_only_road_images: Path, trained: Path, flag: str, word: str
) -> None:
    scoring = ("--mode", "inference", "--model-input", trained)
    refuse(run_main(*roads(read_only_road_images), *scoring, flag, word), flag, "train")


def test_epochs_and_training_steps(run_main, read_only_road_images: Path) -> None:
    both = ("--epochs", "2", "--training-steps", "5")
    refuse(run_main(*roads(read_only_road_images), *both), "--epochs", "--training-steps")


def test_wandb_without_its_package(
    run_main, read_only_road_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "wandb" else find(name, *more),
    )
    refuse(run_main(*roads(read_only_road_images), "--wandb"), "--wandb", "pip install wandb")


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
    refuse(run_main(*roads(read_only_road_images), *SMALL, flag, path), flag, path)
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_as_log_file(run_main, read_only_road_images: Path, tmp_path: Path) -> None:
    result = run_main(*roads(read_only_road_images), *SMALL, "--log-file", tmp_path)
    refuse(result, "--log-file", tmp_path)


@pytest.mark.parametrize("name", ["folder", "file/scores.csv"])
def test_scores_file_that_cannot_be_written(
    run_main, read_only_road_images: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    scoring = ("--mode", "inference", "--cpu", "--model-input", trained)
    result = run_main(
        *roads(read_only_road_images), *scoring, "--anomaly-score-file", tmp_path / name
    )
    refuse(result, "--anomaly-score-file")


def test_a_training_that_diverges(run_main, read_only_road_images: Path) -> None:
    result = run_main(*roads(read_only_road_images), *SMALL, "--lr", "1e30")
    refuse(result, "--lr")


# --- as a process ---


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        (("--dataset", "MVTec", "--dataset-path", "nowhere"), "nowhere"),
        (("--dataset", "MVTec", "--dataset-path", ".", "--imsize", "100"), "--imsize"),
        (("--dataset", "MVTec", "--dataset-path", ".", "--imsise", "64"), "--imsise"),
    ],
)
def test_process(run_train, tmp_path: Path, words: tuple[str, ...], mention: str) -> None:
    result = run_train(*words, cwd=tmp_path)
    assert_refused(result.returncode, result.stderr, mention)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_process_with_code_in_its_checkpoint(
    run_train, read_only_road_images: Path, tmp_path: Path
) -> None:
    path, marker = tmp_path / "trap.ckpt", tmp_path / "marker"
    torch.save({"state_dict": Trap(marker)}, path)
    scoring = ("--mode", "inference", "--cpu", "--model-input", path)
    result = run_train(*roads(read_only_road_images), *scoring, cwd=tmp_path)
    assert_refused(result.returncode, result.stderr, path)
    assert not marker.exists()
