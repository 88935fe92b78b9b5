"""The data sets: a function for each layout on disk, and one reader for all of them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from datasets.folder import folder
from datasets.mvtec import mvtec
from datasets.panorama import panorama
from datasets.road_images import road_images
from datasets.samples import Sample

LAYOUTS: dict[str, Callable[[Path], Iterable[Sample]]] = {
    "MVTec": mvtec,
    "Panorama": panorama,
    "RoadImages": road_images,
    "Folder": folder,
}


def layout_of(root: Path) -> str:
    """The layout, of those with labels, that a folder seems to have."""
    if (root / "train").is_dir():
        return "MVTec"
    return "RoadImages" if (root / "good_ones/height_files").is_dir() else "Panorama"
