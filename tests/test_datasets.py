"""Data sets: the table of samples, the decoded images, and the batches made from them."""

import os
import shutil
import struct
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import texture, write_image
from PIL import Image, features
from torch.nn.functional import interpolate

from crn.errors import UserError
from crn.training.batches import EvaluationBatches, TrainingBatches, steps_of_epochs
from datasets import reader
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_file, read_images, resize
from datasets.samples import ANOMALOUS, NORMAL, TEST, TRAIN, Sample, list_samples

CPU = torch.device("cpu")
DEFLATE = 8  # of TIFF files
GRAY = np.zeros((4, 4), np.uint8)
# What systems and programs leave; it is not read, so it may as well be images by name.
LITTER = (
    *(".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Picasa.ini", "Icon\r", "._000.png"),
    *("000.png:Zone.Identifier", "@eaDir/000.png/SYNOPHOTO_THUMB_M.png", "@eaDir/000.png"),
    *("__MACOSX/._000.png", "__MACOSX/000.png", "$RECYCLE.BIN/$R000.png", "lost+found/000.png"),
    *(".thumbnails/000.png", ".ipynb_checkpoints/000.png", "System Volume Information/000.png"),
    *("#recycle/000.png", "@Recycle/000.png"),
)


def samples_of(layout: str, root: Path) -> list[Sample]:
    return list_samples(LAYOUTS[layout], root)


def keys(samples: list[Sample], split: str, label: int) -> list[str]:
    return [s.key for s in samples if (s.split, s.label) == (split, label)]


def mode_of(file: Path) -> str:
    with Image.open(file) as image:
        return image.mode


def save_as_tiff(file: Path) -> None:
    with Image.open(file) as image:
        image.save(file.with_suffix(".tif"))


# --- listing ---


def test_mvtec_splits_labels_and_keys(read_only_mvtec_category: Path) -> None:
    samples = samples_of("MVTec", read_only_mvtec_category)
    assert keys(samples, TRAIN, NORMAL) == [f"train/good/{i:03d}.png" for i in range(6)]
    assert keys(samples, TRAIN, ANOMALOUS) == []
    assert keys(samples, TEST, NORMAL) == [f"good/{i:03d}.png" for i in range(3)]
    defects = [f"{defect}/{i:03d}.png" for defect in ("crack", "hole") for i in range(3)]
    assert keys(samples, TEST, ANOMALOUS) == defects
    assert {s.key: s.kind for s in samples}["hole/001.png"] == "hole"
    assert {s.key: s.kind for s in samples}["good/001.png"] == "good"


def test_mvtec_files_and_masks_belong_to_the_keys(read_only_mvtec_category: Path) -> None:
    root = read_only_mvtec_category
    by_key = {s.key: s for s in samples_of("MVTec", root)}
    assert by_key["train/good/002.png"].files == (root / "train/good/002.png",)
    assert by_key["good/002.png"].files == (root / "test/good/002.png",)
    assert by_key["crack/002.png"].files == (root / "test/crack/002.png",)
    assert by_key["crack/002.png"].mask == root / "ground_truth/crack/002_mask.png"
    assert by_key["hole/000.png"].mask == root / "ground_truth/hole/000_mask.png"
    assert all(s.mask is None for s in by_key.values() if s.label == NORMAL)


def test_mvtec_without_any_masks_is_fine(mvtec_category: Path) -> None:
    shutil.rmtree(mvtec_category / "ground_truth")
    samples = samples_of("MVTec", mvtec_category)
    assert len(samples) == 15
    assert {s.mask for s in samples} == {None}


def test_panorama_splits_labels_and_keys(read_only_panorama: Path) -> None:
    samples = samples_of("Panorama", read_only_panorama)
    # 70 % of 6, rounded down, train.
    assert keys(samples, TRAIN, NORMAL) == [
        f"good_ones/{name}" for name in ("p0.png", "p1.jpg", "p2.png", "p3.jpg")
    ]
    assert keys(samples, TEST, NORMAL) == ["good_ones/p4.png", "good_ones/p5.jpg"]
    assert keys(samples, TEST, ANOMALOUS) == [f"bad_ones/p{i}.png" for i in range(3)]
    assert len(samples) == 9
    assert samples[0].files == (read_only_panorama / "good_ones/p0.png",)


def test_road_images_pair_height_and_intensity(read_only_road_images: Path) -> None:
    root = read_only_road_images
    samples = samples_of("RoadImages", root)
    assert keys(samples, TRAIN, NORMAL) == [f"good_ones/tile_{i}.png" for i in range(4)]
    assert keys(samples, TEST, NORMAL) == ["good_ones/tile_4.png", "good_ones/tile_5.png"]
    assert keys(samples, TEST, ANOMALOUS) == [f"bad_ones/tile_{i}.png" for i in range(3)]
    assert samples[-1].files == (
        root / "bad_ones/height_files/tile_2.png",
        root / "bad_ones/intensity_files/tile_2.png",
    )


def test_road_images_pair_by_stem_across_suffixes(road_images: Path) -> None:
    folder = road_images / "good_ones"
    for index in range(3):
        height = folder / f"height_files/tile_{index}.png"
        save_as_tiff(height)
        height.unlink()
    by_key = {s.key: s for s in samples_of("RoadImages", road_images)}
    assert len(by_key) == 9
    for index in range(3):
        assert by_key[f"good_ones/tile_{index}.tif"].files == (
            folder / f"height_files/tile_{index}.tif",
            folder / f"intensity_files/tile_{index}.png",
        )


def test_two_height_images_of_one_tile_are_refused(road_images: Path) -> None:
    height = road_images / "good_ones/height_files/tile_1.png"
    save_as_tiff(height)
    with pytest.raises(UserError, match=r"tile_1\.(png|tif).*tile_1\.(png|tif)"):
        samples_of("RoadImages", road_images)


@pytest.mark.parametrize(
    ("good", "training"), [(2, 1), (3, 2), (4, 2), (10, 7), (11, 7), (75, 52), (90, 63), (170, 119)]
)
def test_seventy_percent_of_the_sorted_good_images_train(
    tmp_path: Path, good: int, training: int
) -> None:
    (tmp_path / "good_ones").mkdir()
    (tmp_path / "bad_ones").mkdir()
    # Made in another order than sorted; listing does not open the files.
    for index in reversed(range(good)):
        (tmp_path / f"good_ones/{index:03d}.png").touch()
    (tmp_path / "bad_ones/000.png").touch()
    samples = samples_of("Panorama", tmp_path)
    assert keys(samples, TRAIN, NORMAL) == [f"good_ones/{i:03d}.png" for i in range(training)]
    assert keys(samples, TEST, NORMAL) == [f"good_ones/{i:03d}.png" for i in range(training, good)]


@pytest.mark.parametrize(
    ("layout", "fixture"),
    [
        ("MVTec", "read_only_mvtec_category"),
        ("Panorama", "read_only_panorama"),
        ("RoadImages", "read_only_road_images"),
    ],
)
def test_keys_are_unique_and_files_are_there(
    layout: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    samples = samples_of(layout, request.getfixturevalue(fixture))
    assert max(Counter(s.key for s in samples).values()) == 1
    files = [file for s in samples for file in s.files]
    assert len(set(files)) == len(files)
    assert all(file.is_file() for file in files)
    assert all(s.mask.is_file() for s in samples if s.mask is not None)


@pytest.mark.parametrize(
    ("layout", "fixture"),
    [
        ("MVTec", "mvtec_category"),
        ("Panorama", "panorama"),
        ("RoadImages", "road_images"),
        ("Folder", "panorama"),
    ],
)
def test_litter_of_operating_systems_is_ignored(
    layout: str,
    fixture: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = request.getfixturevalue(fixture)
    before = samples_of(layout, root)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in LITTER:
            if not (folder / name).is_dir():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(b"litter")
    assert samples_of(layout, root) == before
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("layout", "fixture", "place"),
    [
        ("MVTec", "mvtec_category", "train/good/batch2"),
        ("MVTec", "mvtec_category", "test/hole/more/and more"),
        ("MVTec", "mvtec_category", "test"),
        ("MVTec", "mvtec_category", "ground_truth/hole"),
        ("Panorama", "panorama", "good_ones/2024"),
        ("Panorama", "panorama", "."),
        ("RoadImages", "road_images", "bad_ones/height_files/old"),
        ("RoadImages", "road_images", "good_ones"),
        ("Folder", "road_images", "bad_ones/height_files/old"),
    ],
)
def test_images_elsewhere_are_counted(
    layout: str,
    fixture: str,
    place: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = request.getfixturevalue(fixture)
    before = samples_of(layout, root)
    for name in ("x.png", "y.JPG"):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / name).write_bytes(b"an image")
    assert samples_of(layout, root) == before
    (message,) = caplog.messages
    assert message.startswith(f"left out 2 images where this layout has none: 2 in {place} (")


def test_images_in_linked_folders_are_counted(
    mvtec_category: Path, panorama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (mvtec_category / "train/good/more").symlink_to(panorama / "good_ones")
    (mvtec_category / "train/good/round").symlink_to(".")
    assert len(samples_of("MVTec", mvtec_category)) == 15
    assert "left out 6 images" in caplog.text
    assert "6 in train/good/more" in caplog.text


def test_a_folder_whose_images_all_lie_in_subfolders_is_refused(mvtec_category: Path) -> None:
    good = mvtec_category / "train/good"
    good.rename(mvtec_category / "batch1")
    good.mkdir()
    (mvtec_category / "batch1").rename(good / "batch1")
    with pytest.raises(UserError, match=r"train/good: .*only folders, such as batch1: move"):
        samples_of("MVTec", mvtec_category)


OTHERS = (
    *("a.txt", "p0.tfw", "p0.png.aux.xml", "a.h5", "a.mpg", "a.psd", "a.ico", "a.eps", "a.fits"),
    *("README", "a.pdf", "a.svg", "a.csv", "a.npy", "a.cr2", "two\nlines.txt", "tile_0.jgw"),
)


@pytest.mark.parametrize(
    ("layout", "fixture", "place"),
    [
        ("MVTec", "mvtec_category", "train/good"),
        ("MVTec", "mvtec_category", "test/hole"),
        ("MVTec", "mvtec_category", "ground_truth/hole"),
        ("Panorama", "panorama", "bad_ones"),
        ("RoadImages", "road_images", "good_ones/height_files"),
        ("Folder", "panorama", "bad_ones"),
    ],
)
def test_what_is_no_image_is_left_out_and_counted(
    layout: str,
    fixture: str,
    place: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = request.getfixturevalue(fixture)
    before = samples_of(layout, root)
    for name in OTHERS:
        (root / place / name).write_bytes(b"no image")
    (root / place / "nowhere.txt").symlink_to("nothing")
    os.mkfifo(root / place / "pipe.fifo")
    assert samples_of(layout, root) == before
    count = len(OTHERS) + 2
    example = root / place / "README"
    assert caplog.messages == [
        f"left out {count} files without the ending of an image, such as {example}"
    ]


def test_only_other_files_where_images_belong(panorama: Path) -> None:
    for file in (panorama / "bad_ones").iterdir():
        file.rename(file.with_suffix(".raw"))
    with pytest.raises(UserError, match=r"bad_ones: .*only files such as p0\.raw; PNG, JPEG"):
        samples_of("Panorama", panorama)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.heic", "HEIC"), ("A.HEIF", "HEIC"), ("a.jxl", "JPEG XL")]
)
@pytest.mark.parametrize("layout", ["Panorama", "Folder"])
def test_photographs_that_cannot_be_read(panorama: Path, layout: str, name: str, kind: str) -> None:
    (panorama / "good_ones" / name).write_bytes(b"a photograph")
    with pytest.raises(UserError, match=rf"{name}: {kind} images cannot be read; convert"):
        samples_of(layout, panorama)


FORMS = ("NFC", "NFD")


@pytest.mark.parametrize(("images", "masks"), [FORMS, FORMS[::-1]])
def test_names_pair_however_unicode_spells_them(
    mvtec_category: Path, road_images: Path, images: str, masks: str
) -> None:
    def spelt(form: str, name: str) -> str:
        return unicodedata.normalize(form, name)

    for part, ending, form in (("test", ".png", images), ("ground_truth", "_mask.png", masks)):
        folder = mvtec_category / part / "hole"
        for index in range(3):
            name = spelt(form, f"größe {index}{ending}")
            (folder / f"{index:03d}{ending}").rename(folder / name)
        folder.rename(folder.with_name(spelt(form, "Löcher")))
    samples = samples_of("MVTec", mvtec_category)
    holes = [s for s in samples if s.key.startswith("L")]
    assert [s.key for s in holes] == [spelt(images, f"Löcher/größe {i}.png") for i in range(3)]
    assert all(s.mask and s.mask.is_file() for s in holes)

    for part, form in (("height_files", images), ("intensity_files", masks)):
        file = road_images / "bad_ones" / part / "tile_1.png"
        file.rename(file.with_name(spelt(form, "Straße é.png")))
    assert len(samples_of("RoadImages", road_images)) == 9


def test_the_split_does_not_depend_on_how_unicode_spells_names(tmp_path: Path) -> None:
    names = ("e.png", "é.png", "f.png", "z.png")
    keys = []
    for form in FORMS:
        for name in names:
            write_image(tmp_path / form / "good_ones" / unicodedata.normalize(form, name), GRAY)
            write_image(tmp_path / form / "bad_ones" / name, GRAY)
        found = samples_of("Panorama", tmp_path / form)
        keys.append([unicodedata.normalize("NFC", sample.key) for sample in found])
    assert keys[0] == keys[1]


def test_masks_may_have_any_format_that_is_read(mvtec_category: Path) -> None:
    for mask in list((mvtec_category / "ground_truth").rglob("*.png")):
        save_as_tiff(mask)
        mask.unlink()
    samples = samples_of("MVTec", mvtec_category)
    assert {s.mask.suffix for s in samples if s.label == ANOMALOUS} == {".tif"}


def test_a_missing_mask_is_named(mvtec_category: Path) -> None:
    (mvtec_category / "ground_truth/hole/001_mask.png").unlink()
    with pytest.raises(UserError, match=r"hole/001_mask\.png: no such file; .*test/hole/001\.png"):
        samples_of("MVTec", mvtec_category)


@pytest.mark.parametrize(
    ("layout", "path", "expected"),
    [
        ("MVTec", "mvtec/transistor", (213, 60, 40)),
        ("Panorama", "panorama", (52, 23, 236)),
        ("RoadImages", "roadimages", (52, 23, 236)),
    ],
)
def test_real_data_sets(
    shared_data: Path, layout: str, path: str, expected: tuple[int, int, int]
) -> None:
    samples = samples_of(layout, shared_data / path)
    counts = Counter((s.split, s.label) for s in samples)
    assert (counts[TRAIN, NORMAL], counts[TEST, NORMAL], counts[TEST, ANOMALOUS]) == expected
    assert counts.total() == sum(expected)
    assert len({s.key for s in samples}) == len(samples)
    images = read_images([samples[0], samples[-1]], 32)
    assert images.pixels.shape == (2, 3, 32, 32)
    assert images.pixels.float().std() > 1


# --- one file ---


def read_sample(sample: Sample, size: int) -> tuple[torch.Tensor, tuple[int, int]]:
    images = read_images([sample], size)
    return images.pixels[0], images.sizes[0]


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    gray = texture(0, 5, 7)
    write_image(tmp_path / "a.png", gray)
    image = read_file(tmp_path / "a.png", channels=3)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image, np.stack([gray] * 3))
    np.testing.assert_array_equal(read_file(tmp_path / "a.png", channels=1), gray[None])


def test_colour_keeps_its_channels(tmp_path: Path) -> None:
    colour = texture(0, 5, 7, 3)
    write_image(tmp_path / "a.png", colour)
    image = read_file(tmp_path / "a.png", channels=3)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image, colour.transpose(2, 0, 1))


def test_colour_to_luminance(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.array([[(200, 100, 50), (255, 255, 255)]], np.uint8))
    # 0.299 R + 0.587 G + 0.114 B = 59.8 + 58.7 + 5.7 = 124.2
    assert read_file(tmp_path / "a.png", channels=1).tolist() == [[[124, 255]]]


def test_transparency_of_colour_images_is_dropped(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.array([[(200, 100, 50, 0), (1, 2, 3, 128)]], np.uint8))
    image = read_file(tmp_path / "a.png", channels=3)
    assert image[:, 0, 0].tolist() == [200, 100, 50]
    assert image[:, 0, 1].tolist() == [1, 2, 3]


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50, 255, 255, 255])
    return image


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    "transparency", [None, 1, bytes([255, 0, 128])], ids=["opaque", "one colour", "by colour"]
)
def test_palette_images_have_the_colours_of_their_palette(
    tmp_path: Path, transparency: int | bytes | None
) -> None:
    more = {} if transparency is None else {"transparency": transparency}
    palette_image().save(tmp_path / "a.png", **more)
    assert mode_of(tmp_path / "a.png") == "P"
    image = read_file(tmp_path / "a.png", channels=3)
    assert image.shape == (3, 2, 2)
    assert image[:, 0, 0].tolist() == [10, 20, 30]
    assert image[:, 0, 1].tolist() == [200, 100, 50]
    assert image[:, 1, 0].tolist() == [255, 255, 255]
    assert read_file(tmp_path / "a.png", channels=1)[0, 0, 1] == 124


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert mode_of(tmp_path / "a.png") == "1"
    for channels in (1, 3):
        image = read_file(tmp_path / "a.png", channels)
        assert image.dtype == torch.uint8
        assert image.tolist() == [[[0, 255, 255]]] * channels


def test_cmyk(tmp_path: Path) -> None:
    pixels = [(0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]  # white, red, black
    image = Image.new("CMYK", (3, 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    image.save(tmp_path / "a.tif")
    colour = read_file(tmp_path / "a.tif", channels=3)
    assert colour[:, 0].T.tolist() == [[255, 255, 255], [255, 0, 0], [0, 0, 0]]
    assert read_file(tmp_path / "a.tif", channels=1).tolist() == [[[255, 76, 0]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_gray_of_16_bits_keeps_its_precision(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 257 * 100, 65535, 1, 300]], np.uint16)
    write_image(tmp_path / f"a.{suffix}", values)
    for channels in (1, 3):
        image = read_file(tmp_path / f"a.{suffix}", channels)
        assert image.dtype == torch.float32
        assert image.shape == (channels, 1, 6)
        for channel in image:
            # 65535 / 255 = 257
            assert channel[0, :4].tolist() == [0, 1, 100, 255]
            assert channel[0, 4:].tolist() == pytest.approx([0.00389105, 1.16731518])


def write_png_of_16_bit_colour(path: Path, pixels: np.ndarray) -> None:
    """Pillow writes no such files."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with path.open("ab") as file:
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            checksum = zlib.crc32(kind + data)
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))


def test_colour_of_16_bits(tmp_path: Path) -> None:
    write_png_of_16_bit_colour(
        tmp_path / "a.png", np.array([[(257, 257 * 100, 65535)], [(0, 0, 257 * 7)]])
    )
    image = read_file(tmp_path / "a.png", channels=3)
    assert image[:, 0, 0].tolist() == pytest.approx([1, 100, 255], abs=0.5)
    assert image[:, 1, 0].tolist() == pytest.approx([0, 0, 7], abs=0.5)


def save_with_orientation(image: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


# How a stored image of two rows, 0 1 2 and 3 4 5, is to be shown, after the EXIF standard: the
# stored row 0 is the visual top, or where the orientation says.
UPRIGHT = {
    1: [[0, 1, 2], [3, 4, 5]],
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[3, 0], [4, 1], [5, 2]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[2, 5], [1, 4], [0, 3]],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_are_turned_upright(
    tmp_path: Path, suffix: str, dtype: type, orientation: int
) -> None:
    scale = 257 if dtype is np.uint16 else 1
    stored = (np.arange(6).reshape(2, 3) * scale).astype(dtype)
    save_with_orientation(Image.fromarray(stored), tmp_path / f"a.{suffix}", orientation)
    image = read_file(tmp_path / f"a.{suffix}", channels=1)
    assert image[0].tolist() == UPRIGHT[orientation]


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8] = (250, 0, 0)  # above, as stored
    save_with_orientation(Image.fromarray(stored), tmp_path / "a.jpg", 6)
    image, own_size = read_sample(Sample("a", (tmp_path / "a.jpg",), TRAIN, NORMAL), 8)
    assert own_size == (32, 16)
    assert image[0, :, 5:].min() > 150  # turned clockwise, it is on the right
    assert image[0, :, :3].max() < 100


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12", False),
        # Orientation 6, and an entry of 4 GB.
        (
            b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
            b"\x0f\x01\x02\0\xff\xff\xff\xff\x10\0\0\0\0\0\0\0",
            True,
        ),
        (b"", False),
    ],
)
def test_broken_exif_data_do_no_harm(tmp_path: Path, exif: bytes, turned: bool) -> None:
    Image.fromarray(texture(0, 16, 32, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert read_file(tmp_path / "a.jpg", channels=3).shape == (
        (3, 32, 16) if turned else (3, 16, 32)
    )


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.avif"
    Image.fromarray(texture(0, 32, 32, 3)).save(file)
    content = bytearray(file.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 8] = b"\xff" * 8
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.avif"):
        read_file(file, channels=3)


def write_tiff(path: Path, array: np.ndarray, **tags: int) -> None:
    """A gray TIFF file of one strip; Pillow writes no signed, and no inverted, 16 bits."""
    order = ">" if array.dtype.byteorder == ">" else "<"
    data = array.tobytes()
    if tags.get("compression") == DEFLATE:
        data = zlib.compress(data)
    height, width = array.shape
    kinds = {"u": 1, "i": 2, "f": 3}
    entries = {
        256: width, 257: height, 258: array.dtype.itemsize * 8, 259: 1, 262: 1, 273: 8, 277: 1,
        278: height, 279: len(data), 339: kinds[array.dtype.kind],
        **{{"photometric": 262, "compression": 259}[name]: value for name, value in tags.items()},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(b"MM\0*" if order == ">" else b"II*\0")
        file.write(struct.pack(f"{order}I", 8 + len(data)) + data)
        file.write(struct.pack(f"{order}H", len(entries)))
        for tag, value in sorted(entries.items()):
            file.write(struct.pack(f"{order}HHII", tag, 4, 1, value))
        file.write(struct.pack(f"{order}I", 0))


@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize("dtype", ["<i2", ">i2"])
def test_signed_16_bits_are_shifted(tmp_path: Path, dtype: str, compression: int) -> None:
    heights = np.array([[-32768, -257, 0, 257 * 5, 32767]], dtype)
    write_tiff(tmp_path / "a.tif", heights, compression=compression)
    if (dtype, compression) == (">i2", DEFLATE):
        with pytest.raises(UserError, match=r"a\.tif: has signed numbers, .* save it uncompressed"):
            read_file(tmp_path / "a.tif", channels=1)
        return
    image = read_file(tmp_path / "a.tif", channels=1)
    assert image.dtype == torch.float32
    middle = 32768 / 257
    assert image.flatten().tolist() == pytest.approx([0, middle - 1, middle, middle + 5, 255])


@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize(("dtype", "most"), [("u1", 255), ("<u2", 65535), (">u2", 65535)])
def test_white_is_zero_at_any_depth(
    tmp_path: Path, dtype: str, most: int, compression: int
) -> None:
    values = np.array([[0, most // 5, most]], dtype)
    write_tiff(tmp_path / "a.tif", values, photometric=0, compression=compression)
    assert read_file(tmp_path / "a.tif", channels=1).flatten().tolist() == [255, 204, 0]


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif.*floating point.*scale all images .* alike"):
        read_file(tmp_path / "a.tif", channels=1)


@pytest.mark.parametrize("value", [65536, -1])
def test_more_than_16_bits_are_refused(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.array([[0, value]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif.*more than 16 bits"):
        read_file(tmp_path / "a.tif", channels=1)


def test_heic_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(UserError, match=r"a\.jpg: HEIC images cannot be read; convert it"):
        read_file(tmp_path / "a.jpg", channels=3)


# --- many files ---


def write_samples(folder: Path, *arrays: np.ndarray) -> list[Sample]:
    for index, pixels in enumerate(arrays):
        write_image(folder / f"{index}.png", pixels)
    return [Sample(f"x/{i}.png", (folder / f"{i}.png",), TRAIN, NORMAL) for i in range(len(arrays))]


def test_8_bit_images_are_kept_as_bytes(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, texture(0, 20, 30, 3), texture(1, 40, 10))
    images = read_images(samples, 16)
    assert images.pixels.shape == (2, 3, 16, 16)
    assert images.pixels.dtype == torch.uint8
    assert images.sizes == [(20, 30), (40, 10)]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_8_and_16_bits_mix(tmp_path: Path, order: tuple[int, ...]) -> None:
    arrays = [
        np.full((9, 9), 40, np.uint8),
        np.full((9, 9), 257 * 41 + 128, np.uint16),
        np.full((9, 9, 3), 42, np.uint8),
    ]
    samples = write_samples(tmp_path, *(arrays[index] for index in order))
    images = read_images(samples, 8)
    assert images.pixels.dtype == torch.float32
    values = [(40, 41 + 128 / 257, 42)[index] for index in order]
    for image, value in zip(images.pixels, values, strict=True):
        np.testing.assert_allclose(image, value, atol=1e-4)


@pytest.mark.parametrize(
    ("layout", "fixture"),
    [
        ("MVTec", "read_only_mvtec_category"),
        ("Panorama", "read_only_panorama"),
        ("RoadImages", "read_only_road_images"),
    ],
)
def test_threads_give_the_same(layout: str, fixture: str, request: pytest.FixtureRequest) -> None:
    samples = samples_of(layout, request.getfixturevalue(fixture))
    alone, threads = read_images(samples, 16), read_images(samples, 16, workers=3)
    assert alone.pixels.dtype == threads.pixels.dtype
    assert torch.equal(alone.pixels, threads.pixels)
    assert alone.sizes == threads.sizes
    assert len(alone.sizes) == len(alone.pixels) == len(samples)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_damaged_image_is_named_with_and_without_threads(
    read_only_panorama: Path, tmp_path: Path, workers: int
) -> None:
    samples = samples_of("Panorama", read_only_panorama)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    samples.insert(4, Sample("x/broken.png", (tmp_path / "broken.png",), TRAIN, NORMAL))
    with pytest.raises(UserError, match=r"broken\.png: not an image"):
        read_images(samples, 8, workers)


def test_road_images_are_height_intensity_intensity(tmp_path: Path) -> None:
    height = np.full((6, 4), 257 * 30, np.uint16)
    intensity = np.full((6, 4, 3), (200, 100, 50), np.uint8)
    write_image(tmp_path / "h.png", height)
    write_image(tmp_path / "i.png", intensity)
    sample = Sample("x/h.png", (tmp_path / "h.png", tmp_path / "i.png"), TRAIN, NORMAL)
    image, own_size = read_sample(sample, 8)
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert own_size == (6, 4)
    for channel, value in zip(image, (30, 124, 124), strict=True):
        np.testing.assert_allclose(channel, value, atol=1e-4)


def test_road_images_of_8_bits_are_kept_as_bytes(tmp_path: Path) -> None:
    write_image(tmp_path / "h.png", np.full((6, 4), 30, np.uint8))
    write_image(tmp_path / "i.png", np.full((12, 8), 60, np.uint8))
    sample = Sample("x/h.png", (tmp_path / "h.png", tmp_path / "i.png"), TRAIN, NORMAL)
    image, own_size = read_sample(sample, 8)
    assert image.dtype == torch.uint8
    assert own_size == (6, 4)
    assert image[:, 0, 0].tolist() == [30, 60, 60]


def test_values_stay_on_the_8_bit_scale(read_only_road_images: Path) -> None:
    images = read_images(samples_of("RoadImages", read_only_road_images), 16)
    assert images.pixels.dtype == torch.float32
    assert images.pixels.min() >= 0
    assert 200 < images.pixels.max() <= 255
    assert torch.equal(images.pixels[:, 1], images.pixels[:, 2])


def tiles(folder: Path, *heights: np.ndarray) -> list[Sample]:
    samples = []
    for index, height in enumerate(heights):
        files = (folder / f"h{index}.tif", folder / f"i{index}.png")
        write_tiff(files[0], height)
        write_image(files[1], texture(index, *height.shape))
        samples.append(Sample(f"x/{index}.tif", files, TRAIN, NORMAL))
    return samples


@pytest.mark.parametrize(
    ("low", "high", "dtype", "words"),
    [
        (0, 4095, "u2", r"use 6.2 % of the range (0 to 4095)"),
        (0, 16383, "u2", r"use 25 % of the range (0 to 16383)"),
        (20_000, 20_500, "u2", r"use 0.76 % of the range (20000 to 20500)"),
        (-120, 85, "i2", r"use 0.31 % of the range (-120 to 85)"),
        (0, 20_000, "u2", ""),
        (-9000, 9000, "i2", ""),
    ],
)
def test_little_of_the_range_is_said_once_of_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, low: int, high: int, dtype: str, words: str
) -> None:
    # No image has both ends.
    read_images(tiles(tmp_path, *(np.full((4, 4), value, dtype) for value in (low, high))), 8)
    assert len(caplog.messages) == bool(words)
    assert words in caplog.text


def test_signed_and_unsigned_do_not_mix(tmp_path: Path) -> None:
    samples = tiles(tmp_path, np.zeros((4, 4), "u2"), np.zeros((4, 4), "i2"))
    with pytest.raises(UserError, match=r"h1\.tif: has signed .* and .*h0\.tif unsigned ones"):
        read_images(samples, 8)


@pytest.mark.parametrize("workers", [0, 3])
def test_images_are_decoded_once_where_there_is_room(
    read_only_road_images: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    samples = samples_of("RoadImages", read_only_road_images)
    again = [reader.read_own_size(sample) for sample in samples]
    monkeypatch.setattr(reader, "_KEPT_BYTES", 3 * 24 * 28 * 4)
    images = read_images(samples, 8, workers, keep=True)
    assert len(images.kept) == 4
    monkeypatch.setattr(reader, "_KEPT_BYTES", 10**9)
    kept = read_images(samples, 8, workers, keep=True)
    for index, image in enumerate(again):
        assert torch.equal(images.own(index), image)
        assert (image.dtype, image.shape) == (torch.uint8, (3, 28, 24))
    monkeypatch.setattr(reader, "decoded", None)
    assert all(torch.equal(kept.own(index), image) for index, image in enumerate(again))


@pytest.mark.parametrize(("height", "width"), [(40, 24), (7, 90), (5, 5)])
def test_resize_is_bilinear_and_antialiased(height: int, width: int) -> None:
    pixels = torch.from_numpy(texture(0, 3, height, width))
    exact = interpolate(
        pixels[None].double(), (16, 16), mode="bilinear", align_corners=False, antialias=True
    )[0]
    floats = resize(pixels.float(), (16, 16))
    assert floats.dtype == torch.float32
    np.testing.assert_allclose(floats, exact, atol=1e-3)
    rounded = resize(pixels, (16, 16))
    assert rounded.dtype == torch.uint8
    # Torch rounds bytes after each of the two directions.
    np.testing.assert_allclose(rounded, exact, atol=1.01)


def test_resize_averages_what_it_shrinks() -> None:
    checkerboard = torch.zeros(1, 64, 64)
    checkerboard[:, ::2, 1::2] = checkerboard[:, 1::2, ::2] = 200
    np.testing.assert_allclose(resize(checkerboard, (8, 8)), 100, atol=0.2)


def test_resize_to_the_own_size_changes_nothing() -> None:
    pixels = torch.from_numpy(texture(0, 3, 16, 16))
    assert torch.equal(resize(pixels, (16, 16)), pixels)


# --- batches ---


def numbered_images(count: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """Images that can be told apart: all pixels of image n are n."""
    return torch.arange(count, dtype=dtype)[:, None, None, None].repeat(1, 3, 2, 2)


def numbers(batch: torch.Tensor) -> list[int]:
    """Which images a batch consists of."""
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def training_batches(count: int, batch_size: int, **changes) -> TrainingBatches:
    values = {
        "pixels": numbered_images(count),
        "batch_size": batch_size,
        "seed": 7,
        "next_step": lambda: 0,
        "interval": 1000,
        "last_step": 30,
        "device": CPU,
        "share": slice(None),
    }
    return TrainingBatches(**{**values, **changes})


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (10, 5), (7, 3), (9, 1), (3, 3)])
def test_every_image_comes_once_in_every_epoch(count: int, batch_size: int) -> None:
    batches = list(training_batches(count, batch_size, last_step=5 * count))
    assert {len(batch) for batch in batches} == {batch_size}
    order = [number for batch in batches for number in numbers(batch)]
    assert len(order) == 5 * count * batch_size
    for start in range(0, len(order), count):
        assert sorted(order[start : start + count]) == list(range(count))


def test_epochs_and_seeds_have_different_orders() -> None:
    order = [n for batch in training_batches(20, 5, last_step=8) for n in numbers(batch)]
    other = [n for batch in training_batches(20, 5, last_step=8, seed=8) for n in numbers(batch)]
    assert len({tuple(order[:20]), tuple(order[20:]), tuple(other[:20]), tuple(range(20))}) == 4


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    whole = list(training_batches(10, 4))
    assert len(whole) == 30
    for start in (1, 5, 12, 29):
        resumed = list(training_batches(10, 4, next_step=lambda start=start: start))
        assert len(resumed) == 30 - start
        assert all(torch.equal(a, b) for a, b in zip(resumed, whole[start:], strict=True))


def test_a_batch_is_no_larger_than_the_data_set() -> None:
    batches = list(training_batches(3, 64, last_step=4))
    assert [sorted(numbers(batch)) for batch in batches] == [[0, 1, 2]] * 4


@pytest.mark.parametrize(
    ("start", "expected"), [(0, 3), (1, 2), (2, 1), (3, 3), (4, 2), (8, 1), (9, 1), (10, 0)]
)
def test_iteration_ends_at_the_interval_or_the_last_step(start: int, expected: int) -> None:
    batches = training_batches(10, 4, next_step=lambda: start, interval=3, last_step=10)
    assert len(list(batches)) == expected


def test_every_iteration_asks_for_the_step() -> None:
    done = iter((0, 3))
    batches = training_batches(10, 4, next_step=lambda: next(done), interval=3, last_step=6)
    parts = [numbers(batch) for _ in range(2) for batch in batches]
    assert parts == [numbers(batch) for batch in training_batches(10, 4, last_step=6)]


@pytest.mark.parametrize(
    ("epochs", "images", "batch_size", "expected"),
    [
        (1, 10, 5, 2),
        (1, 10, 4, 3),
        (1, 10, 64, 1),
        (1, 1, 1, 1),
        (10, 42, 32, 14),
        (10, 213, 64, 34),
    ],
)
def test_steps_of_epochs(epochs: int, images: int, batch_size: int, expected: int) -> None:
    """As many as it takes for every image to come so often; not whole batches in every epoch."""
    assert steps_of_epochs(epochs, images, batch_size) == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_training_batches_are_in_the_range_of_tanh(dtype: torch.dtype) -> None:
    pixels = torch.tensor([0, 255], dtype=dtype)[:, None, None, None].repeat(1, 3, 2, 2)
    for batch in training_batches(2, 2, pixels=pixels, last_step=3):
        assert batch.dtype == torch.float32
        assert sorted(batch[:, 0, 0, 0].tolist()) == [-1, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_evaluation_batches_come_in_order_every_time(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 1, 1, 0, 1])
    batches = EvaluationBatches(numbered_images(5, dtype), labels, 2, CPU)
    assert len(batches) == 3
    for _ in range(2):
        images, theirs = zip(*batches, strict=True)
        assert [numbers(batch) for batch in images] == [[0, 1], [2, 3], [4]]
        assert torch.cat(theirs).tolist() == labels.tolist()
        assert {batch.dtype for batch in images} == {torch.float32}


def test_normalize() -> None:
    pixels = torch.tensor([0, 51, 102, 255], dtype=torch.uint8)
    assert normalize(pixels).dtype == torch.float32
    assert normalize(pixels).tolist() == pytest.approx([-1, -0.6, -0.2, 1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize_leaves_its_argument_alone(dtype: torch.dtype) -> None:
    pixels = torch.tensor([0, 51, 255], dtype=dtype)
    normalize(pixels)
    assert pixels.tolist() == [0, 51, 255]
