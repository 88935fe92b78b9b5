"""The command line of tables.py, and its main function."""

import argparse
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from crn.command_line import parse_options
from crn.config import RECIPES, Competition
from crn.errors import UserError
from crn.experiments.folder import lock
from crn.experiments.jobs import Workers, add_arguments
from crn.experiments.tables.pages import write_results
from crn.experiments.tables.runs import RECIPES_OF, DataSet, Table, TableMethod, TableRun
from crn.system.files import require_writable_folder
from crn.system.program import Parser, split_words, typed_path, whole_number
from datasets.layouts import CATEGORIES, layout_of

_TABLES = ("mvtec", "panorama", "roadimages", "units")
_SEEDS = (1, 2, 3)
_UNITS_OF_PLOT = (2, 4, 8, 12, 16)
_RECIPE_OF_PLOT = "published"
_MODELS = ["crn", "dagan", "autoencoder", "control"]
_RECIPES = ["published", "balanced"]
_WITH_UNITS = ("crn", "control", "untrained")
# The flags that the table sets for every run.
_SET_BY_TABLE = (
    *("--mode", "--model", "--recipe", "--model-input", "--dataset", "--dataset-path"),
    *("--seed", "--num-competitive-units", "--checkpoint-path", "--log-dir"),
)


def run_tables(argv: Sequence[str]) -> int:
    """Do the remaining training runs of a table, and write the table.

    Args:
        argv: the words after the program's name.

    Returns:
        The exit status: 0, 1 if a run has failed, 128 + N if signal N has stopped it.

    Raises:
        UserError: the command line, the data set or the folder cannot be used.
    """
    options, flags = _parse(argv)
    root = _root(options)
    data = _data_sets(options, root)
    runs = _runs(options, data)
    folder = options.folder or Path("table_results") / options.table
    require_writable_folder(folder, "--folder")
    command = f"python tables.py {shlex.join(argv)}"
    table = Table(runs, folder, options.table, root, flags, command)
    settings = [parse_options(table.flags(run)) for run in runs]
    with lock(folder):
        table.open()
        if options.retry_failed:
            table.forget_failed()
    # Imports torch, which --help and bad input need not wait for.
    from crn.experiments.tables.baselines import baseline_aurocs

    size = settings[0].network.imsize
    baselines = {each: baseline_aurocs(each, size, folder) for each in data}

    def report() -> str:
        return write_results(table, baselines)

    with lock(folder):
        report()
    status = Workers(table, options.workers, report).run(command)
    return status or int(any(result.error for result in table.results()))


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
    parser.add_argument(
        "--table",
        required=True,
        choices=_TABLES,
        help="mvtec: all categories of MVTec AD; panorama and roadimages: these data sets; units: "
        "AUROC against the number of units, with a plot",
    )
    parser.add_argument(
        "--root",
        type=typed_path,
        metavar="DIR",
        help="folder of the data set; for mvtec the one with all categories, for units that of any "
        "data set (default: datasets/TABLE; for units datasets/roadimages)",
    )
    parser.add_argument(
        "--categories",
        nargs="+",
        metavar="NAME",
        help="for --table mvtec: folders in --root (default: the fifteen of MVTec AD)",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=RECIPES_OF,
        help="models to train; control: the units of crn without their competition; untrained: "
        "the units without training. Only crn and dagan have the recipe published, and features "
        f"has only pretrained (default: {' '.join(_MODELS)}; for units crn)",
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=tuple(RECIPES),
        help=f"recipes of each model (default: {' '.join(_RECIPES)}; for units {_RECIPE_OF_PLOT})",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=whole_number(0),
        default=_SEEDS,
        metavar="N",
        help=f"one training run for each (default: {' '.join(map(str, _SEEDS))})",
    )
    default_units = Competition().num_competitive_units
    parser.add_argument(
        "--units",
        nargs="+",
        type=whole_number(1),
        metavar="N",
        help=f"numbers of units, of models with units (default: {default_units}; for units "
        f"{' '.join(map(str, _UNITS_OF_PLOT))})",
    )
    add_arguments(
        parser, "training runs", "folder of the runs and results (default: table_results/TABLE)"
    )
    words, flags = split_words(argv)
    options = parser.parse_args(words)
    is_units = options.table == "units"
    if options.categories and options.table != "mvtec":
        raise UserError("--categories are for --table mvtec only: leave them out here")
    if is_units and importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "the plot of --table units needs the package matplotlib: "
            "pip install -r requirements-benchmark.txt"
        )
    options.models = options.models or (["crn"] if is_units else _MODELS)
    options.recipes = options.recipes or ([_RECIPE_OF_PLOT] if is_units else _RECIPES)
    if not any(set(RECIPES_OF[model]) & set(options.recipes) for model in options.models):
        first = options.models[0]
        raise UserError(
            f"--recipes: {first} has {' and '.join(RECIPES_OF[first])}; add one of them"
        )
    options.units = options.units or (_UNITS_OF_PLOT if is_units else (default_units,))
    for word in flags:
        if word.partition("=")[0] in _SET_BY_TABLE:
            raise UserError(f"{word.partition('=')[0]}: leave it out; the table decides it")
    return options, flags


def _root(options: argparse.Namespace) -> Path:
    default = "roadimages" if options.table == "units" else options.table
    root = options.root or Path("datasets") / default
    if not root.is_dir():
        raise UserError(
            f"--root {root}: no such folder; give that of the data set, or fetch it with python "
            "-m datasets.download"
        )
    return root


def _data_sets(options: argparse.Namespace, root: Path) -> list[DataSet]:
    """The data sets to train on; a missing category makes its training runs fail."""
    if options.table == "mvtec":
        names = dict.fromkeys(options.categories or CATEGORIES)
        for name in names:
            if name != Path(name).name or name in ("", ".."):
                raise UserError(f"--categories {name}: is not the name of a folder in {root}")
        return [DataSet(name, "MVTec", root / name) for name in names]
    layouts = {"panorama": "Panorama", "roadimages": "RoadImages"}
    layout = layouts.get(options.table) or layout_of(root)
    return [DataSet(root.resolve().name, layout, root)]


def _runs(options: argparse.Namespace, data: Sequence[DataSet]) -> list[TableRun]:
    """All training runs, one seed after the other, so that a table is soon complete."""
    methods = [
        TableMethod(model, recipe, units)
        for model in dict.fromkeys(options.models)
        for recipe in RECIPES_OF[model]
        if recipe in options.recipes
        for units in (dict.fromkeys(options.units) if model in _WITH_UNITS else (None,))
    ]
    return [
        TableRun(method, each, seed)
        for seed in dict.fromkeys(options.seeds)
        for each in data
        for method in methods
    ]
