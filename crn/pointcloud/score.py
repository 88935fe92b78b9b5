"""The command ``score``: scans are scored, and points, layers and a page are written."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.folders import results_in
from crn.pointcloud.las import Scan, check_scans, find_files
from crn.pointcloud.layers import (
    DAMAGES_FILE,
    LAYERS,
    Grid,
    damages,
    draw_layers,
    write_features,
)
from crn.pointcloud.mosaic import Mosaic, Scorer, score_block
from crn.pointcloud.page import PAGE_FILE, write_page
from crn.pointcloud.paint import name_of_copy, paint, refuse_unfit
from crn.pointcloud.partition import Block, BlockArrays
from crn.pointcloud.raster import CELLS, choose_cell, typical_density
from crn.pointcloud.roadway import Roadway, find_road
from crn.pointcloud.tiles import TileSet
from crn.pointcloud.vectors import read_areas
from crn.system.files import require_writable_folder
from crn.system.program import print_result
from crn.system.text import printable

log = logging.getLogger(__name__)

# Without a threshold, this share of the road with the highest scores is called damaged.
_SHARE = 0.01


def score_scans(
    inputs: Sequence[Path],
    out: Path,
    tiles: TileSet,
    scorer: Scorer,
    *,
    crs: str | None = None,
    road: Path | None = None,
    threshold: float | None = None,
    threshold_source: str = "--threshold",
) -> None:
    """Score scans, and write points, layers and a page.

    Args:
        inputs: LAS and LAZ files, or folders of them.
        out: output folder; results of earlier runs in it are renamed.
        tiles: the kind of tiles that the scorer was trained on.
        scorer: scores the tiles.
        crs: coordinate reference system of the scans, if they do not name it.
        road: file with the areas of the road; None: classes or the filter select it.
        threshold: higher scores are damage; None: the highest `_SHARE` of scores.
        threshold_source: where the threshold comes from, in words.

    Raises:
        UserError: a file or the folder cannot be used.
    """
    scans = check_scans(find_files(inputs), crs)
    names = _output_names(scans, out)
    for scan in scans:
        refuse_unfit(scan)
        scan.require_fine_scale(tiles.cell)
    polygons = None if road is None else read_areas(road, "--road", scans)
    require_writable_folder(out, "--out")
    with results_in(out, sum(scan.points for scan in scans)) as results:
        roadway = find_road(scans, polygons, results.parent)
        _require_dense(roadway, tiles.cell)
        grid = Grid.around(roadway.points.blocks, tiles.cell, scans[0].unit, scans[0].crs)
        scores = _score_blocks(results, roadway, grid, tiles, scorer)
        highest = _highest(scores, roadway)
        source = f"the highest {_SHARE:.0%} of the road's area"
        facts = {
            "model": scorer.name,
            "threshold": highest if threshold is None else threshold,
            "threshold_is": source if threshold is None else threshold_source,
            "cell_m": tiles.cell / 100,
            "road": roadway.summary,
            "scans": [str(scan.path) for scan in scans],
        }
        features = _write_damages(results, grid, roadway.points.blocks, facts)
        for scan, name in names.items():
            scored = paint(scan, results / name, roadway, scores, tiles.cell, threshold)
            log.info("%s: %s of %s points have a score", name, f"{scored:,}", f"{scan.points:,}")
    area = sum(feature["properties"]["area_m2"] for feature in features)
    files = [*names.values(), *(f"{name}.tif" for name in LAYERS), DAMAGES_FILE, PAGE_FILE]
    print_result(
        f"{out}: {len(features)} places of {area:.2f} m2 with scores above "
        f"{facts['threshold']:.4g} ({facts['threshold_is']}); {', '.join(map(printable, files))}"
    )


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


def _require_dense(roadway: Roadway, cell: int) -> None:
    """Refuse a road with too few points for the cells of the training tiles, in centimetres.

    Raises:
        UserError: it has too few.
    """
    typical = typical_density(roadway.density, roadway.where)
    if typical < CELLS[cell] / 2:
        raise UserError(
            f"{roadway.where}: {typical:,.0f} points/m2 are too few for the cells of {cell} cm of "
            f"--tiles-from; take a model that was trained on cells of {choose_cell(typical)} cm"
        )


def _score_blocks(
    results: Path, roadway: Roadway, grid: Grid, tiles: TileSet, scorer: Scorer
) -> BlockArrays:
    """Score all blocks and draw the layers; returns the scores, (S, S) float32 a block."""
    intensity_range = roadway.intensity_range() if tiles.intensity else (0.0, 0.0)
    scores = BlockArrays(results.parent / "scores")

    def mosaics() -> Iterator[tuple[Block, Mosaic]]:
        for block in tqdm(roadway.points.blocks, unit="blocks", desc="score", disable=None):
            mosaic = score_block(roadway, block, tiles, intensity_range, scorer)
            scores.keep(block, mosaic.score)
            yield block, mosaic

    draw_layers(results, grid, mosaics())
    return scores


def _highest(scores: BlockArrays, roadway: Roadway) -> float:
    """The score that `_SHARE` of the road exceeds, by every 16th cell.

    Raises:
        UserError: nothing has a score.
    """
    arrays = (scores.of(block) for block in roadway.points.blocks)
    some = np.concatenate([each[np.isfinite(each)][::16] for each in arrays if each is not None])
    if not len(some):
        raise UserError(f"{roadway.where}: no tile is full enough to be scored: {roadway.summary}")
    return float(np.quantile(some, 1 - _SHARE))


def _write_damages(
    results: Path, grid: Grid, blocks: Sequence[Block], facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Write the damages that the layers show, and the page about them; returns the damages."""
    features = damages(results, grid, blocks, facts["threshold"])
    write_features(results / DAMAGES_FILE, features, grid.crs, facts=facts)
    write_page(results, grid, features, facts)
    return features
