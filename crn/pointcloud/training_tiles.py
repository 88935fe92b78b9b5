"""The command ``tiles``: tiles of some scans to train on."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.folders import require_new_folder, results_in
from crn.pointcloud.las import Scan, check_scans, find_files
from crn.pointcloud.partition import BLOCK
from crn.pointcloud.raster import CELLS, choose_cell, typical_density
from crn.pointcloud.roadway import Roadway, find_road
from crn.pointcloud.tiles import (
    EMPTY_FOLDER,
    MIN_FILL,
    STRIDE,
    TILES_FILE,
    TileSet,
    cut,
    images_of,
    raster_of,
    tile_name,
    write_tile,
)
from crn.pointcloud.vectors import Areas, read_areas
from crn.system.program import print_result
from datasets.layouts import TILE_FOLDERS

log = logging.getLogger(__name__)


def make_tiles(
    inputs: Sequence[Path],
    out: Path,
    *,
    crs: str | None = None,
    road: Path | None = None,
    damages: Path | None = None,
    cell: float | None = None,
    height_range_mm: tuple[float, float] = (-60.0, 60.0),
    with_intensity: bool = True,
) -> None:
    """Make the tiles of some scans.

    Args:
        inputs: LAS and LAZ files, or folders of them.
        out: a new or empty folder.
        crs: coordinate reference system of the scans, if they do not name it.
        road: file with the areas of the road; None: classes or the filter select it.
        damages: file with areas or lines of known damage; the tiles that touch one go to
            bad_ones/, the others to good_ones/.
        cell: side of a cell in metres; None: depends on the density of the points.
        height_range_mm: heights that are black and white.
        with_intensity: whether intensities are used beside heights.

    Raises:
        UserError: a file or the folder cannot be used, or there are no tiles.
    """
    low, high = height_range_mm
    if not -1e4 < low < 0 < high < 1e4:
        raise UserError(f"--height-range-mm {low:g} {high:g}: takes a depth below 0 and a height")
    require_new_folder(out, "--out", "tiles")
    scans = check_scans(find_files(inputs), crs)
    road_polygons, damaged = (
        None if path is None else read_areas(path, flag, scans, verdict)
        for path, flag, verdict in ((road, "--road", None), (damages, "--damages", "right"))
    )
    with results_in(out, sum(scan.points for scan in scans)) as results:
        roadway = find_road(scans, road_polygons, results.parent)
        tiles = TileSet(_cell(cell, roadway), (low, high), with_intensity)
        for scan in scans:
            scan.require_fine_scale(tiles.cell)
        intensity_range = roadway.intensity_range() if with_intensity else (0.0, 0.0)
        counts = _write_tiles(results, roadway, tiles, intensity_range, damaged)
        _describe(results / TILES_FILE, tiles, scans, roadway, intensity_range, counts)
    shown = ", ".join(f"{n} in {kind}/" for kind, n in counts.items() if kind != ".")
    print_result(
        f"{out}: {sum(counts.values())} tiles of {tiles.pixels} x {tiles.pixels} cells of "
        f"{tiles.cell} cm{' (' + shown + ')' if shown else ''}, and {TILES_FILE}"
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


def _write_tiles(
    results: Path,
    roadway: Roadway,
    tiles: TileSet,
    intensity_range: tuple[float, float],
    damaged: Areas | None,
) -> dict[str, int]:
    """Write the tiles of all blocks; returns the number of tiles in each folder.

    Raises:
        UserError: there are none.
    """
    counts = dict.fromkeys((".",) if damaged is None else ("good_ones", "bad_ones"), 0)
    for kind in counts:
        for name in (*TILE_FOLDERS, EMPTY_FOLDER):
            (results / kind / name).mkdir(parents=True)
    # A tile that begins in a block without road is at least half empty.
    for block in tqdm(roadway.points.blocks, unit="blocks", desc="tiles", disable=None):
        raster = raster_of(roadway.points, block, tiles)
        side = (BLOCK + 2 * STRIDE) // tiles.cell
        burnt = None if damaged is None else damaged.burn(block, 0, tiles.cell, side)
        for part in cut(raster, tiles, MIN_FILL, 0):
            images = images_of(part, tiles, intensity_range)
            for corner, known, *pair in zip(part.corners, part.known, *images, strict=True):
                kind = _kind(burnt, corner // tiles.cell, tiles.pixels)
                counts[kind] += 1
                write_tile(results / kind, tile_name(block, corner), known, *pair)
    if not sum(counts.values()):
        raise UserError(
            f"{roadway.where}: no tile of {STRIDE / 50:.2f} m is {MIN_FILL:.0%} full of road: "
            f"{roadway.summary}"
        )
    return counts


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


def _describe(
    path: Path,
    tiles: TileSet,
    scans: Sequence[Scan],
    roadway: Roadway,
    intensity_range: tuple[float, float],
    counts: dict[str, int],
) -> None:
    """Write tiles.json."""
    facts = {
        "tiles": sum(counts.values()),
        "scans": [str(scan.path) for scan in scans],
        "road": roadway.road.rule,
        "points_per_m2": round(float(np.median(roadway.density)), 1),
        "intensity_range": list(intensity_range) if tiles.intensity else None,
        "crs": None if scans[0].crs is None else scans[0].crs.name,
    }
    path.write_text(f"{json.dumps(tiles.description(facts), indent=2)}\n", encoding="utf-8")
