"""The command line of pointcloud.py."""

import argparse
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread

from crn.config import PAIRS, SCORES
from crn.pointcloud.campaign import Workers
from crn.pointcloud.raster import CELLS
from crn.pointcloud.tiles import read_tile_set
from crn.system.program import Parser, PrintableLines, typed_path, whole_number


def run_pointcloud(argv: Sequence[str]) -> int:
    """Run a command.

    Args:
        argv: the words after the program's name.

    Returns:
        The exit status: 0, or 128 + N after signal N.

    Raises:
        UserError: the command line, a file or the output cannot be used.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableLines("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("crn").setLevel(logging.INFO)
    # GDAL's errors are raised; its warnings are about other programs' files.
    for name in ("rasterio", "pyogrio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options = _parser().parse_args(argv)
    came: list[int] = []
    try:
        with _like_ctrl_c(came):
            {"demo": _demo, "tiles": _tiles, "score": _score}[options.command](options)
    except KeyboardInterrupt:
        if not came:
            raise
        return 128 + came[0]
    return 0


@contextmanager
def _like_ctrl_c(came: list[int]) -> Iterator[None]:
    """Let the signals of batch systems and closed terminals end a run as Ctrl-C does.

    Args:
        came: receives them.
    """

    def stop(number: int, _: object) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    names = ("SIGTERM", "SIGHUP") if current_thread() is main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # Under nohup, SIGHUP stays ignored.
    before = {each: signal.getsignal(each) for each in numbers}
    taken = [each for each, handler in before.items() if handler != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


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
        ignore=options.ignore,
        cell=options.cell,
        height_range_mm=tuple(options.height_range_mm),
        with_intensity=not options.no_intensity,
        workers=_workers(options),
        dry_run=options.dry_run,
    )


def _score(options: argparse.Namespace) -> None:
    from crn.pointcloud.model import TileScorer
    from crn.pointcloud.places import sound_threshold
    from crn.pointcloud.score import score_scans

    given = None if options.tiles_from is None else read_tile_set(options.tiles_from)
    scorer = TileScorer.from_checkpoint(
        options.model_input, options.pairs, options.anomaly_score, options.cpu
    )
    threshold, source, sound = options.threshold, "--threshold", options.threshold_from
    if sound is not None and sound.is_dir():
        threshold, source = sound_threshold(
            sound, scorer.tags, options.false_places, options.least_area
        )
    elif sound is not None:
        threshold, source = scorer.threshold_from(sound), f"--threshold-from {sound}"
    score_scans(
        options.scans,
        options.out,
        scorer.tile_set(given),
        scorer,
        crs=options.crs,
        road=options.road,
        ignore=options.ignore,
        threshold=threshold,
        threshold_source=source,
        least_area=options.least_area,
        axis=options.axis,
        against=options.against,
        workers=_workers(options),
        dry_run=options.dry_run,
    )


def _workers(options: argparse.Namespace) -> Workers:
    return Workers(options.jobs, options.scheduler, options.strict)


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
    add(
        "scans",
        type=typed_path,
        nargs="+",
        help="LAS or LAZ files, or folders that have them at any depth",
    )
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
    add(
        "--ignore",
        type=typed_path,
        metavar="FILE",
        help="areas that are left out, such as manholes, markings and joints",
    )
    add(
        "--dry-run",
        action="store_true",
        help="only list the scans, and estimate time, memory and disk",
    )
    add(
        "--jobs",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="scans at a time on this machine (default: 1)",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="run on the workers of this dask scheduler, e.g. tcp://10.0.0.1:8786",
    )
    add("--strict", action="store_true", help="stop at the first scan that fails")


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
        metavar="JSON",
        help="the tiles.json of the tiles that the model was trained on (default: that in the "
        "checkpoint)",
    )
    add("--pairs", choices=PAIRS, help="as in train.py (default: as trained)")
    add("--anomaly-score", choices=SCORES, help="as in train.py (default: as trained)")
    above = parser.add_mutually_exclusive_group()
    above.add_argument(
        "--threshold",
        type=_number,
        help="scores above it are damage (default: the highest are listed)",
    )
    above.add_argument(
        "--threshold-from",
        type=typed_path,
        metavar="PATH",
        help="take it from what score has written about a sound road (a folder), see "
        "--false-places; or the pixel threshold of a metrics.json of train.py --mode inference",
    )
    add(
        "--false-places",
        type=_positive,
        default=1.0,
        metavar="NUMBER",
        help="places per 100 m of the sound road that may be above the threshold (default: 1)",
    )
    add(
        "--least-area",
        type=_positive,
        default=0.02,
        metavar="M2",
        help="smallest place in square metres (default: 0.02)",
    )
    add(
        "--axis",
        type=typed_path,
        metavar="FILE",
        help="axes of the roads, as lines: places get stations, and tables go by them",
    )
    add(
        "--against",
        type=typed_path,
        metavar="DIR",
        help="results of an earlier survey: places are new, grown, unchanged or repaired",
    )
    add("--cpu", action="store_true", help="do not use a GPU")


def _positive(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"takes no number below 0, such as {text}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"takes a number, not {text!r}")
    return value
