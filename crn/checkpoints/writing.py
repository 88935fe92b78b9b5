"""Writing checkpoints."""

from pathlib import Path
from typing import IO, Any, cast

import torch

from crn.system.files import written_whole

# The version of what a checkpoint contains.
FORMAT = 5


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Save so that ``path`` has either the whole new checkpoint or its earlier content.

    Raises:
        UserError: the system refuses to write it.
    """
    with written_whole(path) as file:
        try:
            torch.save({**checkpoint, "format": FORMAT}, cast(IO[bytes], _UntilClosed(file)))
        except RuntimeError as error:
            # After a full disk or a signal, torch reports instead that it cannot end its archive.
            raise (error.__context__ or error) from None


class _UntilClosed:
    """A file that ignores what is written after it was closed.

    If a signal has interrupted torch, it ends its archive only when that is collected, and aborts
    the program if this fails.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.flush = file.flush

    def write(self, data: bytes | memoryview) -> int:
        return len(data) if self._file.closed else self._file.write(data)
