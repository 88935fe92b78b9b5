"""The content of data set folders: images, other files, and litter of systems and programs."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crn.errors import UserError
from crn.system.text import quoted

# The formats that are read, by Pillow's names, with the endings of their files.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
}
_ENDINGS = {ending for endings in FORMATS.values() for ending in endings}
# Photographs that cannot be read: refused, not left out.
_UNREAD = (".heic", ".heif", ".hif", ".jxl")
# What systems and programs put beside images, in lower case; names that begin with a dot, too.
# pointcloud.py writes empty_files.
_LITTER = {
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "lost+found", "empty_files"),
}
# Unicode categories that break the lines of tables or cannot be written: control characters,
# surrogates (bytes that are not UTF-8), separators of lines and paragraphs.
_NOT_TEXT = {"Cc", "Cs", "Zl", "Zp"}


class Contents(NamedTuple):
    """The content of a folder, each list sorted by name."""

    images: list[Path]
    folders: list[Path]
    others: list[Path]


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is not part of a data set."""
    return name.startswith(".") or name.lower() in _LITTER


def is_image(name: str) -> bool:
    """Whether a file is an image by the ending of its name."""
    return os.path.splitext(name)[1].lower() in _ENDINGS


def normal_form(name: str) -> str:
    """The name in the Unicode form by which names are compared and sorted.

    File systems and archives convert é between one character and e with an accent.
    """
    return unicodedata.normalize("NFC", name)


def contents(folder: Path) -> Contents:
    """The content of a folder, without litter.

    Raises:
        UserError: the folder cannot be read; or it has an image of a kind that cannot be read, or
            one whose name cannot be written into tables.
    """
    try:
        names = sorted(os.listdir(folder), key=lambda name: (normal_form(name), name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    found = Contents([], [], [])
    for name in names:
        path = folder / name
        if is_litter(name):
            continue
        if name.lower().endswith(_UNREAD):
            raise UserError(
                f"{path}: HEIC and JPEG XL images cannot be read; convert it to PNG or JPEG, or "
                "move it out of the data set"
            )
        is_folder = os.path.isdir(path)
        if not is_folder and not is_image(name):
            found.others.append(path)
            continue
        if any(unicodedata.category(c) in _NOT_TEXT for c in name):
            raise UserError(
                f"{folder}: the name {quoted(name)} has control characters or is not UTF-8; "
                "rename it"
            )
        (found.folders if is_folder else found.images).append(path)
    return found


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, sorted by name.

    Raises:
        UserError: see `contents`; or there are no images.
    """
    images, folders, others = contents(folder)
    if images:
        return images
    only = f", only {(folders + others)[0].name} and the like" if folders or others else ""
    raise UserError(
        f"{folder}: contains no images{only}; {', '.join(FORMATS)} files have to lie directly in it"
    )


def subfolder(parent: Path, name: str) -> Path:
    """The folder ``parent/name``.

    Raises:
        UserError: there is no such folder.
    """
    folder = parent / name
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; {parent} has to contain {name}/")
    return folder


def by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Files and folders by the normal form of their names without endings, for pairing them.

    Raises:
        UserError: two have the same name.
    """
    named: dict[str, Path] = {}
    for path in paths:
        name = normal_form(path.stem)
        if name in named:
            raise UserError(f"{path}: there is {named[name].name} beside it; keep one of them")
        named[name] = path
    return named
