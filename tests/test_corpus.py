"""A corpus of odd and of broken data sets: each run ends right, or with one line that says why.

Every run is a process of its own, and what it leaves is looked at. The long form breaks every file
in every way, and damages more of them at random places:

    CASES=300 python -m pytest -n0 -s -m long tests/test_corpus.py
"""

import csv
import itertools
import os
import random
import shutil
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import (
    texture,
    write_image,
    write_model,
    write_mvtec_category,
    write_panorama,
    write_road_images,
)
from damage import damaged
from images import COLOUR, at, encoded, png
from outputs import checked_run, files_in
from PIL import Image, features

OUTPUT = ("--image-output-path", "out")
TRAINING = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--training-steps", 1, "--seed", 1, "--checkpoint-path", "kept",
    *OUTPUT, "--image-output-interval", 1,
)  # fmt: skip

# A layout, and a file of it that is spoilt.
LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "MVTec": (write_mvtec_category, "test/hole/001.png"),
    "Panorama": (write_panorama, "good_ones/p2.png"),
    "RoadImages": (write_road_images, "bad_ones/intensity_files/tile_1.png"),
    "Folder": (write_panorama, "bad_ones/p1.png"),
}
# Without labels there is no training.
RUNS = [(layout, mode) for layout in LAYOUTS for mode in ("train", "inference")]
RUNS.remove(("Folder", "train"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.ckpt", seed=1)


class Used(NamedTuple):
    """A run that has ended: where it ran, and what `outputs.Finished` says of it."""

    folder: Path
    refused: str
    err: str


@pytest.fixture
def use(model: Path, tmp_path: Path) -> Callable[..., Used]:
    """Train on a data set or score it, each time in a new folder."""
    numbers = itertools.count()

    def run(layout: str, mode: str, root: Path, is_privileged: bool = True) -> Used:
        folder = tmp_path / f"run_{next(numbers)}"
        scoring = ("--cpu", "--model-input", model, *OUTPUT, "--save-maps")
        words = ("--mode", mode, "--dataset", layout, "--dataset-path", root)
        finished = checked_run(
            folder, (*words, *(TRAINING if mode == "train" else scoring)), is_privileged
        )
        last = "kept/last.ckpt" if mode == "train" else "out/report.html"
        assert (last in files_in(folder)) == (not finished.refused)
        if finished.refused:
            assert files_in(folder) == []
        return Used(folder, finished.refused, finished.err)

    return run


def scored(folder: Path) -> list[str]:
    """The names in the table of scores."""
    with (folder / "out/anomaly_scores.csv").open(newline="", encoding="utf-8-sig") as file:
        return [row["file"] for row in csv.DictReader(file)]


def image_folders(root: Path) -> list[Path]:
    """Every folder of images of a data set of `LAYOUTS`, without those of masks."""
    folders = sorted({file.parent for file in root.rglob("*.png")})
    return [folder for folder in folders if "ground_truth" not in folder.parts]


def put(layout: str, root: Path, name: str, write: Callable[[Path], None], size: tuple) -> None:
    """Add an image (width, height) to every folder of a data set, and masks where they belong."""
    for folder in image_folders(root):
        write(folder / name)
        if layout == "MVTec" and folder.parent.name == "test" and folder.name != "good":
            mask = np.zeros(size[::-1], np.uint8)
            mask[: size[1] // 2 + 1] = 255
            stem = Path(name).stem
            write_image(root / "ground_truth" / folder.name / f"{stem}_mask.png", mask)


# --- images that are to be read ---


def saved(image: Image.Image, **more: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **more)


def with_bytes_behind(path: Path) -> None:
    COLOUR.save(path)
    with path.open("ab") as file:
        file.write(b"<script>alert(1)</script>" * 100)


def with_pages_in_a_circle(path: Path) -> None:
    """A TIFF file whose first page is followed by itself."""
    COLOUR.save(path)
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    path.write_bytes(content)


def with_comments_of_1_gb(path: Path) -> None:
    COLOUR.save(path)
    content = path.read_bytes()
    comment = zlib.compress(bytes(1_000_000))
    comments = [(b"zTXt", f"{index}\0\0".encode() + comment) for index in range(1000)]
    path.write_bytes(content[:33] + png(*comments)[8:-12] + content[33:])  # behind its header


GRAY = COLOUR.convert("L")
MORE_FRAMES = {"save_all": True, "append_images": [Image.fromarray(texture(2, 20, 30, 3))] * 2}
TURNED = Image.Exif()
TURNED[0x0112] = 6
ENTRY_OF_4_GB = (
    b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    b"\x0f\x01\x02\0\xff\xff\xff\xff\x10\0\0\0\0\0\0\0"
)

# Name, width and height as shown, and how it is written.
ODD: list[tuple[str, tuple[int, int], Callable[[Path], None]]] = [
    ("1x1.png", (1, 1), saved(COLOUR.crop((0, 0, 1, 1)))),
    ("a column.png", (1, 3000), saved(COLOUR.resize((1, 3000)))),
    ("a row.jpg", (3000, 1), saved(COLOUR.resize((3000, 1)))),
    ("16 bits.png", (7, 5), saved(Image.fromarray(texture(3, 5, 7, dtype=np.uint16)))),
    ("16 bits too.tif", (7, 5), saved(Image.fromarray(texture(4, 5, 7, dtype=np.uint16)))),
    ("cmyk.jpg", (30, 20), saved(COLOUR.convert("CMYK"))),
    ("cmyk too.tif", (30, 20), saved(COLOUR.convert("CMYK"))),
    ("animated.gif", (30, 20), saved(COLOUR, **MORE_FRAMES)),
    ("animated too.png", (30, 20), saved(COLOUR, **MORE_FRAMES)),
    ("animated as well.webp", (30, 20), saved(COLOUR, **MORE_FRAMES)),
    ("pages.tiff", (30, 20), saved(COLOUR, **MORE_FRAMES)),
    ("pages in a circle.tiff", (30, 20), with_pages_in_a_circle),
    ("turned.jpg", (20, 30), saved(COLOUR, exif=TURNED)),
    ("broken exif.jpg", (30, 20), saved(COLOUR, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12")),
    ("turned, with an entry of 4 GB.jpg", (20, 30), saved(COLOUR, exif=ENTRY_OF_4_GB)),
    ("palette.png", (30, 20), saved(COLOUR.convert("P"), transparency=3)),
    ("1 bit.png", (30, 20), saved(GRAY.convert("1"))),
    ("gray and transparent.png", (30, 20), saved(GRAY.convert("LA"))),
    ("transparent.png", (30, 20), saved(COLOUR.convert("RGBA"))),
    ("capitals.JPG", (30, 20), saved(COLOUR)),
    ("bitmap.bmp", (30, 20), saved(COLOUR)),
    ("portable.pgm", (30, 20), saved(GRAY)),
    ("something behind.png", (30, 20), with_bytes_behind),
    ("comments of 1 GB.png", (30, 20), with_comments_of_1_gb),
    ("png.jpg", (30, 20), saved(COLOUR, format="PNG")),
    ("jpeg.png", (30, 20), saved(COLOUR, format="JPEG")),
    ("tiff.bmp", (30, 20), saved(COLOUR, format="TIFF")),
]
if features.check_codec("jpg_2000"):
    ODD.append(("wavelets.jp2", (30, 20), saved(COLOUR)))
if features.check("avif"):
    ODD.append(("av1.avif", (30, 20), saved(COLOUR)))


@pytest.mark.parametrize(("layout", "mode"), RUNS)
def test_odd_images_are_used(use, tmp_path: Path, layout: str, mode: str) -> None:
    """All of them in one data set, beside what operating systems leave there."""
    root = LAYOUTS[layout][0](tmp_path / "data")
    before = {folder: len(list(folder.iterdir())) for folder in image_folders(root)}
    for name, size, write in ODD:
        put(layout, root, name, write, size)
        for folder in before:
            assert (folder / name).is_file()
    for folder in before:
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._a row.jpg"):
            (folder / name).write_bytes(b"litter")
    finished = use(layout, mode, root)
    assert finished.refused == ""
    if mode == "train":
        return
    names = scored(finished.folder)
    pairs = 2 if layout == "RoadImages" else 1
    assert len(names) == (sum(before.values()) + len(ODD) * len(before)) / pairs
    bad = {"MVTec": "hole", "Folder": "bad_ones"}.get(layout, "bad_ones")
    for name, size, _ in ODD:
        assert f"{bad}/{name}" in names
        shown = finished.folder / "out/diff" / bad / name
        with Image.open(shown if name.endswith(".png") else f"{shown}.png") as picture:
            assert picture.size == size


# --- names ---

# What shells, spreadsheets, browsers, terminals and file systems make something else of.
FORMULA = "=cmd|' C calc'!A0"
MARKUP = "<img src=x onerror=alert(1)>"
TURNED_ROUND = "a\N{RIGHT-TO-LEFT OVERRIDE}b"
NAMES = [
    f"{stem}.png"
    for stem in (
        FORMULA, "+1", "-rf", "@SUM(A1)", "'=1", "\uff1d1", "--help", "all", "report.html", "NUL",
        MARKUP, "<script>alert(2)<", '" onerror="alert(3)"', "&amp;lt;", "<!--", "{0.__class__}",
        "%2e%2e%2fup", "a\\..\\..\\up", "C:\\up", "~root", "$(touch up)", "`touch up`", "%s%n",
        " ", "  in front", "behind ", TURNED_ROUND, "日本", "e\N{COMBINING ACUTE ACCENT}",
        "\N{SLIGHTLY SMILING FACE}", "x" * 251, "é" * 125,
    )
]  # fmt: skip


class Markup(HTMLParser):
    """The tags of a page, and the attributes of all of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attributes}


@pytest.mark.parametrize(("layout", "mode"), RUNS)
def test_names_stay_names(use, tmp_path: Path, layout: str, mode: str) -> None:
    """Also that of the data set, and of a kind of defect."""
    plain = use(layout, mode, LAYOUTS[layout][0](tmp_path / "plain"))
    root = LAYOUTS[layout][0](tmp_path / MARKUP)
    hole = root / "test/hole"
    if layout == "MVTec":
        for folder in (hole, root / "ground_truth/hole"):
            shutil.copytree(folder, folder.with_name(FORMULA))
            folder.rename(folder.with_name(TURNED_ROUND))
    for name in NAMES:
        # The mask of one has a longer name.
        if layout != "MVTec" or len(os.fsencode(name)) < 250:
            put(layout, root, name, saved(COLOUR), (30, 20))
    finished = use(layout, mode, root)
    assert finished.refused == ""
    assert {path.name for path in finished.folder.iterdir()} == {
        path.name for path in plain.folder.iterdir()
    }
    assert not list(tmp_path.rglob("up"))
    assert all(line.isprintable() for line in finished.err.splitlines())
    for page in finished.folder.rglob("report.html"):
        like = plain.folder / page.relative_to(finished.folder)
        mine, theirs = (Markup(path.read_text(encoding="utf-8")) for path in (page, like))
        assert mine.attributes == theirs.attributes
        assert mine.tags.keys() == theirs.tags.keys()
        assert mine.tags["script"] == 2
    if mode == "train":
        return
    names = scored(finished.folder)
    assert len(set(names)) == len(names)
    assert not any(name.startswith(("=", "+", "-", "@")) for name in names)
    for kind in ("inference", "diff", "overlay", "maps"):
        pictures = [path for path in (finished.folder / "out" / kind).rglob("*") if path.is_file()]
        assert len(pictures) == len(names)


# --- images and files that are not to be read ---


def blank_png(width: int, height: int) -> bytes:
    """A whole PNG file with a bit for each pixel, all of them black."""
    packer = zlib.compressobj()
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data))


def large_jpeg() -> bytes:
    content = encoded("JPEG")
    # Height and width stand in its frame header.
    return at(content, content.index(b"\xff\xc0") + 5, struct.pack(">HH", 65_500, 65_500))


# What is no image, or none that can be read.
BROKEN = {
    "empty": b"",
    "zeros": bytes(5000),
    "text": b"These are images.\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(up) (w) file closefile\n",
    "archive": b"PK\x03\x04" + bytes(200),
    "half a png": encoded("PNG")[:700],
    "half a jpeg": encoded("JPEG")[:500],
    "half a tiff": encoded("TIFF")[:500],
    "half a gif": encoded("GIF")[:500],
    "half a webp": encoded("WEBP")[:200],
    "half a bmp": encoded("BMP")[:500],
    "png without data": png((b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))),
    "png without pixels": png((b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0))),
    "png of 20,000 x 20,000": blank_png(20_000, 20_000),
    "png of 1 x 2,000,000": blank_png(1, 2_000_000),
    "gif of 65,535 x 65,535": at(encoded("GIF"), 6, b"\xff\xff\xff\xff"),
    "jpeg of 65,500 x 65,500": large_jpeg(),
    "bmp of 2,000,000,000 rows": at(encoded("BMP"), 22, struct.pack("<i", 2_000_000_000)),
    "floating point": encoded("TIFF", Image.fromarray(np.zeros((4, 4), np.float32))),
    "32 bits": encoded("TIFF", Image.fromarray(np.array([[0, 65536]], np.int32))),
}
if features.check("avif"):
    avif = encoded("AVIF")
    BROKEN["avif with other data"] = at(avif, avif.index(b"mdat") + 4, b"\xff" * 8)


def in_turn(kinds: Iterable[str]) -> list[Any]:
    """Every kind in one layout and mode, and in all others in the long form."""
    return [
        pytest.param(kind, *run, marks=() if number == index % len(RUNS) else pytest.mark.long)
        for index, kind in enumerate(kinds)
        for number, run in enumerate(RUNS)
    ]


@pytest.mark.parametrize(("kind", "layout", "mode"), in_turn(BROKEN))
def test_a_broken_image_is_named(use, tmp_path: Path, kind: str, layout: str, mode: str) -> None:
    write, name = LAYOUTS[layout]
    root = write(tmp_path / "data")
    (root / name).write_bytes(BROKEN[kind])
    assert f"error: {root / name}: " in use(layout, mode, root).refused
    assert not list(tmp_path.rglob("up"))


def socket_file(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the paths of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


# What is put in the place of a file, or done to it, or put beside it.
INSTEAD: dict[str, Callable[[Path], Any]] = {
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a broken link": lambda path: path.symlink_to("nowhere.png"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "a socket": socket_file,
}
SPOILT: dict[str, Callable[[Path], Any]] = INSTEAD | {
    "unreadable": lambda path: path.chmod(0),
    "in an unreadable folder": lambda path: path.parent.chmod(0),
    "an escape sequence": lambda path: shutil.copy(path, path.with_name("\x1b]0;taken\x07.png")),
    "a line break": lambda path: shutil.copy(path, path.with_name("two\nlines.png")),
    "bytes": lambda path: shutil.copy(path, path.with_name(os.fsdecode(b"\xff.png"))),
}


@pytest.mark.parametrize(("kind", "layout", "mode"), in_turn(SPOILT))
def test_a_file_that_is_none_is_named(
    use, tmp_path: Path, kind: str, layout: str, mode: str
) -> None:
    write, name = LAYOUTS[layout]
    root = write(tmp_path / "data")
    if kind in INSTEAD:
        (root / name).unlink()
    SPOILT[kind](root / name)
    try:
        refused = use(layout, mode, root, is_privileged=False).refused
    finally:
        (root / name).parent.chmod(0o700)
    assert f"error: {(root / name).parent}" in refused


@pytest.mark.parametrize(("layout", "mode"), RUNS)
def test_links_in_a_circle(use, tmp_path: Path, layout: str, mode: str) -> None:
    """They are followed once, where folders may lie in folders, and else left out."""
    root = LAYOUTS[layout][0](tmp_path / "data")
    count = len(scored(use(layout, "inference", root).folder))
    for folder in image_folders(root):
        (folder / "up").symlink_to("..")
        (folder / "self").symlink_to(".")
    finished = use(layout, mode, root)
    assert finished.refused == ""
    if mode == "inference":
        assert len(scored(finished.folder)) == count


MASKS = {
    "of another size": lambda path: write_image(path, np.zeros((24, 32), np.uint8)),
    "of one pixel": lambda path: write_image(path, np.full((1, 1), 255, np.uint8)),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "text": lambda path: path.write_text("white"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_broken_mask_is_named(use, tmp_path: Path, kind: str) -> None:
    root = write_mvtec_category(tmp_path / "data")
    mask = root / "ground_truth/hole/001_mask.png"
    MASKS[kind](mask)
    assert f"error: {mask}: " in use("MVTec", "inference", root).refused


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((32, 24), np.uint8),
        np.ones((32, 24), np.uint8),
        np.full((32, 24), 40_000, np.uint16),
        np.full((32, 24, 3), 255, np.uint8),
    ],
    ids=["black", "nearly black", "16 bits", "colour"],
)
def test_odd_masks_are_used(use, tmp_path: Path, mask: np.ndarray) -> None:
    root = write_mvtec_category(tmp_path / "data")
    for path in root.glob("ground_truth/*/*"):
        write_image(path, mask)
    assert use("MVTec", "inference", root).refused == ""


# --- damage at random ---

KINDS = {
    ".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP",
    ".ppm": "PPM",
}  # fmt: skip


@pytest.mark.parametrize(
    "cases", [20, pytest.param(int(os.environ.get("CASES", "300")), marks=pytest.mark.long)]
)
def test_files_that_are_damaged_at_random(use, tmp_path: Path, cases: int) -> None:
    """In each data set one image or mask."""
    seed = int(os.environ.get("SEED", "0"))
    chance = random.Random(seed)
    ends: Counter[tuple[str, str]] = Counter()
    for _ in range(cases):
        layout, mode = chance.choice(RUNS)
        write, name = LAYOUTS[layout]
        root = write(tmp_path / "data")
        path = root / name
        if layout == "MVTec" and mode == "inference":
            path = root / "ground_truth/hole/001_mask.png"
        elif layout != "MVTec":
            path.unlink()
            path = path.with_suffix(chance.choice(list(KINDS)))
            COLOUR.save(path, KINDS[path.suffix])
        content, kind = damaged(path.read_bytes(), chance)
        path.write_bytes(content)
        finished = use(layout, mode, root)
        if finished.refused:
            assert f"error: {path}: " in finished.refused
        ends[kind, "refused" if finished.refused else "used"] += 1
        # Of thousands of them only the one that fails a test is to stay.
        shutil.rmtree(root)
        shutil.rmtree(finished.folder)
    print(f"\n{cases} data sets with a file that is damaged at random, seed {seed}:")
    for (kind, end), count in sorted(ends.items()):
        print(f"  {kind:<20} {end:<8} {count:4}")
