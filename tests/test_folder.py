"""Folder: images without labels, wherever they lie below a folder."""

from pathlib import Path

import pytest
from conftest import texture, write_image

from crn.errors import UserError
from datasets.layouts import LAYOUTS
from datasets.reader import read_images
from datasets.samples import TEST, Sample, list_samples


def listed(root: Path) -> list[Sample]:
    return list_samples(LAYOUTS["Folder"], root)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Colour images at three depths, with names of several scripts, among other files."""
    root = tmp_path / "photographs"
    for name in ("a.png", "2024/b.JPG", "2024/März/日本 1.png", "2024/März/é.tif", "z/a.png"):
        write_image(root / name, texture(len(name), 20, 30, 3))
    for name in ("notes.txt", "2024/b.xmp", ".hidden.png", "2024/Thumbs.db", ".trash/c.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


KEYS = ["2024/März/é.tif", "2024/März/日本 1.png", "2024/b.JPG", "a.png", "z/a.png"]


def test_images_of_any_depth_with_their_path_as_the_key(photographs: Path, caplog) -> None:
    samples = listed(photographs)
    assert [sample.key for sample in samples] == KEYS
    assert [sample.files for sample in samples] == [(photographs / key,) for key in KEYS]
    assert {(s.split, s.label, s.kind, s.mask) for s in samples} == {(TEST, None, None, None)}
    assert read_images(samples, 8).sizes == [(20, 30)] * 5
    assert caplog.messages == [
        f"left out 2 files without the ending of an image, such as {photographs / '2024/b.xmp'}"
    ]


def test_links_are_followed_once(photographs: Path, tmp_path: Path) -> None:
    (photographs / "2024/up").symlink_to("..")
    (photographs / "z/self").symlink_to(".")
    (photographs / "z/there").symlink_to(photographs / "2024", target_is_directory=True)
    write_image(tmp_path / "elsewhere/c.png", texture(1, 8, 8, 3))
    (photographs / "more").symlink_to(tmp_path / "elsewhere")
    assert [sample.key for sample in listed(photographs)] == [*KEYS[:4], "more/c.png", KEYS[4]]


def test_road_tiles_are_paired(road_images: Path) -> None:
    samples = listed(road_images)
    assert [sample.key for sample in samples] == [
        *(f"bad_ones/height_files/tile_{index}.png" for index in range(3)),
        *(f"good_ones/height_files/tile_{index}.png" for index in range(6)),
    ]
    assert samples[0].files[1] == road_images / "bad_ones/intensity_files/tile_0.png"
    assert {sample.label for sample in samples} == {None}


def test_road_tiles_without_a_partner(road_images: Path) -> None:
    (road_images / "bad_ones/height_files/tile_1.png").unlink()
    with pytest.raises(UserError, match="do not pair: 1 without a partner"):
        listed(road_images)


@pytest.mark.parametrize("name", [None, "notes.txt", "sub/notes.txt"])
def test_a_folder_without_images(tmp_path: Path, name: str | None) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    if name:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    with pytest.raises(UserError, match="empty: contains no images"):
        listed(root)
