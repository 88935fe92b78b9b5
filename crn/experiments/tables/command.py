"""The command line of tables.py, and its main function."""

import argparse
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crn.command_line import parse_options
from crn.config import RECIPES, Competition
from crn.errors import UserError
from crn.experiments.jobs import add_arguments, run_jobs
from crn.experiments.tables.pages import write_results
from crn.experiments.tables.runs import RECIPES_OF, DataSet, Table, TableMethod, TableRun
from crn.system.files import locked, require_writable_folder
from crn.system.program import Parser, require_packages, split_words, typed_path, whole_number
from datasets.layouts import CATEGORIES, layout_of

_LAYOUTS = {"mvtec": "MVTec", "panorama": "Panorama", "roadimages": "RoadImages"}
Defaults = dict[str, list[Any]]
_DEFAULTS: Defaults = {
    "models": ["crn", "dagan", "autoencoder", "control"],
    "recipes": ["published", "balanced"],
    "units": [Competition().num_competitive_units],
}
# The defaults of --table units.
_OF_PLOT: Defaults = {"models": ["crn"], "recipes": ["published"], "units": [2, 4, 8, 12, 16]}
_WITH_UNITS = ("crn", "control", "untrained")
# The flags that the table sets for every run.
_SET_BY_TABLE = (
    *("--mode", "--model", "--recipe", "--model-input", "--dataset", "--dataset-path"),
    *("--seed", "--num-competitive-units", "--checkpoint-path", "--log-dir"),
)


def run_tables(argv: Sequence[str]) -> int:
    """Do the remaining training runs of a table, and write the table.

    Returns:
        The exit status: 0, 1 if a run has failed, 128 + N if signal N has stopped it.

    Raises:
        UserError: the command line, the data set or the folder cannot be used.
    """
    options, flags = _parse(argv)
    data = _data_sets(options)
    runs = _runs(options, data)
    folder = options.folder or Path("table_results") / options.table
    require_writable_folder(folder, "--folder")
    command = f"python tables.py {shlex.join(argv)}"
    table = Table(runs, folder, options.table, options.root, flags, command)
    (size,) = {parse_options(table.flags(run)).network.imsize for run in runs}
    # Imports torch, which --help and bad input need not wait for.
    from crn.experiments.tables.baselines import baseline_aurocs

    with locked(folder / "results.csv") as lock:
        table.open(options.retry_failed)
        baselines = {each: baseline_aurocs(each, size, folder) for each in data}

        def report() -> str:
            return write_results(table, baselines)

        report()
        status = run_jobs(table.jobs(), options.workers, report, command, lock)
    return status or int(any(result.error for result in table.results.values()))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the flags of train.py after ``--``."""
    parser = Parser(
        usage="python tables.py --table NAME [--root DIR] [...] [-- FLAGS OF TRAIN.PY]",
        description="Train models on data sets with several seeds, score with each, and write "
        "results.csv and results.md: mean and standard deviation of AUROC and other metrics, "
        "beside baselines that need no training. Called again, it continues. Flags after -- are "
        "added to every training run, for example: -- --imsize 64 --training-steps 300",
        allow_abbrev=False,
    )
    table = (
        "mvtec: all categories of MVTec AD; panorama and roadimages: these data sets; units: AUROC "
        "against the number of units, with a plot"
    )
    parser.add_argument("--table", required=True, choices=(*_LAYOUTS, "units"), help=table)
    root = (
        "folder of the data set; for mvtec the one with all categories, for units any data set "
        "(default: datasets/TABLE; for units datasets/roadimages)"
    )
    parser.add_argument("--root", type=typed_path, metavar="DIR", help=root)
    add_list = partial(parser.add_argument, nargs="+")
    categories = "for --table mvtec: folders in --root (default: the fifteen of MVTec AD)"
    add_list("--categories", metavar="NAME", help=categories)
    models = (
        "models to train; control: the units of crn without their competition; untrained: the "
        "units without training. Only crn and dagan have the recipe published, and features has "
        f"only pretrained {_default('models')}"
    )
    add_list("--models", choices=RECIPES_OF, help=models)
    recipes = f"recipes of each model {_default('recipes')}"
    add_list("--recipes", choices=tuple(RECIPES), help=recipes)
    seeds = "one training run for each (default: 1 2 3)"
    add_list("--seeds", type=whole_number(0), default=(1, 2, 3), metavar="N", help=seeds)
    units = f"numbers of units, of models with units {_default('units')}"
    add_list("--units", type=whole_number(1), metavar="N", help=units)
    folder = "folder of the runs and results (default: table_results/TABLE)"
    add_arguments(parser, "training runs", folder)
    words, flags = split_words(argv)
    options = parser.parse_args(words)
    is_plot = options.table == "units"
    if options.categories and options.table != "mvtec":
        raise UserError("--categories are for --table mvtec only: leave them out here")
    if is_plot:
        plot, requirements = "the plot of --table units needs", "-r requirements-benchmark.txt"
        require_packages(plot, "matplotlib", install=requirements)
    for name, default in (_OF_PLOT if is_plot else _DEFAULTS).items():
        setattr(options, name, getattr(options, name) or default)
    for word in flags:
        if word.partition("=")[0] in _SET_BY_TABLE:
            raise UserError(f"{word.partition('=')[0]}: leave it out; the table decides it")
    options.root = options.root or Path("datasets", "roadimages" if is_plot else options.table)
    if not options.root.is_dir():
        raise UserError(
            f"--root {options.root}: no such folder; give that of the data set, or fetch it with "
            "python -m datasets.download"
        )
    return options, flags


def _default(name: str) -> str:
    default, of_plot = " ".join(map(str, _DEFAULTS[name])), " ".join(map(str, _OF_PLOT[name]))
    return f"(default: {default}; for units {of_plot})"


def _data_sets(options: argparse.Namespace) -> list[DataSet]:
    """The data sets to train on; a missing category makes its training runs fail."""
    root = options.root
    if options.table != "mvtec":
        layout = _LAYOUTS.get(options.table) or layout_of(root)
        return [DataSet(root.resolve().name, layout, root)]
    names = dict.fromkeys(options.categories or CATEGORIES)
    for name in names:
        if name != Path(name).name or name in ("", ".."):
            raise UserError(f"--categories {name}: is not the name of a folder in {root}")
    return [DataSet(name, "MVTec", root / name) for name in names]


def _runs(options: argparse.Namespace, data: Sequence[DataSet]) -> list[TableRun]:
    """All training runs, one seed after the other, so that a table is soon complete.

    Raises:
        UserError: there are none.
    """
    methods = [
        TableMethod(model, recipe, units)
        for model in dict.fromkeys(options.models)
        for recipe in RECIPES_OF[model]
        if recipe in options.recipes
        for units in (dict.fromkeys(options.units) if model in _WITH_UNITS else (None,))
    ]
    if not methods:
        first = options.models[0]
        recipes = " and ".join(RECIPES_OF[first])
        raise UserError(f"--recipes: {first} has {recipes}; add one of them")
    return [
        TableRun(method, each, seed)
        for seed in dict.fromkeys(options.seeds)
        for each in data
        for method in methods
    ]
