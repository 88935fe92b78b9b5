"""Places by road: their station on an axis, and tables by sections of 10 and 100 m."""

from collections.abc import Iterable

import geopandas
import numpy as np
import pandas
import shapely
from shapely.ops import substring

from crn.errors import UserError
from crn.pointcloud.layers import Grid
from crn.pointcloud.partition import BLOCK, Block

LENGTHS = (10, 100)  # metres


def named_axes(shapes: geopandas.GeoDataFrame) -> geopandas.GeoSeries:
    """The lines of a file by the name of their road: the first column of text, else a number.

    Raises:
        UserError: it has no line.
    """
    lines = shapes[shapes.geom_type == "LineString"]
    if not len(lines):
        raise UserError("--axis: its file holds no line; give the axes of the roads as lines")
    text = [name for name in lines.columns if pandas.api.types.is_string_dtype(lines[name])]
    names = lines[text[0]].fillna("").astype(str) if text else pandas.Series("", lines.index)
    numbers = pandas.Series(np.arange(1, len(lines) + 1).astype(str), lines.index)
    names = names.where(names != "", numbers)
    again = names.duplicated(keep=False)
    return lines.geometry.set_axis(names.where(~again, names + " (" + numbers + ")"))


def stationed(
    places: geopandas.GeoDataFrame, axes: geopandas.GeoSeries, unit: float
) -> geopandas.GeoDataFrame:
    """Places with the road, the station in metres, and the side and distance of the nearest axis.

    Args:
        places: in the coordinates of the map.
        axes: from `named_axes`, in metres.
        unit: metres in a unit of the map.
    """
    middles = shapely.points(places[["east", "north"]].to_numpy(float).reshape(-1, 2) * unit)
    nearest = shapely.STRtree(axes.to_numpy()).nearest(middles)
    lines = axes.to_numpy()[nearest]
    station = shapely.line_locate_point(lines, middles)
    here, ahead, behind = (
        shapely.get_coordinates(shapely.line_interpolate_point(lines, (station + step).clip(0)))
        for step in (0.0, 0.5, -0.5)
    )
    along, aside = ahead - behind, shapely.get_coordinates(middles) - here
    is_left = along[:, 0] * aside[:, 1] - along[:, 1] * aside[:, 0] > 0
    return places.assign(
        road=axes.index.to_numpy()[nearest],
        station_m=station.round(2),
        side=np.where(is_left, "left", "right"),
        offset_m=np.hypot(*aside.T).round(2),
    )


def sections(
    places: geopandas.GeoDataFrame,
    axes: geopandas.GeoSeries | None,
    grid: Grid,
    blocks: Iterable[Block],
    length: int,
) -> geopandas.GeoDataFrame:
    """The table of sections of a length, in the coordinates of the map.

    With axes it has all sections that pass a block with scores; without, the squares of the map
    with places, by scan.
    """
    if axes is None:
        keys = ["scan", "east_m", "north_m"]
        cells = {
            f"{name}_m": (places[name] * grid.unit // length * length).astype(int)
            for name in ("east", "north")
        }
        rows = _summed(places.assign(**cells), keys)
        corners = rows[["east_m", "north_m"]].to_numpy(float).reshape(-1, 2)
        shapes = shapely.box(*corners.T, *(corners + length).T)
    else:
        keys = ["road", "from_m", "to_m"]
        start = (places["station_m"] // length * length).astype(int)
        found = _summed(places.assign(from_m=start, to_m=start + length), keys)
        corners = np.array([*blocks])
        measured = shapely.box(*corners.T * (BLOCK / 100), *(corners + 1).T * (BLOCK / 100))
        tree = shapely.STRtree(measured)
        rows, shapes = [], []
        for road, axis in axes.items():
            for begin in range(0, int(np.ceil(axis.length)), length):
                part = substring(axis, begin, begin + length)
                if len(tree.query(part, predicate="intersects")):
                    rows.append((road, begin, begin + length))
                    shapes.append(part)
        rows = pandas.DataFrame(rows, columns=keys).merge(found, how="left", on=keys)
        rows = rows.fillna({"places": 0, "area_m2": 0.0, "worst": 0, "severity": ""})
        rows[["places", "worst"]] = rows[["places", "worst"]].astype(int)
    outlines = shapely.transform(np.array(shapes, object), lambda xy: xy / grid.unit)
    return geopandas.GeoDataFrame(rows, geometry=outlines, crs=places.crs)


def _summed(places: pandas.DataFrame, keys: list[str]) -> pandas.DataFrame:
    """Number and area of the places with equal keys, the number of the worst and its severity."""
    # They are sorted: the worst comes first.
    groups = places.groupby(keys, as_index=False, sort=True)
    table = groups.agg(
        places=("number", "size"),
        area_m2=("area_m2", "sum"),
        worst=("number", "first"),
        severity=("severity", "first"),
    )
    return table.round({"area_m2": 4})
