"""Files that the program writes: nothing lost, nothing overwritten silently, nothing half done."""

import errno
import glob
import itertools
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from crn.errors import UserError
from crn.system.interrupts import ctrl_c_waits
from crn.system.text import file_name

log = logging.getLogger(__name__)

# What the user can do about an error of the system in writing; see `writing`.
_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "check the disk",
}

# Errors of file systems without locks, such as Lustre without the option flock.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

# `written_whole` writes to .NAME.TOKEN.tmp first; killed runs leave such files.
_TOKEN = "[0-9a-f]" * 8


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system in writing a path into a `UserError`; used around all writes.

    Raises:
        UserError: the disk is full or broken, or must not be written to.
    """
    try:
        yield
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, "make it writable")
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); {fix}, or write elsewhere"
        ) from error


def require_writable_folder(folder: Path, name: str) -> None:
    """Make a folder with its parents, and check that files can be created in it.

    Raises:
        UserError: either cannot be made; ``name`` is the flag that asked for the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{name} {folder}: cannot be written to ({error.strerror}); give another folder"
        ) from None


def require_writable_file(path: Path, name: str) -> None:
    """Make the folder of a file, and check that the file can be created or replaced.

    Raises:
        UserError: it cannot, or is a folder or a device; ``name`` is the flag that asked for it.
    """
    require_writable_folder(path.parent, name)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not an ordinary file"
        raise UserError(f"{name} {path}: is {kind}; give the name of a file")


@contextmanager
def claimed(*paths: Path) -> Iterator[None]:
    """Keep other runs from writing the same files, and remove unfinished files of killed runs.

    Args:
        paths: files and folders that this run writes; their parent folders exist.

    Raises:
        UserError: another run has claimed one of them, or one lies inside another.
    """
    with ExitStack() as claims:
        for path in paths:
            for other in paths:
                if path is not other and path.resolve().is_relative_to(other.resolve()):
                    raise UserError(
                        f"{path}: this run writes {other} as well, in its own way; give one of "
                        "them another name or folder"
                    )
            if claims.enter_context(locked(path)):
                _remove_unfinished(path)
        yield


@contextmanager
def locked(path: Path) -> Iterator[list[int]]:
    """Keep other processes from ``path`` by a lock on .NAME.lock beside it.

    The system releases the lock however the process ends, so no lock outlives its run. On a file
    system without locks nothing is locked: processes that share files have to run one at a time.

    Args:
        path: a file or folder; its parent folder exists.

    Yields:
        The lock's file descriptor; a program that inherits it also holds the lock until it ends.
        An empty list if the file system has no locks.

    Raises:
        UserError: another process has locked it, or the system refuses to write there.
    """
    from filelock import FileLock, Timeout

    name = path.with_name(file_name(f".{path.name}", ".lock"))
    held: list[int] = []
    # A moment, in case the holder is just removing its file.
    lock = FileLock(name, timeout=0.2, fallback_to_soft=False, on_acquired=held.append)
    with writing(path):
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{path}: another run is writing it; give another folder, or wait for that run "
                "to end"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.debug("%s: not locked: %s", name, error.strerror)
    try:
        yield held
    finally:
        # In the finalizer of the lock, Ctrl-C would be lost.
        with ctrl_c_waits():
            # While still locked: whoever has opened it meanwhile checks that it still exists.
            with suppress(OSError):
                name.unlink()
            lock.release()
            del lock


def _remove_unfinished(path: Path) -> None:
    """Remove unfinished files of killed runs at ``path`` and, if it is a folder, below it."""
    beside = path.parent.glob(f".{glob.escape(path.name)}.{_TOKEN}.tmp")
    for file in [*beside, *path.rglob(f".*.{_TOKEN}.tmp")]:
        with writing(file):
            file.unlink()
        log.info("removed %s, left unfinished by a killed run", file)


def set_aside(path: Path) -> None:
    """Rename what an earlier run left at ``path``, such as last.ckpt to last-v1.ckpt.

    No other run can take the new name meanwhile, since ``path`` is `claimed`.

    Raises:
        UserError: the system refuses to.
    """
    if not path.exists():
        return
    version = 1
    while (aside := path.with_name(file_name(path.stem, f"-v{version}{path.suffix}"))).exists():
        version += 1
    with writing(path):
        path.rename(aside)
    log.info("kept the earlier %s as %s", path, aside.name)


@contextmanager
def written_whole(path: Path, mode: str = "wb", sync: bool = True, **kwargs) -> Iterator[IO]:
    """Open a file that appears under its name only when it is complete.

    Args:
        path: the file; its folder has to exist.
        mode, kwargs: as for `open`.
        sync: wait until it is on the disk, so that a power failure does no harm.

    Raises:
        UserError: the system refuses to write it; an earlier file of that name is still there.
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
        # If this fails as well, the first error is the one to report.
        with suppress(OSError):
            temporary.unlink()
        raise


def hard_link(path: Path, name: Path) -> bool:
    """Make ``name`` a hard link to ``path``, replacing it; False if the file system has none."""
    temporary = name.with_name(file_name(f".{name.name}", f".{secrets.token_hex(4)}.tmp"))
    try:
        os.link(path, temporary)
    except OSError as error:
        log.debug("%s: no hard links: %s", path, error.strerror)
        return False
    try:
        with writing(name):
            os.replace(temporary, name)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def append_whole(path: Path, text: str) -> None:
    """Add text to the end of a file, all or nothing; a `UserError` if it cannot be written."""
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
    """Make version_N with the lowest free N, and return N; a `UserError` if it cannot be made."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for version in itertools.count():
            with suppress(FileExistsError):
                (folder / f"version_{version}").mkdir()
                break
    return version
