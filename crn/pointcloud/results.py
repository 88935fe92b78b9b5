"""What is written once all scans have scores: places, tables, the difference and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas

from crn.pointcloud.las import Scan
from crn.pointcloud.layers import Grid
from crn.pointcloud.page import write_page
from crn.pointcloud.partition import Block
from crn.pointcloud.places import FIRST, LEAST_AREA, find_places, highest
from crn.pointcloud.sections import LENGTHS, sections, stationed
from crn.pointcloud.surveys import Earlier, compare
from crn.pointcloud.vectors import PLACES_FILE, write_layer
from crn.system.files import writing
from crn.system.text import SPREADSHEET_ENCODING

FIRST_FILE = "look_here_first.gpkg"
WEB_FILE = "damages.geojson"
_SHARE = 0.01  # of the road among which the places to look at first are


@dataclass(frozen=True)
class Wanted:
    """What is wanted of the scores.

    Attributes:
        threshold: higher scores are damage; None: the highest are listed, and none is called so.
        source: where the threshold comes from, in words.
        least_area: of a place, square metres.
        axes: the axes of the roads, from `sections.named_axes`; None without.
        earlier: an earlier survey to compare with; None without.
        cog: whether the layers of all scans are written as one GeoTIFF each, too.
    """

    threshold: float | None = None
    source: str = ""
    least_area: float = LEAST_AREA
    axes: geopandas.GeoSeries | None = None
    earlier: Earlier | None = None
    cog: bool = False


def write_results(
    folder: Path,
    layers: Path,
    grid: Grid,
    blocks: Mapping[Block, int],
    scans: Sequence[Scan],
    facts: Mapping[str, Any],
    wanted: Wanted,
) -> str:
    """Write the places, their tables and the page.

    Args:
        folder: where they are written.
        layers: folder of the layers, already joined.
        grid: covers all blocks.
        blocks: the blocks with scores, each with the number of its scan.
        scans: the scans.
        facts: further facts for the page.
        wanted: what is wanted.

    Returns:
        A line about what was found.

    Raises:
        UserError: nothing has a score, there are far too many places, or the system refuses to
            write.
    """
    decided, threshold = wanted.threshold is not None, wanted.threshold
    if threshold is None:
        threshold = highest(layers, grid, blocks, _SHARE)
    first = None if decided else FIRST
    places = find_places(layers, grid, blocks, scans, threshold, wanted.least_area, first)
    if not decided:
        places = places.sort_values("score_max", ascending=False, ignore_index=True)
        places["number"] = places.index + 1
        places["severity"] = ""
    path = folder / (PLACES_FILE if decided else FIRST_FILE)
    if wanted.axes is not None:
        places = stationed(places, wanted.axes, grid.unit)
    repaired = None
    if wanted.earlier is not None:
        places, repaired = compare(folder, layers, grid, blocks, places, wanted.earlier)
    facts = {**facts, "threshold": threshold, "threshold_is": wanted.source, "decided": decided}
    write_layer(path, "places", places, **facts)
    if repaired is not None and len(repaired):
        write_layer(path, "repaired", repaired)
    for length in LENGTHS:
        name, table = f"sections_{length}m", sections(places, wanted.axes, grid, blocks, length)
        write_layer(path, name, table)
        rows = table.drop(columns="geometry")
        with writing(folder):
            rows.to_csv(folder / f"{name}.csv", index=False, encoding=SPREADSHEET_ENCODING)
    if grid.crs is not None:
        write_layer(folder / WEB_FILE, "places", places)
    write_page(folder, layers, grid, blocks, places, facts)
    if not decided:
        return (
            f"the {len(places)} places with the highest scores are listed, to look at first; "
            "without a threshold nothing is called damage"
        )
    area = places["area_m2"].sum()
    return (
        f"{len(places)} places of {area:.2f} m2 with scores above {threshold:.4g} ({wanted.source})"
    )
