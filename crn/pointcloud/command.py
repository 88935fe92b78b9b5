"""The command line of pointcloud.py, and its three commands."""

import argparse
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from crn.config import PAIRS
from crn.errors import UserError
from crn.pointcloud.las import Scan, check_scans, find_files
from crn.pointcloud.layers import (
    DAMAGES_FILE,
    LAYERS,
    Grid,
    damages,
    draw_layers,
    write_features,
)
from crn.pointcloud.page import PAGE_FILE, write_page
from crn.pointcloud.paint import name_of_copy, paint, refuse_unfit
from crn.pointcloud.partition import BLOCK, Block, BlockArrays
from crn.pointcloud.raster import CELLS, choose_cell, typical_density
from crn.pointcloud.roadway import Roadway, find_road
from crn.pointcloud.score import Mosaic, Scorer, score_block
from crn.pointcloud.street import make_street, some_damages, write_scan, write_truth
from crn.pointcloud.surface import burn, read_polygons
from crn.pointcloud.tiles import (
    EMPTY_FOLDER,
    MIN_FILL,
    STRIDE,
    TILES_FILE,
    TileSet,
    cut,
    images_of,
    raster_of,
    read_tile_set,
    tile_name,
    write_tile,
)
from crn.system.files import claimed, require_writable_folder, set_aside, writing
from crn.system.program import Parser, PrintableLines, print_result, typed_path
from crn.system.text import printable
from datasets.layouts import TILE_FOLDERS

log = logging.getLogger(__name__)

# Without a threshold, this share of the road with the highest scores is called damaged.
_SHARE = 0.01
_UNFINISHED = ".unfinished-"


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
    if options.command == "demo":
        make_demo(options.folder)
    elif options.command == "tiles":
        make_tiles(options)
    else:
        from crn.pointcloud.scoring import TileScorer

        tiles = read_tile_set(options.tiles_from)
        scorer = TileScorer.from_checkpoint(
            options.model_input, options.pairs, options.anomaly_score, options.cpu
        )
        threshold, source = options.threshold, "--threshold"
        if options.threshold_from is not None:
            threshold = scorer.threshold_from(options.threshold_from)
            source = f"--threshold-from {options.threshold_from}"
        score(options, tiles, scorer, threshold, source)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="pointcloud.py",
        description="Make road tiles from mobile-mapping point clouds to train on, and bring the "
        "scores of a trained model back onto the map and the points. See docs/pointclouds.md.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = partial(commands.add_parser, allow_abbrev=False)
    demo = add("demo", help="make a synthetic street, undamaged and damaged")
    demo.add_argument("folder", type=typed_path, help="new folder for the street")
    tiles = add("tiles", help="make height and intensity tiles to train on")
    score = add("score", help="score scans, and write points, layers and a page")
    for each in (tiles, score):
        each.add_argument(
            "scans", type=typed_path, nargs="+", help="LAS or LAZ files, or folders of them"
        )
        each.add_argument(
            "--out", type=typed_path, required=True, metavar="DIR", help="output folder"
        )
        each.add_argument(
            "--crs",
            metavar="NAME",
            help="coordinate reference system of the scans, e.g. EPSG:25832",
        )
        each.add_argument(
            "--road",
            type=typed_path,
            metavar="GEOJSON",
            help="polygons of the road, in the coordinates of the scans (default: points of class "
            "11, else class 2, else a simple filter)",
        )
    tiles.add_argument(
        "--cell",
        type=float,
        choices=[cell / 100 for cell in CELLS],
        help="side of a cell in metres (default: depends on the density of the points)",
    )
    tiles.add_argument(
        "--height-range-mm",
        type=float,
        nargs=2,
        default=(-60.0, 60.0),
        metavar=("LOW", "HIGH"),
        help="heights shown as black and white (default: -60 60)",
    )
    tiles.add_argument("--no-intensity", action="store_true", help="use heights only")
    tiles.add_argument(
        "--damages",
        type=typed_path,
        metavar="GEOJSON",
        help="polygons of known damage; tiles that touch one go to bad_ones/, the others to "
        "good_ones/",
    )
    score.add_argument(
        "--model-input",
        type=typed_path,
        required=True,
        metavar="CKPT",
        help="checkpoint of the model",
    )
    score.add_argument(
        "--tiles-from",
        type=typed_path,
        required=True,
        metavar="JSON",
        help="the tiles.json of the tiles that the model was trained on",
    )
    score.add_argument("--pairs", choices=PAIRS, help="as in train.py (default: as trained)")
    score.add_argument(
        "--anomaly-score",
        choices=("reconstruction", "residual", "discrimination"),
        help="as in train.py (default: as trained)",
    )
    above = score.add_mutually_exclusive_group()
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
    score.add_argument("--cpu", action="store_true", help="do not use a GPU")
    return parser


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"takes a number, not {text!r}")
    return value


def make_demo(folder: Path) -> None:
    """Write an undamaged and a damaged synthetic street, and where the damage is.

    Raises:
        UserError: the folder is not empty, or cannot be written to.
    """
    _require_new(folder, "demo")
    with _results(folder) as results:
        write_scan(results / "sound.laz", make_street(64, [], seed=1))
        # The next stretch further east: sorted by name, its tiles come last.
        damages = some_damages(np.random.default_rng(5), 32)
        damaged = make_street(32, damages, seed=2, place=(362_100.0, 5_701_300.0, 66.0))
        write_scan(results / "damaged.laz", damaged)
        write_truth(results / DAMAGES_FILE, damaged)
    print_result(f"{folder}: sound.laz, damaged.laz, and {len(damages)} damages in {DAMAGES_FILE}")


def make_tiles(options: argparse.Namespace) -> None:
    """Make the tiles of some scans.

    Raises:
        UserError: a file or the folder cannot be used, or there are no tiles.
    """
    low, high = options.height_range_mm
    if not -1e4 < low < 0 < high < 1e4:
        raise UserError(f"--height-range-mm {low:g} {high:g}: takes a depth below 0 and a height")
    _require_new(options.out, "tiles")
    scans = check_scans(find_files(options.scans), options.crs)
    road, damage = (
        None if path is None else read_polygons(path, scans[0].unit, flag)
        for path, flag in ((options.road, "--road"), (options.damages, "--damages"))
    )
    with _results(options.out, scans) as results:
        roadway = find_road(scans, road, results.parent)
        cell = _cell(options.cell, roadway)
        for scan in scans:
            scan.require_fine_scale(cell)
        tiles = TileSet(cell, (low, high), not options.no_intensity)
        intensity_range = roadway.intensity_range() if tiles.intensity else (0.0, 0.0)
        counts = dict.fromkeys((".",) if damage is None else ("good_ones", "bad_ones"), 0)
        for kind in counts:
            for name in (*TILE_FOLDERS, EMPTY_FOLDER):
                (results / kind / name).mkdir(parents=True)
        # A tile that begins in a block without road is at least half empty.
        for block in tqdm(roadway.points.blocks, unit="blocks", desc="tiles", disable=None):
            raster = raster_of(roadway.points, block, tiles)
            side = (BLOCK + 2 * STRIDE) // cell
            burnt = None if damage is None else burn(damage, block, 0, cell, side, "--damages")
            for part in cut(raster, tiles, MIN_FILL, 0):
                images = images_of(part, tiles, intensity_range)
                for corner, known, *pair in zip(part.corners, part.known, *images, strict=True):
                    kind = _kind(burnt, corner // cell, tiles.pixels)
                    counts[kind] += 1
                    write_tile(results / kind, tile_name(block, corner), known, *pair)
        if not sum(counts.values()):
            raise UserError(
                f"{roadway.where}: no tile of {STRIDE / 50:.2f} m is {MIN_FILL:.0%} full of road: "
                f"{roadway.summary}"
            )
        facts = {
            "tiles": sum(counts.values()),
            "scans": [str(scan.path) for scan in scans],
            "road": roadway.road.rule,
            "points_per_m2": round(float(np.median(roadway.density)), 1),
            "intensity_range": list(intensity_range) if tiles.intensity else None,
            "crs": None if scans[0].crs is None else scans[0].crs.name,
        }
        description = json.dumps(tiles.description(facts), indent=2)
        (results / TILES_FILE).write_text(f"{description}\n", encoding="utf-8")
    shown = ", ".join(f"{n} in {kind}/" for kind, n in counts.items() if kind != ".")
    print_result(
        f"{options.out}: {sum(counts.values())} tiles of {tiles.pixels} x {tiles.pixels} cells of "
        f"{cell} cm{' (' + shown + ')' if shown else ''}, and {TILES_FILE}"
    )


def _kind(burnt: np.ndarray | None, corner: np.ndarray, side: int) -> str:
    """The folder of a tile.

    Args:
        burnt: which cells of its block and beyond are damaged; None if unknown.
        corner: its column and row there.
        side: its width in cells.
    """
    if burnt is None:
        return "."
    column, row = corner
    return "bad_ones" if burnt[row : row + side, column : column + side].any() else "good_ones"


def score(
    options: argparse.Namespace,
    tiles: TileSet,
    scorer: Scorer,
    threshold: float | None = None,
    source: str = "",
) -> None:
    """Score scans, and write points, layers and a page.

    Args:
        options: options of the command.
        tiles: the kind of tiles that the scorer was trained on.
        scorer: scores the tiles.
        threshold: higher scores are damage; None: the highest `_SHARE` of scores.
        source: where the threshold comes from, in words.

    Raises:
        UserError: a file or the folder cannot be used.
    """
    scans = check_scans(find_files(options.scans), options.crs)
    names = _output_names(scans, options.out)
    for scan in scans:
        refuse_unfit(scan)
        scan.require_fine_scale(tiles.cell)
    road = None if options.road is None else read_polygons(options.road, scans[0].unit, "--road")
    require_writable_folder(options.out, "--out")
    with _results(options.out, scans) as results:
        roadway = find_road(scans, road, results.parent)
        typical = typical_density(roadway.density, roadway.where)
        if typical < CELLS[tiles.cell] / 2:
            raise UserError(
                f"{roadway.where}: {typical:,.0f} points/m2 are too few for the cells of "
                f"{tiles.cell} cm of --tiles-from {options.tiles_from}; take a model that was "
                f"trained on cells of {choose_cell(typical)} cm"
            )
        intensity_range = roadway.intensity_range() if tiles.intensity else (0.0, 0.0)
        blocks = roadway.points.blocks
        grid = Grid.around(blocks, tiles.cell, scans[0].unit, scans[0].crs)
        scores, some = BlockArrays(results.parent / "scores"), []

        def mosaics() -> Iterator[tuple[Block, Mosaic]]:
            for block in tqdm(blocks, unit="blocks", desc="score", disable=None):
                mosaic = score_block(roadway, block, tiles, intensity_range, scorer)
                scores.keep(block, mosaic.score)
                some.append(mosaic.score[np.isfinite(mosaic.score)][::16])
                yield block, mosaic

        draw_layers(results, grid, mosaics())
        some_of_all = np.concatenate(some)
        if not len(some_of_all):
            raise UserError(
                f"{roadway.where}: no tile is full enough to be scored: {roadway.summary}"
            )
        given = threshold
        if threshold is None:
            threshold = float(np.quantile(some_of_all, 1 - _SHARE))
            source = f"the highest {_SHARE:.0%} of the road's area"
        facts = {
            "model": scorer.name,
            "threshold": threshold,
            "threshold_is": source,
            "cell_m": tiles.cell / 100,
            "road": roadway.summary,
            "scans": [str(scan.path) for scan in scans],
        }
        features = damages(results, grid, blocks, threshold)
        write_features(results / DAMAGES_FILE, features, grid.crs, facts=facts)
        write_page(results, grid, features, facts)
        for scan, name in names.items():
            scored = paint(scan, results / name, roadway, scores, tiles.cell, given)
            log.info("%s: %s of %s points have a score", name, f"{scored:,}", f"{scan.points:,}")
    area = sum(feature["properties"]["area_m2"] for feature in features)
    print_result(
        f"{options.out}: {len(features)} places of {area:.2f} m2 with scores above {threshold:.4g} "
        f"({source}); {', '.join(map(printable, names.values()))}, "
        f"{', '.join(f'{n}.tif' for n in LAYERS)}, "
        f"{DAMAGES_FILE}, {PAGE_FILE}"
    )


def _cell(asked: float | None, roadway: Roadway) -> int:
    """The side of a cell in centimetres.

    Raises:
        UserError: the road is too sparse for any.
    """
    natural = choose_cell(typical_density(roadway.density, roadway.where))
    cell = natural if asked is None else round(asked * 100)
    if cell < natural:
        log.warning("--cell %g: the points fill cells of %g m", cell / 100, natural / 100)
    if cell == max(CELLS):
        log.warning("cells of %d cm: only deep potholes can show", cell)
    return cell


def _output_names(scans: Sequence[Scan], out: Path) -> dict[Scan, str]:
    """The file name of the painted copy of every scan.

    Raises:
        UserError: two would have the same name, or one is a scan itself.
    """
    names: dict[Scan, str] = {}
    for scan in scans:
        name = name_of_copy(scan)
        if name in names.values():
            raise UserError(f"{scan.path}: another scan is named {name} as well; rename one")
        path = out / name
        if path.exists() and os.path.samefile(path, scan.path):
            raise UserError(f"--out {out}: {scan.path} itself is there; give another folder")
        names[scan] = name
    return names


def _require_new(folder: Path, command: str) -> None:
    """Make a folder that has to be new or empty.

    Raises:
        UserError: it is neither, or cannot be made.
    """
    if folder.is_dir() and any(not each.name.startswith(_UNFINISHED) for each in folder.iterdir()):
        raise UserError(f"{folder}: is not empty; give a new folder for {command}")
    require_writable_folder(folder, "folder" if command == "demo" else "--out")


@contextmanager
def _results(out: Path, scans: Sequence[Scan] = ()) -> Iterator[Path]:
    """Yield a folder whose content moves to the output folder once it is complete.

    Results of earlier runs are renamed, and unfinished ones of killed runs are removed. The parent
    of the folder is for temporary files.

    Raises:
        UserError: another run uses the folder, the disk has too little room for the points, or the
            system refuses to write.
    """
    with claimed(out), writing(out):
        for left in out.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
            log.info("removed %s, left by a killed run", left)
        needed = 24 * sum(scan.points for scan in scans)
        free = shutil.disk_usage(out).free
        if free < needed:
            raise UserError(
                f"{out}: has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed for "
                "the points alone; free some space, or write elsewhere"
            )
        with TemporaryDirectory(prefix=_UNFINISHED, dir=out, ignore_cleanup_errors=True) as work:
            results = Path(work) / "results"
            results.mkdir()
            yield results
            for path in sorted(results.iterdir()):
                set_aside(out / path.name)
                path.rename(out / path.name)
