"""The command line of pointcloud.py."""

import argparse
import logging
import math
from collections.abc import Sequence

from crn.config import PAIRS, SCORES
from crn.pointcloud.raster import CELLS
from crn.pointcloud.tiles import read_tile_set
from crn.system.program import Parser, PrintableLines, typed_path


def run_pointcloud(argv: Sequence[str]) -> int:
    """Run a command.

    Args:
        argv: the words after the program's name.

    Returns:
        The exit status, 0.

    Raises:
        UserError: the command line, a file or the output cannot be used.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableLines("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("crn").setLevel(logging.INFO)
    options = _parser().parse_args(argv)
    {"demo": _demo, "tiles": _tiles, "score": _score}[options.command](options)
    return 0


def _demo(options: argparse.Namespace) -> None:
    from crn.pointcloud.demo import make_demo

    make_demo(options.folder)


def _tiles(options: argparse.Namespace) -> None:
    from crn.pointcloud.training_tiles import make_tiles

    make_tiles(
        options.scans,
        options.out,
        crs=options.crs,
        road=options.road,
        damages=options.damages,
        cell=options.cell,
        height_range_mm=tuple(options.height_range_mm),
        with_intensity=not options.no_intensity,
    )


def _score(options: argparse.Namespace) -> None:
    from crn.pointcloud.model import TileScorer
    from crn.pointcloud.score import score_scans

    tiles = read_tile_set(options.tiles_from)
    scorer = TileScorer.from_checkpoint(
        options.model_input, options.pairs, options.anomaly_score, options.cpu
    )
    threshold, source = options.threshold, "--threshold"
    if options.threshold_from is not None:
        threshold = scorer.threshold_from(options.threshold_from)
        source = f"--threshold-from {options.threshold_from}"
    score_scans(
        options.scans,
        options.out,
        tiles,
        scorer,
        crs=options.crs,
        road=options.road,
        threshold=threshold,
        threshold_source=source,
    )


def _parser() -> Parser:
    parser = Parser(
        prog="pointcloud.py",
        description="Make road tiles from mobile-mapping point clouds to train on, and bring the "
        "scores of a trained model back onto the map and the points. See docs/pointclouds.md.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo, tiles, score = (
        commands.add_parser(name, help=text, allow_abbrev=False)
        for name, text in {
            "demo": "make a synthetic street, undamaged and damaged",
            "tiles": "make height and intensity tiles to train on",
            "score": "score scans, and write points, layers and a page",
        }.items()
    )
    demo.add_argument("folder", type=typed_path, help="new folder for the street")
    for each in (tiles, score):
        _add_scans(each)
    _add_tiles(tiles)
    _add_score(score)
    return parser


def _add_scans(parser: argparse.ArgumentParser) -> None:
    """The options of both commands that read scans."""
    add = parser.add_argument
    add("scans", type=typed_path, nargs="+", help="LAS or LAZ files, or folders of them")
    add("--out", type=typed_path, required=True, metavar="DIR", help="output folder")
    add(
        "--crs",
        metavar="NAME",
        help="coordinate reference system of the scans, e.g. EPSG:25832",
    )
    add(
        "--road",
        type=typed_path,
        metavar="FILE",
        help="areas of the road: GeoPackage, GeoJSON or Shapefile in any system (default: points "
        "of class 11, else class 2, else a simple filter)",
    )


def _add_tiles(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--cell",
        type=float,
        choices=[cell / 100 for cell in CELLS],
        help="side of a cell in metres (default: depends on the density of the points)",
    )
    add(
        "--height-range-mm",
        type=float,
        nargs=2,
        default=(-60.0, 60.0),
        metavar=("LOW", "HIGH"),
        help="heights shown as black and white (default: -60 60)",
    )
    add("--no-intensity", action="store_true", help="use heights only")
    add(
        "--damages",
        type=typed_path,
        metavar="FILE",
        help="areas or lines of known damage; tiles that touch one go to bad_ones/, the others to "
        "good_ones/",
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model-input",
        type=typed_path,
        required=True,
        metavar="CKPT",
        help="checkpoint of the model",
    )
    add(
        "--tiles-from",
        type=typed_path,
        required=True,
        metavar="JSON",
        help="the tiles.json of the tiles that the model was trained on",
    )
    add("--pairs", choices=PAIRS, help="as in train.py (default: as trained)")
    add("--anomaly-score", choices=SCORES, help="as in train.py (default: as trained)")
    above = parser.add_mutually_exclusive_group()
    above.add_argument(
        "--threshold",
        type=_number,
        help="scores above it are damage (default: the highest 1 %% are)",
    )
    above.add_argument(
        "--threshold-from",
        type=typed_path,
        metavar="JSON",
        help="take the pixel threshold from this metrics.json of train.py --mode inference",
    )
    add("--cpu", action="store_true", help="do not use a GPU")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"takes a number, not {text!r}")
    return value
