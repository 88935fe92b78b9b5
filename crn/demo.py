"""The demo: a generated road sample, and what a model that was trained on it finds."""

import logging
from collections.abc import Sequence
from pathlib import Path

from crn.config import Options
from crn.errors import UserError
from crn.system.files import require_writable_folder, writing
from datasets.samples import Sample

log = logging.getLogger(__name__)


def make_demo_sample(root: Path) -> None:
    """Write the sample, unless it exists. Several runs may start together: one is the first.

    Raises:
        UserError: it cannot be written.
    """
    if root.exists():
        return
    from datasets.road_sample import write_road_sample

    try:
        with writing(root):
            write_road_sample(root)
    except UserError:
        if not root.exists():
            raise
    else:
        log.info("demo: made a sample of road tiles in %s", root)


def score_demo_sample(
    options: Options, samples: Sequence[Sample], checkpoint: Path, logs: Path
) -> None:
    """Score the sample with the model just trained, so that a report shows what it finds.

    The results go to the folder of its logs, unless there is ``--image-output-path``.
    """
    # Only the demo scores after training.
    from crn.infer import infer

    pictures = options.output.image_output_path or logs / "results"
    require_writable_folder(pictures, "--log-dir")
    changes = {"model_input": checkpoint, "image_output_path": pictures}
    infer(options.replace(mode="inference", **changes), samples)
