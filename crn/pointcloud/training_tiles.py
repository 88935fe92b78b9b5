"""The command ``tiles``: tiles of scans to train on."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from crn.errors import UserError
from crn.pointcloud.campaign import (
    HERE,
    Workers,
    disk_needed,
    read_campaign,
    report_failures,
    run_tasks,
    show_index,
)
from crn.pointcloud.folders import publish, require_new_folder, working_in
from crn.pointcloud.partition import BLOCK, Block, Partition
from crn.pointcloud.raster import CELLS, choose_cell, typical_density
from crn.pointcloud.roadway import Roadway, find_road, intensity_range, summary
from crn.pointcloud.tiles import (
    MIN_FILL,
    STRIDE,
    TILE,
    TILES_FILE,
    TileSet,
    cut,
    images_of,
    raster_of,
)
from crn.pointcloud.vectors import DAMAGED, IGNORED, Areas, read_areas
from crn.system.program import print_result
from datasets.layouts import TILE_FOLDERS

log = logging.getLogger(__name__)

_FOLDERS = (*TILE_FOLDERS, "empty_files")


def make_tiles(
    inputs: Sequence[Path],
    out: Path,
    *,
    crs: str | None = None,
    road: Path | None = None,
    damages: Path | None = None,
    ignore: Path | None = None,
    cell: float | None = None,
    height_range_mm: Sequence[float] = (-60.0, 60.0),
    with_intensity: bool = True,
    workers: Workers = HERE,
    dry_run: bool = False,
) -> None:
    """Make the tiles of scans.

    Args:
        inputs: LAS and LAZ files, or folders of them.
        out: a new or empty folder.
        crs: coordinate reference system of the scans, if they do not name it.
        road: file with the areas of the road; None: classes or the filter select it.
        damages: file with areas or lines of known damage; the tiles that touch one go to
            bad_ones/, the others to good_ones/.
        ignore: file with areas that tiles leave out, such as manholes.
        cell: side of a cell in metres; None: depends on the density of the points.
        height_range_mm: heights that are black and white.
        with_intensity: whether intensities are used beside heights.
        workers: where the tasks run.
        dry_run: only print an index of the scans.

    Raises:
        UserError: a file or the folder cannot be used, there are no tiles, or some scans failed.
    """
    low, high = height_range_mm
    if not -1e4 < low < 0 < high < 1e4:
        raise UserError(f"--height-range-mm {low:g} {high:g}: takes a depth below 0 and a height")
    tasks, failed = read_campaign(inputs, out, crs, workers)
    count = len(tasks) + len(failed)
    workers = replace(workers, strict=workers.strict or count == 1)
    show_index(tasks, "tiles", workers, dry_run)
    if dry_run:
        return
    require_new_folder(out, "--out", "tiles")
    scans = [task.scan for task in tasks]
    road_areas = read_areas(road, "--road", scans)
    damaged = read_areas(damages, "--damages", scans, DAMAGED)
    ignored = read_areas(ignore, "--ignore", scans, IGNORED)
    with working_in(out, disk_needed(tasks, "tiles", workers)) as work:
        surveys = {
            task.scan.name: (task.scan, road_areas, work / str(number), task.neighbours)
            for number, task in enumerate(tasks)
        }
        roads: dict[str, Roadway] = {}
        total = np.zeros(1 << 16, np.int64)
        for name, road_of_scan in run_tasks(find_road, surveys, workers):
            if isinstance(road_of_scan, UserError):
                failed[name] = road_of_scan
                continue
            total += road_of_scan.intensities
            roads[name] = replace(road_of_scan, intensities=total[:0])
        if not roads:
            raise next(iter(failed.values()))
        density = np.concatenate([each.density for each in roads.values()])
        found = summary(density, [each.rule for each in roads.values()])
        where = f"{scans[0].path}{f' and {len(scans) - 1} more' if len(scans) > 1 else ''}"
        log.info("%s", found)
        ends = intensity_range(total, where) if with_intensity else None
        tiles = TileSet(_cell(cell, density, where), (low, high), with_intensity, ends)
        for scan in scans:
            scan.require_fine_scale(tiles.cell)
        results = work / "results"
        counts = Counter(dict.fromkeys(("good_ones", "bad_ones") if damaged else (".",), 0))
        for kind in counts:
            for folder in _FOLDERS:
                (results / kind / folder).mkdir(parents=True)
        cuttings, taken = {}, set[Block]()
        for name in sorted(roads):
            # A block that several share is cut once; a tile that begins in a block without road is
            # at least half empty.
            mine = [block for block in roads[name].own if block not in taken]
            taken.update(mine)
            cuttings[name] = roads[name].points, mine, tiles, damaged, ignored, results
        for name, added in run_tasks(_cut, cuttings, workers):
            if isinstance(added, UserError):
                failed[name] = added
            else:
                counts.update(added)
        if not counts.total():
            raise UserError(
                f"{where}: no tile of {STRIDE / 50:.2f} m is {MIN_FILL:.0%} full of road: {found}"
            )
        facts = {
            "tiles": counts.total(),
            "scans": [str(scan.path) for scan in scans if scan.name not in failed],
            "road": found,
            "points_per_m2": round(float(np.median(density)), 1),
            "crs": None if scans[0].crs is None else scans[0].crs.name,
        }
        description = json.dumps(tiles.description(facts), indent=2)
        (results / TILES_FILE).write_text(f"{description}\n", encoding="utf-8")
        publish(results, out)
    shown = ", ".join(f"{n} in {kind}/" for kind, n in counts.items() if kind != ".")
    print_result(
        f"{out}: {counts.total()} tiles of {tiles.pixels} x {tiles.pixels} cells of "
        f"{tiles.cell} cm{' (' + shown + ')' if shown else ''}, and {TILES_FILE}"
    )
    report_failures(failed, count, out)


def _cell(asked: float | None, density: np.ndarray, where: str) -> int:
    """The side of a cell in centimetres.

    Raises:
        UserError: the road is too sparse for any.
    """
    natural = choose_cell(typical_density(density, where))
    cell = natural if asked is None else round(asked * 100)
    if cell < natural:
        log.warning("--cell %g: the points fill cells of %g m", cell / 100, natural / 100)
    if cell == max(CELLS):
        log.warning("cells of %d cm: only deep potholes can show", cell)
    return cell


def _cut(
    points: Partition,
    blocks: Sequence[Block],
    tiles: TileSet,
    damaged: Areas | None,
    ignored: Areas | None,
    results: Path,
) -> Counter[str]:
    """Write the tiles that begin in some blocks; returns their number in each folder."""
    counts = Counter[str]()
    for block in blocks:
        for part in cut(raster_of(points, block, tiles, ignored), tiles, MIN_FILL, 0):
            images = *images_of(part, tiles), ~part.known[:, ::-1]
            for corner, *pictures in zip(part.corners, *images, strict=True):
                left, bottom = (int(each) for each in np.array(block) * BLOCK + corner)
                kind = "."
                if damaged is not None:
                    is_bad = damaged.touch(left / 100, bottom / 100, TILE / 100)
                    kind = "bad_ones" if is_bad else "good_ones"
                counts[kind] += 1
                for folder, picture in zip(_FOLDERS, pictures, strict=True):
                    if folder in TILE_FOLDERS or picture.any():
                        path = results / kind / folder / f"e{left:09d}_n{bottom:09d}.png"
                        # Noise does not compress.
                        Image.fromarray(picture).save(path, compress_level=0)
    return counts
