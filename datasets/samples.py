"""The table of samples on disk, before any image is decoded."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crn.errors import UserError
from crn.system.text import counted
from datasets.folders import is_image, is_litter

log = logging.getLogger(__name__)

TRAIN, TEST = "train", "test"
NORMAL, ANOMALOUS = 0, 1


@dataclass(frozen=True)
class Sample:
    """A photograph, or the height and intensity images of a road tile.

    Attributes:
        key: its unique name, DEFECT/NAME or folder/NAME; output files are named after it.
        files: one colour image, or a height and an intensity image.
        split: `TRAIN` or `TEST`.
        label: `NORMAL` or `ANOMALOUS`; None if unknown.
        mask: image of the anomalous pixels; None without a mask.
    """

    key: str
    files: tuple[Path, ...]
    split: str
    label: int | None
    mask: Path | None = None

    def identity(self) -> bytes:
        """16 bytes that identify the content of its files."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update(hashlib.blake2b(file.read_bytes()).digest())
        return digest.digest()

    @property
    def kind(self) -> str | None:
        """The kind of defect, the folder in the key; "good" if normal, None if unknown."""
        if self.label == ANOMALOUS:
            return self.key.rpartition("/")[0]
        return None if self.label is None else "good"


def list_samples(layout: Callable[[Path], Iterable[Sample]], root: Path) -> list[Sample]:
    """List and check the data set in a folder.

    Returns:
        Samples with unique keys: normal ones to train on, and normal and perhaps anomalous ones to
        test on; or, from a layout without labels, at least one with an unknown label.

    Raises:
        UserError: a folder is missing or empty, files do not pair, or a split lacks normal images.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the data set's folder with --dataset-path")
    samples = list(layout(root))
    if not samples:
        raise UserError(f"{root}: contains no images")
    normal = {sample.split for sample in samples if sample.label != ANOMALOUS}
    for split in (TRAIN, TEST) if samples[0].label is not None else ():
        if split not in normal:
            raise UserError(f"{root}: contains no normal images to {split} on")
    _say_what_is_left_out(samples, root)
    return samples


def _say_what_is_left_out(samples: Sequence[Sample], root: Path) -> None:
    """Log images where the layout has none, and other files beside the images."""
    used = {file for sample in samples for file in (*sample.files, sample.mask) if file}
    places = {file.parent for file in used}
    images: Counter[str] = Counter()
    others: list[Path] = []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_litter(name)]
        for path in (Path(place, name) for name in names if not is_litter(name)):
            if is_image(path.name) and path not in used:
                images[os.path.relpath(place, root)] += 1
            elif not is_image(path.name) and path.parent in places:
                others.append(path)
    if images:
        where = ", ".join(f"{count} in {place}" for place, count in sorted(images.items())[:3])
        more = ", ..." if len(images) > 3 else ""
        log.warning(
            "left out %s where this layout has none: %s%s (see docs/datasets.md)",
            *(counted(images.total(), "image"), where, more),
        )
    if others:
        log.warning(
            "left out %s without the ending of an image, such as %s",
            *(counted(len(others), "file"), min(others)),
        )
