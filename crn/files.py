"""Files that the program writes: nothing lost, nothing overwritten silently, nothing half done."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from crn.errors import UserError
from crn.safe_text import file_name

log = logging.getLogger(__name__)


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


def set_aside(path: Path) -> None:
    """Rename what an earlier run left at ``path``, as in last.ckpt to last-v1.ckpt."""
    if not path.exists():
        return
    version = 1
    while True:
        aside = path.with_name(file_name(path.stem, f"-v{version}{path.suffix}"))
        if not aside.exists():
            break
        version += 1
    path.rename(aside)
    log.info("kept the earlier %s as %s", path, aside.name)


@contextmanager
def written_whole(path: Path, mode: str = "wb", **kwargs) -> Iterator[IO]:
    """Open a file that appears under its name only when it is complete and on the disk.

    Args:
        path: the file; its folder has to exist.
        mode, kwargs: as for `open`.
    """
    # mkstemp appends eight characters.
    prefix = file_name(f".{path.name}", "." + 8 * "x")[:-8]
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    try:
        with open(handle, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    # The only way to read it is to set it; mkstemp ignores it and makes private files.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def claim_version(folder: Path) -> int:
    """Make the folder version_N with the lowest N that no other run has, and return N."""
    folder.mkdir(parents=True, exist_ok=True)
    version = 0
    while True:
        try:
            (folder / f"version_{version}").mkdir()
        except FileExistsError:
            version += 1
        else:
            return version
