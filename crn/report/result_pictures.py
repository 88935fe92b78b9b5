"""Pictures of the results of inference: files, and panels for reports."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from joblib import cpu_count
from PIL import Image
from torch import Tensor

from crn.evaluation.pixel_metrics import at_size
from crn.report.gallery import Panels, write_panels
from crn.report.overlays import ColourScale, legend, overlay
from crn.report.pictures import heat_map, side_by_side, to_image, write_picture
from crn.system.files import set_aside, written_whole
from crn.system.hardware import in_threads
from crn.system.text import file_name
from datasets.reader import MAX_PIXELS, Images, normalize
from datasets.samples import Sample

log = logging.getLogger(__name__)

# The largest side of a panel of the report, in pixels.
PANEL_SIZE = 512
# The output of `ResultPictures.write`: folders of pictures, and the legend of overlays.
FOLDERS = ("inference", "diff", "overlay")
MAPS_FOLDER = "maps"
COLOUR_SCALE_FILE = "colour_scale.svg"
PICTURES = (*FOLDERS, MAPS_FOLDER, COLOUR_SCALE_FILE)


@dataclass(frozen=True)
class ResultPictures:
    """The sources of the pictures of a run: the scored samples and, in this order, what is shown.

    Attributes:
        reconstructions: (N, 3, S, S) uint8; None for a model without networks.
        maps: (N, S, S), of the score that was asked for.
        masks: their masks; None for a sample without one.
        scale: the colours of all overlays.
    """

    samples: Sequence[Sample]
    images: Images
    reconstructions: Tensor | None
    maps: Tensor
    masks: Sequence[np.ndarray | None]
    scale: ColourScale

    @property
    def threads(self) -> int:
        """The number of drawing threads.

        Their images together have at most `MAX_PIXELS`, so that memory does not grow with cores.
        """
        largest = max(height * width for height, width in self.images.sizes)
        return max(1, min(cpu_count(), MAX_PIXELS // largest))

    def write(self, folder: Path, files: Path, save_maps: bool) -> list[Panels]:
        """Write the pictures of all images; those of earlier runs are renamed.

        For every image: inference/KEY, input, reconstruction and map side by side; diff/KEY, the
        anomaly map; and overlay/KEY, the map over the image. All share one colour scale, drawn in
        colour_scale.svg.

        Args:
            folder: the output folder.
            files: folder for the panels of the report.
            save_maps: whether to write maps/KEY.tiff as well, the map as 32-bit floats.

        Returns:
            The panels of every image for the report.
        """
        folders = [folder / name for name in (*FOLDERS, *([MAPS_FOLDER] if save_maps else []))]
        for path in (*folders, folder / COLOUR_SCALE_FILE):
            set_aside(path)
        low, high = self.scale.low, self.scale.high
        keys = [sample.key for sample in self.samples]
        names = unique_names(keys, lambda key: key.name.removesuffix(".png"), ".png")
        # MVTec's evaluation expects the ending .tiff in place of that of the image.
        tiff_names = unique_names(keys, lambda key: key.stem, ".tiff")

        def write(index: int) -> Panels:
            image, small = to_image(self.images.own(index)), self.maps[index]
            anomaly_map = at_size(small, self.images.sizes[index])
            row = [to_image(normalize(self.images.pixels[index])), heat_map(small, low, high)]
            if self.reconstructions is not None:
                row.insert(1, to_image(self.reconstructions[index]))
            heat = heat_map(anomaly_map, low, high)
            pictures = (side_by_side(*row), heat, self._overlay(index, image))
            for kind, picture in zip(FOLDERS, pictures, strict=True):
                write_picture(picture, folder / kind / names[index], compress_level=1)
            if save_maps:
                path = folder / MAPS_FOLDER / tiff_names[index]
                write_picture(Image.fromarray(anomaly_map), path)
            return write_panels(self.panels(index, image), files, index)

        shown = in_threads(write, len(self.samples), self.threads)
        with written_whole(folder / COLOUR_SCALE_FILE, "w", encoding="utf-8") as file:
            file.write(legend(self.scale, any(mask is not None for mask in self.masks)))
        for path in folders:
            log.info("wrote %d pictures to %s", len(self.samples), path)
        log.info("colours of %s run from %.4g to %.4g", folder / "diff", low, high)
        return shown

    def panels(self, index: int, image: Image.Image) -> dict[str, Image.Image]:
        """The panels of one image for the report: RGB pictures of one size.

        They are "input", "overlay" (the anomaly map over the image, with contours) and, if they
        exist, "reconstruction" and "mask".

        Args:
            index: index of the image.
            image: the image in the size of its file; reduced in place to `PANEL_SIZE`.
        """
        image.thumbnail((PANEL_SIZE, PANEL_SIZE))
        panels = {"input": image, "overlay": self._overlay(index, image)}
        if self.reconstructions is not None:
            reconstruction = to_image(self.reconstructions[index])
            panels["reconstruction"] = reconstruction.resize(image.size)
        if (mask := self._mask(index, image.size)) is not None:
            panels["mask"] = mask.convert("RGB")
        return panels

    def _mask(self, index: int, size: tuple[int, int]) -> Image.Image | None:
        mask = self.masks[index]
        return None if mask is None else Image.fromarray(mask).resize(size)

    def _overlay(self, index: int, image: Image.Image) -> Image.Image:
        """The anomaly map drawn over an image of any size."""
        anomaly_map = at_size(self.maps[index], (image.height, image.width))
        mask = self._mask(index, image.size)
        return overlay(image, anomaly_map, self.scale, None if mask is None else np.asarray(mask))


def unique_names(
    keys: Sequence[str], stem: Callable[[PurePosixPath], str], ending: str
) -> list[PurePosixPath]:
    """File names for samples: each key with another stem and ending; underscores avoid clashes."""
    paths = [PurePosixPath(key) for key in keys]
    # A file cannot have the name of a folder.
    taken = {parent for path in paths for parent in path.parents}
    names = []
    for path in paths:
        unique = ending
        while (name := path.with_name(file_name(stem(path), unique))) in taken:
            unique = "_" + unique
        taken.add(name)
        names.append(name)
    return names
