"""If the system refuses to write, a run ends with one line and status 2; no file is incomplete."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import inference, texture
from outputs import (
    assert_nothing_is_unfinished,
    assert_same_states,
    assert_whole,
    read_table,
    step_of,
)
from PIL import Image
from victims import Victim, run_program

from crn.errors import UserError
from crn.report.pictures import write_picture
from crn.system.files import append_whole, hard_link, written_whole

SMALL = (
    "--cpu", "--imsize", 32, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--seed", 1, "--dataset", "RoadImages",
)  # fmt: skip


@pytest.fixture(scope="module")
def train(read_only_road_images) -> Callable[..., Victim]:
    """Start a training run that saves at every step: ``train(folder, "--epochs", 1)``."""

    def start(folder: Path, *more: str | int | Path, file_size: int | None = None) -> Victim:
        words = (*SMALL, "--dataset-path", read_only_road_images, *more)
        return Victim(folder, run_program, words, True, file_size)

    return start


def assert_refused(run: Victim, path: str, number: int, fix: str) -> None:
    """The run ends with one line that names the file, the reason and the fix."""
    folder, (status, err) = run.folder, run.end()
    assert status == 2, err
    assert "Traceback" not in err
    *_, last = err.splitlines()
    why = os.strerror(number)
    assert last.startswith(f"train.py: error: {path}: cannot be written ({why}); {fix}")
    assert err.count("train.py: error") == 1
    assert_nothing_is_unfinished(folder)
    assert_whole(folder)


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory) -> Path:
    """A folder with the checkpoints of four steps in kept/."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, "--checkpoint-path", "kept", "--training-steps", 4).succeed()
    return folder


@pytest.fixture
def scoring(trained, read_only_road_images) -> list[str]:
    """The words that score the images."""
    return inference(trained / "kept/last.ckpt", "RoadImages", read_only_road_images)


# Each limit is below the size of the file named, and above the sizes of those before it.
@pytest.mark.parametrize(
    ("more", "file_size", "path"),
    [
        ((), 200, "logged_metrics/version_0/hparams.yaml"),
        (("--validation-interval", 1), 2000, "logged_metrics/version_0/metrics.csv"),
        (
            ("--image-output-path", "grids", "--image-output-interval", 2),
            4000,
            "grids/training/step_000002.png",
        ),
        (("--checkpoint-path", "new"), 1_000_000, "new/last.ckpt"),
        (("--epochs", 1), 4000, "logged_metrics/version_0/report.html"),
    ],
)
def test_training(train, tmp_path, more, file_size, path):
    length = () if "--epochs" in more else ("--training-steps", 50)
    run = train(tmp_path, *length, *more, file_size=file_size)
    assert_refused(run, path, errno.EFBIG, "raise the limit")
    if path.endswith("metrics.csv"):
        assert len(read_table(tmp_path / path)) >= 5


def test_earlier_checkpoints_stay(train, trained, tmp_path):
    shutil.copytree(trained / "kept", tmp_path / "kept")
    going_on = ("--checkpoint-path", "kept", "--model-input", "kept/last.ckpt")
    run = train(tmp_path, "--training-steps", 9, *going_on, file_size=1_000_000)
    assert_refused(run, "kept/last.ckpt", errno.EFBIG, "raise the limit")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"best.ckpt", "last.ckpt"}
    for name in ("best.ckpt", "last.ckpt"):
        assert (tmp_path / "kept" / name).read_bytes() == (trained / "kept" / name).read_bytes()


@pytest.mark.parametrize(
    ("file_size", "path"),
    [
        (300, "anomaly_scores.csv"),
        (4000, "inference/good_ones/tile_0.png"),
        (20_000, "report.html"),
    ],
)
def test_inference(scoring, tmp_path, file_size, path):
    words = (*scoring, "--image-output-path", "out")
    run = Victim(tmp_path, run_program, words, False, file_size)
    assert_refused(run, f"out/{path}", errno.EFBIG, "raise the limit")
    assert (tmp_path / "out/anomaly_scores.csv").exists() == (path != "anomaly_scores.csv")
    # Without a page nobody looks at its pictures.
    assert not list(tmp_path.glob("out/report_files/*"))


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A disk of 12 MB, for two checkpoints of 5 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "crn-test", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_training_resumes_when_there_is_space_again(train, small_disk, tmp_path):
    words = ("--checkpoint-path", "kept", "--training-steps", 6, "--validation-interval", 3)
    run = train(small_disk, *words)
    assert_refused(run, "kept/last.ckpt", errno.ENOSPC, "free some space")
    last = small_disk / "kept/last.ckpt"
    # best.ckpt of step 3 has taken the space.
    assert step_of(last) == 3
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    going_on = (*words, "--model-input", "kept/last.ckpt")
    train(small_disk, *going_on).succeed()
    train(tmp_path / "other", *words).succeed()
    assert_same_states(last, tmp_path / "other/kept/last.ckpt")


# --- files ---


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_earlier_file_stays(tmp_path, monkeypatch, call):
    path = tmp_path / "scores.csv"
    path.write_text("earlier")
    monkeypatch.setattr(os, call, Mock(side_effect=OSError(errno.ENOSPC, "No space")))
    with pytest.raises(UserError) as refused, written_whole(path, "w") as file:
        file.write("new")
    assert str(refused.value).startswith(f"{path}: cannot be written (No space); free some space")
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limit the size of files, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_half_a_row_is_removed(tmp_path):
    """The disk has room for some of the bytes."""
    path = tmp_path / "metrics.csv"
    path.write_text("step\n1\n")
    with pytest.raises(UserError, match=r"metrics\.csv"), room_for(10):
        append_whole(path, "12345678\n")
    assert path.read_text() == "step\n1\n"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff"])
def test_half_a_picture_is_removed(tmp_path, name):
    with pytest.raises(UserError, match=name), room_for(500):
        write_picture(Image.fromarray(texture(1, 20, 30, 3)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_hard_link(tmp_path, monkeypatch):
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    last.write_text("new")
    best.write_text("old")
    assert hard_link(last, best)
    assert hard_link(last, best)  # which it has already
    assert sorted(tmp_path.iterdir()) == [best, last]
    with written_whole(last, "w") as file:
        file.write("newer")
    assert (best.read_text(), last.read_text()) == ("new", "newer")

    monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "no links here")))
    assert not hard_link(last, best)
    assert best.read_text() == "new"
