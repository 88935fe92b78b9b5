"""Places by road: their station on an axis, and tables by sections of 10 and 100 m."""

import math
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
    middles = shapely.points(places[["east", "north"]].to_numpy(float) * unit)
    nearest = shapely.STRtree(axes.array).nearest(middles)
    lines = axes.array[nearest]
    station = shapely.line_locate_point(lines, middles)
    # A negative distance would count from the end.
    ends = (shapely.line_interpolate_point(lines, (station + step).clip(0)) for step in (-0.5, 0.5))
    corners = [shapely.get_coordinates(points) for points in (*ends, middles)]
    is_left = shapely.is_ccw(shapely.linearrings(np.stack(corners, axis=1)))
    return places.assign(
        road=axes.index[nearest],
        station_m=station.round(2),
        side=np.where(is_left, "left", "right"),
        offset_m=shapely.distance(lines, middles).round(2),
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
        places = places.assign(
            east_m=(places["east"] * grid.unit // length * length).astype(int),
            north_m=(places["north"] * grid.unit // length * length).astype(int),
        )
        rows = _summed(places, ["scan", "east_m", "north_m"])
        west, south = rows["east_m"], rows["north_m"]
        shapes = geopandas.GeoSeries(shapely.box(west, south, west + length, south + length))
    else:
        keys = ["road", "from_m", "to_m"]
        start = (places["station_m"] // length * length).astype(int)
        found = _summed(places.assign(from_m=start, to_m=start + length), keys)
        parts = [
            (road, begin, begin + length, substring(axis, begin, begin + length))
            for road, axis in axes.items()
            for begin in range(0, math.ceil(axis.length), length)
        ]
        rows = geopandas.GeoDataFrame(parts, columns=[*keys, "geometry"])
        corners = np.array([*blocks]).T * (BLOCK / 100)
        measured = shapely.union_all(shapely.box(*corners, *(corners + BLOCK / 100)))
        rows = rows[rows.intersects(measured)].merge(found, how="left", on=keys)
        rows = rows.fillna({"places": 0, "area_m2": 0.0, "worst": 0, "severity": ""})
        rows = rows.astype({"places": int, "worst": int})
        shapes = rows.pop("geometry")
    shapes = shapes.scale(1 / grid.unit, 1 / grid.unit, origin=(0, 0))
    return geopandas.GeoDataFrame(rows, geometry=shapes, crs=places.crs)


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
