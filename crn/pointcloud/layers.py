"""Map layers of score, height and intensity: sparse GeoTIFFs with overviews and a style."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import numpy as np
import pyproj
import rasterio
from rasterio import shutil
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from crn.errors import UserError
from crn.pointcloud.crs import horizontal
from crn.pointcloud.partition import BLOCK, Block
from crn.system.files import writing

LAYERS = ("score", "height_mm", "intensity")
# The layers of a scan, with their overviews and styles.
FILES = tuple(f"{name}.{kind}" for name in LAYERS for kind in ("tif", "tif.ovr", "qml"))
_DESCRIPTIONS = {
    "score": "anomaly score",
    "height_mm": "height above the levelled road",
    "intensity": "intensity",
    "difference_mm": "height above that of the earlier survey",
}
# Colours from low to high; those of scores can be seen on gray.
SCORE_COLOURS: tuple[str, ...] = ("#3c146e", "#961e6e", "#dc4632", "#fa9614", "#fff078")
_HEIGHT_COLOURS = ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b")
_GRAYS = ("#000000", "#ffffff")
_SHOWN_MM = 40.0  # heights of -40 and 40 mm have the first and last colour

_STATISTICS = tuple(f"STATISTICS_{n}" for n in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV"))
_VALID = "STATISTICS_VALID_PERCENT"
_MOST_KILOMETRES = 200  # across all blocks; more are a mistake
_STEP = 4  # cells on a side that become one in the next overview
_OVERVIEWS = (4, 16, 64)  # every block is whole cells of each
_HELD = 32  # blocks; more than are in its cache
_CELL, _UNIT = "crn_cell_cm", "crn_metres_in_unit"  # tags
# GDAL would print errors and go on.
GDAL = {"GDAL_CACHEMAX": 64, "CPL_LOG": os.devnull}
_TIFF = {
    "driver": "GTiff",
    "count": 1,
    "dtype": "float32",
    "nodata": math.nan,
    "tiled": True,
    "blockxsize": 256,
    "blockysize": 256,
    "sparse_ok": True,
    "bigtiff": "if_safer",
}
_COMPRESSED = {"compress": "deflate", "zlevel": 1}  # predictors make noise no smaller


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

    @property
    def wkt(self) -> str | None:
        """The text of the system of the map; None if it is unknown."""
        return None if self.crs is None else self.crs.to_wkt()

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
            cell, unit = int(found[_CELL]), float(found[_UNIT])
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
            few = grid.side // _OVERVIEWS[-1]
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
    size = (file.height, file.width)
    starts = window.row_off, window.col_off
    shape = int(window.height) // step, int(window.width) // step
    first = [max(0, -start // step) for start in starts]
    last = [
        min(n, (end - start) // step) for n, start, end in zip(shape, starts, size, strict=True)
    ]
    cells = np.full(shape, np.nan, np.float32)
    high, wide = (end - begin for begin, end in zip(first, last, strict=True))
    if high > 0 and wide > 0:
        top, left = (start + begin * step for start, begin in zip(starts, first, strict=True))
        inside = Window(left, top, wide * step, high * step)
        part = file.read(1, window=inside, out_shape=(high, wide))
        cells[first[0] : last[0], first[1] : last[1]] = part
    return cells


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
    with _drawing(folder), rasterio.Env(**GDAL), TemporaryDirectory(prefix=".", dir=folder) as work:
        layers = {name: _Layer(folder / f"{stem}{name}.tif", name, grid, work) for name in names}
        with ExitStack() as stack:
            for layer in layers.values():
                layer.open(stack, tags or {})
            for block, each in cells:
                for name, layer in layers.items():
                    layer.add(block, getattr(each, name))
            for layer in layers.values():
                layer.describe()
        for layer in layers.values():
            layer.finish()


class _Layer:
    """A layer that is being written, with its overviews.

    GDAL makes overviews of the whole extent, and none by maximum. So they are written beside the
    layer, and copied to the .ovr file that GDAL looks for.
    """

    def __init__(self, path: Path, name: str, grid: Grid, work: str) -> None:
        self.path, self.name, self.grid = path, name, grid
        self.levels = {1: path, **{n: Path(work, f"{name}-{n}.tif") for n in _OVERVIEWS}}
        self.files: dict[int, Any] = {}
        self.windows: list[Window] = []
        self.sums: list[tuple[float, ...]] = []
        self.statistics: dict[str, float] = {}

    def open(self, stack: ExitStack, tags: Mapping[str, object]) -> None:
        rows, columns = self.grid.shape
        for factor, path in self.levels.items():
            more = _COMPRESSED if factor == 1 else {}
            file = rasterio.open(
                path,
                "w",
                height=rows // factor,
                width=columns // factor,
                transform=self.grid.transform,
                crs=self.grid.wkt,
                **_TIFF,
                **more,
            )
            self.files[factor] = stack.enter_context(file)
        facts = {_CELL: self.grid.cell, _UNIT: self.grid.unit}
        self.files[1].update_tags(**facts, **tags)
        self.files[1].set_band_description(1, _DESCRIPTIONS[self.name])
        self.files[1].set_band_unit(1, _unit(self.name))

    def add(self, block: Block, cells: np.ndarray) -> None:
        level = cells[::-1]
        known = level[np.isfinite(level)]
        ends = known.min(initial=math.inf), known.max(initial=-math.inf)
        exact = known.astype(np.float64)
        self.sums.append((*ends, len(known), exact.sum(), exact @ exact))
        self.windows.append(self.grid.window(block))
        for factor, file in self.files.items():
            level = level if factor == 1 else _reduced(level, self.name == "score")
            file.write(level, 1, window=self.grid.window(block, factor))

    def describe(self) -> None:
        sums = np.array(self.sums)
        count, total, squares = sums[:, 2:].sum(0)
        mean = total / max(1, count)
        deviation = math.sqrt(max(0, squares / max(1, count) - mean**2))
        values = (sums[:, 0].min(), sums[:, 1].max(), mean, deviation)
        self.statistics = dict(zip(_STATISTICS, values, strict=True))
        if count:
            valid = 100 * count / math.prod(self.grid.shape)
            self.files[1].update_tags(1, **self.statistics, **{_VALID: valid})

    def finish(self) -> None:
        rows, columns = (cells // _STEP for cells in self.grid.shape)
        first, *others = (path.name for factor, path in self.levels.items() if factor > 1)
        vrt = self.levels[_STEP].with_suffix(".vrt")
        _write_vrt(
            vrt, self.name, self.grid, (rows, columns), [(first, 0, 0, columns, rows)], others
        )
        options = {**_TIFF, **_COMPRESSED, "copy_src_overviews": True}
        for name in ("count", "dtype", "nodata"):
            del options[name]
        shutil.copy(vrt, self.path.with_name(f"{self.path.name}.ovr"), **options)
        with rasterio.open(self.path) as file:
            # GDAL reports no error if it cannot write what it holds when it closes a file.
            for window in self.windows[-_HELD:]:
                file.read(1, window=window)
                file.read(1, window=window, out_shape=(1, 1))
        _write_style(self.path, self.name, self.statistics)


def _unit(name: str) -> str:
    return "mm" if name.endswith("mm") else ""


def _reduced(cells: np.ndarray, highest: bool) -> np.ndarray:
    """The highest or mean known values (S / 4, S / 4) of squares of cells (S, S)."""
    unite = np.fmax if highest else np.add
    known = np.isfinite(cells)
    parts = [cells] if highest else [np.where(known, cells, 0), known.astype(np.float32)]
    for axis in (0, 1):
        for number, part in enumerate(parts):
            first, *others = (part.T[n::_STEP].T if axis else part[n::_STEP] for n in range(_STEP))
            parts[number] = reduce(unite, others, first)
    with np.errstate(invalid="ignore"):
        return parts[0] if highest else parts[0] / parts[1]


def join_layers(folder: Path, layers: Path, grid: Grid, stems: Sequence[str]) -> None:
    """Write VRTs that join the layers of several scans, with their styles.

    Args:
        folder: where they are written, to be moved to ``layers``.
        layers: folder of the layers.
        grid: covers all of them.
        stems: what the names of each scan's layers begin with.

    Raises:
        UserError: the system refuses to write them, or to read a layer.
    """
    for name in LAYERS:
        sources, found, path = [], [], folder / f"{name}.vrt"
        with _drawing(folder):
            for stem in stems:
                with rasterio.open(layers / f"{stem}{name}.tif") as file:
                    left, top = ~grid.transform @ (file.transform.c, file.transform.f)
                    place = round(left), round(top), file.width, file.height
                    sources.append((f"{stem}{name}.tif", *place))
                    tags, band = file.tags(), file.tags(1)
                    if _VALID in band:
                        cells = file.width * file.height * float(band[_VALID]) / 100
                        found.append([cells, *(float(band[key]) for key in _STATISTICS)])
            cells, low, high, means, deviations = np.transpose(found)
            mean = np.average(means, weights=cells)
            variance = np.average(deviations**2 + (means - mean) ** 2, weights=cells)
            values = low.min(), high.max(), mean, math.sqrt(variance)
            statistics = dict(zip(_STATISTICS, values, strict=True))
            # Cells of several scans count several times.
            approximate = {"STATISTICS_APPROXIMATE": "YES"}
            _write_vrt(path, name, grid, grid.shape, sources, tags=tags | statistics | approximate)
            _write_style(path, name, statistics)


def _write_vrt(
    path: Path,
    name: str,
    grid: Grid,
    shape: tuple[int, int],
    sources: Sequence[tuple],
    overviews: Sequence[str] = (),
    tags: Mapping[str, object] | None = None,
) -> None:
    """Write a virtual layer; a source is a file, its left, top, width and height in cells."""
    text = render(
        "layer.vrt.jinja",
        shape=shape,
        transform=grid.transform.to_gdal(),
        crs=grid.wkt,
        description=_DESCRIPTIONS[name],
        unit=_unit(name),
        sources=sources,
        overviews=overviews,
        tags=tags or {},
    )
    path.write_text(text, encoding="utf-8")


def _write_style(path: Path, name: str, statistics: Mapping[str, float]) -> None:
    """Write the style that QGIS takes for a layer: a QML file of its name."""
    mean, deviation = statistics["STATISTICS_MEAN"], statistics["STATISTICS_STDDEV"]
    if name == "score":
        low, high, colours = mean, mean + 6 * deviation, SCORE_COLOURS
    elif name == "intensity":
        low, high, colours = mean - 2 * deviation, mean + 2 * deviation, _GRAYS
    else:
        low, high, colours = -_SHOWN_MM, _SHOWN_MM, _HEIGHT_COLOURS
    fades, unit = name == "score", _unit(name)
    text = render("layer.qml.jinja", low=low, high=high, colours=colours, fades=fades, unit=unit)
    path.with_suffix(".qml").write_text(text, encoding="utf-8")


@contextmanager
def _drawing(folder: Path) -> Iterator[None]:
    with writing(folder):
        try:
            yield
        except RasterioError as error:
            raise OSError(None, " ".join(str(error.__cause__ or error).split())) from None


def render(template: str, **values: Any) -> str:
    """The text of a template beside this file."""
    return jinja2.Template(
        Path(__file__).with_name(template).read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).render(values)
