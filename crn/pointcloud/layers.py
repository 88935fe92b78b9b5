"""Map layers of score, height and intensity: their files, their grid of cells, and reading them."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window, intersect

from crn.errors import UserError
from crn.pointcloud.crs import horizontal
from crn.pointcloud.partition import BLOCK, Block

LAYERS = ("score", "height_mm", "intensity")
# The layers of a scan, with their overviews and styles.
FILES = tuple(f"{name}.{kind}" for name in LAYERS for kind in ("tif", "tif.ovr", "qml"))

_MOST_KILOMETRES = 200  # across all blocks; more are a mistake
OVERVIEWS = (4, 16, 64)  # every block is whole cells of each
CELL, UNIT = "crn_cell_cm", "crn_metres_in_unit"  # tags
# GDAL would print errors and go on.
GDAL = {"GDAL_CACHEMAX": 64, "CPL_LOG": os.devnull}


@dataclass(frozen=True)
class Grid:
    """A grid of cells on the map that covers some blocks.

    Attributes:
        left, bottom: lowest block numbers.
        columns, rows: its size in blocks.
        cell: side of a cell in centimetres.
        unit: metres in a unit of the map.
        crs: horizontal coordinate reference system; None if unknown.
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
        cls, blocks: Iterable[Block], cell: int, unit: float, crs: pyproj.CRS | None
    ) -> "Grid":
        """The smallest grid that covers all blocks.

        Raises:
            UserError: they are farther apart than any survey.
        """
        east, north = zip(*blocks, strict=True)
        columns, rows = max(east) - min(east) + 1, max(north) - min(north) + 1
        across = max(columns, rows) * BLOCK / 1e5
        if across > _MOST_KILOMETRES:
            raise UserError(
                f"the road spans {across:,.0f} km, more than {_MOST_KILOMETRES}: points lie far "
                "from the others; remove them, or score fewer files at a time"
            )
        flat = None if crs is None else horizontal(crs)
        return cls(min(east), min(north), columns, rows, cell, unit, flat)

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

    @property
    def shape(self) -> tuple[int, int]:
        """Cells on the sides of the whole grid: its height and width."""
        return self.rows * self.side, self.columns * self.side

    def window(self, block: Block, factor: int = 1) -> Window:
        """The window of a block in a picture whose cells are ``factor`` times as wide."""
        row, side = self.rows - 1 - (block[1] - self.bottom), self.side // factor
        return Window((block[0] - self.left) * side, row * side, side, side)


def layer_path(folder: Path, name: str) -> Path:
    """The file of a layer of all scans: a GeoTIFF of one, or a VRT that joins several."""
    path = folder / f"{name}.tif"
    return path if path.exists() else path.with_suffix(".vrt")


def grid_of(
    folder: Path, flag: str, tags: Mapping[str, str] | None = None
) -> tuple[Grid, dict[Block, int]]:
    """The grid of a folder of results, and its blocks with scores.

    Args:
        folder: the folder.
        flag: the flag that named it, for messages.
        tags: tags that its scores must have; None: any.

    Raises:
        UserError: it has no layers, or scores of another model.
    """
    path, blocks = layer_path(folder, "score"), dict[Block, int]()
    try:
        with rasterio.Env(**GDAL), rasterio.open(path) as file:
            found = file.tags()
            cell, unit = int(found[CELL]), float(found[UNIT])
            if tags and any(found.get(key) != value for key, value in tags.items()):
                raise UserError(
                    f"{flag} {folder}: was scored by another model or another score; score that "
                    "road again"
                )
            crs = pyproj.CRS.from_wkt(file.crs.to_wkt()) if file.crs else None
            step = BLOCK / 100 / unit
            left, bottom = round(file.bounds.left / step), round(file.bounds.bottom / step)
            columns, rows = (size * cell // BLOCK for size in (file.width, file.height))
            grid = Grid(left, bottom, columns, rows, cell, unit, crs)
            few = grid.side // OVERVIEWS[-1]
            for row in range(rows):
                window = Window(0, (rows - 1 - row) * grid.side, file.width, grid.side)
                known = np.isfinite(file.read(1, window=window, out_shape=(few, columns * few)))
                known = known.reshape(few, columns, few).any((0, 2))
                blocks |= {(left + int(each), bottom + row): 0 for each in np.flatnonzero(known)}
    except (RasterioError, KeyError) as error:
        raise UserError(
            f"{flag} {folder}: has no layers of this version of score ({error}); give a folder "
            "that it has written"
        ) from None
    return grid, blocks


def read(file: Any, window: Window, step: int = 1) -> np.ndarray:
    """The cells (H, W) of a window, or of its overview of a step; NaN outside the layer."""
    cells = np.full((int(window.height) // step, int(window.width) // step), np.nan, np.float32)
    whole = Window(0, 0, file.width // step * step, file.height // step * step)
    if intersect(window, whole):
        inside = window.intersection(whole)
        shape = int(inside.height) // step, int(inside.width) // step
        top = (inside.row_off - window.row_off) // step
        left = (inside.col_off - window.col_off) // step
        part = file.read(1, window=inside, out_shape=shape)
        cells[top : top + shape[0], left : left + shape[1]] = part
    return cells
