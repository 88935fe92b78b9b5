"""The command line of sweep.py, and its main function."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from crn.errors import UserError
from crn.experiments.jobs import add_arguments, run_jobs
from crn.system.files import locked, require_writable_folder
from crn.system.program import Parser, require_packages, split_words, typed_path, whole_number


def run_sweep(argv: Sequence[str]) -> int:
    """Start or continue a sweep.

    Returns:
        The exit status: 0, 1 if no run has completed, 128 + N if signal N has stopped it.

    Raises:
        UserError: the command line, the file, the folder or the storage cannot be used.
    """
    options, arguments = _parse(argv)
    require_packages("sweeps need", "optuna", install="-r requirements-sweep.txt")
    # These import Optuna, which --help need not wait for.
    from crn.experiments.sweep.file import check_command, read_sweep
    from crn.experiments.sweep.report import write_results
    from crn.experiments.sweep.study import Study, storage_errors

    sweep = read_sweep(options.file)
    count = options.count or sweep.run_cap
    if count is None and sweep.method != "grid":
        raise UserError(f"--count is missing: method {sweep.method} never ends by itself")
    check_command(sweep, arguments)
    folder = options.folder or Path("sweeps") / options.file.stem
    require_writable_folder(folder, "--folder")
    place = f"--storage {options.storage}" if options.storage else f"--folder {folder}"
    with locked(folder / "results.csv") as lock, storage_errors(place):
        study = Study(
            sweep,
            folder,
            arguments,
            storage=options.storage,
            name=options.file.stem if options.storage else "sweep",
            count=count,
            seed=options.seed,
        )
        if options.retry_failed:
            study.retry_failed()
        status = run_jobs(
            iter(study.next_job, None),
            options.workers,
            lambda: write_results(study),
            f"python sweep.py {shlex.join(argv)}",
            lock,
        )
        return status or int(all(run.value is None for run in study.runs().values()))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the words after ``--``."""
    parser = Parser(
        usage="python sweep.py FILE [--count N] [--workers N] [...] [-- FLAGS OF THE PROGRAM]",
        description="Run a W&B sweep file on this machine, without an account. Called again, it "
        "continues. Flags after -- are added to every command, for example: -- --demo --cpu",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=typed_path, help="the sweep, a YAML file")
    count = "runs of the whole sweep (default: run_cap of the file; a grid ends by itself)"
    parser.add_argument("--count", type=whole_number(1), metavar="N", help=count)
    folder = "folder of the sweep and its runs (default: sweeps/NAME OF THE FILE)"
    add_arguments(parser, "runs", folder)
    storage = (
        "Optuna database such as sqlite:///sweep.db, or journal file, by which several machines "
        "share the sweep (default: a journal file in the folder)"
    )
    parser.add_argument("--storage", metavar="URL", help=storage)
    seed = "seed of the methods random and bayes (reproducible with one worker only)"
    parser.add_argument("--seed", type=whole_number(0), metavar="N", help=seed)
    words, arguments = split_words(argv)
    return parser.parse_args(words), arguments
