"""The made-up RoadImages set: files, determinism, and damage that both channels show."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import road_sample
from datasets.road_sample import DAMAGE_KINDS, HEIGHT_RANGE_MM, make_tile, write_road_sample

CHANNELS = ("height_files", "intensity_files")


def contents(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "roads"
    write_road_sample(folder, good=5, bad=6, size=64)
    return folder


def test_layout_counts_and_pairs(sample: Path) -> None:
    good = [f"tile_{index:03d}.png" for index in range(5)]
    kinds = ("crack", "pothole", "patch", "alligator", "crack", "pothole")
    bad = [f"{kind}_{index:03d}.png" for index, kind in enumerate(kinds)]
    expected = {f"good_ones/{channel}/{name}" for channel in CHANNELS for name in good}
    expected |= {f"bad_ones/{channel}/{name}" for channel in CHANNELS for name in bad}
    assert set(contents(sample)) == expected


def test_heights_have_16_bits_and_intensities_8(sample: Path) -> None:
    for channel, mode, spread in (("height_files", "I;16", 256), ("intensity_files", "L", 3)):
        for path in sample.rglob(f"{channel}/*.png"):
            with Image.open(path) as image:
                assert (image.format, image.mode, image.size) == ("PNG", mode, (64, 64))
                assert np.asarray(image).std() > spread


def test_height_images_share_one_scale(sample: Path) -> None:
    lowest, highest = HEIGHT_RANGE_MM
    for kind, index, path in (
        ("good", 0, "good_ones/height_files/tile_000.png"),
        ("pothole", 1, "bad_ones/height_files/pothole_001.png"),
    ):
        with Image.open(sample / path) as image:
            height = lowest + np.asarray(image) / 65535 * (highest - lowest)
        np.testing.assert_allclose(height, make_tile(kind, index, 64, 0).height, atol=1e-3)


def test_a_tile_depends_on_its_seed_and_place_alone(sample: Path, tmp_path: Path) -> None:
    write_road_sample(tmp_path / "few", good=2, bad=1, size=64)
    write_road_sample(tmp_path / "other", good=5, bad=6, size=64, seed=1)
    first, few, other = contents(sample), contents(tmp_path / "few"), contents(tmp_path / "other")
    assert len(few) == 6
    assert few.items() <= first.items()
    assert first.keys() == other.keys()
    assert len({*first.values(), *other.values()}) == 2 * len(first)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    folder = tmp_path / "roads"
    folder.mkdir()
    write_road_sample(folder, good=1, bad=1, size=32)
    assert len(contents(folder)) == 4
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("mine", ["roads", "roads/notes.txt"])
def test_what_is_in_the_way_is_refused(tmp_path: Path, mine: str) -> None:
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("mine")
    with pytest.raises(OSError, match="roads"):
        write_road_sample(tmp_path / "roads", good=1, bad=1, size=32)
    assert contents(tmp_path) == {mine: b"mine"}


def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tile = road_sample.write_tile
    hidden_while_writing = []

    def fail_at_the_third(tile: road_sample.Tile, folder: Path, stem: str) -> None:
        if stem == "tile_002":
            assert len(list(tmp_path.rglob("*.png"))) == 4
            hidden_while_writing.append(not (tmp_path / "roads").exists())
            raise OSError("disk full")
        write_tile(tile, folder, stem)

    monkeypatch.setattr(road_sample, "write_tile", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        write_road_sample(tmp_path / "roads", good=3, bad=1, size=32)
    assert hidden_while_writing == [True]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", DAMAGE_KINDS)
@pytest.mark.parametrize("size", [32, 128])
def test_damage_shows_in_both_channels_and_leaves_the_rest(kind: str, size: int) -> None:
    for index in range(4):
        damaged = make_tile(kind, index, size, seed=0)
        sound = make_tile(kind, index, size, seed=0, damaged=False)
        change = damaged.height - sound.height
        height = np.abs(change) > 1
        intensity = np.abs(damaged.intensity - sound.intensity) > 0.03
        assert 0.02 < height.mean() < 0.25
        assert 0.02 < intensity.mean() < 0.25
        assert (height & intensity).sum() > 0.5 * min(height.sum(), intensity.sum())
        if kind != "patch":  # where the surface is broken it is lower
            assert change.min() < -4
            assert change[height].mean() < -2


def test_sound_tiles_are_flat_and_within_the_scales() -> None:
    for index in range(12):
        tile = make_tile("good", index, 64, seed=0)
        assert np.ptp(tile.height) < 20
        assert HEIGHT_RANGE_MM[0] < tile.height.min() < tile.height.max() < HEIGHT_RANGE_MM[1]
        assert 0.2 < np.median(tile.intensity) < 0.6
