"""The gallery of a report: picture files and a row of data for every image."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from crn.config import SCORES
from crn.evaluation.results import InferenceResults
from crn.report.pages import REPORT_FILE
from crn.report.pictures import side_by_side, write_picture
from crn.system.files import claim_version
from datasets.samples import TRAIN

FILES_FOLDER = "report_files"
PANELS = ("input", "reconstruction", "overlay", "mask")

# Most and least pixels of the longer side of a panel in a thumbnail.
_THUMBNAIL, _SMALLEST = 128, 64
_GAP, _GAP_COLOUR = 3, (128, 128, 128)
# Without subsampling the thin lines of overlays keep their colours.
_JPEG = {"quality": 85, "subsampling": 0}


@dataclass(frozen=True)
class Panels:
    """The written pictures of one image.

    Attributes:
        names: those of `PANELS` that there are, in that order.
        size: width and height of each panel.
        thumbnail: width and height of the picture with all of them side by side.
    """

    names: tuple[str, ...]
    size: tuple[int, int]
    thumbnail: tuple[int, int]


@contextmanager
def files_folder(page_folder: Path) -> Iterator[Path]:
    """Yield a new folder report_files/version_N for the pictures of a page; removed if it fails.

    Every page has its own folder, so that a page that is set aside still shows its pictures.
    """
    root, page = page_folder / FILES_FOLDER, page_folder / REPORT_FILE
    folder = root / f"version_{claim_version(root)}"
    try:
        yield folder
    except BaseException:
        # Ctrl-C may come after the page has been written.
        if not page.exists() or f'"{FILES_FOLDER}/{folder.name}"' not in page.read_text("utf-8"):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_panels(panels: dict[str, Image.Image], folder: Path, index: int) -> Panels:
    """Write the panels of one image, and a thumbnail with all of them.

    File names are numbers, so that a data set cannot decide where anything is written.

    Args:
        panels: RGB pictures for some of `PANELS`, all of one size.
        folder: from `files_folder`.
        index: index of the image among the results.

    Raises:
        UserError: the system refuses to write them.
    """
    names = tuple(name for name in PANELS if name in panels)
    small = []
    for name in names:
        write_picture(panels[name], folder / f"{index}-{name}.jpg", **_JPEG)
        panel = panels[name].copy()
        panel.thumbnail((_THUMBNAIL, _THUMBNAIL))
        # Small panels are enlarged by a whole factor, so that pixels stay squares.
        factor = max(1, _SMALLEST // max(panel.size))
        small.append(ImageOps.scale(panel, factor, Image.Resampling.NEAREST))
    thumbnail = side_by_side(*small, gap=_GAP, colour=_GAP_COLOUR)
    write_picture(thumbnail, folder / f"{index}.jpg", **_JPEG)
    return Panels(names, panels[names[0]].size, thumbnail.size)


def gallery_data(
    results: InferenceResults, shown: Sequence[Panels], folder: Path, page_folder: Path
) -> dict[str, Any]:
    """The data for gallery.js, in short rows, so that 5,000 images load quickly."""
    kinds = sorted({image.kind for image in results.images if image.kind is not None})
    panels = [name for name in PANELS if any(name in each.names for each in shown)]
    rows = [
        [
            image.key,
            int(image.split == TRAIN),
            kinds.index(image.kind) if image.kind is not None else None,
            image.label,
            image.decision,
            [float(f"{image.scores[name]:.8g}") for name in SCORES],
            [panels.index(name) for name in mine.names],
            *mine.size,
            *mine.thumbnail,
        ]
        for image, mine in zip(results.images, shown, strict=True)
    ]
    return {
        "folder": folder.relative_to(page_folder).as_posix(),
        "scores": list(SCORES),
        "score": SCORES.index(results.metrics.anomaly_score),
        "threshold": results.metrics.threshold.image,
        "kinds": kinds,
        "panels": panels,
        "images": rows,
    }
