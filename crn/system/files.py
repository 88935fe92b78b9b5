"""Files that the program writes: nothing lost, nothing overwritten silently, nothing half done."""

import errno
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from crn.errors import UserError
from crn.system.text import file_name

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

# What to do where the system refuses to write, by its error; see `writing`.
_MENDS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "check the disk",
}

# The name of a file while `written_whole` writes it; killed runs leave such files behind.
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a message: around all that the program writes.

    Args:
        path: the file or folder, for the message.

    Raises:
        UserError: the disk is full or broken, or must not be written to.
    """
    try:
        yield
    except OSError as error:
        mend = _MENDS.get(error.errno, "make it writable")
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); {mend}, or write elsewhere"
        ) from error


def require_writable_folder(folder: Path, name: str) -> None:
    """Make a folder and prove that files can be made in it.

    Args:
        folder: it and its parents are made where they do not exist.
        name: the flag that asked for it, for the message.

    Raises:
        UserError: it cannot be made, or files cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{name} {folder}: cannot be written to ({error.strerror}); give another folder"
        ) from None


@contextmanager
def claimed(*paths: Path) -> Iterator[None]:
    """Keep other runs from writing the same files, and remove what killed ones left unfinished.

    A claim is a lock on .NAME.lock beside the file. The system takes it back however the process
    ends, so none outlives its run. Where there are no such locks, as on Windows, nothing is
    claimed and nothing removed.

    Args:
        paths: files and folders that this run writes; the folders that they are in exist.

    Raises:
        UserError: another run has claimed one of them.
    """
    with ExitStack() as claims:
        for path in paths:
            claims.enter_context(_claimed(path))
        yield


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    lock = path.with_name(file_name(f".{path.name}", ".lock"))
    with writing(path):
        try:
            file = _open_locked(lock)
        except BlockingIOError:
            raise UserError(
                f"{path}: another run is writing it; give another folder, or wait for that run "
                "to end"
            ) from None
    if file is None:
        yield
        return
    with file:
        try:
            _remove_unfinished(path)
            yield
        finally:
            # While it is still locked, see `_open_locked`. One that stays does no harm.
            with suppress(OSError):
                lock.unlink()


def _open_locked(lock: Path) -> IO | None:
    """Make a file and lock it; None where there are no locks.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be made.
    """
    if fcntl is None:
        return None
    while True:
        file = open(lock, "w")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:
            file.close()
            log.debug("%s: not locked: %s", lock, error.strerror)
            return None
        if _is_file_at(lock, file):
            return file
        # The run before has removed it between the two calls.
        file.close()


def _is_file_at(path: Path, file: IO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_unfinished(path: Path) -> None:
    """Remove what killed runs have not finished: ``path`` and, where it is a folder, all below."""
    files = [
        file
        for file in path.parent.iterdir()
        if (match := _UNFINISHED.fullmatch(file.name)) and match[1] == path.name
    ]
    if path.is_dir():
        files += [file for file in path.rglob(".*.tmp") if _UNFINISHED.fullmatch(file.name)]
    for file in files:
        with writing(file):
            file.unlink()
        log.info("removed %s, which a killed run has not finished", file)


def set_aside(path: Path) -> None:
    """Rename what an earlier run left at ``path``, as in last.ckpt to last-v1.ckpt.

    Raises:
        UserError: the system refuses to.
    """
    if not path.exists():
        return
    version = 1
    with writing(path):
        while not _renamed(path, aside := _named_aside(path, version)):
            version += 1
    log.info("kept the earlier %s as %s", path, aside.name)


def _named_aside(path: Path, version: int) -> Path:
    return path.with_name(file_name(path.stem, f"-v{version}{path.suffix}"))


def _renamed(path: Path, name: Path) -> bool:
    """Rename unless the new name is taken, be it in this moment; `os.rename` would replace it."""
    if name.exists():
        return False
    try:
        if not path.is_dir():
            os.link(path, name)
            path.unlink()
            return True
        if os.name != "nt":
            name.mkdir()  # is replaced, since it is empty; Windows replaces no folder
    except FileExistsError:
        return False
    except OSError as error:
        log.debug("%s: no hard links: %s", path, error.strerror)
    path.rename(name)
    return True


@contextmanager
def written_whole(path: Path, mode: str = "wb", sync: bool = True, **kwargs) -> Iterator[IO]:
    """Open a file that appears under its name only when it is complete.

    Args:
        path: the file; its folder has to exist.
        mode, kwargs: as for `open`.
        sync: whether it has to be on the disk by then, so that a power failure does no harm.

    Raises:
        UserError: the system refuses to write it; what was there before still is.
    """
    ending = f".{secrets.token_hex(4)}.tmp"
    temporary = path.with_name(file_name(f".{path.name}", ending))
    try:
        with writing(path):
            with open(temporary, mode.replace("w", "x"), **kwargs) as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        # Whatever hinders this, too, has been the reason to give up.
        with suppress(OSError):
            temporary.unlink()
        raise


def append_whole(path: Path, text: str) -> None:
    """Add text to the end of a file, all of it or nothing.

    Raises:
        UserError: the system refuses to.
    """
    with writing(path), open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        rest = text.encode()
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(end)
            raise


def claim_version(folder: Path) -> int:
    """Make the folder version_N with the lowest N that no other run has, and return N.

    Raises:
        UserError: the system refuses to.
    """
    version = 0
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                (folder / f"version_{version}").mkdir()
            except FileExistsError:
                version += 1
            else:
                return version
