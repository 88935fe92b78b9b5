"""One run of the program: checks that cost little, then training, inference or export."""

import dataclasses
import logging
import sys
from pathlib import Path

from crn.command_line import uses_demo_sample
from crn.config import Options, Output
from crn.demo import make_demo_sample
from crn.errors import UserError
from crn.option import flag
from crn.system.files import require_writable_file, require_writable_folder
from crn.system.program import PrintableLines
from crn.system.startup import without_garbage_collection
from crn.training.processes import choose_seed, end_with_parent, find_place, forget_launcher
from datasets.layouts import LAYOUTS
from datasets.samples import Sample, list_samples


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
    is_first = place.rank == 0
    # Process 0 says what the others would say, too.
    level = options.output.log_level.upper() if is_first else logging.ERROR
    _set_up_logging(level, options.output.log_file if is_first else None)
    if options.run.seed is None:
        options = options.replace(seed=choose_seed(options.run, place))
    samples = [] if options.run.mode == "export" else _list_samples(options)
    if is_first:
        _check_outputs(options)
    # Everything heavy is imported here, and only what the mode needs.
    if options.run.mode == "train":
        with without_garbage_collection():
            from crn.train import train
        return train(options, samples, place)
    if options.run.mode == "inference":
        with without_garbage_collection():
            from crn.infer import infer
        infer(options, samples)
    else:
        with without_garbage_collection():
            from crn.export import export
        export(options)
    return 0


def _set_up_logging(level: str | int, file: Path | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--log-file {file}: cannot be written ({error.strerror})") from None
    for handler in handlers:
        handler.setFormatter(PrintableLines("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in ("crn", "datasets"):
        logging.getLogger(name).setLevel(level)


def _list_samples(options: Options) -> list[Sample]:
    root, layout = options.data.dataset_path, options.data.dataset
    assert root is not None
    assert layout is not None
    if uses_demo_sample(options):
        make_demo_sample(root)
    pictures = options.output.image_output_path
    if layout == "Folder" and pictures and pictures.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"--image-output-path {pictures} lies in --dataset-path {root}: the pictures would be "
            "scored the next time; give another folder"
        )
    return list_samples(LAYOUTS[layout], root)


def _check_outputs(options: Options) -> None:
    """Make the folders of all outputs, and check that the outputs can be written."""
    require = {"file": require_writable_file, "folder": require_writable_folder}
    kinds = {each.name: each.metadata["writes"] for each in dataclasses.fields(Output)}
    for name, path in options.in_effect("output").items():
        if kinds[name] and path is not None:
            require[kinds[name]](path, flag(name))
