"""Two surveys of a road: what is new, grown, unchanged or repaired since the earlier one.

Heights are compared above the levelled road, and each block less the median of its differences, so
a scan that lies higher or lower as a whole changes nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from rasterio.mask import mask

from crn.errors import UserError
from crn.pointcloud.layers import GDAL, Grid, draw_layers, grid_of, layer_path
from crn.pointcloud.partition import Block
from crn.pointcloud.vectors import PLACES_FILE

DIFFERENCE = "difference_mm"

_NEAR = 0.2  # metres between the outlines of one place in both surveys
_GROWN_AREA, _GROWN_MM = 1.25, 5.0  # times the area, or deeper by so much


@dataclass(frozen=True)
class Earlier:
    """The results of an earlier survey.

    Attributes:
        folder: where they are.
        grid: the grid of its layers.
        blocks: its blocks with scores.
        places: its places.
    """

    folder: Path
    grid: Grid
    blocks: dict[Block, int]
    places: geopandas.GeoDataFrame

    @classmethod
    def read(cls, folder: Path) -> "Earlier":
        """Read the results that ``--against`` names.

        Raises:
            UserError: they are not results, or were written without a threshold.
        """
        grid, blocks = grid_of(folder, "--against")
        if not (folder / PLACES_FILE).exists():
            raise UserError(
                f"--against {folder}: has no {PLACES_FILE}; score that survey with a threshold"
            )
        return cls(folder, grid, blocks, geopandas.read_file(folder / PLACES_FILE, layer="places"))

    def require_same(self, grid: Grid) -> None:
        """Refuse to compare cells of other sizes or another system.

        Raises:
            UserError: says which.
        """
        for name, earlier, now in (
            ("cells in cm", self.grid.cell, grid.cell),
            ("the system", self.grid.crs, grid.crs),
        ):
            if earlier != now:
                raise UserError(
                    f"--against {self.folder}: {name} differ: {getattr(earlier, 'name', earlier)} "
                    f"there, {getattr(now, 'name', now)} here"
                )


def compare(
    folder: Path,
    layers: Path,
    grid: Grid,
    blocks: Iterable[Block],
    places: geopandas.GeoDataFrame,
    earlier: Earlier,
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Write the layer of differences, and match the places of two surveys.

    Args:
        folder: where the layer is written.
        layers, grid, blocks, places: of the later survey.
        earlier: the earlier survey.

    Returns:
        The places with their ``status`` (new, grown or unchanged; empty where the earlier survey
        has no heights) and ``change_mm``, the median change of their heights; and the earlier
        places that have been repaired.

    Raises:
        UserError: the surveys cannot be compared, or the system refuses to write.
    """
    earlier.require_same(grid)
    shared = [each for each in blocks if each in earlier.blocks]
    if not shared:
        raise UserError(f"--against {earlier.folder}: is of another road")
    with (
        rasterio.Env(**GDAL),
        rasterio.open(layer_path(layers, "height_mm")) as now,
        rasterio.open(layer_path(earlier.folder, "height_mm")) as then,
    ):
        draw_layers(
            folder, grid, _differences(now, then, grid, earlier.grid, shared), names=(DIFFERENCE,)
        )
    with rasterio.open(folder / f"{DIFFERENCE}.tif") as file:
        changes, old_changes = (
            [_median_within(file, outline) for outline in each.geometry]
            for each in (places, earlier.places)
        )
    near = earlier.places.sindex.query(places.buffer(_NEAR / grid.unit), predicate="intersects")
    status = []
    for number, (change, place) in enumerate(zip(changes, places.itertuples(), strict=True)):
        old = earlier.places.iloc[near[1][near[0] == number]]
        if not len(old):
            status.append("" if np.isnan(change) else "new")
        else:
            deeper = abs(place.depth_mm) > abs(old["depth_mm"]).max() + _GROWN_MM
            larger = place.area_m2 > _GROWN_AREA * old["area_m2"].sum()
            status.append("grown" if deeper or larger else "unchanged")
    gone = np.isfinite(old_changes)
    gone[near[1]] = False
    repaired = earlier.places[gone].assign(status="repaired", change_mm=np.array(old_changes)[gone])
    return places.assign(status=status, change_mm=np.round(changes, 1)), repaired


def _differences(
    now: Any, then: Any, grid: Grid, old_grid: Grid, blocks: Iterable[Block]
) -> Iterator[tuple[Block, SimpleNamespace]]:
    """The heights of blocks less the earlier ones, less the median of that."""
    for block in blocks:
        heights = now.read(1, window=grid.window(block))
        difference = heights - then.read(1, window=old_grid.window(block))
        if np.isfinite(difference).any():
            difference -= np.nanmedian(difference)
        yield block, SimpleNamespace(difference_mm=difference[::-1])


def _median_within(file: Any, outline: shapely.Geometry) -> float:
    """The median value of a layer in an outline; NaN if nothing is known there."""
    try:
        cells, _ = mask(file, [outline], crop=True, all_touched=True, nodata=np.nan)
    except ValueError:  # it lies outside
        return np.nan
    known = cells[np.isfinite(cells)]
    return float(np.median(known)) if len(known) else np.nan
