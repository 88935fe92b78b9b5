"""Odd and broken data sets: each run succeeds, or ends with one line that says why.

Every run is a process of its own, and its output is checked. The long form damages more files:

    CASES=300 python -m pytest -n0 -s -m long tests/test_corpus.py
"""

import itertools
import os
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import (
    data_of,
    short_or_long,
    texture,
    write_image,
    write_mvtec_category,
    write_panorama,
    write_road_images,
)
from damage import damaged
from images import COLOUR, chunk, encoded, png, with_chunks
from outputs import Finished, checked_run, files_in, read_table
from PIL import Image, features

OUTPUT = ("--image-output-path", "out")
TRAINING = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--training-steps", 1, "--seed", 1, "--checkpoint-path", "kept",
    *OUTPUT, "--image-output-interval", 1,
)  # fmt: skip

# A layout, and a file of it to be damaged.
LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "MVTec": (write_mvtec_category, "test/hole/001.png"),
    "Panorama": (write_panorama, "good_ones/p2.png"),
    "RoadImages": (write_road_images, "bad_ones/intensity_files/tile_1.png"),
    "Folder": (write_panorama, "bad_ones/p1.png"),
}
RUNS = [(layout, mode) for layout in LAYOUTS for mode in ("train", "inference")]
RUNS.remove(("Folder", "train"))  # it has no labels


@pytest.fixture
def use(untrained_model: Path, tmp_path: Path) -> Callable[..., tuple[Path, Finished]]:
    """Train on a data set or score it, in a new folder each time."""
    numbers = itertools.count()

    def run(
        layout: str, mode: str, root: Path, is_privileged: bool = True
    ) -> tuple[Path, Finished]:
        folder = tmp_path / f"run_{next(numbers)}"
        scoring = ("--cpu", "--model-input", untrained_model, *OUTPUT, "--save-maps")
        words = ("--mode", mode, *data_of(layout, root))
        finished = checked_run(
            folder, (*words, *(TRAINING if mode == "train" else scoring)), is_privileged
        )
        last = "kept/last.ckpt" if mode == "train" else "out/report.html"
        assert (last in files_in(folder)) == (not finished.refused)
        if finished.refused:
            assert files_in(folder) == []
        return folder, finished

    return run


def scored(folder: Path) -> list[str]:
    """The names in the table of scores."""
    return [row["file"] for row in read_table(folder / "out/anomaly_scores.csv")]


def image_folders(root: Path) -> list[Path]:
    """Every folder of images, except folders of masks."""
    folders = sorted({file.parent for file in root.rglob("*.png")})
    return [folder for folder in folders if "ground_truth" not in folder.parts]


def put(layout: str, root: Path, name: str, write: Callable[[Path], Any], size: tuple) -> None:
    """Add an image (width, height) to every folder of a data set, and masks where they belong."""
    for folder in image_folders(root):
        write(folder / name)
        if layout == "MVTec" and folder.parent.name == "test" and folder.name != "good":
            mask = np.zeros(size[::-1], np.uint8)
            mask[: size[1] // 2 + 1] = 255
            stem = Path(name).stem
            write_image(root / "ground_truth" / folder.name / f"{stem}_mask.png", mask)


# --- images that can be read ---


def saved(image: Image.Image, **more: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **more)


def with_frames(path: Path) -> None:
    others = [Image.fromarray(texture(seed, 20, 30, 3)) for seed in (2, 3)]
    COLOUR.save(path, save_all=True, append_images=others)


GRAY = COLOUR.convert("L")
TURNED = Image.Exif()
TURNED[0x0112] = 6
HTML = b"<script>alert(1)</script>"

# Name, width and height as shown, and how it is written.
ODD: list[tuple[str, tuple[int, int], Callable[[Path], Any]]] = [
    ("1x1.png", (1, 1), saved(COLOUR.crop((0, 0, 1, 1)))),
    ("a column.png", (1, 3000), saved(COLOUR.resize((1, 3000)))),
    ("16 bits.png", (7, 5), saved(Image.fromarray(texture(3, 5, 7, dtype=np.uint16)))),
    ("16 bits too.tif", (7, 5), saved(Image.fromarray(texture(4, 5, 7, dtype=np.uint16)))),
    ("cmyk.jpg", (30, 20), saved(COLOUR.convert("CMYK"))),
    ("animated.gif", (30, 20), with_frames),
    ("animated too.webp", (30, 20), with_frames),
    ("two photographs.mpo", (30, 20), with_frames),
    ("pages.tiff", (30, 20), with_frames),
    ("turned.jpg", (20, 30), saved(COLOUR, exif=TURNED)),
    ("broken exif.jpg", (30, 20), saved(COLOUR, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12")),
    ("palette.png", (30, 20), saved(COLOUR.convert("P"), transparency=3)),
    ("1 bit.png", (30, 20), saved(GRAY.convert("1"))),
    ("transparent.png", (30, 20), saved(COLOUR.convert("RGBA"))),
    ("capitals.JPG", (30, 20), saved(COLOUR)),
    ("bitmap.bmp", (30, 20), saved(COLOUR)),
    ("portable.pgm", (30, 20), saved(GRAY)),
    ("something behind.png", (30, 20), lambda path: path.write_bytes(encoded("PNG") + HTML)),
    ("png.jpg", (30, 20), saved(COLOUR, format="PNG")),
]
ODD += [("wavelets.jp2", (30, 20), saved(COLOUR))] * features.check_codec("jpg_2000")
ODD += [("av1.avif", (30, 20), saved(COLOUR))] * features.check("avif")


@pytest.mark.parametrize(
    ("layout", "mode"), [("RoadImages", "train"), ("MVTec", "inference"), ("Folder", "inference")]
)
def test_odd_images_are_used(use, tmp_path: Path, layout: str, mode: str) -> None:
    """All of them are in one data set, beside files that operating systems leave."""
    root = LAYOUTS[layout][0](tmp_path / "data")
    before = {folder: len(list(folder.iterdir())) for folder in image_folders(root)}
    for name, size, write in ODD:
        put(layout, root, name, write, size)
    for folder in before:
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._a row.jpg"):
            (folder / name).write_bytes(b"litter")
    folder, finished = use(layout, mode, root)
    assert finished.refused == ""
    if mode == "train":
        return
    names = scored(folder)
    assert len(names) == sum(before.values()) + len(ODD) * len(before)
    bad = "hole" if layout == "MVTec" else "bad_ones"
    for name, size, _ in ODD:
        assert f"{bad}/{name}" in names
        shown = folder / "out/diff" / bad / name
        with Image.open(shown if name.endswith(".png") else f"{shown}.png") as picture:
            assert picture.size == size


# --- names ---

# Names that shells, spreadsheets, browsers, terminals and file systems may misread.
FORMULA = "=cmd|' C calc'!A0"
MARKUP = "<img src=x onerror=alert(1)>"
TURNED_ROUND = "a\N{RIGHT-TO-LEFT OVERRIDE}b"
NAMES = [
    f"{stem}.png"
    for stem in (
        FORMULA, "+1", "-rf", "@SUM(A1)", "'=1", "--help", "all", "report.html", MARKUP,
        "<script>alert(2)<", '" onerror="alert(3)"', "&amp;lt;", "<!--", "{0.__class__}",
        "%2e%2e%2fup", "a\\..\\..\\up", "~root", "$(touch up)", "%s%n", " ", "behind ",
        TURNED_ROUND, "日本", "e\N{COMBINING ACUTE ACCENT}", "x" * 240, "é" * 120,
    )
]  # fmt: skip


class Markup(HTMLParser):
    """The tags of a page, and the attributes of all of them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attributes}


@pytest.mark.parametrize(("layout", "mode"), [("RoadImages", "train"), ("MVTec", "inference")])
def test_names_stay_names(use, tmp_path: Path, layout: str, mode: str) -> None:
    """Those of the data set and of a kind of defect, too."""
    plain, _ = use(layout, mode, LAYOUTS[layout][0](tmp_path / "plain"))
    root = LAYOUTS[layout][0](tmp_path / MARKUP)
    if layout == "MVTec":
        for folder in (root / "test/hole", root / "ground_truth/hole"):
            shutil.copytree(folder, folder.with_name(FORMULA))
            folder.rename(folder.with_name(TURNED_ROUND))
    for name in NAMES:
        put(layout, root, name, saved(COLOUR), (30, 20))
    folder, finished = use(layout, mode, root)
    assert finished.refused == ""
    assert {path.name for path in folder.iterdir()} == {path.name for path in plain.iterdir()}
    assert not list(tmp_path.rglob("up"))
    assert all(line.isprintable() for line in finished.err.splitlines())
    for page in folder.rglob("report.html"):
        mine, theirs = Markup(page), Markup(plain / page.relative_to(folder))
        assert mine.attributes == theirs.attributes
        assert mine.tags.keys() == theirs.tags.keys()
        assert mine.tags["script"] == 2
    if mode == "train":
        return
    names = scored(folder)
    assert len(set(names)) == len(names)
    assert not any(name.startswith(("=", "+", "-", "@")) for name in names)
    for kind in ("inference", "diff", "overlay", "maps"):
        pictures = [path for path in (folder / "out" / kind).rglob("*") if path.is_file()]
        assert len(pictures) == len(names)


# --- images and files that cannot be read ---

COMMENTS_OF_1_GB = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 1000

BROKEN = {
    "empty": b"",
    "text": b"These are images.\n",
    **{f"half of a {kind}": encoded(kind)[:500] for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP")},
    "20,000 x 20,000 pixels": png(20_000, 20_000, 1, 0, bytes(2501 * 20_000)),
    "comments of 1 GB": with_chunks(COMMENTS_OF_1_GB),
}
SPOILT: dict[str, Callable[[Path], Any]] = {
    **{kind: lambda path, kind=kind: path.write_bytes(BROKEN[kind]) for kind in BROKEN},
    "a broken link": lambda path: (path.unlink(), path.symlink_to("nowhere.png")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "unreadable": lambda path: path.chmod(0),
    "in an unreadable folder": lambda path: path.parent.chmod(0),
    "an escape sequence": lambda path: shutil.copy(path, path.with_name("\x1b]0;taken\x07.png")),
    "not UTF-8": lambda path: shutil.copy(path, path.with_name(os.fsdecode(b"\xff.png"))),
}


@pytest.mark.parametrize(
    ("kind", "layout", "mode"),
    [(kind, *RUNS[index % len(RUNS)]) for index, kind in enumerate(SPOILT)],
)
def test_a_file_that_cannot_be_read_is_named(
    use, tmp_path: Path, kind: str, layout: str, mode: str
) -> None:
    write, name = LAYOUTS[layout]
    path = write(tmp_path / "data") / name
    SPOILT[kind](path)
    try:
        _, finished = use(layout, mode, tmp_path / "data", is_privileged=False)
    finally:
        path.parent.chmod(0o700)
    is_of_the_folder = kind in ("in an unreadable folder", "an escape sequence", "not UTF-8")
    assert f"error: {path.parent if is_of_the_folder else path}: " in finished.refused
    assert not list(tmp_path.rglob("up"))


def test_a_broken_mask_is_named(use, tmp_path: Path) -> None:
    mask = write_mvtec_category(tmp_path / "data") / "ground_truth/hole/001_mask.png"
    mask.write_bytes(mask.read_bytes()[:60])
    _, finished = use("MVTec", "inference", tmp_path / "data")
    assert f"error: {mask}: " in finished.refused


@pytest.mark.parametrize("layout", ["MVTec", "Folder"])
def test_links_in_a_circle(use, tmp_path: Path, layout: str) -> None:
    root = LAYOUTS[layout][0](tmp_path / "data")
    before = scored(use(layout, "inference", root)[0])
    for folder in image_folders(root):
        (folder / "up").symlink_to("..")
        (folder / "self").symlink_to(".")
    folder, finished = use(layout, "inference", root)
    assert finished.refused == ""
    assert scored(folder) == before


# --- damage at random ---

KINDS = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP", ".webp": "WEBP"}


@pytest.mark.parametrize("cases", short_or_long(20, "CASES", 300))
def test_files_that_are_damaged_at_random(use, tmp_path: Path, cases: int) -> None:
    """One image or mask in each data set."""
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
        folder, finished = use(layout, mode, root)
        if finished.refused:
            assert f"error: {path}: " in finished.refused
        ends[kind, "refused" if finished.refused else "used"] += 1
        # Of thousands of them only the one that fails the test has to stay.
        shutil.rmtree(root)
        shutil.rmtree(folder)
    print(f"\n{cases} data sets with a file that is damaged at random, seed {seed}:")
    for (kind, end), count in sorted(ends.items()):
        print(f"  {kind:<20} {end:<8} {count:4}")
