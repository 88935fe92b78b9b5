"""The command line of sweep.py, and its main function."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from crn.errors import UserError
from crn.experiments.folder import lock
from crn.experiments.jobs import Workers, add_arguments
from crn.experiments.sweep.file import check_command, read_sweep
from crn.experiments.sweep.report import write_results
from crn.experiments.sweep.study import COMPLETE, Study
from crn.system.files import require_writable_folder
from crn.system.program import Parser, split_words, typed_path, whole_number


def run_sweep(argv: Sequence[str]) -> int:
    """Start or continue a sweep.

    Args:
        argv: the words after the program's name.

    Returns:
        The exit status: 0, 1 if no run has completed, 128 + N if signal N has stopped it.

    Raises:
        UserError: the command line, the file, the study or the folder cannot be used.
    """
    options, arguments = _parse(argv)
    sweep = read_sweep(options.file)
    count = options.count or sweep.run_cap
    if count is None and sweep.method != "grid":
        raise UserError(f"--count is missing: method {sweep.method} never ends by itself")
    check_command(sweep, arguments)
    folder = options.folder or Path("sweeps") / options.file.stem
    require_writable_folder(folder, "--folder")
    study = Study(sweep, folder, arguments, count, options.seed)
    with lock(folder):
        study.open()
        if options.retry_failed:
            study.forget_failed()
    workers = Workers(study, options.workers, lambda: write_results(study))
    status = workers.run(f"python sweep.py {shlex.join(argv)}")
    return status or int(all(run.state != COMPLETE for run in study.runs()))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the words after ``--``."""
    parser = Parser(
        usage="python sweep.py FILE [--count N] [--workers N] [...] [-- FLAGS OF THE PROGRAM]",
        description="Run a W&B sweep file on this machine, without an account. Called again, it "
        "continues; several calls at once share the work. Flags after -- are added to every "
        "command, for example: -- --demo --cpu",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=typed_path, help="the sweep, a YAML file")
    parser.add_argument(
        "--count",
        type=whole_number(1),
        metavar="N",
        help="runs of the whole sweep, earlier ones included (default: run_cap of the file; a grid "
        "ends by itself)",
    )
    add_arguments(
        parser, "runs", "folder of the sweep and its runs (default: sweeps/NAME OF THE FILE)"
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0),
        metavar="N",
        help="seed of the methods random and bayes (reproducible with one worker only)",
    )
    words, arguments = split_words(argv)
    return parser.parse_args(words), arguments
