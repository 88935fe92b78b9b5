"""Data sets: the table of samples, the decoded images, and the batches made from them."""

import shutil
import struct
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import texture, write_image, write_mvtec_category, write_panorama, write_road_images
from images import COLOUR, chunk, encoded, png, with_chunks
from PIL import Image

from crn.errors import UserError
from crn.training.batches import TrainingBatches, steps_of_epochs
from datasets import reader
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_file, read_images, resize
from datasets.samples import ANOMALOUS, NORMAL, TEST, TRAIN, Sample, list_samples

CPU = torch.device("cpu")
DEFLATE = 8  # of TIFF files
WRITERS = {
    "MVTec": write_mvtec_category,
    "Panorama": write_panorama,
    "RoadImages": write_road_images,
    "Folder": write_road_images,
}
# What systems and programs leave; it is not read, so it may as well be images by name.
LITTER = (
    *(".DS_Store", "Thumbs.db", "desktop.ini", "._000.png", "__MACOSX/000.png"),
    *("$RECYCLE.BIN/$R000.png", "lost+found/000.png", ".ipynb_checkpoints/000.png"),
)
OTHERS = ("a.txt", "p0.tfw", "p0.png.aux.xml", "a.psd", "README", "two\nlines.txt")
FORMS = ("NFC", "NFD")


def samples_of(layout: str, root: Path) -> list[Sample]:
    return list_samples(LAYOUTS[layout], root)


def keys(samples: list[Sample], split: str, label: int) -> list[str]:
    return [s.key for s in samples if (s.split, s.label) == (split, label)]


def made_a_tiff(file: Path) -> None:
    with Image.open(file) as image:
        image.save(file.with_suffix(".tif"))
    file.unlink()


# --- listing ---


def test_mvtec(read_only_mvtec_category: Path) -> None:
    root = read_only_mvtec_category
    samples = samples_of("MVTec", root)
    assert keys(samples, TRAIN, NORMAL) == [f"train/good/{i:03d}.png" for i in range(6)]
    assert keys(samples, TEST, NORMAL) == [f"good/{i:03d}.png" for i in range(3)]
    defects = [f"{defect}/{i:03d}" for defect in ("crack", "hole") for i in range(3)]
    assert keys(samples, TEST, ANOMALOUS) == [f"{name}.png" for name in defects]
    assert len(samples) == 15
    by_key = {s.key: s for s in samples}
    assert by_key["train/good/002.png"].files == (root / "train/good/002.png",)
    assert (by_key["good/002.png"].kind, by_key["crack/002.png"].kind) == ("good", "crack")
    masks = [root / f"ground_truth/{name}_mask.png" for name in defects]
    assert [s.mask for s in samples if s.mask] == masks


def test_mvtec_without_any_masks_is_fine(mvtec_category: Path) -> None:
    shutil.rmtree(mvtec_category / "ground_truth")
    samples = samples_of("MVTec", mvtec_category)
    assert len(samples) == 15
    assert {s.mask for s in samples} == {None}


def test_a_missing_mask_is_named(mvtec_category: Path) -> None:
    mask = mvtec_category / "ground_truth/hole/001_mask.png"
    mask.unlink()
    with pytest.raises(UserError, match=rf"{mask}: no such file; .*hole/001\.png has to have"):
        samples_of("MVTec", mvtec_category)


def test_panorama(read_only_panorama: Path) -> None:
    samples = samples_of("Panorama", read_only_panorama)
    # 70 % of 6, rounded down, train.
    train = [f"good_ones/{name}" for name in ("p0.png", "p1.jpg", "p2.png", "p3.jpg")]
    assert keys(samples, TRAIN, NORMAL) == train
    assert keys(samples, TEST, NORMAL) == ["good_ones/p4.png", "good_ones/p5.jpg"]
    assert keys(samples, TEST, ANOMALOUS) == [f"bad_ones/p{i}.png" for i in range(3)]
    assert [s.files for s in samples] == [(read_only_panorama / s.key,) for s in samples]


def test_road_images_pair_by_stem_across_suffixes(road_images: Path) -> None:
    for index in (0, 2):
        made_a_tiff(road_images / f"bad_ones/height_files/tile_{index}.png")
    samples = samples_of("RoadImages", road_images)
    assert keys(samples, TRAIN, NORMAL) == [f"good_ones/tile_{i}.png" for i in range(4)]
    assert keys(samples, TEST, NORMAL) == ["good_ones/tile_4.png", "good_ones/tile_5.png"]
    bad = [f"tile_{i}" for i in range(3)]
    heights = [f"{stem}.{ending}" for stem, ending in zip(bad, ("tif", "png", "tif"), strict=True)]
    assert keys(samples, TEST, ANOMALOUS) == [f"bad_ones/{name}" for name in heights]
    folder = road_images / "bad_ones"
    assert [s.files for s in samples[6:]] == [
        (folder / "height_files" / height, folder / "intensity_files" / f"{stem}.png")
        for height, stem in zip(heights, bad, strict=True)
    ]


def test_two_height_images_of_one_tile_are_refused(road_images: Path) -> None:
    folder = road_images / "good_ones/height_files"
    (folder / "tile_1.tif").write_bytes((folder / "tile_1.png").read_bytes())
    with pytest.raises(UserError, match=r"tile_1\.tif: there is tile_1\.png beside it"):
        samples_of("RoadImages", road_images)


@pytest.mark.parametrize(("good", "training"), [(2, 1), (3, 2), (10, 7), (75, 52)])
def test_seventy_percent_of_the_sorted_good_images_train(
    tmp_path: Path, good: int, training: int
) -> None:
    (tmp_path / "good_ones").mkdir()
    for index in reversed(range(good)):
        (tmp_path / f"good_ones/{index:03d}.png").touch()
    samples = samples_of("Panorama", tmp_path)
    assert [s.key for s in samples] == [f"good_ones/{index:03d}.png" for index in range(good)]
    assert [s.split for s in samples] == [TRAIN] * training + [TEST] * (good - training)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_litter_of_operating_systems_is_ignored(tmp_path: Path, caplog, layout: str) -> None:
    root = WRITERS[layout](tmp_path)
    before = samples_of(layout, root)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in LITTER:
            if not (folder / name).is_dir():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(b"litter")
    assert samples_of(layout, root) == before
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("layout", "place"),
    [
        ("MVTec", "train/good/batch2"),
        ("MVTec", "ground_truth/hole"),
        ("Panorama", "."),
        ("RoadImages", "bad_ones/height_files/old"),
        ("Folder", "bad_ones/height_files/old"),
    ],
)
def test_images_elsewhere_are_counted(tmp_path: Path, caplog, layout: str, place: str) -> None:
    root = WRITERS[layout](tmp_path)
    before = samples_of(layout, root)
    for name in ("x.png", "y.JPG"):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / name).write_bytes(b"an image")
    assert samples_of(layout, root) == before
    (message,) = caplog.messages
    assert message.startswith(f"left out 2 images where this layout has none: 2 in {place} (")


@pytest.mark.parametrize(
    ("layout", "place"), [("MVTec", "ground_truth/hole"), ("Folder", "bad_ones/height_files")]
)
def test_other_files_are_left_out_and_counted(
    tmp_path: Path, caplog, layout: str, place: str
) -> None:
    root = WRITERS[layout](tmp_path)
    before = samples_of(layout, root)
    for name in OTHERS:
        (root / place / name).write_bytes(b"not an image")
    assert samples_of(layout, root) == before
    assert caplog.messages == [
        f"left out {len(OTHERS)} files without the ending of an image, such as "
        f"{root / place / 'README'}"
    ]


@pytest.mark.parametrize("name", ["batch1/p0.png", "p0.raw"])
def test_a_folder_without_images_is_refused(panorama: Path, name: str) -> None:
    shutil.rmtree(panorama / "bad_ones")
    path = panorama / "bad_ones" / name
    path.parent.mkdir(parents=True)
    path.touch()
    first = name.partition("/")[0]
    with pytest.raises(UserError, match=f"bad_ones: contains no images, only {first} and"):
        samples_of("Panorama", panorama)


@pytest.mark.parametrize("name", ["a.heic", "A.HEIF", "a.jxl"])
@pytest.mark.parametrize("layout", ["Panorama", "Folder"])
def test_photographs_that_cannot_be_read(panorama: Path, layout: str, name: str) -> None:
    (panorama / "good_ones" / name).write_bytes(b"a photograph")
    with pytest.raises(UserError, match=rf"{name}: HEIC and JPEG XL images cannot be read"):
        samples_of(layout, panorama)


@pytest.mark.parametrize(("images", "masks"), [FORMS, FORMS[::-1]])
def test_names_pair_in_either_unicode_form(mvtec_category: Path, images: str, masks: str) -> None:
    for part, ending, form in (("test", ".png", images), ("ground_truth", "_mask.png", masks)):
        folder = mvtec_category / part / "hole"
        for index in range(3):
            name = unicodedata.normalize(form, f"größe {index}{ending}")
            (folder / f"{index:03d}{ending}").rename(folder / name)
        folder.rename(folder.with_name(unicodedata.normalize(form, "Löcher")))
    holes = [s for s in samples_of("MVTec", mvtec_category) if s.key.startswith("L")]
    names = [unicodedata.normalize(images, f"Löcher/größe {i}.png") for i in range(3)]
    assert [s.key for s in holes] == names
    assert all(s.mask and s.mask.is_file() for s in holes)


def test_the_split_does_not_depend_on_the_unicode_form(tmp_path: Path) -> None:
    found = []
    for form in FORMS:
        (tmp_path / form / "good_ones").mkdir(parents=True)
        for name in ("e.png", "é.png", "f.png", "z.png"):
            (tmp_path / form / "good_ones" / unicodedata.normalize(form, name)).touch()
        samples = samples_of("Panorama", tmp_path / form)
        found.append([unicodedata.normalize("NFC", sample.key) for sample in samples])
    assert found[0] == found[1]


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


def row(*pixels: int | tuple[int, ...], dtype: type = np.uint8) -> Image.Image:
    """An image of one row."""
    return Image.fromarray(np.array([pixels], dtype))


PALETTE = row(0, 1, 2).convert("P")
PALETTE.putpalette([10, 20, 30, 200, 100, 50, 255, 255, 255])
COLOURS = [[10, 20, 30], [200, 100, 50], [255, 255, 255]]
CMYK = Image.frombytes("CMYK", (3, 1), bytes((0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 255)))
# 0.299 R + 0.587 G + 0.114 B; of (200, 100, 50): 59.8 + 58.7 + 5.7 = 124.2
LUMINANCE = [18, 124, 255]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("image", "how", "colour", "gray"),
    [
        (row(7, 200), {}, [[7] * 3, [200] * 3], [7, 200]),
        (row(*map(tuple, COLOURS)), {}, COLOURS, LUMINANCE),
        (row((200, 100, 50, 0), (1, 2, 3, 128)), {}, [[200, 100, 50], [1, 2, 3]], [124, 2]),
        (PALETTE, {}, COLOURS, LUMINANCE),
        (PALETTE, {"transparency": 1}, COLOURS, LUMINANCE),
        (PALETTE, {"transparency": bytes([255, 0, 128])}, COLOURS, LUMINANCE),
        (row(0, 255).convert("1"), {}, [[0] * 3, [255] * 3], [0, 255]),
        (CMYK, {"format": "TIFF"}, [[255] * 3, [255, 0, 0], [0] * 3], [255, 76, 0]),
    ],
)
def test_images_of_8_bits(tmp_path: Path, image, how: dict, colour: list, gray: list) -> None:
    image.save(tmp_path / "a.png", **how)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == image.mode
    read = read_file(tmp_path / "a.png", channels=3)[0]
    assert read.dtype == torch.uint8
    assert read[:, 0].T.tolist() == colour
    assert read_file(tmp_path / "a.png", channels=1)[0].tolist() == [[gray]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gray_of_16_bits_keeps_its_precision(tmp_path: Path, suffix: str, channels: int) -> None:
    row(0, 257, 257 * 100, 65535, 1, 300, dtype=np.uint16).save(tmp_path / f"a.{suffix}")
    image, _ = read_file(tmp_path / f"a.{suffix}", channels)
    # 65535 / 255 = 257
    expected = [[[0, 1, 100, 255, 0.00389105, 1.16731518]]] * channels
    torch.testing.assert_close(image, torch.tensor(expected))


def test_colour_of_16_bits(tmp_path: Path) -> None:
    pixels = np.array([(257, 257 * 100, 65535)], ">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, b"\0" + pixels))
    image, _ = read_file(tmp_path / "a.png", channels=3)
    assert image.flatten().tolist() == pytest.approx([1, 100, 255], abs=0.5)


# How a stored image of two rows, 0 1 2 and 3 4 5, is to be shown, after the EXIF standard.
UPRIGHT = {3: [[5, 4, 3], [2, 1, 0]], 6: [[3, 0], [4, 1], [5, 2]]}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_are_turned_upright(
    tmp_path: Path, suffix: str, dtype: type, orientation: int
) -> None:
    scale = 257 if dtype is np.uint16 else 1
    stored = (np.arange(6).reshape(2, 3) * scale).astype(dtype)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif)
    image = read_file(tmp_path / f"a.{suffix}", channels=1)[0]
    assert image[0].tolist() == UPRIGHT[orientation]


def write_tiff(
    path: Path,
    array: np.ndarray,
    photometric: int = 1,
    compression: int = 1,
    separate: bool = False,
) -> None:
    """A TIFF file (H, W) or (H, W, bands) with a strip for each plane; Pillow writes few kinds."""
    order = ">" if array.dtype.byteorder == ">" else "<"
    bands = array.shape[2] if array.ndim == 3 else 1
    planes = np.split(array, bands, axis=2) if separate and bands > 1 else [array]
    strips = [plane.tobytes() for plane in planes]
    if compression == DEFLATE:
        strips = [zlib.compress(strip) for strip in strips]
    # The numbers that all entries of more than one point to are at the beginning.
    starts = np.cumsum([8 + 8 * len(strips), *map(len, strips)]).tolist()
    lengths = [len(strip) for strip in strips]
    kinds = {"u": 1, "i": 2, "f": 3}
    entries = {
        256: array.shape[1], 257: array.shape[0], 258: array.dtype.itemsize * 8, 259: compression,
        262: photometric, 273: 8, 277: bands, 278: array.shape[0], 279: 8 + 4 * len(strips),
        284: 2 if separate else 1, 339: kinds[array.dtype.kind],
    }  # fmt: skip
    if len(strips) == 1:
        entries |= {273: starts[0], 279: lengths[0]}
    with path.open("wb") as file:
        file.write(b"MM\0*" if order == ">" else b"II*\0")
        file.write(struct.pack(f"{order}I", starts[-1]))
        file.write(struct.pack(f"{order}{2 * len(strips)}I", *starts[:-1], *lengths))
        file.write(b"".join(strips))
        file.write(struct.pack(f"{order}H", len(entries)))
        for tag, value in sorted(entries.items()):
            count = len(strips) if tag in (273, 279) else 1
            file.write(struct.pack(f"{order}HHII", tag, 4, count, value))
        file.write(struct.pack(f"{order}I", 0))


UPSIDE_DOWN = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"
SIGNED = [[-32768, -257, 0, 257 * 5, 32767]]
RGB = 2  # in a TIFF file's photometric interpretation
PLANES = {"separate": True, "photometric": RGB}


@pytest.mark.parametrize(("dtype", "compression"), [("<i2", 1), ("<i2", DEFLATE), (">i2", 1)])
def test_signed_16_bits_are_shifted(tmp_path: Path, dtype: str, compression: int) -> None:
    write_tiff(tmp_path / "a.tif", np.array(SIGNED, dtype), compression=compression)
    image, _ = read_file(tmp_path / "a.tif", channels=1)
    assert image.dtype == torch.float32
    middle = 32768 / 257
    assert image.flatten().tolist() == pytest.approx([0, middle - 1, middle, middle + 5, 255])


@pytest.mark.parametrize(("dtype", "most"), [("u1", 255), ("<u2", 65535)])
def test_white_is_zero_at_any_depth(tmp_path: Path, dtype: str, most: int) -> None:
    write_tiff(tmp_path / "a.tif", np.array([[0, most // 5, most]], dtype), photometric=0)
    assert read_file(tmp_path / "a.tif", channels=1)[0].flatten().tolist() == [255, 204, 0]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("dtype", "separate", "compression"),
    [("u1", True, 1), ("u2", False, 1), ("u2", False, DEFLATE), ("u2", True, DEFLATE)],
)
def test_colour_of_tiff_files(
    tmp_path: Path, order: str, dtype: str, separate: bool, compression: int
) -> None:
    pixels = texture(1, 5, 7, 3)
    array = (pixels * np.uint16(257 if dtype == "u2" else 1)).astype(order + dtype)
    write_tiff(tmp_path / "a.tif", array, RGB, compression, separate)
    read, _ = read_file(tmp_path / "a.tif", channels=3)
    np.testing.assert_array_equal(read.permute(1, 2, 0), pixels)


def test_whole_numbers_of_32_bits_that_fit_into_16(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.array([[0, 257, 65_535]], "<i4"))
    assert read_file(tmp_path / "a.tif", channels=1)[0].flatten().tolist() == [0, 1, 255]


LONG = zlib.compress(bytes(2_000_000))


@pytest.mark.parametrize("is_in_front", [True, False])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
        (b"zTXt", b"Comment\0\0" + LONG),
        (b"iCCP", b"profile\0\0" + LONG),
    ],
)
def test_png_files_with_megabytes_of_metadata(
    tmp_path: Path, is_in_front: bool, kind: bytes, data: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(with_chunks(chunk(kind, data), is_in_front))
    read, _ = read_file(tmp_path / "a.png", channels=3)
    np.testing.assert_array_equal(read.permute(1, 2, 0), np.array(COLOUR))


@pytest.mark.parametrize("is_in_front", [True, False])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"eXIf", UPSIDE_DOWN),
        (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'),
    ],
)
def test_png_files_are_turned_wherever_that_stands(
    tmp_path: Path, is_in_front: bool, kind: bytes, data: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(with_chunks(chunk(kind, data), is_in_front))
    read, facts = read_file(tmp_path / "a.png", channels=3)
    assert facts.orientation == 3
    np.testing.assert_array_equal(read.permute(1, 2, 0), np.array(COLOUR)[::-1, ::-1])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: row(0, dtype=np.float32).save(file), "floating point .*scale all images"),
        (lambda file: row(0, 65536, dtype=np.int32).save(file), "has more than 16 bits"),
        (lambda file: row(0, -1, dtype=np.int32).save(file), "has more than 16 bits"),
        *(
            (lambda file, array=array, how=how: write_tiff(file, array, **how), words)
            for array, how, words in (
                (np.array(SIGNED, ">i2"), {"compression": DEFLATE}, "would be misread"),
                (texture(1, 5, 7, 3, dtype=np.uint16), PLANES, "would be misread"),
                (np.zeros((3, 4, 5), np.uint8), {}, "damaged, or not .* gray or RGB"),
                (np.zeros((3, 4), np.float64), {}, "damaged, or not .* gray or RGB"),
            )
        ),
        (lambda file: file.write_bytes(encoded("PNG")[:700]), r"cannot be read \(.*truncated"),
        (lambda file: file.write_bytes(encoded("PCX")), "damaged, or not"),
        (lambda file: file.write_bytes(b"some text"), r"damaged, or not .* \(PNG, JPEG, "),
    ],
)
def test_images_that_are_refused(tmp_path: Path, write, words: str) -> None:
    write(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif: {words}"):
        read_file(tmp_path / "a.tif", channels=1)[0]


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


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
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


def test_threads_give_the_same(read_only_road_images: Path) -> None:
    samples = samples_of("RoadImages", read_only_road_images)
    alone, threads = read_images(samples, 16), read_images(samples, 16, workers=3)
    torch.testing.assert_close(threads.pixels, alone.pixels, rtol=0, atol=0)
    assert alone.sizes == threads.sizes == [(28, 24)] * len(samples)


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint16, 257), (np.uint8, 1)])
def test_road_images_are_height_intensity_intensity(
    tmp_path: Path, dtype: type, scale: int
) -> None:
    write_image(tmp_path / "h.png", np.full((6, 4), scale * 30, dtype))
    write_image(tmp_path / "i.png", np.full((12, 8, 3), (200, 100, 50), np.uint8))
    sample = Sample("x/h.png", (tmp_path / "h.png", tmp_path / "i.png"), TRAIN, NORMAL)
    images = read_images([sample], 8)
    assert images.sizes == [(6, 4)]
    expected = torch.tensor([30, 124, 124])[None, :, None, None].expand(1, 3, 8, 8)
    np.testing.assert_allclose(images.pixels, expected, atol=1e-4)


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
        (20_000, 20_500, "u2", r"use 0.76 % of the range (20000 to 20500)"),
        (-120, 85, "i2", r"use 0.31 % of the range (-120 to 85)"),
        (0, 20_000, "u2", ""),
        (-9000, 9000, "i2", ""),
    ],
)
def test_little_of_the_range_is_said_once_of_all(
    tmp_path: Path, caplog, low: int, high: int, dtype: str, words: str
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
    monkeypatch.setattr(reader, "_KEPT_BYTES", 3 * 24 * 28 * 4)
    some = read_images(samples, 8, workers, keep=True)
    assert len(some.kept) == 4
    monkeypatch.setattr(reader, "_KEPT_BYTES", 10**9)
    kept = read_images(samples, 8, workers, keep=True)
    again = [some.own(index) for index in range(len(samples))]
    assert {(image.dtype, image.shape) for image in again} == {(torch.uint8, (3, 28, 24))}
    monkeypatch.setattr(reader, "decoded", None)
    assert all(torch.equal(kept.own(index), image) for index, image in enumerate(again))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resize_averages_what_it_shrinks(dtype: torch.dtype) -> None:
    """What lies between the pixels that bilinear resizing alone looks at counts, too."""
    lines = torch.zeros(1, 64, 64, dtype=dtype)
    lines[:, :, 4::8] = 200
    resized = resize(lines, (8, 4))
    assert (resized.dtype, resized.shape) == (dtype, (1, 8, 4))
    np.testing.assert_allclose(resized, 200 / 8, atol=1)


# --- batches ---


def numbered_images(count: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """Images that differ: all pixels of image n are n."""
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
    [(1, 10, 5, 2), (1, 10, 4, 3), (1, 10, 64, 1), (10, 42, 32, 14), (10, 213, 64, 34)],
)
def test_steps_of_epochs(epochs: int, images: int, batch_size: int, expected: int) -> None:
    """The steps in which every image comes in each epoch; batches span the ends of epochs."""
    assert steps_of_epochs(epochs, images, batch_size) == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize(dtype: torch.dtype) -> None:
    pixels = torch.tensor([0, 51, 102, 255], dtype=dtype)
    assert normalize(pixels).dtype == torch.float32
    assert normalize(pixels).tolist() == pytest.approx([-1, -0.6, -0.2, 1])
    assert pixels.tolist() == [0, 51, 102, 255]
