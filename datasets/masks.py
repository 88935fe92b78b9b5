"""Masks of anomalous pixels, read once and kept compressed."""

import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from crn.errors import UserError
from crn.system.text import counted
from datasets.reader import decoded
from datasets.samples import Sample

log = logging.getLogger(__name__)

# The classes of the pixels of a mask.
_NORMAL, _ANOMALOUS, _IGNORED = 0, 1, 2
# These highest numbers are an edge to ignore if all others are below the second constant.
_EDGE, _SMALL = (255, 65_535), 64
# Up to here (of 255), values may be numbers of classes; shades of gray go on to white.
_MIDDLE = 127
# An inverted mask covers more than this share of the image and of its border.
_COVERS, _BORDERS = 0.5, 0.8
# How to turn a mask upright, for EXIF orientations that exchange width and height.
_UPRIGHT = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Messages about masks.
_BRIGHTER = "the brighter of two values is taken for anomalous"
_SHADES = "they have shades of gray; above half of the brightest is taken for anomalous"
_NUMBERS = "they have several values; all but 0 are taken for anomalous"
_HAS_EDGE = (
    "their highest value, beside small ones, is taken for an edge to ignore, which pixel metrics "
    "leave out"
)
_ALPHA = "their opaque pixels are taken for anomalous"
_EITHER_WAY = (
    "EXIF data turn their photographs but not them, and they fit both ways; they are taken to be "
    "upright (docs/datasets.md)"
)
_EMPTY, _FULL = "no pixel is anomalous", "all pixels are anomalous"


class Masks(Sequence[np.ndarray | None]):
    """Masks (H, W) bool, kept as PNG files in memory; None for a sample without one."""

    def __init__(self) -> None:
        self._files: list[bytes] = []

    def append(self, mask: np.ndarray | None) -> None:
        """Add a mask (H, W) bool, or None."""
        file = io.BytesIO()
        if mask is not None:
            Image.fromarray(mask).save(file, "PNG", compress_level=1)
        self._files.append(file.getvalue())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> np.ndarray | None:  # type: ignore[override]  # no slices
        content = self._files[index]
        return np.array(Image.open(io.BytesIO(content))) if content else None


def read_masks(
    samples: Sequence[Sample],
    sizes: Sequence[tuple[int, int]],
    orientations: Sequence[int | None],
) -> tuple[Masks, Masks]:
    """Read the masks of some samples, and log which had to be interpreted.

    Args:
        samples: what the masks belong to.
        sizes: the (height, width) of their images, upright.
        orientations: the EXIF orientations of their images, None without one.

    Returns:
        The anomalous pixels of each sample, None without a mask; and the pixels to ignore, None if
        there are none.

    Raises:
        UserError: a file cannot be read or does not have the size of its image, or half of the
            masks or more are inverted.
    """
    anomalous, ignored = Masks(), Masks()
    notes: dict[str, list[Path]] = {}
    inverted = []
    count = sum(sample.mask is not None for sample in samples)
    for sample, size, orientation in zip(samples, sizes, orientations, strict=True):
        if sample.mask is None:
            anomalous.append(None)
            ignored.append(None)
            continue
        pixels, found = _read_mask(sample.files[0], sample.mask, size, orientation)
        mask, left_out = pixels == _ANOMALOUS, pixels == _IGNORED
        if not mask.any():
            found.append(_EMPTY)
        elif (mask | left_out).all():
            found.append(_FULL)
        elif _seems_inverted(mask):
            inverted.append(sample.mask)
        for note in found:
            notes.setdefault(note, []).append(sample.mask)
        anomalous.append(mask)
        ignored.append(left_out if left_out.any() else None)
    for note, paths in notes.items():
        if note == _EMPTY and len(paths) == count:
            note = f"{note}, nor in any other mask, so there are no pixel metrics"
        log.warning("%s such as %s: %s", counted(len(paths), "mask"), paths[0], note)
    if inverted and 2 * len(inverted) >= count:
        raise UserError(
            f"{inverted[0]}: white for the most part and along the border, as {len(inverted)} of "
            f"{counted(count, 'mask')}; white has to mark what is anomalous: invert them"
        )
    return anomalous, ignored


def _read_mask(
    photograph: Path, path: Path, size: tuple[int, int], orientation: int | None
) -> tuple[np.ndarray, list[str]]:
    """The classes of the pixels (H, W) of a mask, upright, and messages about it."""
    image, own = decoded(path)
    notes = []
    height, width = size
    stored = (height, width) if orientation in _UPRIGHT else (width, height)
    if image.size == stored != (width, height):
        image = image.transpose(_UPRIGHT[orientation or 0])
    elif image.size == stored and orientation not in (None, 1) and own is None:
        notes.append(_EITHER_WAY)
    if image.size != (width, height):
        raise UserError(
            f"{path}: has {image.width}x{image.height} pixels, but {photograph} has "
            f"{width}x{height}; give both one size"
        )
    pixels, note = _classes(image)
    return pixels, [*notes, note] if note else notes


def _classes(image: Image.Image) -> tuple[np.ndarray, str]:
    """The classes of the pixels (H, W) of a mask, and a message if it is not black and white."""
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return _marked(np.array(image.convert("L")))
    if image.mode[0] in "IF" or (image.mode == "P" and _has_edge(np.unique(np.array(image)))):
        return _marked(np.array(image))
    array = np.array(image.convert("RGBA"))
    brightest, alpha = array[..., :3].max(2), array[..., 3]
    if alpha.min() != alpha.max():
        opaque = alpha > _MIDDLE
        brightest = np.where(opaque, brightest, 0)
        if len(np.unique(brightest[opaque])) <= 1:
            return opaque.astype(np.uint8), _ALPHA
    return _marked(brightest)


def _has_edge(levels: np.ndarray) -> bool:
    """Whether the highest of some values marks an edge to ignore, as in Pascal VOC."""
    return len(levels) > 2 and levels[-1] in _EDGE and levels[-2] < _SMALL


def _marked(values: np.ndarray) -> tuple[np.ndarray, str]:
    """The classes of pixels by their values (H, W), and a message if these are ambiguous."""
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) == 2 and levels[0] > 0:
        return (values == levels[1]).astype(np.uint8), _BRIGHTER
    marked = (values != 0).astype(np.uint8)
    if len(levels) <= 2:
        return marked, ""
    # Numbers fill areas; shades, and the noise of JPEG, only line edges.
    in_areas = Counter(values[_in_areas(values)].tolist())
    pairs = zip(levels.tolist(), counts, strict=True)
    filling = [2 * in_areas[level] > count for level, count in pairs][1:-1]
    if levels[-1] > _MIDDLE and 2 * sum(filling) < len(filling):
        return (values > levels[-1] / 2).astype(np.uint8), _SHADES
    if _has_edge(levels):
        marked[values == levels[-1]] = _IGNORED
        return marked, _HAS_EDGE
    return marked, _NUMBERS


def _in_areas(values: np.ndarray) -> np.ndarray:
    """The pixels of all squares of 2 x 2 equal pixels, (H, W) bool."""
    is_equal = maximum_filter(values, 2) == minimum_filter(values, 2)
    return maximum_filter(is_equal, 2, origin=-1)


def _seems_inverted(mask: np.ndarray) -> bool:
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(mask.mean() > _COVERS and border.mean() > _BORDERS)
