"""Tiles of 2.56 m, cut from the map's grid, levelled and written in the layout of RoadImages.

The settings of a set of tiles are in its tiles.json. A model only scores tiles made with the
settings of its training tiles.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from crn.errors import UserError
from crn.pointcloud.partition import BLOCK, Block, Partition
from crn.pointcloud.raster import CELLS, Raster, rasterise
from crn.pointcloud.vectors import Areas

TILE, STRIDE = 256, 128  # centimetres
TILES_FILE = "tiles.json"
MIN_FILL = 0.7  # least known share of a training tile
LARGEST_GAP = 0.05  # metres; gaps up to it are filled before that share is counted
# The settings that are the same for all tiles of this version.
_FIXED = {
    "version": 1,
    "tile": TILE,
    "stride": STRIDE,
    "detrending": "robust quadratic (Huber, 4 rounds)",
    "max_gap": LARGEST_GAP,
    "min_fill": MIN_FILL,
}

_FIX = "give the tiles.json of the tiles that the model was trained on"
_ROUNDS = 4
_HUBER = 1.345  # deviations; the usual choice, for 95 % efficiency on normal noise
_AT_A_TIME = 1 << 20  # cells
MARGIN = STRIDE + 16  # centimetres around a block: the reach of its tiles, and of gaps beyond


@dataclass(frozen=True)
class TileSet:
    """The settings of a set of tiles.

    Attributes:
        cell: side of a cell in centimetres.
        height_range_mm: the heights that are black and white in height images.
        intensity: whether there are intensities; if not, heights take their place.
        intensity_range: the intensities that are black and white, if there are.
    """

    cell: int
    height_range_mm: tuple[float, float] = (-60.0, 60.0)
    intensity: bool = True
    intensity_range: tuple[float, float] | None = None

    @property
    def pixels(self) -> int:
        """The number of pixels on a side of a tile."""
        return TILE // self.cell

    def description(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The content of tiles.json: the settings, and under "facts" what was found."""
        return {**_FIXED, **asdict(self), "facts": facts}


def read_tile_set(path: Path) -> TileSet:
    """The tile set that a tiles.json describes.

    Raises:
        UserError: it cannot be read, or this version of the program makes other tiles.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UserError(f"--tiles-from {path}: cannot be read ({error}); {_FIX}") from None
    return parse_tile_set(text, f"--tiles-from {path}")


def parse_tile_set(text: str, where: str) -> TileSet:
    """The tile set that the content of a tiles.json describes.

    Args:
        text: the content.
        where: where it is from, for messages.

    Raises:
        UserError: this version of the program makes other tiles.
    """
    try:
        values = json.loads(text)
        ranges = [values["height_range_mm"]]
        if values["intensity"]:
            # Earlier versions have it among the facts.
            ranges.append(values.get("intensity_range", values["facts"].get("intensity_range")))
        ranges = [(float(low), float(high)) for low, high in ranges]
        tiles = TileSet(values["cell"], ranges[0], values["intensity"], *ranges[1:])
        is_ours = tiles.cell in CELLS and all(low < high for low, high in ranges)
        is_ours &= all(values[name] == value for name, value in _FIXED.items())
    except (ValueError, TypeError, KeyError, AttributeError):
        is_ours = False
    if not is_ours:
        raise UserError(
            f"{where}: does not describe tiles of this version of the program; {_FIX}, or make "
            "them again"
        )
    return tiles


@dataclass(frozen=True)
class Tiles:
    """Some tiles of a block; row 0 is in the south.

    Attributes:
        corners: (N, 2) centimetres from the lower left corner of the block, east and north.
        height: (N, S, S) float32, mm above the levelled surface; NaN where nothing is known.
        intensity: (N, S, S) float32 as in the file; NaN where nothing is known.
        fill: (N,) share that is known.
    """

    corners: np.ndarray
    height: np.ndarray
    intensity: np.ndarray
    fill: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """The cells (N, S, S) bool with points, or filled from neighbours."""
        return ~np.isnan(self.intensity)


def raster_of(
    partition: Partition, block: Block, tiles: TileSet, ignored: Areas | None = None
) -> Raster:
    """The cells of a block and `MARGIN` around it; in ignored areas nothing is known."""
    raster = rasterise(partition, block, MARGIN, tiles.cell, LARGEST_GAP)
    if ignored is not None:
        cells = ignored.burn(block, MARGIN, tiles.cell, len(raster.height))
        raster.measured[cells] = False
        raster.height[cells] = raster.intensity[cells] = np.nan
    return raster


def cut(raster: Raster, tiles: TileSet, min_fill: float, first: int) -> Iterator[Tiles]:
    """The tiles of a block that are filled enough.

    Args:
        raster: from `raster_of`.
        tiles: the settings.
        min_fill: least known share of a tile.
        first: 0 for the tiles whose lower left corner is in the block, -`STRIDE` for all that
            overlap it.
    """
    side, step = tiles.pixels, STRIDE // tiles.cell
    corners = np.arange(first, BLOCK, STRIDE)
    start = (MARGIN + first) // tiles.cell

    def windows(cells: np.ndarray) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view(cells[start:, start:], (side, side))
        return view[::step, ::step][: len(corners), : len(corners)]

    known = windows(raster.known)
    fill = known.mean((2, 3))
    rows, columns = np.nonzero(fill >= min_fill)
    height, intensity, measured = map(windows, (raster.height, raster.intensity, raster.measured))
    at_a_time = max(1, _AT_A_TIME // side**2)
    for begin in range(0, len(rows), at_a_time):
        which = rows[begin : begin + at_a_time], columns[begin : begin + at_a_time]
        yield Tiles(
            np.stack((corners[which[1]], corners[which[0]]), 1),
            levelled(height[which], measured[which]),
            intensity[which],
            fill[which],
        )


@cache
def _quadratic(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Terms of a quadratic at every cell (S * S, 6), and their products (S * S, 36)."""
    steps = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = (each.ravel() for each in np.meshgrid(steps, steps, indexing="ij"))
    terms = np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), 1)
    return terms, (terms[:, :, None] * terms[:, None]).reshape(len(terms), 36)


# The products have six columns: more threads would mostly wait for each other.
@threadpool_limits.wrap(limits=1, user_api="blas")
def levelled(height: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Heights above a quadratic surface, fitted robustly so that damage hardly moves it.

    Args:
        height: (N, S, S) float64 metres, NaN where nothing is known.
        measured: (N, S, S) bool, the cells that the surface is fitted to.

    Returns:
        (N, S, S) float32, millimetres.
    """
    count, side = len(height), height.shape[1]
    terms, products = _quadratic(side)
    measured = measured.reshape(count, -1)
    z = height.reshape(count, -1) * 1000.0
    unknown = np.isnan(z)
    z -= np.where(measured, z, 0).sum(1, keepdims=True) / measured.sum(1, keepdims=True)
    z[unknown] = 0
    weight = measured.astype(float)
    for turn in range(_ROUNDS + 1):
        normal = (weight @ products).reshape(count, 6, 6)
        # Slightly regularised: cells in one line leave a quadratic undetermined.
        normal += np.eye(6) * (1e-9 * np.trace(normal, axis1=1, axis2=2))[:, None, None]
        surface = np.linalg.solve(normal, ((weight * z) @ terms)[:, :, None])[:, :, 0]
        rest = z - surface @ terms.T
        if turn < _ROUNDS:
            size = abs(rest)
            limit = _HUBER * 1.4826 * _medians(size, measured)
            weight = measured * np.minimum(1, limit[:, None] / np.maximum(size, 1e-9))
    rest[unknown] = np.nan
    return rest.reshape(height.shape).astype(np.float32)


def _medians(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The approximate median (N,) of the values (N, P) in a mask, by every fifth value."""
    some = np.where(where[:, ::5], values[:, ::5], np.inf)
    some.sort(1)
    middle = np.count_nonzero(np.isfinite(some), axis=1) // 2
    return np.maximum(some[np.arange(len(some)), middle], 1e-3)


def images_of(part: Tiles, tiles: TileSet) -> tuple[np.ndarray, np.ndarray]:
    """Height images (N, S, S) uint16 and intensity images (N, S, S) uint8, north up.

    Unknown cells have height 0 and the median intensity of the tile, so as not to stand out.
    """
    height = _share(np.nan_to_num(part.height[:, ::-1], nan=0.0), tiles.height_range_mm)
    intensity = height
    if tiles.intensity:
        assert tiles.intensity_range is not None
        values = part.intensity[:, ::-1]
        middle = np.nanmedian(values.reshape(len(values), -1)[:, ::5], axis=1)[:, None, None]
        intensity = _share(np.where(np.isnan(values), middle, values), tiles.intensity_range)
    return np.rint(height * 65535).astype(np.uint16), np.rint(intensity * 255).astype(np.uint8)


def _share(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Scale values from a range to 0 to 1, clipped."""
    low, high = ends
    return ((values - low) / (high - low)).clip(0, 1)
