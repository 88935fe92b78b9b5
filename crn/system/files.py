"""Files that the program writes: nothing lost, nothing overwritten silently, nothing half done."""

import errno
import glob
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

# What to do where the system refuses to write, by its error; see `writing`.
_MENDS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "check the disk",
}

# What file systems without locks answer, such as Lustre without the option flock.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

# In .NAME.TOKEN.tmp, the name of a file while `written_whole` writes it, which killed runs leave.
_TOKEN = "[0-9a-f]" * 8


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
        mend = _MENDS.get(error.errno or 0, "make it writable")
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

    Args:
        paths: files and folders that this run writes; the folders that they are in exist.

    Raises:
        UserError: another run has claimed one of them, or one lies where another is written.
    """
    with ExitStack() as claims:
        for index, path in enumerate(paths):
            for other in paths[:index]:
                _refuse_overlap(path.resolve(), other.resolve())
            if claims.enter_context(locked(path)):
                _remove_unfinished(path)
        yield


def _refuse_overlap(one: Path, other: Path) -> None:
    if one.is_relative_to(other) or other.is_relative_to(one):
        inner, outer = sorted((one, other), key=lambda path: len(path.parts), reverse=True)
        raise UserError(
            f"{inner}: this run writes {outer} as well, in its own way; give one of them another "
            "name or folder"
        )


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[list[int]]:
    """Keep other processes from ``path`` by a lock on .NAME.lock beside it.

    The system takes the lock back however the process ends, so none outlives its run. Where a file
    system has no locks, nothing is locked: processes that share files have to take turns.

    Args:
        path: a file or folder; the folder that it is in exists.
        wait: until it is free, instead of refusing at once.

    Yields:
        The lock's descriptor: a program that inherits it has the lock, too, until it ends. An empty
        list where there are no locks.

    Raises:
        UserError: another process has locked it, or the system refuses to write there.
    """
    from filelock import FileLock, Timeout

    name = path.with_name(file_name(f".{path.name}", ".lock"))
    held: list[int] = []
    lock = FileLock(
        # A moment, for the case that the holder removes its file just before this one is locked.
        *(name, -1 if wait else 0.2),
        fallback_to_soft=False,
        on_acquired=held.append,
    )
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
        # Where it comes in the finalizer of the lock, it is lost.
        with ctrl_c_waits():
            # While it is still locked: who has opened it meanwhile looks whether it is still there.
            with suppress(OSError):
                name.unlink()
            lock.release()
            del lock


def _remove_unfinished(path: Path) -> None:
    """Remove what killed runs have not finished: ``path`` and, where it is a folder, all below."""
    unfinished = f".{_TOKEN}.tmp"
    files = [
        *path.parent.glob(f".{glob.escape(path.name)}{unfinished}"),
        *path.rglob(f".*{unfinished}"),
    ]
    for file in files:
        with writing(file):
            file.unlink()
        log.info("removed %s, which a killed run has not finished", file)


def set_aside(path: Path) -> None:
    """Rename what an earlier run left at ``path``, as in last.ckpt to last-v1.ckpt.

    No other run takes the new name meanwhile, since ``path`` is `claimed`.

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


def hard_link(path: Path, name: Path) -> bool:
    """Give a file another name, which it takes from what has it; False where links are refused."""
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
            with suppress(FileExistsError):
                (folder / f"version_{version}").mkdir()
                return version
            version += 1
