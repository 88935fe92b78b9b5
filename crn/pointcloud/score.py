"""The command ``score``: scans are scored, and points, layers and a page are written."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import shapely
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.campaign import (
    HERE,
    Task,
    Workers,
    disk_needed,
    read_campaign,
    report_failures,
    run_tasks,
    show_index,
)
from crn.pointcloud.drawing import draw_layers
from crn.pointcloud.folders import publish, working_in
from crn.pointcloud.joined import join_layers, write_cogs
from crn.pointcloud.layers import FILES, LAYERS, Grid
from crn.pointcloud.mosaic import Mosaic, Scorer, score_block
from crn.pointcloud.paint import PointScores, name_of_copy, paint, refuse_unfit
from crn.pointcloud.partition import Block
from crn.pointcloud.places import LEAST_AREA
from crn.pointcloud.raster import CELLS, choose_cell, typical_density
from crn.pointcloud.results import Wanted, write_results
from crn.pointcloud.roadway import Roadway, find_road
from crn.pointcloud.sections import named_axes
from crn.pointcloud.surveys import Earlier
from crn.pointcloud.tiles import TileSet
from crn.pointcloud.vectors import IGNORED, Areas, read_areas, read_shapes
from crn.system.files import append_whole, require_writable_folder, set_aside, writing
from crn.system.program import print_result

log = logging.getLogger(__name__)

# A line for every scan that is done; the same command skips these.
DONE_FILE = "scans.jsonl"


@dataclass(frozen=True)
class _Scoring:
    """What scoring a scan needs.

    Attributes:
        task: the scan and its neighbours.
        tiles: the settings of the tiles.
        scorer: scores the tiles.
        areas: areas of ``--road``.
        ignored: areas of ``--ignore``.
        threshold: higher scores are damage; None: unknown.
        stem: what the names of its layers begin with.
        copy: the name of its painted copy.
        work: a folder for temporary files; the results are in its subfolder results.
    """

    task: Task
    tiles: TileSet
    scorer: Scorer
    areas: Areas | None
    ignored: Areas | None
    threshold: float | None
    stem: str
    copy: str
    work: Path

    @property
    def files(self) -> list[str]:
        """The names of the results."""
        return [self.copy, *(f"{self.stem}{name}" for name in FILES)]

    def fingerprint(self) -> str:
        """A hash of all that decides the results."""
        files = [scan.path for scan in (self.task.scan, *self.task.neighbours)]
        status = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        crs = self.task.scan.crs
        parts = (
            status,
            self.tiles,
            sorted(self.scorer.tags.items()),
            self.threshold,
            "" if crs is None else crs.to_wkt(),
            [each and b"".join(shapely.to_wkb(each.shapes)) for each in (self.areas, self.ignored)],
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def score_scans(
    inputs: Sequence[Path],
    out: Path,
    tiles: TileSet,
    scorer: Scorer,
    *,
    crs: str | None = None,
    road: Path | None = None,
    ignore: Path | None = None,
    threshold: float | None = None,
    threshold_source: str = "--threshold",
    least_area: float = LEAST_AREA,
    axis: Path | None = None,
    against: Path | None = None,
    cog: bool = False,
    workers: Workers = HERE,
    dry_run: bool = False,
) -> None:
    """Score scans, and write points, layers and a page.

    Scans that an earlier run with the same arguments has finished are skipped.

    Args:
        inputs: LAS and LAZ files, or folders of them.
        out: output folder; other results of earlier runs in it are renamed.
        tiles: the kind of tiles that the scorer was trained on.
        scorer: scores the tiles.
        crs: coordinate reference system of the scans, if they do not name it.
        road: file with the areas of the road; None: classes or the filter select it.
        ignore: file with areas that get no score, such as manholes.
        threshold: higher scores are damage; None: the highest are listed, and nothing is damage.
        threshold_source: where the threshold comes from, in words.
        least_area: of a place of damage, square metres.
        axis: file with the axes of the roads.
        against: results of an earlier survey.
        cog: whether the layers of all scans are written as one GeoTIFF each, too.
        workers: where the tasks run.
        dry_run: only print an index of the scans.

    Raises:
        UserError: a file or the folder cannot be used, or some scans failed.
    """
    tasks, failed = read_campaign(inputs, out, crs, workers)
    count = len(tasks) + len(failed)
    workers = replace(workers, strict=workers.strict or count == 1)
    show_index(tasks, "score", workers, dry_run)
    if dry_run:
        return
    scans = [task.scan for task in tasks]
    areas = read_areas(road, "--road", scans)
    ignored = read_areas(ignore, "--ignore", scans, IGNORED)
    axes = None if axis is None else named_axes(read_shapes(axis, "--axis", scans))
    earlier = None if against is None else Earlier.read(against)
    if earlier:
        earlier.require_same_grid(tiles.cell, scans[0].crs)
    wanted = Wanted(threshold, threshold_source, least_area, axes, earlier, cog)
    copies = _names_of_copies(tasks, out)
    require_writable_folder(out, "--out")
    with working_in(out, disk_needed(tasks, "score", workers)) as work:
        scorings = {}
        for number, task in enumerate(tasks):
            name = task.scan.name
            stem = f"{PurePath(name).with_suffix('')}_" if count > 1 or cog else ""
            place = stem, copies[name], work / f"{number}"
            scorings[name] = _Scoring(task, tiles, scorer, areas, ignored, threshold, *place)
        done = _done_before(out, scorings)
        if done:
            log.info("%d of %d scans are done already", len(done), len(scorings))
        waiting = {name: (each,) for name, each in scorings.items() if name not in done}
        for name, result in run_tasks(_score_scan, waiting, workers):
            if isinstance(result, UserError):
                failed[name] = result
            else:
                publish(scorings[name].work / "results", out)
                done[name] = {**result, "name": name, "fingerprint": scorings[name].fingerprint()}
                append_whole(out / DONE_FILE, f"{json.dumps(done[name])}\n")
                log.info("%s: %s", name, result["summary"])
            shutil.rmtree(scorings[name].work, ignore_errors=True)
        if not done:
            raise next(iter(failed.values()))
        said = _finish(work / "all", out, scorings, done, wanted)
        publish(work / "all", out)
    print_result(f"{out}: {said}")
    report_failures(failed, count, out)


def _names_of_copies(tasks: Sequence[Task], out: Path) -> dict[str, str]:
    """The name of the painted copy of every scan.

    Raises:
        UserError: two would have the same name, or one is a scan itself.
    """
    names: dict[str, str] = {}
    for task in tasks:
        scan = task.scan
        name = str(PurePath(scan.name).with_name(name_of_copy(scan)))
        if name in names.values():
            raise UserError(f"{scan.path}: another scan is named {name} as well; rename one")
        path = out / name
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{path}: this name is not UTF-8, which map layers need; give another one"
            ) from None
        if path.exists() and os.path.samefile(path, scan.path):
            raise UserError(f"--out {out}: {scan.path} itself is there; give another folder")
        names[scan.name] = name
    return names


def _done_before(out: Path, scorings: dict[str, _Scoring]) -> dict[str, dict[str, Any]]:
    """What earlier runs have written about scans that need not be scored again, by their names."""
    path = out / DONE_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done: dict[str, dict[str, Any]] = {each["name"]: each for each in map(json.loads, lines)}
    return {
        name: done[name]
        for name, scoring in scorings.items()
        if name in done
        and done[name]["fingerprint"] == scoring.fingerprint()
        and all((out / file).exists() for file in scoring.files)
    }


def _score_scan(scoring: _Scoring) -> dict[str, Any]:
    """Score and paint a scan; returns facts about it.

    Raises:
        UserError: it cannot be read or scored, or the system refuses to write.
    """
    scan, tiles = scoring.task.scan, scoring.tiles
    refuse_unfit(scan)
    scan.require_fine_scale(tiles.cell)
    results = scoring.work / "results"
    with writing(results):
        for file in scoring.files:
            (results / file).parent.mkdir(parents=True, exist_ok=True)
    stored, neighbours = scoring.work / "stored", scoring.task.neighbours
    roadway = find_road(scan, scoring.areas, scoring.work, neighbours, stored)
    _require_dense(roadway, tiles.cell)
    scores = PointScores(scoring.work / "scores")
    count = 0

    def mosaics() -> Iterator[tuple[Block, Mosaic]]:
        nonlocal count
        for block in tqdm(roadway.own, unit="blocks", desc="score", disable=None):
            mosaic = score_block(roadway, block, tiles, scoring.scorer, scoring.ignored)
            records = roadway.points.points(block)
            scores.add(records.compress(records["source"] == 0), mosaic.score)
            count += np.count_nonzero(np.isfinite(mosaic.score))
            yield block, mosaic

    grid = Grid.around(roadway.own, tiles.cell, scan.unit, scan.crs)
    draw_layers(results, grid, mosaics(), scoring.stem, scoring.scorer.tags)
    if not count:
        raise UserError(f"{scan.path}: no tile is full enough to be scored: {roadway.summary}")
    path = results / scoring.copy
    scored = paint(scan, stored, path, scores, scoring.threshold)
    return {
        "points": scan.points,
        "scored": int(scored),
        "blocks": [list(map(int, block)) for block in roadway.own],
        "summary": f"{roadway.summary}; {scored:,} of {scan.points:,} points have a score",
    }


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


def _finish(
    folder: Path,
    out: Path,
    scorings: dict[str, _Scoring],
    done: dict[str, dict[str, Any]],
    wanted: Wanted,
) -> str:
    """Write what concerns all scans together; returns it in a sentence.

    Args:
        folder: the folder to write to, to be moved to ``out``.
        out: the folder of the layers.
        scorings: all scans, by their names.
        done: what is known about those that are done.
        wanted: what is wanted.
    """
    folder.mkdir()
    names = [name for name in scorings if name in done]
    blocks: dict[Block, int] = {}
    for number, name in enumerate(names):
        for east, north in done[name]["blocks"]:
            blocks.setdefault((east, north), number)
    scans = [scorings[name].task.scan for name in names]
    first = scorings[names[0]]
    facts = {
        "model": first.scorer.name,
        "cell_m": first.tiles.cell / 100,
        "road": "; ".join(dict.fromkeys(done[name]["summary"] for name in names)),
        "scans": [str(scan.path) for scan in scans],
    }
    grid = Grid.around(blocks, first.tiles.cell, scans[0].unit, scans[0].crs)
    stems = [scorings[name].stem for name in names]
    if stems != [""]:
        join_layers(folder, out, grid, stems)
        publish(folder, out)  # cells and places are read from them
        if wanted.cog:
            write_cogs(folder, out, grid, blocks)
            publish(folder, out)
        else:  # `layer_path` would take what an earlier run has written
            for name in LAYERS:
                set_aside(out / f"{name}.tif")
    return write_results(folder, out, grid, blocks, scans, facts, wanted)
