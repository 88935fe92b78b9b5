"""Layers are drawn: sparse GeoTIFFs with overviews, whose cost does not depend on their extent."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
from rasterio import shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from crn.pointcloud.layers import CELL, GDAL, LAYERS, OVERVIEWS, UNIT, Grid
from crn.pointcloud.partition import Block
from crn.pointcloud.styles import DESCRIPTIONS, STATISTICS, write_style
from crn.system.files import writing

VALID = "STATISTICS_VALID_PERCENT"

_STEP = 4  # cells on a side that become one in the next overview
_HELD = 32  # blocks; more than are in its cache
_TILED = {
    "driver": "GTiff",
    "tiled": True,
    "blockxsize": 256,
    "blockysize": 256,
    "sparse_ok": True,
    "bigtiff": "if_safer",
}
_CELLS = {"count": 1, "dtype": "float32", "nodata": math.nan}
_COMPRESSED = {"compress": "deflate", "zlevel": 1}  # predictors make noise no smaller


def draw_layers(
    folder: Path,
    grid: Grid,
    cells: Iterable[tuple[Block, Any]],
    stem: str = "",
    tags: Mapping[str, object] | None = None,
    names: Sequence[str] = LAYERS,
) -> None:
    """Write the layers of a scan; time and space grow with its blocks, not with their extent.

    Args:
        folder: where they are written.
        grid: covers the blocks.
        cells: for every block, the cells of each layer, such as a `mosaic.Mosaic`: (S, S) float32,
            row 0 in the south.
        stem: what the names of files begin with; it may contain folders, which exist.
        tags: facts to keep in the files.
        names: the layers.

    Raises:
        UserError: the system refuses to write them.
    """
    with drawing(folder), TemporaryDirectory(prefix=".", dir=folder) as work, ExitStack() as stack:
        layers = [
            _Layer(folder / f"{stem}{name}.tif", name, grid, Path(work), stack) for name in names
        ]
        for layer in layers:
            layer.files[1].update_tags(**(tags or {}))
        for block, each in cells:
            for layer in layers:
                layer.add(block, getattr(each, layer.name))
        for layer in layers:
            layer.finish()


class _Layer:
    """A layer that is being written, with its overviews.

    GDAL makes overviews of the whole extent, and none by maximum. So they are written to other
    files, each the overview of the one before, and copied to the .ovr file that GDAL looks for.
    """

    def __init__(self, path: Path, name: str, grid: Grid, work: Path, stack: ExitStack) -> None:
        self.path, self.name, self.grid = path, name, grid
        self.windows: list[Window] = []
        self.parts: list[tuple[float, ...]] = []
        self.overviews = work / f"{name}.tif"
        rows, columns = grid.shape
        self.files: dict[int, Any] = {}
        for number, factor in enumerate((1, *OVERVIEWS)):
            file = rasterio.open(
                path if factor == 1 else f"{self.overviews}{'.ovr' * (number - 1)}",
                "w",
                height=rows // factor,
                width=columns // factor,
                transform=grid.transform,
                crs=grid.crs,
                **(_TILED | _CELLS | (_COMPRESSED if factor == 1 else {})),
            )
            self.files[factor] = stack.enter_context(file)
        self.files[1].update_tags(**{CELL: grid.cell, UNIT: grid.unit})
        description, unit = DESCRIPTIONS[name]
        self.files[1].set_band_description(1, description)
        self.files[1].set_band_unit(1, unit)

    def add(self, block: Block, cells: np.ndarray) -> None:
        level = cells[::-1]
        known = level[np.isfinite(level)]
        if len(known):
            mean, deviation = known.mean(dtype=np.float64), known.std(dtype=np.float64)
            self.parts.append((len(known), known.min(), known.max(), mean, deviation))
        self.windows.append(self.grid.window(block))
        for factor, file in self.files.items():
            level = level if factor == 1 else _reduced(level, self.name == "score")
            file.write(level, 1, window=self.grid.window(block, factor))

    def finish(self) -> None:
        statistics = pooled(self.parts)
        if self.parts:
            valid = 100 * sum(count for count, *_ in self.parts) / math.prod(self.grid.shape)
            self.files[1].update_tags(1, **statistics, **{VALID: valid})
        for file in self.files.values():
            file.close()
        options = {**_TILED, **_COMPRESSED, "copy_src_overviews": True}
        shutil.copy(self.overviews, f"{self.path}.ovr", **options)
        require_written(self.path, self.windows[-_HELD:])
        write_style(self.path, self.name, statistics)


def _reduced(cells: np.ndarray, highest: bool) -> np.ndarray:
    """The highest or mean known values (S / 4, S / 4) of squares of cells (S, S)."""

    def united(unite: np.ufunc, values: np.ndarray) -> np.ndarray:
        for _ in ("rows", "columns"):
            values = unite.reduce(values.reshape(-1, _STEP, values.shape[1]), 1).T
        return values

    if highest:
        return united(np.fmax, cells)
    known = np.isfinite(cells)
    with np.errstate(invalid="ignore"):
        return united(np.add, np.where(known, cells, 0)) / united(np.add, known.astype(np.float32))


def pooled(parts: Sequence[Sequence[float]]) -> dict[str, float]:
    """Statistics of a layer: of its parts, count, lowest, highest, mean and deviation; or zeros."""
    count, lows, highs, means, deviations = np.transpose(parts or [(1, 0, 0, 0, 0)])
    mean = np.average(means, weights=count)
    variance = np.average(deviations**2 + (means - mean) ** 2, weights=count)
    values = lows.min(), highs.max(), mean, math.sqrt(variance)
    return dict(zip(STATISTICS, map(float, values), strict=True))


def require_written(path: Path, windows: Iterable[Window]) -> None:
    """Read the windows that GDAL writes last: it reports no error if it cannot while it closes.

    Raises:
        RasterioError: they cannot be read.
    """
    with rasterio.open(path) as file:
        for window in windows:
            file.read(1, window=window)
            file.read(1, window=window, out_shape=(1, 1))


@contextmanager
def drawing(folder: Path) -> Iterator[None]:
    """Turn any error of GDAL in writing to a folder into a `UserError`.

    Raises:
        UserError: the system refuses to write, or to read what is needed for it.
    """
    with writing(folder), rasterio.Env(**GDAL):
        try:
            yield
        except (RasterioError, CPLE_BaseError) as error:
            raise OSError(None, " ".join(str(error.__cause__ or error).split())) from None
