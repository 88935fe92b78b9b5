"""Map layers: GeoTIFF of score, height and intensity, and GeoJSON of damages."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import shapes
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from crn.errors import UserError
from crn.pointcloud.crs import horizontal
from crn.pointcloud.mosaic import Mosaic
from crn.pointcloud.partition import BLOCK, Block
from crn.system.files import writing, written_whole

LAYERS = ("score", "height_mm", "intensity")
DAMAGES_FILE = "damages.geojson"
LEAST_CELLS = 4  # in a damage

_MOST_CELLS_ON_A_SIDE = 200_000  # of a picture: 8 km in cells of 4 cm
_MOST_CELLS = 5_000_000  # of all damages
_CACHE_MB = 64


@dataclass(frozen=True)
class Grid:
    """A grid of cells on the map that covers some blocks.

    Attributes:
        left, bottom: lowest block numbers.
        columns, rows: its size in blocks.
        cell: side of a cell in centimetres.
        unit: metres in a unit of the map.
        crs: coordinate reference system; None if unknown.
    """

    left: int
    bottom: int
    columns: int
    rows: int
    cell: int
    unit: float
    crs: pyproj.CRS | None

    @classmethod
    def around(
        cls, blocks: Sequence[Block], cell: int, unit: float, crs: pyproj.CRS | None
    ) -> "Grid":
        """The smallest grid that covers all blocks.

        Raises:
            UserError: they are too far apart for one picture.
        """
        east, north = zip(*blocks, strict=True)
        columns, rows = max(east) - min(east) + 1, max(north) - min(north) + 1
        if max(columns, rows) * BLOCK // cell > _MOST_CELLS_ON_A_SIDE:
            raise UserError(
                f"the road spans {max(columns, rows) * BLOCK / 1e5:,.0f} km, too many cells of "
                f"{cell} cm for one picture; score fewer files at a time"
            )
        return cls(min(east), min(north), columns, rows, cell, unit, crs)

    @property
    def side(self) -> int:
        """Cells on a side of a block."""
        return BLOCK // self.cell

    @property
    def transform(self) -> Affine:
        """The transform from columns and rows, counted from the north, to the map."""
        size = self.cell / 100 / self.unit
        top = (self.bottom + self.rows) * BLOCK / 100 / self.unit
        return Affine(size, 0, self.left * BLOCK / 100 / self.unit, 0, -size, top)

    def window(self, block: Block) -> Window:
        """The window of a block in a picture."""
        row = self.rows - 1 - (block[1] - self.bottom)
        return Window((block[0] - self.left) * self.side, row * self.side, self.side, self.side)


def draw_layers(folder: Path, grid: Grid, mosaics: Iterable[tuple[Block, Mosaic]]) -> None:
    """Write the pictures block by block, then their overviews.

    Raises:
        UserError: the system refuses to write them.
    """
    profile = {
        "driver": "GTiff",
        "width": grid.columns * grid.side,
        "height": grid.rows * grid.side,
        "count": 1,
        "dtype": "float32",
        "nodata": math.nan,
        "crs": None if grid.crs is None else horizontal(grid.crs).to_wkt(),
        "transform": grid.transform,
        "compress": "deflate",
        "predictor": 3,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }
    paths = [folder / f"{name}.tif" for name in LAYERS]
    # GDAL would print errors and go on.
    settings = {"GDAL_CACHEMAX": _CACHE_MB, "GDAL_TIFF_OVR_BLOCKSIZE": 256, "CPL_LOG": os.devnull}
    with _drawing(folder), rasterio.Env(**settings):
        windows = []
        with ExitStack() as files:
            opened = [files.enter_context(rasterio.open(path, "w", **profile)) for path in paths]
            for block, mosaic in mosaics:
                windows.append(grid.window(block))
                for name, file in zip(LAYERS, opened, strict=True):
                    file.write(getattr(mosaic, name)[::-1], 1, window=windows[-1])
        longest = max(profile["width"], profile["height"])
        factors = [2**n for n in range(1, 12) if longest / 2 ** (n - 1) > 512]
        for path in paths:
            with rasterio.open(path, "r+", sparse_ok=True) as file:
                file.build_overviews(factors, Resampling.average)
            for level, factor in enumerate([1, *factors], -1):
                _read_all(path, level, factor, windows)


def _read_all(path: Path, level: int, factor: int, windows: Sequence[Window]) -> None:
    """Read back what was written: GDAL reports no error if the disk fills up when it closes.

    Args:
        path: a picture.
        level, factor: number of the overview and its reduction; -1 and 1 for the picture itself.
        windows: what was written.

    Raises:
        RasterioError: something is missing.
    """
    options = {} if level < 0 else {"overview_level": level}
    with rasterio.open(path, **options) as file:
        whole = Window(0, 0, file.width, file.height)
        for window in windows:
            left, top, side = (
                each // factor for each in (window.col_off, window.row_off, window.width)
            )
            part = Window(left, top, side + 1, side + 1)
            file.read(1, window=part.intersection(whole))


@contextmanager
def _drawing(folder: Path) -> Iterator[None]:
    with writing(folder):
        try:
            yield
        except RasterioError as error:
            raise OSError(None, " ".join(str(error.__cause__ or error).split())) from None


def damages(
    folder: Path, grid: Grid, blocks: Sequence[Block], threshold: float
) -> list[dict[str, Any]]:
    """GeoJSON features of damages, the largest sum of scores above the threshold first.

    A damage is a group of adjacent cells above the threshold. Its depth is the lowest mean of three
    by three cells within its outer border: the middle of a hole may score lower than its rim, and
    single noisy cells do not count.

    Args:
        folder: folder of the layers.
        grid: grid of the layers.
        blocks: blocks with scores.
        threshold: threshold of the scores.

    Raises:
        UserError: far too many cells are above the threshold.
    """
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MB),
        rasterio.open(folder / "score.tif") as scores,
        rasterio.open(folder / "height_mm.tif") as heights,
    ):
        cells, score = _above(scores, [grid.window(block) for block in blocks], threshold)
        parts = _connected(cells)
        order = np.argsort(parts, kind="stable")
        features = [
            _feature(cells[index], score[index], grid, heights)
            for index in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1)
            if len(index) >= LEAST_CELLS
        ]
    properties = [feature["properties"] for feature in features]
    properties.sort(key=lambda each: (threshold - each["score_mean"]) * each["area_m2"])
    for number, each in enumerate(properties, 1):
        each["number"] = number
    return sorted(features, key=lambda feature: feature["properties"]["number"])


def _above(
    scores: Any, windows: Sequence[Window], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The cells above a threshold (N, 2), row from the north and column, and their scores (N,).

    Raises:
        UserError: there are far too many.
    """
    cells, values = [np.empty((0, 2), np.int32)], [np.empty(0, np.float32)]
    count = 0
    for window in windows:
        score = scores.read(1, window=window)
        place = np.argwhere(score > threshold)
        count += len(place)
        if count > _MOST_CELLS:
            raise UserError(
                f"more than {count:,} cells have scores above {threshold:.6g}; give a higher "
                "--threshold"
            )
        cells.append((place + np.array((window.row_off, window.col_off))).astype(np.int32))
        values.append(score[tuple(place.T)])
    return np.concatenate(cells), np.concatenate(values)


def write_features(
    path: Path, features: list[dict[str, Any]], crs: pyproj.CRS | None, **more: Any
) -> None:
    """Write GeoJSON in the coordinates of the scan, named in the way that GDAL and QGIS read.

    Args:
        path: the file.
        features: its features.
        crs: the coordinate reference system; None if unknown.
        more: further members.

    Raises:
        UserError: the system refuses to.
    """
    collection: dict[str, Any] = {"type": "FeatureCollection", "name": "damages"}
    code = None if crs is None else horizontal(crs).to_epsg()
    if code is not None:
        name = f"urn:ogc:def:crs:EPSG::{code}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    collection |= {**more, "features": features}
    with written_whole(path, "w", encoding="utf-8") as file:
        json.dump(collection, file, allow_nan=False)
        file.write("\n")


def _connected(cells: np.ndarray) -> np.ndarray:
    """For cells (N, 2), the number (N,) of the group of adjacent cells; corners are adjacent."""
    pairs = cKDTree(cells).query_pairs(1.5, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs), bool), pairs.T), shape=(len(cells), len(cells)))
    return connected_components(graph, directed=False)[1]


def _depth(mask: np.ndarray, top: int, left: int, heights: Any) -> float:
    """The depth of a damage with a mask (H, W) whose corner is at a row and column."""
    window = Window(left, top, mask.shape[1], mask.shape[0])
    height = heights.read(1, window=window)
    known = np.isfinite(height)
    share = ndimage.uniform_filter(known.astype(float), 3, mode="constant")
    mean = ndimage.uniform_filter(np.where(known, height, 0.0), 3, mode="constant")
    inside = ndimage.binary_fill_holes(mask) & known & (share > 0.5)
    return 0.0 - float((mean[inside] / share[inside]).min(initial=0.0))


def _feature(cells: np.ndarray, score: np.ndarray, grid: Grid, heights: Any) -> dict[str, Any]:
    top, left = cells.min(0)
    place = cells - (top, left)
    mask = np.zeros(place.max(0) + 1, np.uint8)
    mask[tuple(place.T)] = 1
    transform = grid.transform @ Affine.translation(int(left), int(top))
    rings = [shape["coordinates"] for shape, _ in shapes(mask, mask=mask > 0, transform=transform)]
    size = grid.cell / 100
    # Along its longest direction, and across.
    centred = place - place.mean(0)
    axes = np.linalg.svd(centred.T @ centred)[0]
    length, width = np.ptp(centred @ axes, axis=0) * size + size
    row, column = cells.mean(0) + 0.5
    east, north = grid.transform @ (column, row)
    properties = {
        "number": 0,  # set once all are known
        "score_max": float(score.max()),
        "score_mean": float(score.mean(dtype=np.float64)),
        "area_m2": round(len(place) * size**2, 4),
        "depth_mm": round(_depth(mask, int(top), int(left), heights), 1),
        "length_m": round(float(length), 2),
        "width_m": round(float(width), 2),
        "east": round(float(east), 3),
        "north": round(float(north), 3),
    }
    geometry = {"type": "MultiPolygon", "coordinates": rings}
    if len(rings) == 1:
        geometry = {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "Feature", "properties": properties, "geometry": geometry}
