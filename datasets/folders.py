"""The content of data set folders: images, other files, and litter of systems and programs."""

import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crn.errors import UserError
from crn.system.text import quoted

# The formats that are read, by Pillow's names, with the endings of their files.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
}
_ENDINGS = {ending for endings in FORMATS.values() for ending in endings}
# Formats of photographs that cannot be read: refused, not left out.
_UNREAD = {".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".jxl": "JPEG XL"}

# Files and folders that systems and programs put beside images, in lower case. Names that begin
# with a dot, such as .DS_Store, ._NAME, .thumbnails or .ipynb_checkpoints, are litter, too.
_LITTER = {
    # Windows
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("$recycle.bin", "recycler", "system volume information"),
    # macOS
    *("icon\r", "__macosx", "network trash folder", "temporary items"),
    # Linux, and the storage of Synology and QNAP
    *("lost+found", "@eadir", "#recycle", "#snapshot", "@tmp", "@__thumb", "@recycle"),
    *("@recently-snapshot", "@sharebin"),
    # programs; empty_files is written by pointcloud.py
    *("picasa.ini", "__pycache__", "empty_files"),
}
# Windows keeps these streams inside a file; on another system they are files beside it, such as
# photo.png:Zone.Identifier.
_STREAMS = {"zone.identifier", "encryptable", "smartscreen", "afp_afpinfo", "afp_resource"}
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
    name = name.lower()
    return name.startswith(".") or name in _LITTER or name.rpartition(":")[2] in _STREAMS


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
        UserError: the folder, or a file with the ending of an image, cannot be read or named. A
            broken link is a missing image, and reading a pipe would never end.
    """
    try:
        names = sorted(os.listdir(folder), key=lambda name: (normal_form(name), name))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    found = Contents([], [], [])
    for name in names:
        if is_litter(name):
            continue
        path = folder / name
        ending = os.path.splitext(name)[1].lower()
        mode, reason = _mode(path)
        if not stat.S_ISDIR(mode):
            if ending in _UNREAD:
                raise UserError(
                    f"{path}: {_UNREAD[ending]} images cannot be read; convert it to PNG or JPEG, "
                    "or move it out of the data set"
                )
            # A broken link without an ending may have led to a folder of images.
            if ending not in _ENDINGS and (ending or not reason):
                found.others.append(path)
                continue
        if any(unicodedata.category(c) in _NOT_TEXT for c in name):
            raise UserError(
                f"{folder}: the name {quoted(name)} has control characters or is not UTF-8; "
                "rename it"
            )
        if reason:
            raise UserError(f"{path}: cannot be read ({reason}); repair or remove it")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path}: neither a file nor a folder; remove it")
        (found.folders if stat.S_ISDIR(mode) else found.images).append(path)
    return found


def _mode(path: Path) -> tuple[int, str]:
    """The mode of a file, or 0 and the reason why it is unknown."""
    try:
        return path.stat().st_mode, ""
    except OSError as error:
        return 0, error.strerror or str(error)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, sorted by name.

    Raises:
        UserError: see `contents`; or there are no images.
    """
    images, folders, others = contents(folder)
    if images:
        return images
    if folders:
        raise UserError(
            f"{folder}: contains no images, only folders, such as {folders[0].name}: move the "
            "images up"
        )
    if others:
        raise UserError(
            f"{folder}: contains no images, only files such as {others[0].name}; "
            f"{', '.join(FORMATS)} are read"
        )
    raise UserError(f"{folder}: contains no images")


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
