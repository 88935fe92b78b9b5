"""The gallery of a report: pictures of every image in files, and what is known of it in rows."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from crn.config import SCORES
from crn.evaluation.results import InferenceResults
from crn.report.charts import colour_chart
from crn.report.overlays import ColourScale
from crn.report.page import template
from crn.report.pictures import side_by_side, write_picture
from crn.system.files import claim_version
from crn.system.hardware import in_threads
from datasets.samples import TRAIN

log = logging.getLogger(__name__)

FILES_FOLDER = "report_files"
PANELS = ("input", "reconstruction", "overlay", "mask")

# The longer side of a panel on an overview, in pixels: at most, and at least.
_THUMBNAIL, _SMALLEST = 128, 64
_GAP, _GAP_COLOUR = 3, (128, 128, 128)
_BAR_WIDTH = 256
# Without subsampling the thin lines of overlays keep their colours.
_JPEG = {"quality": 85, "subsampling": 0}


@dataclass(frozen=True)
class Pictures:
    """The pictures of one image.

    Attributes:
        panels: which of `PANELS` there are, in their order.
        size: width and height of each panel.
        thumbnail: width and height of the picture with all of them side by side.
    """

    panels: tuple[str, ...]
    size: tuple[int, int]
    thumbnail: tuple[int, int]


@contextmanager
def files_folder(page_folder: Path) -> Iterator[Path]:
    """A new folder report_files/version_N for a page's pictures, removed where the page fails.

    Every page has its own, so that one that is set aside still shows its pictures.
    """
    root = page_folder / FILES_FOLDER
    folder = root / f"version_{claim_version(root)}"
    try:
        yield folder
    except BaseException:
        # Whatever hinders this, too, has been the reason to give up.
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_pictures(results: InferenceResults, folder: Path) -> list[Pictures]:
    """Write all panels and a thumbnail of every image.

    File names are numbers: nothing in a data set decides where anything is written.

    Raises:
        UserError: the system refuses to write them.
    """

    def write(index: int) -> Pictures:
        panels = results.panels(index)
        names = tuple(name for name in PANELS if name in panels)
        small = []
        for name in names:
            panel = panels[name].convert("RGB")
            write_picture(panel, folder / f"{index}-{name}.jpg", **_JPEG)
            panel.thumbnail((_THUMBNAIL, _THUMBNAIL))
            small.append(_enlarged(panel))
        thumbnail = side_by_side(*small, gap=_GAP, colour=_GAP_COLOUR)
        write_picture(thumbnail, folder / f"{index}.jpg", **_JPEG)
        return Pictures(names, panels[names[0]].size, thumbnail.size)

    return in_threads(write, len(results.images), results.threads)


def _enlarged(panel: Image.Image) -> Image.Image:
    """A panel of few pixels in whole multiples of them, so that each stays a square."""
    factor = max(1, _SMALLEST // max(panel.size))
    return panel.resize((panel.width * factor, panel.height * factor), Image.Resampling.NEAREST)


def gallery_data(
    results: InferenceResults, pictures: list[Pictures], folder: Path, page_folder: Path
) -> dict[str, Any]:
    """What gallery.js reads; a short row for every image, so that 5,000 of them load quickly."""
    kinds = sorted({image.kind for image in results.images if image.kind is not None})
    panels = [name for name in PANELS if any(name in each.panels for each in pictures)]
    rows = [
        [
            image.key,
            int(image.split == TRAIN),
            None if image.kind is None else kinds.index(image.kind),
            image.label,
            image.decision,
            [float(f"{image.scores[name]:.8g}") for name in SCORES],
            [panels.index(name) for name in shown.panels],
            *shown.size,
            *shown.thumbnail,
        ]
        for image, shown in zip(results.images, pictures, strict=True)
    ]
    return {
        "folder": folder.relative_to(page_folder).as_posix(),
        "scores": list(SCORES),
        "score": SCORES.index(results.score),
        "threshold": results.threshold,
        "kinds": kinds,
        "panels": panels,
        "images": rows,
    }


def gallery(results: InferenceResults) -> str:
    """The controls, the empty gallery and the dialog, which gallery.js fills."""
    maps, metrics = results.metrics["maps"], results.metrics
    scale = ColourScale(maps["low"], maps["high"], metrics["threshold"]["pixel"])
    words = f"The colours of all maps, from {scale.low:.4g} to {scale.high:.4g}"
    bar = results.colour_bar(_BAR_WIDTH)
    chart = colour_chart(words, bar, scale, masks=metrics["dataset"]["masks"] > 0)
    return template("gallery.html").substitute(scale=chart)
