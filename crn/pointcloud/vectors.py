"""Vector files in and out: areas that users draw, and what is found, in any format of GDAL."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.features import rasterize
from rasterio.transform import Affine

from crn.errors import UserError
from crn.pointcloud.crs import horizontal
from crn.pointcloud.las import Scan
from crn.pointcloud.partition import BLOCK, Block
from crn.system.files import writing
from crn.system.text import shortened

log = logging.getLogger(__name__)

PLACES_FILE = "damages.gpkg"
VERDICT = "verdict"  # the column of reviewed places: right, wrong or ignore
DAMAGED, IGNORED = "right", "ignore"
LINE = 0.08  # metres; the largest cell
_ERRORS = (DataLayerError, DataSourceError)


@dataclass(frozen=True)
class Areas:
    """Areas on the map.

    Attributes:
        shapes: polygons in metres.
    """

    shapes: geopandas.GeoSeries

    def burn(self, block: Block, margin: int, cell: int, side: int) -> np.ndarray:
        """The cells (side, side) bool whose middle is in an area; row 0 is in the south.

        Args:
            block, margin: the cells begin ``margin`` centimetres before the block.
            cell: side of a cell in centimetres.
            side: number of cells on a side.
        """
        left, bottom = ((number * BLOCK - margin) / 100 for number in block)
        size = side * cell / 100
        box = shapely.box(left, bottom, left + size, bottom + size)
        near = self.shapes.iloc[self.shapes.sindex.query(box)]
        if not len(near):
            return np.zeros((side, side), bool)
        transform = Affine(cell / 100, 0, left, 0, cell / 100, bottom)
        return rasterize(near, (side, side), transform=transform, dtype="uint8") > 0

    def touch(self, left: float, bottom: float, size: float) -> bool:
        """Whether one touches the square with this lower left corner and side, in metres."""
        box = shapely.box(left, bottom, left + size, bottom + size)
        return len(self.shapes.sindex.query(box, predicate="intersects")) > 0


def read_areas(
    path: Path | None, flag: str, scans: Sequence[Scan], verdict: str | None = None
) -> Areas | None:
    """The areas of a file, in metres on the map of the scans; None without a file.

    Lines become areas, `LINE` wide on both sides. What is neither an area nor a line is left out,
    with a line that says so.

    Args:
        path: a GeoJSON, GeoPackage, Shapefile or any other vector file, in any known system.
        flag: the flag that named it, for messages.
        scans: the scans, in one coordinate reference system.
        verdict: of reviewed places only those with this verdict are read.

    Raises:
        UserError: it cannot be read, or holds no area.
    """
    if path is None:
        return None
    frame = read_shapes(path, flag, scans)
    if verdict is not None and VERDICT in frame:
        frame = frame[frame[VERDICT] == verdict]
    kinds = frame.geom_type.mask(frame.is_empty)
    is_line, is_area = kinds.isin(("LineString", "LinearRing")), kinds == "Polygon"
    dropped = frame.geom_type[~is_line & ~is_area]
    if len(dropped):
        named = ", ".join(sorted(dropped.dropna().unique())) or "empty shapes"
        log.warning("%s %s: %d shapes are left out: %s", flag, path, len(dropped), named)
    lines = frame.geometry[is_line].buffer(LINE)
    shapes = pandas.concat([frame.geometry[is_area], lines], ignore_index=True).make_valid()
    if not len(shapes) and VERDICT not in frame:
        raise UserError(f"{flag} {path}: holds no area and no line")
    away = shapes.disjoint(shapely.union_all([shapely.box(*scan.box) for scan in scans])).sum()
    if away:
        log.warning("%s %s: %d of %d areas touch no scan", flag, path, away, len(shapes))
    return Areas(shapes)


def read_shapes(path: Path, flag: str, scans: Sequence[Scan]) -> geopandas.GeoDataFrame:
    """The single shapes of all layers of a file, in metres on the map of the scans.

    Raises:
        UserError: it cannot be read, or its system cannot be brought to that of the scans.
    """
    try:
        layers = pyogrio.list_layers(path)
        frames = [geopandas.read_file(path, layer=name) for name, kind in layers if kind]
    except (*_ERRORS, ValueError) as error:
        reason = "no such file" if not path.exists() else shortened(str(error).split(";")[0])
        raise UserError(f"{flag} {path}: cannot be read ({reason})") from None
    crs, unit = scans[0].crs, scans[0].unit
    parts = [_on_the_map(path, flag, frame, crs) for frame in frames]
    if not parts:
        raise UserError(f"{flag} {path}: has no layer with shapes")
    frame = pandas.concat(parts, ignore_index=True).explode(ignore_index=True)
    flat = shapely.force_2d(np.asarray(frame.geometry))
    return frame.set_geometry(shapely.transform(flat, lambda xy: xy * unit), crs=None)


def _on_the_map(
    path: Path, flag: str, frame: geopandas.GeoDataFrame, crs: pyproj.CRS | None
) -> geopandas.GeoDataFrame:
    """Shapes in the coordinates of the scans.

    Raises:
        UserError: the systems cannot be brought together.
    """
    # GDAL takes GeoJSON without a system for degrees.
    in_degrees = frame.crs is not None and frame.crs.is_geographic
    if frame.crs is None or (in_degrees and abs(frame.total_bounds).max() > 360):
        log.warning("%s %s: names no system; that of the scans is taken", flag, path)
        return frame.set_crs(None, allow_override=True)
    if crs is None:
        raise UserError(
            f"{flag} {path}: is in {frame.crs.name}, but the system of the scans is unknown; name "
            "it with --crs"
        )
    frame = frame.to_crs(horizontal(crs))
    if not np.isfinite(frame.total_bounds).all() and not frame.geometry.is_empty.all():
        raise UserError(f"{flag} {path}: does not fit into {crs.name}")
    return frame.set_crs(None, allow_override=True)


def write_layer(path: Path, layer: str, frame: geopandas.GeoDataFrame, **facts: object) -> None:
    """Write a layer: of a GeoPackage, with facts as its metadata, or GeoJSON as in RFC 7946.

    Raises:
        UserError: the system refuses to.
    """
    if path.suffix == ".gpkg":
        notes = {name: str(value) for name, value in facts.items()}
        options: dict[str, Any] = {"layer": layer, "layer_metadata": notes or None}
    else:
        frame = frame.to_crs("EPSG:4326")
        options = {"driver": "GeoJSON", "RFC7946": "YES", "COORDINATE_PRECISION": 8}
    with writing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the system is unknown has been said
        try:
            frame.to_file(path, **options)
        except _ERRORS as error:
            raise OSError(None, shortened(" ".join(str(error).split()))) from None
