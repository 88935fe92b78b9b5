"""Masks: which pixels of an image are anomalous, read once and kept small."""

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crn.errors import UserError
from crn.system.text import counted
from datasets.reader import decoded
from datasets.samples import Sample

log = logging.getLogger(__name__)

# Between black and white, of 255, are gray pixels. If they are more than so many for each white
# one, or than so many of those that are not within some pixels of a white one, it is no mask.
_BLACK, _WHITE = 64, 191
_GRAY, _GRAY_ELSEWHERE, _EDGE = 1.5, 0.05, 4
_MIDDLE = 127
# Where no value is higher, they are numbers of classes, not shades of gray.
_MOST_CLASSES = 31
# An inverted mask covers most of the image, and almost all along the border.
_COVERS, _BORDERS = 0.5, 0.8

# What is said of masks that are not black and white.
_BRIGHTER = "the brighter of two values is taken for anomalous"
_SHADES = f"they have shades of gray; values above {_MIDDLE} are taken for anomalous"
_CLASSES = "they seem to have numbers of classes; values above 0 are taken for anomalous"
_ALPHA = "their opaque pixels are taken for anomalous"


class Masks(Sequence[np.ndarray | None]):
    """The masks of some samples, each read once.

    ``masks[index]`` is that of a sample, (H, W) bool, true where its image is anomalous; None for a
    sample without a mask.
    """

    def __init__(self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]) -> None:
        """Read all masks, and say where they had to be interpreted.

        Args:
            samples, sizes: and the (height, width) of their images.

        Raises:
            UserError: a file cannot be read, is no mask, or has another size than its image; or
                half of the masks or more are inverted.
        """
        self._packed: list[bytes | None] = []
        self._sizes = sizes
        notes: dict[str, list[Path]] = {}
        inverted = []
        for sample, size in zip(samples, sizes, strict=True):
            if sample.mask is None:
                self._packed.append(None)
                continue
            mask, note = _interpreted(sample.mask)
            if mask.shape != size:
                raise UserError(
                    f"{sample.mask}: has {mask.shape[1]}x{mask.shape[0]} pixels, but "
                    f"{sample.files[0]} has {size[1]}x{size[0]}; give both one size"
                )
            if note:
                notes.setdefault(note, []).append(sample.mask)
            if _seems_inverted(mask):
                inverted.append(sample.mask)
            self._packed.append(zlib.compress(np.packbits(mask).tobytes(), 1))
        count = sum(packed is not None for packed in self._packed)
        for note, paths in notes.items():
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

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> np.ndarray | None:  # type: ignore[override]  # no slices
        packed = self._packed[index]
        if packed is None:
            return None
        height, width = self._sizes[index]
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        return np.unpackbits(bits, count=height * width).view(bool).reshape(height, width)


def _interpreted(path: Path) -> tuple[np.ndarray, str]:
    """A mask (H, W) bool, and what to say of it if it is not black and white."""
    array = decoded(path, _gray_and_alpha)
    if array.ndim == 2:
        return _split(array, path)
    gray, alpha = array[..., 0], array[..., 1]
    if alpha.min() == alpha.max():
        return _split(gray, path)
    opaque = alpha > _MIDDLE
    if len(np.unique(gray[opaque])) <= 1:
        return _split(alpha, path)[0], _ALPHA
    # Several colours on transparent ground, which is normal.
    return _split(np.where(opaque, gray, 0), path)


def _gray_and_alpha(image: Image.Image) -> np.ndarray:
    """The brightest channel and the alpha channel (H, W, 2), or gray (H, W) of any depth."""
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.array(image.convert("L"))
    if image.mode == "F" or image.mode.startswith("I"):
        return np.array(image)
    array = np.array(image.convert("RGBA"))
    return np.stack([array[..., :3].max(2), array[..., 3]], 2)


def _split(values: np.ndarray, path: Path) -> tuple[np.ndarray, str]:
    """The anomalous pixels of gray values that should be two."""
    if values.dtype == np.uint8:  # as np.unique, but faster
        levels = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    else:
        levels = np.unique(values)
    if len(levels) <= 2:
        two = len(levels) == 2
        return values > (levels[0] if two else 0), _BRIGHTER if two and levels[0] > 0 else ""
    if levels[0] >= 0 and levels[-1] <= _MOST_CLASSES:
        return values > 0, _CLASSES
    if values.dtype != np.uint8:
        values = values / 257
    from scipy.ndimage import binary_dilation

    white = values > _WHITE
    # What smoothing and JPEG make gray lies along an edge of white.
    gray = (values > _BLACK) & ~white
    elsewhere = gray & ~binary_dilation(white, iterations=_EDGE)
    if gray.sum() > white.sum() * _GRAY or elsewhere.sum() > white.sum() * _GRAY_ELSEWHERE:
        raise UserError(
            f"{path}: is gray, not a mask; save it with anomalous pixels white and all others black"
        )
    return values > _MIDDLE, _SHADES


def _seems_inverted(mask: np.ndarray) -> bool:
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return mask.mean() > _COVERS and border.mean() > _BORDERS and not mask.all()
