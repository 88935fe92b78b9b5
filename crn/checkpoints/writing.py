"""Writing checkpoints."""

from pathlib import Path
from typing import IO, Any, cast

import torch

from crn.system.files import written_whole

# What a checkpoint holds and means; raised where an earlier program's are read otherwise.
FORMAT = 5


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Save so that under ``path`` there is either the whole new checkpoint or what was there.

    Raises:
        UserError: the system refuses to write it.
    """
    with written_whole(path) as file:
        try:
            torch.save({**checkpoint, "format": FORMAT}, cast(IO[bytes], _UntilClosed(file)))
        except RuntimeError as error:
            # After a full disk or a signal torch fails to end its archive, and shows that instead.
            raise (error.__context__ or error) from None


class _UntilClosed:
    """A file that takes what is written after it was closed, too, and forgets it.

    An archive that a signal has kept torch from ending is ended when it is collected: where that
    then fails, torch aborts the program.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.flush = file.flush

    def write(self, data: bytes | memoryview) -> int:
        return len(data) if self._file.closed else self._file.write(data)
