"""Output folders: results appear in them once they are complete."""

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
def results_in(out: Path, points: int = 0) -> Iterator[Path]:
    """Yield a folder whose content moves to the output folder once it is complete.

    Results of earlier runs are renamed, and unfinished ones of killed runs are removed. The parent
    of the folder is for temporary files.

    Args:
        out: the output folder.
        points: number of points that have to fit there for a while.

    Raises:
        UserError: another run uses the folder, the disk has too little room for the points, or the
            system refuses to write.
    """
    with claimed(out), writing(out):
        for left in out.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
            log.info("removed %s, left by a killed run", left)
        needed = 24 * points
        free = shutil.disk_usage(out).free
        if free < needed:
            raise UserError(
                f"{out}: has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed for "
                "the points alone; free some space, or write elsewhere"
            )
        with TemporaryDirectory(prefix=_UNFINISHED, dir=out, ignore_cleanup_errors=True) as work:
            results = Path(work) / "results"
            results.mkdir()
            yield results
            for path in sorted(results.iterdir()):
                set_aside(out / path.name)
                path.rename(out / path.name)
