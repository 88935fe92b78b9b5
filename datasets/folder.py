"""Folder: any images, in folders of any depth, of which nobody has said what is normal."""

import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from crn.errors import UserError
from datasets.road_images import TILE_FOLDERS, road_tiles
from datasets.samples import TEST, Sample, entries

log = logging.getLogger(__name__)


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
    for sample in _samples(root, root, visited, left_out):
        empty = False
        yield sample
    if empty:
        raise UserError(f"{root}: contains no images")
    if left_out:
        log.warning("left out %d files that are no images, such as %s", len(left_out), left_out[0])


def _samples(place: Path, root: Path, visited: set[str], left_out: list[Path]) -> Iterator[Sample]:
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
            yield from _samples(path, root, visited, left_out)
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
