"""Cells with the count, mean height and mean intensity of the road's points; gaps are filled."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from crn.errors import UserError
from crn.pointcloud.partition import BLOCK, HEIGHT_STEP, Block, Partition

# Side of a cell in centimetres: the least points per square metre, at about 0.8 points in a cell.
CELLS = {1: 8000, 2: 2000, 4: 500, 8: 125}
FEWEST_POINTS = 100  # per square metre

_FAR = 0.15  # metres from the mean height around; such a cell with few others near it is a stray
_AROUND = 32  # centimetres on a side of the squares of that mean
_FEWEST_FAR = 5  # in squares of five by five cells; holes have more

_PATCH = 80  # centimetres on a side, over which densities are counted
PATCH_AREA = (_PATCH / 100) ** 2  # square metres


@dataclass(frozen=True)
class Raster:
    """Cells of a block and its margin; row 0 is in the south.

    Attributes:
        measured: (H, W) bool, the cells with points.
        height: (H, W) float64, mean height in metres; in a filled gap that of the nearest cell,
            NaN where nothing is known.
        intensity: (H, W) float32, likewise.
    """

    measured: np.ndarray
    height: np.ndarray
    intensity: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """The cells (H, W) bool with points, or filled from them."""
        return ~np.isnan(self.intensity)


def rasterise(partition: Partition, block: Block, margin: int, cell: int, max_gap: float) -> Raster:
    """Make the cells of a block.

    The sums are of integers, which floats hold exactly up to 2**53, so any order of the points
    gives the same bits.

    Args:
        partition: the points of the road.
        block: the block.
        margin: centimetres around the block, whole cells.
        cell: side of a cell in centimetres.
        max_gap: metres from a cell with points up to which gaps are filled; at least one cell.
    """
    side = (BLOCK + 2 * margin) // cell
    sums = np.zeros((3, side * side))
    for i, j, records in partition.around(block, margin):
        cells = (j // cell) * side + i // cell
        z = records["z"] - partition.offsets[records["source"]]
        for total, values in zip(sums, (None, z, records["intensity"]), strict=True):
            total += np.bincount(cells, values, side * side)
    count, height, intensity = sums.reshape(3, side, side)
    with np.errstate(invalid="ignore"):
        height *= HEIGHT_STEP
        height /= count
        intensity /= count
    raster = Raster(count > 0, height, intensity.astype(np.float32))
    _drop_strays(raster, _AROUND // cell)
    _fill_gaps(raster, max(1.0, max_gap * 100 / cell))
    return raster


def _drop_strays(raster: Raster, size: int) -> None:
    """Leave out single cells far from the road, such as multipath that was classified as ground.

    Args:
        raster: before gaps are filled.
        size: cells on a side of the squares around whose mean heights are compared.
    """
    squares = len(raster.height) // size
    shape = squares, size, squares, size
    known = np.maximum(1, raster.measured.reshape(shape).sum((1, 3), keepdims=True))
    height = np.where(raster.measured, raster.height, 0.0).reshape(shape)
    mean = height.sum((1, 3), keepdims=True) / known
    far = (abs(height - mean) > _FAR).reshape(raster.height.shape) & raster.measured
    if far.any():
        near = ndimage.convolve(far.astype(np.uint8), np.ones((5, 5), np.uint8), mode="constant")
        strays = far & (near < _FEWEST_FAR)
        raster.measured[strays] = False
        raster.height[strays] = raster.intensity[strays] = np.nan


def _fill_gaps(raster: Raster, reach: float) -> None:
    """Fill cells without points from the nearest cell, up to ``reach`` cells away.

    Only cells between cells with points are gaps: the road does not grow at its edges.
    """
    cells = int(reach)
    inner = slice(cells, -cells), slice(cells, -cells)
    # Nothing is known beyond the margin, so only cells inside can close gaps there.
    measured = np.pad(raster.measured, cells)
    closed = ndimage.grey_closing(measured, 2 * cells + 1)
    # Gaps are few: a distance transform of all cells would double the time of a raster.
    gaps = np.argwhere((closed & ~measured)[inner])
    steps = sorted(
        (north**2 + east**2, north, east)
        for north in range(-cells, cells + 1)
        for east in range(-cells, cells + 1)
        if 0 < north**2 + east**2 <= reach**2
    )
    for _, *step in steps:
        near = gaps + step
        found = measured[tuple((near + cells).T)]
        to, of = tuple(gaps[found].T), tuple(near[found].T)
        raster.height[to], raster.intensity[to] = raster.height[of], raster.intensity[of]
        gaps = gaps[~found]


def densities(records: np.ndarray) -> np.ndarray:
    """Points per square metre, for every patch of a block that has points; copies count once."""
    place = records["j"].astype(np.uint64) << 12 | records["i"]
    height = (records["z"] - records["z"].min()).astype(np.uint64) & 0xFFFFFF
    # Sorting is faster than numpy's unique, by far.
    keys = np.sort(place << 40 | height << 16 | records["intensity"])
    place = keys[np.diff(keys, prepend=keys[:1] - 1) > 0] >> 40
    patch = (place >> 12) // _PATCH * (BLOCK // _PATCH) + (place & 0xFFF) // _PATCH
    counts = np.bincount(patch.astype(np.int64))
    return counts[counts > 0] / PATCH_AREA


def typical_density(density: np.ndarray, where: str) -> float:
    """The median density of the road, without patches that are too sparse.

    Args:
        density: density of all its patches, points per square metre.
        where: what was read, for the message.

    Raises:
        UserError: hardly any patch is dense enough.
    """
    enough = density[density >= FEWEST_POINTS]
    if len(enough) * PATCH_AREA < 8:
        raise UserError(
            f"{where}: the road has {np.median(density):.0f} points/m2, too few to see damage; "
            f"{FEWEST_POINTS} are needed"
        )
    return float(np.median(enough))


def choose_cell(typical: float) -> int:
    """The smallest cell for a density, in centimetres."""
    return next((cell for cell, least in CELLS.items() if typical >= least), max(CELLS))
