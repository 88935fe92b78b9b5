"""The layouts of data sets on disk: for each a function that lists the samples. `LAYOUTS` has all."""

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from crn.errors import UserError
from datasets.samples import (
    ANOMALOUS,
    NORMAL,
    TEST,
    TRAIN,
    Sample,
    entries,
    image_files,
    split_good_and_bad,
    subfolder,
    subfolders,
)

log = logging.getLogger(__name__)

# Of MVTec AD.
CATEGORIES = (
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
    *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
)
TILE_FOLDERS = ("height_files", "intensity_files")


def mvtec(root: Path) -> Iterator[Sample]:
    """Samples of CATEGORY/train/good, CATEGORY/test/DEFECT and CATEGORY/ground_truth/DEFECT.

    A test image's key is DEFECT/NAME; names repeat between train/good and test/good, so a training
    image's is train/good/NAME.

    Raises:
        UserError: a folder or a mask is missing.
    """
    if not os.path.isdir(root / "train") and any(root.glob("*/train/good")):
        raise UserError(
            f"{root}: holds several categories; give the folder of one, such as "
            f"{min(root.glob('*/train/good')).parent.parent}"
        )
    for file in image_files(subfolder(subfolder(root, "train"), "good")):
        yield Sample(f"train/good/{file.name}", (file,), TRAIN, NORMAL)
    test = subfolder(root, "test")
    for folder in subfolders(test):
        for file in image_files(folder):
            if folder.name == "good":
                yield Sample(f"good/{file.name}", (file,), TEST, NORMAL)
            else:
                mask = _mask(root / "ground_truth", folder.name, file)
                yield Sample(f"{folder.name}/{file.name}", (file,), TEST, ANOMALOUS, mask)


def _mask(ground_truth: Path, defect: str, file: Path) -> Path | None:
    """The mask of a test image, or None where the data set comes without masks."""
    if not os.path.isdir(ground_truth):
        return None
    mask = ground_truth / defect / f"{file.stem}_mask.png"
    if not os.path.isfile(mask):
        raise UserError(f"{mask}: no such file; {file} has to have a mask")
    return mask


def panorama(root: Path) -> list[Sample]:
    """Samples of good_ones/* and bad_ones/*.

    Raises:
        UserError: a folder is missing or empty.
    """
    good = image_files(subfolder(root, "good_ones"))
    bad = image_files(subfolder(root, "bad_ones"))
    return split_good_and_bad(
        [(file,) for file in good], [(file,) for file in bad], root / "good_ones"
    )


def road_images(root: Path) -> list[Sample]:
    """Samples of {good_ones,bad_ones}/{height_files,intensity_files}/*, paired by file stem.

    Stems that differ only in how Unicode spells a letter, as a file system may, are the same.

    Raises:
        UserError: a folder is missing or empty, or a height or an intensity image has no partner.
    """
    good, bad = (road_tiles(subfolder(root, name)) for name in ("good_ones", "bad_ones"))
    return split_good_and_bad(good, bad, root / "good_ones")


def road_tiles(folder: Path) -> list[tuple[Path, Path]]:
    """The height and the intensity image of every tile in a folder, sorted by stem.

    Raises:
        UserError: see `road_images`.
    """
    heights, intensities = (_by_stem(subfolder(folder, name)) for name in TILE_FOLDERS)
    unpaired = sorted(heights.keys() ^ intensities.keys())
    if unpaired:
        shown = ", ".join(unpaired[:5]) + (", ..." if len(unpaired) > 5 else "")
        raise UserError(
            f"{folder / 'height_files'} and {folder / 'intensity_files'} do not pair: "
            f"{len(unpaired)} without a partner ({shown})"
        )
    return [(heights[stem], intensities[stem]) for stem in sorted(heights)]


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in image_files(folder):
        stem = unicodedata.normalize("NFC", file.stem)
        if stem in files:
            raise UserError(f"{file}: there is {files[stem].name} beside it; keep one of them")
        files[stem] = file
    return files


def folder(root: Path) -> Iterator[Sample]:
    """Samples of all images below a folder; the key is the path below it.

    A folder with height_files/ and intensity_files/ holds road tiles, paired by file stem; the key
    is that of the height image. What is no image by its ending is left out. A folder that is
    reached twice, through links, is read once.

    Raises:
        UserError: there are no images, a folder cannot be read, or road tiles do not pair.
    """
    visited: set[str] = set()
    left_out: list[Path] = []
    empty = True
    for sample in _images_below(root, root, visited, left_out):
        empty = False
        yield sample
    if empty:
        raise UserError(f"{root}: contains no images")
    if left_out:
        log.warning("left out %d files that are no images, such as %s", len(left_out), left_out[0])


def _images_below(
    place: Path, root: Path, visited: set[str], left_out: list[Path]
) -> Iterator[Sample]:
    real = os.path.realpath(place)
    if real in visited:
        return
    visited.add(real)
    inside = entries(place)
    if set(TILE_FOLDERS) <= {path.name for path in inside}:
        for files in road_tiles(place):
            yield _sample(files, root)
        inside = [path for path in inside if path.name not in TILE_FOLDERS]
    for path in inside:
        if path.is_dir():
            yield from _images_below(path, root, visited, left_out)
        elif path.suffix.lower() in _image_endings():
            yield _sample((path,), root)
        else:
            left_out.append(path)


def _sample(files: tuple[Path, ...], root: Path) -> Sample:
    return Sample(files[0].relative_to(root).as_posix(), files, TEST, None)


@cache
def _image_endings() -> frozenset[str]:
    """The endings of the files that Pillow opens."""
    from PIL import Image

    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in endings if kind in Image.OPEN)


LABELLED: dict[str, Callable[[Path], Iterable[Sample]]] = {
    "MVTec": mvtec,
    "Panorama": panorama,
    "RoadImages": road_images,
}
# With those that have no labels: they are for inference only.
LAYOUTS = {**LABELLED, "Folder": folder}


def layout_of(root: Path) -> str:
    """The layout, of those with labels, that a folder seems to have."""
    if (root / "train").is_dir():
        return "MVTec"
    return "RoadImages" if (root / "good_ones" / TILE_FOLDERS[0]).is_dir() else "Panorama"
