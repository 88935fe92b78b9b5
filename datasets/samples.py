"""The table of samples: what there is on disk, before any image is decoded."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crn.errors import UserError
from crn.system.text import shown

TRAIN, TEST = "train", "test"
NORMAL, ANOMALOUS = 0, 1

# Files that operating systems leave beside images.
_LITTER = {"thumbs.db", "desktop.ini"}
# Unicode's categories of what would break the lines of tables, or cannot be written to them:
# control characters, surrogates (bytes that are not UTF-8), separators of lines and paragraphs.
_NOT_TEXT = {"Cc", "Cs", "Zl", "Zp"}
_TRAIN_PERCENT = 70


@dataclass(frozen=True)
class Sample:
    """One thing to look at: a photograph, or the height and intensity images of a road tile.

    Attributes:
        key: its unique name, DEFECT/NAME or folder/NAME; whatever is written for it is named so.
        files: one colour image, or a height and an intensity image.
        split: `TRAIN` or `TEST`.
        label: `NORMAL` or `ANOMALOUS`; None where nobody knows.
        mask: image of the anomalous pixels, where there is one.
    """

    key: str
    files: tuple[Path, ...]
    split: str
    label: int | None
    mask: Path | None = None

    @property
    def kind(self) -> str | None:
        """The kind of defect, the folder in the key; "good" where normal, None where unknown."""
        if self.label == ANOMALOUS:
            return self.key.rpartition("/")[0]
        return None if self.label is None else "good"


def subfolder(parent: Path, name: str) -> Path:
    """The folder ``parent/name``.

    Raises:
        UserError: there is no such folder.
    """
    folder = parent / name
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; {parent} has to contain {name}/")
    return folder


def image_files(folder: Path) -> list[Path]:
    """The files in a folder, sorted by name, without what operating systems leave there.

    Folders in it are left out.

    Raises:
        UserError: something in it cannot be read or named, or there are no files.
    """
    files = [path for path, mode in _contents(folder) if stat.S_ISREG(mode)]
    if not files:
        raise UserError(f"{folder}: contains no images")
    return files


def entries(folder: Path) -> list[Path]:
    """Files and folders in a folder, sorted by name, without what operating systems leave there.

    Raises:
        UserError: something in it cannot be read or named.
    """
    return [path for path, _ in _contents(folder)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones.

    Raises:
        UserError: something in it cannot be read or named.
    """
    return [path for path, mode in _contents(folder) if stat.S_ISDIR(mode)]


def _contents(folder: Path) -> list[tuple[Path, int]]:
    """Files and folders with their modes.

    What is neither is refused, not left out: a broken link is an image that is missing, and
    reading a pipe would never end.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    contents = []
    for name in names:
        if name.startswith(".") or name.lower() in _LITTER:
            continue
        if any(unicodedata.category(c) in _NOT_TEXT for c in name):
            raise UserError(
                f"{folder}: the name {shown(name)} has control characters or is not UTF-8; "
                "rename it"
            )
        path = folder / name
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); mend or remove it"
            ) from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path}: neither a file nor a folder; remove it")
        contents.append((path, mode))
    return contents


def split_good_and_bad(
    good: Sequence[tuple[Path, ...]], bad: Sequence[tuple[Path, ...]], where: Path
) -> list[Sample]:
    """Samples of a data set without a split of its own.

    The first 70 % of the good ones train; the rest and the bad ones test.

    Args:
        good, bad: the files of every sample, sorted.
        where: folder to name in messages.

    Raises:
        UserError: there are too few good ones for both splits.
    """
    count = len(good) * _TRAIN_PERCENT // 100
    if count == 0:
        raise UserError(
            f"{where}: one good sample is too few; the first 70 % train and the rest tests, so "
            "there have to be at least two"
        )
    return [
        *(Sample(f"good_ones/{files[0].name}", files, TRAIN, NORMAL) for files in good[:count]),
        *(Sample(f"good_ones/{files[0].name}", files, TEST, NORMAL) for files in good[count:]),
        *(Sample(f"bad_ones/{files[0].name}", files, TEST, ANOMALOUS) for files in bad),
    ]


def list_samples(layout: Callable[[Path], Iterable[Sample]], root: Path) -> list[Sample]:
    """List and check a data set.

    Args:
        layout: the function that knows how the data set is laid out.
        root: its folder.

    Returns:
        Samples with unique keys: normal ones to train on, and normal and anomalous ones to test;
        or, from a layout without labels, at least one whose label nobody knows.

    Raises:
        UserError: a folder is missing or empty, files do not pair, or a split lacks a class.
    """
    if not os.path.exists(root):
        raise UserError(f"{root}: no such folder; give the data set's folder with --dataset-path")
    if not os.path.isdir(root):
        raise UserError(f"{root}: not a folder; give the data set's folder with --dataset-path")
    samples = list(layout(root))
    if samples and all(sample.label is None for sample in samples):
        return samples
    present = Counter((sample.split, sample.label) for sample in samples)
    for split, label, words in (
        (TRAIN, NORMAL, "normal images to train on"),
        (TEST, NORMAL, "normal images to test on"),
        (TEST, ANOMALOUS, "anomalous images to test on"),
    ):
        if not present[split, label]:
            raise UserError(f"{root}: contains no {words}")
    return samples
