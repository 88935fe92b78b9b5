"""One run of the program: checks that cost little, then training or inference."""

import logging
import sys
import time
from pathlib import Path

from crn.command_line import uses_demo_sample
from crn.config import Options
from crn.errors import UserError
from crn.files import require_writable_folder
from crn.processes import Place, choose_seed, end_with_parent, find_place
from datasets import LAYOUTS
from datasets.samples import list_samples

log = logging.getLogger(__name__)

# Seconds, of which it usually takes one.
_SAMPLE_TAKES_AT_MOST = 300


def run(options: Options) -> int:
    """Check the data set and the output folders, then train or score.

    Returns:
        The exit status of the process.

    Raises:
        UserError: an input or output cannot be used.
    """
    place = find_place(options.run)
    end_with_parent()
    _set_up_logging(options, place)
    if options.run.seed is None:
        options = options.replace(seed=choose_seed(options.run, place))
    root = options.data.dataset_path
    assert root is not None
    assert options.data.dataset is not None
    if uses_demo_sample(options):
        _make_demo_sample(root, place)
    samples = list_samples(LAYOUTS[options.data.dataset], root)
    if place.rank == 0:
        _check_outputs(options)
    if options.run.mode == "train":
        from crn.training import train

        return train(options, samples, place)
    from crn.inference import infer

    return infer(options, samples)


def _set_up_logging(options: Options, place: Place) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    path = options.output.log_file
    if path is not None and place.rank == 0:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(path, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--log-file {path}: cannot be written ({error.strerror})") from None
    # What the other processes have to say, process 0 says as well.
    level = options.output.log_level.upper() if place.rank == 0 else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers, force=True)
    for name in ("crn", "datasets"):
        logging.getLogger(name).setLevel(level)


def _make_demo_sample(root: Path, place: Place) -> None:
    if place.local_rank > 0:
        _wait_for_demo_sample(root)
        return
    if root.exists():
        log.info("demo: training on the road sample in %s", root)
        return
    from datasets.road_sample import write_road_sample

    write_road_sample(root)
    log.info("demo: made a sample of road tiles in %s", root)


def _wait_for_demo_sample(root: Path) -> None:
    deadline = time.monotonic() + _SAMPLE_TAKES_AT_MOST
    while not root.exists():
        if time.monotonic() > deadline:
            raise UserError(f"{root}: another process was to make the demo's sample there")
        time.sleep(0.1)


def _check_outputs(options: Options) -> None:
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
