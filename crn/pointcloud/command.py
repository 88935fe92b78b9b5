"""The command line of pointcloud.py."""

import argparse
import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from crn.config import PAIRS, SCORES
from crn.pointcloud.campaign import Workers
from crn.pointcloud.places import LEAST_AREA
from crn.pointcloud.raster import CELLS
from crn.pointcloud.tiles import read_tile_set
from crn.system.program import Parser, PrintableLines, typed_path, whole_number

_FILE: dict[str, Any] = {"type": typed_path, "metavar": "FILE"}


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
    words = vars(_parser().parse_args(argv))
    commands: dict[str, Callable[..., None]] = {"demo": _demo, "tiles": _tiles, "score": _score}
    run = commands[words.pop("command")]
    if "jobs" in words:
        words["workers"] = Workers(*(words.pop(name) for name in ("jobs", "scheduler", "strict")))
    came: list[int] = []
    try:
        with _like_ctrl_c(came):
            run(**words)
    except KeyboardInterrupt:
        if not came:
            raise
        return 128 + came[0]
    return 0


@contextmanager
def _like_ctrl_c(came: list[int]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does; ``came`` receives their numbers."""

    def stop(number: int, _: object) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    with ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP") if current_thread() is main_thread() else ():
            number = getattr(signal, name, None)
            # Under nohup, SIGHUP stays ignored.
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, stop))
        yield


def _demo(folder: Path) -> None:
    from crn.pointcloud.demo import make_demo

    make_demo(folder)


def _tiles(**options: Any) -> None:
    from crn.pointcloud.training_tiles import make_tiles

    make_tiles(**options)


def _score(
    model_input: Path,
    tiles_from: Path | None,
    pairs: str | None,
    anomaly_score: str | None,
    cpu: bool,
    threshold_from: Path | None,
    false_places: float,
    **options: Any,
) -> None:
    from crn.pointcloud.model import TileScorer
    from crn.pointcloud.places import sound_threshold
    from crn.pointcloud.score import score_scans

    given = None if tiles_from is None else read_tile_set(tiles_from)
    scorer = TileScorer(model_input, pairs, anomaly_score, cpu)
    if threshold_from is not None and threshold_from.is_dir():
        options["threshold"], options["threshold_source"] = sound_threshold(
            threshold_from, scorer.tags, false_places, options["least_area"]
        )
    elif threshold_from is not None:
        options["threshold"] = scorer.threshold_from(threshold_from)
        options["threshold_source"] = f"--threshold-from {threshold_from}"
    score_scans(tiles=scorer.tile_set(given), scorer=scorer, **options)


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
    scans = "LAS or LAZ files, or folders above them"
    add("inputs", type=typed_path, nargs="+", metavar="SCANS", help=scans)
    add("--out", type=typed_path, required=True, metavar="DIR", help="output folder")
    add("--crs", metavar="NAME", help="system of the coordinates, e.g. EPSG:25832")
    road = "areas of the road: GeoPackage, GeoJSON or Shapefile in any system (default: points of "
    add("--road", help=f"{road}class 11, else class 2, else a simple filter)", **_FILE)
    add("--ignore", help="areas that are left out, such as manholes, markings and joints", **_FILE)
    add("--dry-run", action="store_true", help="list the scans; estimate time, memory and disk")
    add("--jobs", type=whole_number(1), default=1, help="scans at a time here (default: 1)")
    add("--scheduler", metavar="ADDRESS", help="use a dask scheduler, e.g. tcp://10.0.0.1:8786")
    add("--strict", action="store_true", help="stop at the first scan that fails")


def _add_tiles(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    cell = "side of a cell in metres (default: depends on the density of the points)"
    add("--cell", type=float, choices=[each / 100 for each in CELLS], help=cell)
    heights: dict[str, Any] = {"nargs": 2, "default": (-60.0, 60.0), "metavar": ("LOW", "HIGH")}
    shown = "heights shown as black and white (default: -60 60)"
    add("--height-range-mm", type=float, **heights, help=shown)
    add("--no-intensity", action="store_false", dest="with_intensity", help="use heights only")
    damage = "areas or lines of known damage; tiles that touch one go to bad_ones/, others to "
    add("--damages", help=f"{damage}good_ones/", **_FILE)


def _add_score(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model-input", type=typed_path, required=True, metavar="CKPT", help="a checkpoint")
    add("--tiles-from", help="tiles.json of the training (default: as in the checkpoint)", **_FILE)
    add("--pairs", choices=PAIRS, help="as in train.py (default: as trained)")
    add("--anomaly-score", choices=SCORES, help="as in train.py (default: as trained)")
    above = parser.add_mutually_exclusive_group()
    damage = "scores above it are damage (default: the highest are listed)"
    above.add_argument("--threshold", type=_number(-math.inf), help=damage)
    above.add_argument(
        "--threshold-from",
        type=typed_path,
        metavar="PATH",
        help="take it from what score has written about a sound road (a folder), see "
        "--false-places; or the pixel threshold of a metrics.json of train.py --mode inference",
    )
    false = "places per 100 m of the sound road that may be above the threshold (default: 1)"
    add("--false-places", type=_number(0), default=1.0, metavar="NUMBER", help=false)
    least = f"smallest place in square metres (default: {LEAST_AREA:g})"
    add("--least-area", type=_number(0), default=LEAST_AREA, metavar="M2", help=least)
    add("--axis", help="axes of the roads, as lines: places get stations, tables rows", **_FILE)
    earlier = "results of an earlier survey: places are new, grown, unchanged or repaired"
    add("--against", type=typed_path, metavar="DIR", help=earlier)
    one = "write the layers of all scans as cloud-optimised GeoTIFFs, too, for a web server"
    add("--cog", action="store_true", help=one)
    add("--cpu", action="store_true", help="do not use a GPU")


def _number(lowest: float) -> Callable[[str], float]:
    """An argparse type: finite numbers from ``lowest`` on."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= lowest):
            least = f" from {lowest:g} on" if lowest > -math.inf else ""
            raise argparse.ArgumentTypeError(f"takes a number{least}, not {text!r}")
        return value

    return read
