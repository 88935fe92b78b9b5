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
import pyproj
import rasterio
import shapely
from rasterio.mask import mask

from crn.errors import UserError
from crn.pointcloud.crs import same_on_the_map
from crn.pointcloud.drawing import draw_layers
from crn.pointcloud.layers import GDAL, Grid, grid_of, layer_path
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

    def require_same_grid(self, cell: int, crs: pyproj.CRS | None) -> None:
        """Refuse results whose layers do not fit those of the later survey.

        Args:
            cell: side of a cell there, in centimetres.
            crs: its coordinate reference system; None if unknown.

        Raises:
            UserError: the cells or the systems differ.
        """
        if self.grid.cell != cell:
            raise UserError(
                f"--against {self.folder}: its cells are of {self.grid.cell} cm, those of this "
                f"model of {cell} cm; score that survey with this model"
            )
        systems = [each for each in (self.grid.crs, crs) if each is not None]
        if len(systems) == 1 or (systems and not same_on_the_map(*systems)):
            there, here = (each.name if each else "none" for each in (self.grid.crs, crs))
            raise UserError(f"--against {self.folder}: its system is {there}, here it is {here}")


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
        UserError: it is of another road, or the system refuses to write.
    """
    shared = [each for each in blocks if each in earlier.blocks]
    if not shared:
        raise UserError(f"--against {earlier.folder}: is of another road")
    with (
        rasterio.Env(**GDAL),
        rasterio.open(layer_path(layers, "height_mm")) as later_mm,
        rasterio.open(layer_path(earlier.folder, "height_mm")) as earlier_mm,
    ):
        differences = _differences(later_mm, earlier_mm, grid, earlier.grid, shared)
        draw_layers(folder, grid, differences, names=(DIFFERENCE,))
    with rasterio.open(folder / f"{DIFFERENCE}.tif") as file:
        changes, old_changes = (
            np.array([_median_within(file, outline) for outline in each.geometry])
            for each in (places, earlier.places)
        )
    now, then = earlier.places.sindex.query(
        places.geometry, predicate="dwithin", distance=_NEAR / grid.unit
    )
    near = earlier.places[["depth_mm", "area_m2"]].abs().iloc[then].groupby(now)
    before = near.agg({"depth_mm": "max", "area_m2": "sum"}).reindex(places.index)
    deeper = places["depth_mm"].abs() > before["depth_mm"] + _GROWN_MM
    larger = places["area_m2"] > before["area_m2"] * _GROWN_AREA
    cases = [deeper | larger, before["area_m2"].notna(), np.isfinite(changes)]
    status = np.select(cases, ["grown", "unchanged", "new"], "")
    gone = np.isfinite(old_changes)
    gone[then] = False
    repaired = earlier.places.assign(status="repaired", change_mm=old_changes)[gone]
    return places.assign(status=status, change_mm=np.round(changes, 1)), repaired


def _differences(
    later_mm: Any, earlier_mm: Any, grid: Grid, earlier_grid: Grid, blocks: Iterable[Block]
) -> Iterator[tuple[Block, SimpleNamespace]]:
    """The heights of blocks less the earlier ones, less the median of that."""
    for block in blocks:
        difference = later_mm.read(1, window=grid.window(block))
        difference -= earlier_mm.read(1, window=earlier_grid.window(block))
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
