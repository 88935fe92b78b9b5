"""Archives of data sets: extracted beside what exists, never over it, never out of their folder."""

import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

from tqdm import tqdm

from crn.errors import UserError
from crn.system.files import require_writable_folder

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    ValueError,  # a name with a NUL, a number that is none
    RuntimeError,  # encrypted, or compressed in a way that the library does not know
)

_FOLDER, _FILE = "folder", "file"


class _Member(NamedTuple):
    """Something that an archive holds.

    Attributes:
        name: its path, as the archive has it.
        kind: `_FOLDER`, `_FILE`, or words for what is not extracted.
        open: opens a file's content.
    """

    name: str
    kind: str
    open: Callable[[], IO[bytes] | None]


def extract(archive: Path, target: Path, wanted: Collection[str]) -> list[Path]:
    """Extract the part of an archive that holds a data set.

    Only files and folders are extracted. The libraries' own extraction would overwrite files and
    make links, and tarfile's filters came with Python 3.10.12; so here an archive with a link, a
    device, or a name that leads out of its folder is refused. Everything goes to a temporary
    folder in ``target`` first: from an archive that is refused or damaged, nothing stays.

    Args:
        archive: .zip or .tar.xz.
        target: folder for the data set; it and its parents are made where they do not exist.
        wanted: names of folders, at least one of which the data set has at its top. They may lie
            at any depth in the archive; what lies outside the folder that holds them is left out.

    Returns:
        The files that were there before and so have been kept as they were, sorted.

    Raises:
        UserError: the archive is hostile, damaged or holds no such folder; or the target cannot
            be written to.
    """
    require_writable_folder(target, "--root")
    try:
        with tempfile.TemporaryDirectory(dir=target, prefix="extracting-") as temporary:
            _unpack(archive, Path(temporary))
            return sorted(_move(_find(wanted, Path(temporary), archive), target))
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive}: damaged ({reason}); replace or remove it") from None
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be extracted to {target} ({error.strerror or error})"
        ) from None
    finally:
        with suppress(OSError):
            target.rmdir()  # only if it is empty


def _unpack(archive: Path, folder: Path) -> None:
    list_members = _zip_members if archive.suffix == ".zip" else _tar_members
    with (
        archive.open("rb") as file,
        tqdm.wrapattr(
            file,
            "read",
            total=archive.stat().st_size,
            desc=f"extract {archive.name}",
            disable=None,
        ) as stream,
    ):
        for member in list_members(stream):
            parts = _parts_inside(member.name, archive)
            if member.kind not in (_FOLDER, _FILE):
                raise UserError(f"{archive}: holds {member.kind}, {member.name!r}; not extracted")
            if "__MACOSX" not in parts:  # what macOS adds to .zip files
                _write(member, folder.joinpath(*parts), archive)


def _tar_members(stream: IO[bytes]) -> Iterator[_Member]:
    with lzma.open(stream) as content, tarfile.open(fileobj=content, mode="r:") as tar:
        for info in tar:
            if info.isdir():
                kind = _FOLDER
            elif info.isreg():
                kind = _FILE
            else:
                kind = "a link" if info.issym() or info.islnk() else "a device"
            yield _Member(info.name, kind, partial(tar.extractfile, info))
        # tarfile takes a damaged header for the end, and the last check is at the end of the xz.
        while rest := content.read(1 << 16):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("goes on after its end")


def _zip_members(stream: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archiver did not tell
            if info.filename.endswith("/"):
                kind = _FOLDER
            elif mode in (0, stat.S_IFREG):
                kind = _FILE
            else:
                kind = "a link" if mode == stat.S_IFLNK else "a device"
            yield _Member(info.filename, kind, partial(archive.open, info))


def _parts_inside(name: str, archive: Path) -> tuple[str, ...]:
    """The folders and the file of a path; read as on Windows, which knows all separators."""
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts:
        raise UserError(f"{archive}: {name!r} leads out of the folder; not extracted")
    return path.parts


def _write(member: _Member, path: Path, archive: Path) -> None:
    try:
        if member.kind == _FOLDER:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = member.open()
        assert content is not None
        with content, path.open("xb") as file:
            shutil.copyfileobj(content, file)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{archive}: holds {member.name!r} twice; not extracted") from None


def _find(wanted: Collection[str], folder: Path, archive: Path) -> Path:
    """The folder nearest to the top with at least one of the wanted ones in it."""
    level = [folder]
    while level:
        found = [place for place in level if any((place / name).is_dir() for name in wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            names = " and ".join(str(place.relative_to(folder)) for place in sorted(found))
            raise UserError(f"{archive}: holds several data sets, {names}; extract one by hand")
        level = [path for place in level for path in place.iterdir() if path.is_dir()]
    raise UserError(f"{archive}: holds no folder {' or '.join(wanted)}; not extracted")


def _move(source: Path, target: Path) -> list[Path]:
    """Move what is in a folder to another one.

    Returns:
        The files of the target that stayed because they were there before.
    """
    kept = []
    for item in source.iterdir():
        there = target / item.name
        if not os.path.lexists(there):
            item.rename(there)
        elif item.is_dir() and there.is_dir():
            kept += _move(item, there)
        else:
            kept.append(there)
    return kept
