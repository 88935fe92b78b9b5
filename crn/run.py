"""One run of the program: checks that cost little, then training or inference."""

import logging
import random
import sys
from pathlib import Path

from crn.command_line import uses_demo_sample
from crn.config import Options
from crn.errors import UserError
from crn.files import require_writable_folder
from datasets import LAYOUTS
from datasets.samples import list_samples

log = logging.getLogger(__name__)


def run(options: Options) -> int:
    """Check the data set and the output folders, then train or score.

    Returns:
        The exit status of the process.

    Raises:
        UserError: an input or output cannot be used.
    """
    _set_up_logging(options)
    if options.run.seed is None:
        options = options.replace(seed=random.SystemRandom().randrange(2**32))
    root = options.data.dataset_path
    assert root is not None
    assert options.data.dataset is not None
    if uses_demo_sample(options):
        _make_demo_sample(root)
    samples = list_samples(LAYOUTS[options.data.dataset], root)
    _check_outputs(options)
    if options.run.mode == "train":
        from crn.training import train

        return train(options, samples)
    from crn.inference import infer

    return infer(options, samples)


def _set_up_logging(options: Options) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    path = options.output.log_file
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(path, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--log-file {path}: cannot be written ({error.strerror})") from None
    level = options.output.log_level.upper()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers, force=True)
    for name in ("crn", "datasets"):
        logging.getLogger(name).setLevel(level)


def _make_demo_sample(root: Path) -> None:
    if root.exists():
        log.info("demo: training on the road sample in %s", root)
        return
    from datasets.road_sample import write_road_sample

    write_road_sample(root)
    log.info("demo: made a sample of road tiles in %s", root)


def _check_outputs(options: Options) -> None:
    root, pictures = options.data.dataset_path, options.output.image_output_path
    assert root is not None
    if (
        options.data.dataset == "Folder"
        and pictures is not None
        and pictures.resolve().is_relative_to(root.resolve())
    ):
        raise UserError(
            f"--image-output-path {pictures} lies in --dataset-path {root}: the pictures would be "
            "scored the next time; give another folder"
        )
    scores = options.scoring.anomaly_score_file
    folders = {
        "--checkpoint-path": options.output.checkpoint_path,
        "--image-output-path": options.output.image_output_path,
        "--log-dir": options.output.log_dir if options.run.mode == "train" else None,
        "--anomaly-score-file": scores.parent if scores else None,
    }
    for name, folder in folders.items():
        if folder is not None:
            require_writable_folder(folder, name)
    if scores is not None and scores.is_dir():
        raise UserError(f"--anomaly-score-file {scores}: is a folder; give the name of a file")
