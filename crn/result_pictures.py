"""Pictures of what a model makes of images: files for people and programs, panels for reports."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch import Tensor

from crn.files import set_aside
from crn.hardware import available_cores
from crn.maps import AnomalyMaps, at_size
from crn.overlays import ColourScale, legend, overlay
from crn.pictures import heat_map, side_by_side, to_image
from crn.results import PANEL_SIZE
from datasets.memory import normalize
from datasets.reader import Images, read_mask, read_own_size
from datasets.samples import Sample

log = logging.getLogger(__name__)

COLOUR_SCALE_FILE = "colour_scale.png"


@dataclass(frozen=True)
class ResultPictures:
    """What pictures of the images of a run are made from; all in one order.

    Attributes:
        samples: what was scored.
        images: as the model saw them.
        reconstructions: (N, 3, S, S) uint8.
        maps: of the score that was asked for.
        scale: the colours of all overlays.
    """

    samples: Sequence[Sample]
    images: Images
    reconstructions: Tensor
    maps: AnomalyMaps
    scale: ColourScale

    def panels(self, index: int) -> dict[str, Image.Image]:
        """The pictures of one image; see `InferenceResults.panels`."""
        image = self._own_image(index)
        mask = read_mask(self.samples[index], self.images.sizes[index])
        image.thumbnail((PANEL_SIZE, PANEL_SIZE))
        reconstruction = to_image(self.reconstructions[index])
        pictures = {"input": image, "reconstruction": reconstruction.resize(image.size)}
        if mask is not None:
            small = Image.fromarray(mask).resize(image.size)
            pictures["mask"] = small.convert("RGB")
            mask = np.asarray(small)
        pictures["overlay"] = self._overlay(index, image, mask)
        return pictures

    def colour_scale(self) -> Image.Image:
        """What the colours of the overlays mean."""
        return legend(self.scale, any(sample.mask is not None for sample in self.samples))

    def write(self, folder: Path, save_maps: bool) -> None:
        """Write the pictures of all images, and what earlier runs left there is renamed.

        Of every image there is inference/KEY, what the model saw and made; diff/KEY, the plain
        map; and overlay/KEY, the smoothed map over the image. One colour scale serves all plain
        maps, and another one, drawn in colour_scale.png, all smoothed maps.

        Args:
            save_maps: whether to write maps/KEY.tiff as well, the smoothed map as 32-bit floats.
        """
        folders = {name: folder / name for name in ("inference", "diff", "overlay")}
        if save_maps:
            folders["maps"] = folder / "maps"
        for path in (*folders.values(), folder / COLOUR_SCALE_FILE):
            set_aside(path)
        low, high = (float(value) for value in self.maps.plain.aminmax())
        keys = [sample.key for sample in self.samples]
        names, tiff_names = picture_names(keys), map_names(keys)

        def write(index: int) -> None:
            size = self.images.sizes[index]
            image, mask = self._own_image(index), read_mask(self.samples[index], size)
            pictures = {
                "inference": self._row(index, low, high),
                "diff": heat_map(at_size(self.maps.plain[index], size), low, high),
                "overlay": self._overlay(index, image, mask),
            }
            for kind, picture in pictures.items():
                path = _with_folder(folders[kind] / names[index])
                picture.save(path, compress_level=1)
            if save_maps:
                path = _with_folder(folders["maps"] / tiff_names[index])
                Image.fromarray(at_size(self.maps.smooth[index], size)).save(path)

        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(write, range(len(self.samples))))
        self.colour_scale().save(folder / COLOUR_SCALE_FILE)
        for path in folders.values():
            log.info("wrote %d pictures to %s", len(self.samples), path)
        log.info("colours of %s run from %.4g to %.4g", folders["diff"], low, high)

    def _own_image(self, index: int) -> Image.Image:
        """The image in the size of its file."""
        return to_image(read_own_size(self.samples[index]).round().byte())

    def _row(self, index: int, low: float, high: float) -> Image.Image:
        return side_by_side(
            to_image(normalize(self.images.pixels[index])),
            to_image(self.reconstructions[index]),
            heat_map(self.maps.plain[index], low, high),
        )

    def _overlay(self, index: int, image: Image.Image, mask: np.ndarray | None) -> Image.Image:
        anomaly_map = at_size(self.maps.smooth[index], (image.height, image.width))
        return overlay(image, anomaly_map, self.scale, mask)


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def picture_names(keys: Sequence[str]) -> list[PurePosixPath]:
    """The PNG files that show some samples: KEY, or KEY.png where it has another ending."""
    paths = [PurePosixPath(key) for key in keys]
    return _unique([p if p.suffix == ".png" else p.with_name(f"{p.name}.png") for p in paths])


def map_names(keys: Sequence[str]) -> list[PurePosixPath]:
    """The TIFF files of some samples' maps: KEY with .tiff for its ending, as MVTec's evaluation
    expects them.
    """
    return _unique([PurePosixPath(key).with_suffix(".tiff") for key in keys])


def _unique(names: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The names, with underscores where one is taken."""
    # A file cannot be called as a folder is that another one lies in.
    taken = {parent for name in names for parent in name.parents}
    result = []
    for name in names:
        free = name
        while free in taken:
            free = free.with_name(f"{free.stem}_{free.suffix}")
        taken.add(free)
        result.append(free)
    return result
