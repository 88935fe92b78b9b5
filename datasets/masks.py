"""Masks of anomalous pixels, read once and kept compressed."""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    5: np.transpose,
    6: lambda mask: np.rot90(mask, -1),
    7: lambda mask: np.rot90(mask, 2).T,
    8: np.rot90,
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
    """Compressed masks (H, W) bool; None for a sample without one."""

    def __init__(self) -> None:
        self._packed: list[tuple[bytes, tuple[int, ...]] | None] = []

    def append(self, mask: np.ndarray | None) -> None:
        """Add a mask (H, W) bool, or None."""
        packed = None
        if mask is not None:
            packed = zlib.compress(np.packbits(mask).tobytes(), 1), mask.shape
        self._packed.append(packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> np.ndarray | None:  # type: ignore[override]  # no slices
        if (packed := self._packed[index]) is None:
            return None
        content, shape = packed
        bits = np.frombuffer(zlib.decompress(content), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).view(bool).reshape(shape)


def read_masks(
    samples: Sequence[Sample], sizes: Sequence[tuple[int, int]], orientations: Mapping[Path, int]
) -> tuple[Masks, Masks]:
    """Read the masks of some samples, and log which had to be interpreted.

    Args:
        samples: the samples.
        sizes: the (height, width) of their images, upright.
        orientations: EXIF orientations of image files that have one.

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
    count = 0
    for sample, size in zip(samples, sizes, strict=True):
        if sample.mask is None:
            anomalous.append(None)
            ignored.append(None)
            continue
        count += 1
        pixels, found = _upright(sample, size, orientations)
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
    if inverted:
        message = (
            f"{inverted[0]}: white for the most part and along the border, as "
            f"{len(inverted)} of {counted(count, 'mask')}; white has to mark what is "
            "anomalous"
        )
        if 2 * len(inverted) >= count:
            raise UserError(f"{message}: invert them")
        log.warning("%s", message)
    return anomalous, ignored


def _upright(
    sample: Sample, size: tuple[int, int], orientations: Mapping[Path, int]
) -> tuple[np.ndarray, list[str]]:
    """The classes of the pixels (H, W) of a mask, turned as its photograph, and messages about it.

    Raises:
        UserError: see `read_masks`.
    """
    assert sample.mask is not None
    own: dict[Path, int] = {}
    pixels, note = _interpreted(sample.mask, own)
    notes = [note] if note else []
    orientation = orientations.get(sample.files[0], 1)
    stored = size[::-1] if orientation in _UPRIGHT else size
    if pixels.shape == stored != size:
        pixels = _UPRIGHT[orientation](pixels)
    elif pixels.shape == stored and orientation != 1 and not own:
        notes.append(_EITHER_WAY)
    if pixels.shape != size:
        raise UserError(
            f"{sample.mask}: has {pixels.shape[1]}x{pixels.shape[0]} pixels, but "
            f"{sample.files[0]} has {size[1]}x{size[0]}; give both one size"
        )
    return pixels, notes


def _interpreted(path: Path, own: dict[Path, int]) -> tuple[np.ndarray, str]:
    """The classes of the pixels (H, W) of a mask, and a message if it is not black and white."""
    array = decoded(path, _gray_and_alpha, own)
    if array.ndim == 2:
        return _marked(array)
    gray, alpha = array[..., 0], array[..., 1]
    if alpha.min() == alpha.max():
        return _marked(gray)
    opaque = alpha > _MIDDLE
    if len(np.unique(gray[opaque])) <= 1:
        return opaque.astype(np.uint8), _ALPHA
    # Several colours on a transparent background, which is normal.
    return _marked(np.where(opaque, gray, 0))


def _gray_and_alpha(image: Image.Image) -> np.ndarray:
    """The brightest channel and the alpha channel (H, W, 2), or numbers (H, W) of any depth."""
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.array(image.convert("L"))
    if image.mode[0] in "IF" or (image.mode == "P" and _has_edge(np.unique(np.array(image)))):
        return np.array(image)
    array = np.array(image.convert("RGBA"))
    return np.stack([array[..., :3].max(2), array[..., 3]], 2)


def _has_edge(levels: np.ndarray) -> bool:
    """Whether the highest of some values marks an edge to ignore, as in Pascal VOC."""
    return len(levels) > 2 and levels[-1] in _EDGE and levels[-2] < _SMALL


def _marked(values: np.ndarray) -> tuple[np.ndarray, str]:
    """The classes of pixels by their values (H, W), and a message if these are ambiguous."""
    levels, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(levels) == 2 and levels[0] > 0:
        return (values == levels[1]).astype(np.uint8), _BRIGHTER
    marked = (values != 0).astype(np.uint8)
    if len(levels) <= 2:
        return marked, ""
    # Numbers fill areas; shades, and the noise of JPEG, only line edges.
    areas = np.bincount(place.reshape(values.shape)[_in_areas(values)], minlength=len(levels))
    filling = (2 * areas > counts)[1:-1]
    if levels[-1] > _MIDDLE and 2 * filling.sum() < len(filling):
        return (values > levels[-1] / 2).astype(np.uint8), _SHADES
    if _has_edge(levels):
        marked[values == levels[-1]] = _IGNORED
        return marked, _HAS_EDGE
    return marked, _NUMBERS


def _in_areas(values: np.ndarray) -> np.ndarray:
    """Pixels that equal a neighbour in their row and one in their column, (H, W) bool."""
    in_row, in_column = np.zeros((2, *values.shape), bool)
    same = values[:, 1:] == values[:, :-1]
    in_row[:, 1:] |= same
    in_row[:, :-1] |= same
    same = values[1:] == values[:-1]
    in_column[1:] |= same
    in_column[:-1] |= same
    return in_row & in_column


def _seems_inverted(mask: np.ndarray) -> bool:
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(mask.mean() > _COVERS and border.mean() > _BORDERS)
