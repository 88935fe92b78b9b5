"""Output folders: results appear in them once they are complete."""

import filecmp
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from crn.errors import UserError
from crn.system.files import claimed, require_writable_folder, set_aside, writing

log = logging.getLogger(__name__)

_UNFINISHED = ".unfinished-"


def require_new_folder(folder: Path, flag: str, command: str) -> None:
    """Make a folder that has to be new or empty.

    Raises:
        UserError: it is neither, or cannot be made.
    """
    if folder.is_dir() and any(not each.name.startswith(_UNFINISHED) for each in folder.iterdir()):
        raise UserError(f"{folder}: is not empty; give a new folder for {command}")
    require_writable_folder(folder, flag)


@contextmanager
def working_in(out: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a new temporary folder in the output folder; those of killed runs are removed.

    Args:
        out: the output folder.
        needed: about the bytes that will be written there.

    Raises:
        UserError: another run uses the folder, the disk has too little room, or the system refuses
            to write.
    """
    out = out.resolve()  # workers may run elsewhere
    with claimed(out), writing(out):
        for left in out.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
            log.info("removed %s, left by a killed run", left)
        total, _, free = shutil.disk_usage(out)
        if free < needed and total:  # some network storage tells nothing
            raise UserError(
                f"{out}: has {free / 1e9:.1f} GB free, and about {needed / 1e9:.1f} GB are needed; "
                "free some space, or write elsewhere"
            )
        with TemporaryDirectory(prefix=_UNFINISHED, dir=out, ignore_cleanup_errors=True) as work:
            yield Path(work)


def publish(results: Path, out: Path) -> None:
    """Move all results to the output folder; earlier ones that differ are renamed.

    Raises:
        UserError: the system refuses to.
    """
    for path in sorted(results.iterdir()):
        place = out / path.name
        if path.is_dir() and place.is_dir():
            publish(path, place)
        elif not (place.is_file() and filecmp.cmp(path, place, shallow=False)):
            set_aside(place)
            with writing(place):
                path.rename(place)
