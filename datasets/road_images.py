"""RoadImages: height and intensity of road tiles from LiDAR scans (doi:10.5281/zenodo.7681876)."""

import unicodedata
from pathlib import Path

from crn.errors import UserError
from datasets.samples import Sample, image_files, split_good_and_bad, subfolder

TILE_FOLDERS = ("height_files", "intensity_files")


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
