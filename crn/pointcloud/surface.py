"""Which points belong to the road: by their class, by areas, or by a simple filter.

The filter assumes three things: objects on a road are narrower than 4.5 m, roads are not steep, and
they end at a kerb, whose lower side is the road. It also takes driveways, squares and cycle paths
without a kerb for road; given classes or areas are better.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from crn.pointcloud.partition import BLOCK, HEIGHT_STEP, SOURCES, Block
from crn.pointcloud.vectors import Areas

log = logging.getLogger(__name__)

CELL = 16  # centimetres, side of a cell of the filter
ROAD_CLASS, GROUND_CLASS = 11, 2
ABOVE, BELOW = 0.10, 0.15  # metres around the road's level in which points belong to it
_LEAST_SHARE = 0.02  # of the points of a scan, from which on their class decides
_WITHOUT_STRAYS = 4  # of the 25 cells around a cell, those that may be lower than the road

_EDGE = 50  # cells around a block that the filter sees as well
_MARGIN = _EDGE * CELL
_SIDE = BLOCK // CELL
_WIDE = _SIDE + 2 * _EDGE
_WIDEST_OBJECT = 28  # cells: 4.5 m
_OVER_OPENING = 0.15  # metres; anything higher above the opened surface is an object
_KERB = 0.05
_STEEPEST = 0.15
_SMALLEST_ROAD = 8 / 0.16**2  # cells: 8 m2
_LARGEST_HOLE = 2 / 0.16**2  # cells: 2 m2; it may be a pothole


@dataclass(frozen=True)
class Road:
    """The rule that selects the points of the road.

    Attributes:
        rule: the rule for the scan in words.
        allowed: (`SOURCES`, 256) bool, the classes of the road in the scan (0) and its neighbours.
        filtered: (`SOURCES`,) bool, whether heights decide instead.
        areas: the areas that contain it; None without.
    """

    rule: str
    allowed: np.ndarray
    filtered: np.ndarray
    areas: Areas | None = None

    def level(self, lowest: Callable[[Block], np.ndarray], block: Block) -> np.ndarray:
        """The height of the road (S, S) in a block, float32 metres, NaN where there is none.

        Args:
            lowest: gives the `lowest_heights` of any block.
            block: the block.
        """
        heights = _without_strays(lowest, block)
        ground = _opened(heights)
        if self.areas is None:
            road = _largest_below_kerbs(heights, ground)
        else:
            road = ground & self.areas.burn(block, _MARGIN, CELL, _WIDE)
        return _smoothed(heights, road).astype(np.float32)[_EDGE:-_EDGE, _EDGE:-_EDGE]

    def of_road(self, records: np.ndarray, level: np.ndarray | None) -> np.ndarray:
        """Which points (N,) of a block belong to the road.

        Args:
            records: the points, of `partition.RECORD`.
            level: the `level` of the block; None if heights decide in no scan.
        """
        of_class = self.allowed[records["source"], records["kind"]]
        if level is None:
            return of_class
        above = records["z"] * HEIGHT_STEP - level[records["j"] // CELL, records["i"] // CELL]
        near = (above <= ABOVE) & (above >= -BELOW)  # not where the level is NaN
        return np.where(self.filtered[records["source"]], near, of_class)


def choose_road(path: Path, classes: np.ndarray, areas: Areas | None) -> Road:
    """Choose the rule: areas, else classes, else the filter; for each scan by its own points.

    Args:
        path: the scan, for messages.
        classes: (`SOURCES`, 256), number of points of each class in the scan and its neighbours.
        areas: areas of ``--road``.
    """
    allowed, filtered = np.zeros((SOURCES, 256), bool), np.ones(SOURCES, bool)
    if areas is not None:
        return Road("areas of --road", allowed, filtered, areas)
    share = classes / np.maximum(1, classes.sum(1, keepdims=True))
    rule = "the filter of this program"
    for kind, name in ((GROUND_CLASS, "ground"), (ROAD_CLASS, "road")):
        decides = share[:, kind] >= _LEAST_SHARE
        allowed[decides] = False
        allowed[decides, kind] = True
        filtered &= ~decides
        if decides[0]:
            rule = f"class {kind} ({name})"
        elif share[0, kind]:
            log.warning(
                "%s: only %.2g %% of the points are of class %d (%s), so they do not decide",
                *(path, 100 * share[0, kind], kind, name),
            )
    return Road(rule, allowed, filtered)


def lowest_heights(records: np.ndarray) -> np.ndarray:
    """The lowest height (S, S) in every cell of a block, metres; infinite if it is empty."""
    none = np.iinfo(np.int32).max
    lowest = np.full(_SIDE * _SIDE, none, np.int32)
    cells = (records["j"] // CELL).astype(np.int32) * _SIDE + records["i"] // CELL
    np.minimum.at(lowest, cells, records["z"])
    return np.where(lowest < none, lowest * HEIGHT_STEP, np.inf).reshape(_SIDE, _SIDE)


def _without_strays(heights: Callable[[Block], np.ndarray], block: Block) -> np.ndarray:
    """The lowest heights of a block and its margin, without single points below the road.

    These, as by multipath, have nothing as low around them.
    """
    east, north = block
    whole = np.block([[heights((east + i, north + j)) for i in (-1, 0, 1)] for j in (-1, 0, 1)])
    lowest = whole[_SIDE - _EDGE : 2 * _SIDE + _EDGE, _SIDE - _EDGE : 2 * _SIDE + _EDGE]
    near = ndimage.rank_filter(lowest, _WITHOUT_STRAYS, size=5, mode="nearest")
    with np.errstate(invalid="ignore"):  # of infinite heights
        return np.where(near - lowest > BELOW, near, lowest)


def _opened(lowest: np.ndarray) -> np.ndarray:
    """The cells (S, S) bool of the ground, without cars, posts and anything overhead."""
    opened = ndimage.minimum_filter(lowest, _WIDEST_OBJECT, mode="nearest")
    opened[np.isinf(opened)] = -np.inf
    # A window of even width shifts the result; this shifts it back.
    opened = ndimage.maximum_filter(opened, _WIDEST_OBJECT, mode="nearest", origin=-1)
    with np.errstate(invalid="ignore"):
        return np.isfinite(lowest) & (lowest - opened <= _OVER_OPENING)


def _largest_below_kerbs(lowest: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The ground (S, S) bool that is flat, large, and not above a kerb."""
    height = np.where(ground, lowest, np.inf)
    # The upper cells at every step; the lower side keeps its last cell.
    with np.errstate(invalid="ignore"):  # of infinite heights, where there is no ground
        raised = ground & (height - ndimage.minimum_filter(height, 3) > _KERB)
    flat = ground & ~raised
    level = _smoothed(lowest, flat)
    steep = np.hypot(*np.gradient(level, CELL / 100)) > _STEEPEST
    flat &= ~steep
    parts, _ = ndimage.label(flat)
    large = np.flatnonzero(np.bincount(parts.ravel()) >= _SMALLEST_ROAD)
    low = [each for each in large if each and not _is_above_kerbs(parts == each, raised, height)]
    road = np.isin(parts, low)
    holes, _ = ndimage.label(~road)
    small = np.bincount(holes.ravel()) <= _LARGEST_HOLE
    return (road | small[holes]) & ground


def _is_above_kerbs(part: np.ndarray, raised: np.ndarray, height: np.ndarray) -> bool:
    """Whether a part is mostly on the upper side of the steps along its border."""
    border = raised & ndimage.binary_dilation(part, iterations=2)
    count = ndimage.uniform_filter(part.astype(float), 5)
    beside = ndimage.uniform_filter(np.where(part, height, 0), 5)
    border &= count > 0.01
    step = height[border] - beside[border] / count[border]
    return int((step < _KERB / 2).sum()) > int((step >= _KERB / 2).sum())


def _smoothed(lowest: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The height in a mask (S, S), smoothed within it; NaN outside."""
    level = np.full(mask.shape, np.nan)
    places = np.argwhere(mask)
    if not len(places):
        return level
    # Relative to a plane: at the border of the mask, the mean of a slope is off by centimetres.
    terms = np.column_stack((np.ones(len(places)), places - places.mean(0)))
    plane = terms @ np.linalg.lstsq(terms, lowest[mask])[0]
    rest = np.zeros(mask.shape)
    rest[mask] = lowest[mask] - plane
    smooth, weight = (ndimage.gaussian_filter(each, 3)[mask] for each in (rest, mask.astype(float)))
    level[mask] = plane + smooth / weight
    return level
