"""One run of the program: checks that cost little, then training, inference or export."""

import logging
import stat
import sys
from pathlib import Path

from crn.command_line import uses_demo_sample
from crn.config import Options
from crn.demo import make_demo_sample
from crn.errors import UserError
from crn.system.files import require_writable_folder, writing
from crn.system.program import PrintableLines
from crn.system.startup import without_garbage_collection
from crn.training.processes import (
    Place,
    choose_seed,
    end_with_parent,
    find_place,
    forget_launcher,
)
from datasets.layouts import LAYOUTS
from datasets.samples import list_samples

log = logging.getLogger(__name__)


def run(options: Options) -> int:
    """Check the data set and the outputs, then train, score or export.

    Returns:
        The exit status of the process.

    Raises:
        UserError: an input or output cannot be used.
    """
    place = find_place(options.run)
    if place.count == 1:
        forget_launcher()
    end_with_parent()
    _set_up_logging(options, place)
    if options.run.seed is None:
        options = options.replace(seed=choose_seed(options.run, place))
    if options.run.mode == "export":
        _check_outputs(options)
        with without_garbage_collection():
            from crn.export import export

        return export(options)
    root = options.data.dataset_path
    assert root is not None
    assert options.data.dataset is not None
    if uses_demo_sample(options):
        make_demo_sample(root)
    samples = list_samples(LAYOUTS[options.data.dataset], root)
    if place.rank == 0:
        _check_outputs(options)
    if options.run.mode == "train":
        with without_garbage_collection():
            from crn.train import train

        return train(options, samples, place)
    with without_garbage_collection():
        from crn.infer import infer

    return infer(options, samples)


def _set_up_logging(options: Options, place: Place) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    path = options.output.log_file
    if path is not None and place.rank == 0:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(path, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--log-file {path}: cannot be written ({error.strerror})") from None
    # What the other processes have to say, process 0 says as well.
    level = options.output.log_level.upper() if place.rank == 0 else logging.ERROR
    for handler in handlers:
        handler.setFormatter(PrintableLines("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in ("crn", "datasets"):
        logging.getLogger(name).setLevel(level)


class _LogFile(logging.FileHandler):
    """A log file whose disk may get full: that ends the run with a message, like any output's."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say that the message could not be written.

        Raises:
            UserError: the system has refused to.
        """
        with writing(Path(self.baseFilename)):
            if isinstance(sys.exc_info()[1], OSError):
                raise
        super().handleError(record)


def _check_outputs(options: Options) -> None:
    root, pictures = options.data.dataset_path, options.output.image_output_path
    if (
        options.data.dataset == "Folder"
        and root is not None
        and pictures is not None
        and pictures.resolve().is_relative_to(root.resolve())
    ):
        raise UserError(
            f"--image-output-path {pictures} lies in --dataset-path {root}: the pictures would be "
            "scored the next time; give another folder"
        )
    files = {
        "--anomaly-score-file": options.output.anomaly_score_file,
        "--export-path": options.output.export_path,
    }
    folders = {
        "--checkpoint-path": options.output.checkpoint_path,
        "--image-output-path": options.output.image_output_path,
        "--log-dir": options.output.log_dir if options.run.mode == "train" else None,
        **{name: file.parent for name, file in files.items() if file is not None},
    }
    for name, folder in folders.items():
        if folder is not None:
            require_writable_folder(folder, name)
    for name, file in files.items():
        if file is not None:
            _require_name_of_file(file, name)


def _require_name_of_file(path: Path, name: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{name} {path}: cannot be written ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise UserError(f"{name} {path}: is {kind}; give the name of a file")
