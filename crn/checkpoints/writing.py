"""Writing checkpoints."""

from pathlib import Path
from typing import Any

import torch

from crn.system.files import written_whole

# What a checkpoint holds and means; raised where an earlier program's no longer serve.
FORMAT = 4


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Save so that under ``path`` there is either the whole new checkpoint or what was there.

    Raises:
        UserError: the system refuses to write it.
    """
    with written_whole(path) as file:
        try:
            torch.save({**checkpoint, "format": FORMAT}, file)
        except RuntimeError as error:
            # After a full disk or a signal torch fails to end its archive, and shows that instead.
            raise (error.__context__ or error) from None
