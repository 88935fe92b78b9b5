"""The layouts of data sets on disk: a function for each lists its samples. `LAYOUTS` has all."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from crn.errors import UserError
from datasets.folders import by_name, contents, image_files, normal_form, subfolder
from datasets.samples import ANOMALOUS, NORMAL, TEST, TRAIN, Sample

# The categories of MVTec AD.
CATEGORIES = (
    *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
    *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
)
TILE_FOLDERS = ("height_files", "intensity_files")
_TRAIN_PERCENT = 70


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
    masks = _masks(root / "ground_truth")
    for folder in contents(subfolder(root, "test")).folders:
        for file in image_files(folder):
            if folder.name == "good":
                yield Sample(f"good/{file.name}", (file,), TEST, NORMAL)
                continue
            mask = masks.get((normal_form(folder.name), normal_form(f"{file.stem}_mask")))
            if masks and mask is None:
                missing = root / "ground_truth" / folder.name / f"{file.stem}_mask.png"
                raise UserError(f"{missing}: no such file; {file} has to have a mask")
            yield Sample(f"{folder.name}/{file.name}", (file,), TEST, ANOMALOUS, mask)


def _masks(ground_truth: Path) -> dict[tuple[str, str], Path]:
    """Masks by kind of defect and name; none if the data set has no masks."""
    return {
        (normal_form(folder.name), name): file
        for folder in (contents(ground_truth).folders if os.path.isdir(ground_truth) else ())
        for name, file in by_name(contents(folder).images).items()
    }


def panorama(root: Path) -> list[Sample]:
    """Samples of good_ones/* and, where there are some, bad_ones/*.

    Raises:
        UserError: good_ones/ is missing, a folder is empty, or there is one good image only.
    """
    return _good_and_bad(root, lambda folder: [(file,) for file in image_files(folder)])


def road_images(root: Path) -> list[Sample]:
    """Samples of {good_ones,bad_ones}/{height_files,intensity_files}/*, paired by file stem.

    Raises:
        UserError: see `panorama`; or a height or an intensity image has no partner.
    """
    return _good_and_bad(root, road_tiles)


def _good_and_bad(
    root: Path, files_in: Callable[[Path], Sequence[tuple[Path, ...]]]
) -> list[Sample]:
    """The first 70 % of the good samples train; the rest and the bad ones, if any, test."""
    good = files_in(subfolder(root, "good_ones"))
    bad = files_in(root / "bad_ones") if os.path.lexists(root / "bad_ones") else []
    count = len(good) * _TRAIN_PERCENT // 100
    if count == 0:
        raise UserError(
            f"{root / 'good_ones'}: one good sample is too few; the first 70 % train and the rest "
            "tests, so there have to be at least two"
        )
    return [
        *(Sample(f"good_ones/{files[0].name}", files, TRAIN, NORMAL) for files in good[:count]),
        *(Sample(f"good_ones/{files[0].name}", files, TEST, NORMAL) for files in good[count:]),
        *(Sample(f"bad_ones/{files[0].name}", files, TEST, ANOMALOUS) for files in bad),
    ]


def road_tiles(folder: Path) -> list[tuple[Path, Path]]:
    """The height and the intensity image of every tile in a folder, sorted by stem.

    Raises:
        UserError: see `road_images`.
    """
    heights, intensities = (by_name(image_files(subfolder(folder, n))) for n in TILE_FOLDERS)
    unpaired = sorted(heights.keys() ^ intensities.keys())
    if unpaired:
        shown = ", ".join(unpaired[:5]) + (", ..." if len(unpaired) > 5 else "")
        raise UserError(
            f"{folder / 'height_files'} and {folder / 'intensity_files'} do not pair: "
            f"{len(unpaired)} without a partner ({shown})"
        )
    return [(heights[stem], intensities[stem]) for stem in sorted(heights)]


def folder(root: Path) -> list[Sample]:
    """Samples of all images below a folder; a key is the path below that folder.

    A folder with height_files/ and intensity_files/ holds road tiles, paired by file stem, with the
    key of the height image. A folder that is reached twice, through links, is read once.

    Raises:
        UserError: a folder cannot be read, or road tiles do not pair.
    """
    samples = _images_below(root, root, set())
    return sorted(samples, key=lambda sample: [normal_form(n) for n in sample.key.split("/")])


def _images_below(place: Path, root: Path, visited: set[str]) -> Iterator[Sample]:
    real = os.path.realpath(place)
    if real in visited:
        return
    visited.add(real)
    inside = contents(place)
    groups: list[tuple[Path, ...]] = [(file,) for file in inside.images]
    folders = inside.folders
    if set(TILE_FOLDERS) <= {path.name for path in folders}:
        groups += road_tiles(place)
        folders = [path for path in folders if path.name not in TILE_FOLDERS]
    for files in groups:
        yield Sample(files[0].relative_to(root).as_posix(), files, TEST, None)
    for path in folders:
        yield from _images_below(path, root, visited)


LABELLED: dict[str, Callable[[Path], Iterable[Sample]]] = {
    "MVTec": mvtec,
    "Panorama": panorama,
    "RoadImages": road_images,
}
# With the layout without labels, for inference only.
LAYOUTS = {**LABELLED, "Folder": folder}


def layout_of(root: Path) -> str:
    """The layout with labels that a folder seems to have."""
    if (root / "train").is_dir():
        return "MVTec"
    return "RoadImages" if (root / "good_ones" / TILE_FOLDERS[0]).is_dir() else "Panorama"
