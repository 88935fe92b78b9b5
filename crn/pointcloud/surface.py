"""Which points belong to the road: by their class, by polygons, or by a simple filter.

The filter assumes three things: objects on a road are narrower than 4.5 m, roads are not steep, and
they end at a kerb, whose lower side is the road. It also takes driveways, squares and cycle paths
without a kerb for road; given classes or polygons are better.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy import ndimage

from crn.errors import UserError
from crn.pointcloud.partition import BLOCK, HEIGHT_STEP, Block, Partition

CELL = 16  # centimetres, side of a cell of the filter
ROAD_CLASS, GROUND_CLASS = 11, 2
ABOVE, BELOW = 0.10, 0.15  # metres around the road's level in which points belong to it

_EDGE = 50  # cells around a block that the filter sees as well
_MARGIN = _EDGE * CELL
_WIDE = BLOCK // CELL + 2 * _EDGE
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
        rule: the rule in words.
        classes: classes of its points; None if classes do not decide.
        polygons: GeoJSON geometries in metres that contain it; None without.
    """

    rule: str
    classes: tuple[int, ...] | None = None
    polygons: tuple[dict[str, Any], ...] | None = None

    def level(self, partition: Partition, block: Block) -> np.ndarray | None:
        """The height of the road (S, S) in a block, float32 metres, NaN where there is none.

        None if classes decide, since heights do not matter then.
        """
        if self.classes is not None:
            return None
        lowest = _lowest(partition, block)
        ground = _opened(lowest)
        if self.polygons is None:
            road = _largest_below_kerbs(lowest, ground)
        else:
            road = ground & burn(self.polygons, block, _MARGIN, CELL, _WIDE, "--road")
        return _smoothed(lowest, road).astype(np.float32)[_EDGE:-_EDGE, _EDGE:-_EDGE]

    def of_road(
        self,
        kind: np.ndarray,
        i: np.ndarray,
        j: np.ndarray,
        z: np.ndarray,
        level: np.ndarray | None,
    ) -> np.ndarray:
        """Which points (N,) of a block belong to the road.

        Args:
            kind: their classes.
            i, j: centimetres from the lower left corner of the block.
            z: heights in steps of `HEIGHT_STEP`.
            level: the `level` of the block.
        """
        if level is None:
            assert self.classes is not None
            return np.isin(kind, self.classes)
        above = z * HEIGHT_STEP - level[j // CELL, i // CELL]
        return (above <= ABOVE) & (above >= -BELOW)  # not where the level is NaN


def choose_road(classes: np.ndarray, polygons: tuple[dict[str, Any], ...] | None) -> Road:
    """Choose the rule: polygons, else classes, else the filter.

    Args:
        classes: (256,), number of points of each class.
        polygons: polygons of ``--road``.
    """
    if polygons is not None:
        return Road("polygons of --road", polygons=polygons)
    for kind, name in ((ROAD_CLASS, "road"), (GROUND_CLASS, "ground")):
        if classes[kind]:
            return Road(f"class {kind} ({name})", classes=(kind,))
    return Road("the filter of this program")


def read_polygons(path: Path, unit: float, flag: str) -> tuple[dict[str, Any], ...]:
    """The polygons of a GeoJSON file in the scan's coordinates, converted to metres.

    Args:
        path: the file.
        unit: metres in a unit of its coordinates.
        flag: the flag that named it, for messages.

    Raises:
        UserError: it cannot be read, or holds no polygons.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content.get("features", [content])
        shapes = [each.get("geometry", each) for each in features]
        shapes = [
            {"type": each["type"], "coordinates": _scaled(each["coordinates"], unit)}
            for each in shapes
            if each and each["type"] in ("Polygon", "MultiPolygon")
        ]
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{flag} {path}: is not a GeoJSON file") from None
    if not shapes:
        raise UserError(f"{flag} {path}: holds no polygon")
    return tuple(shapes)


def burn(
    polygons: tuple[dict[str, Any], ...],
    block: Block,
    margin: int,
    cell: int,
    side: int,
    flag: str,
) -> np.ndarray:
    """The cells (side, side) bool whose middle is in a polygon.

    Args:
        polygons: from `read_polygons`.
        block, margin: the cells begin ``margin`` centimetres before the block.
        cell: side of a cell in centimetres.
        side: number of cells on a side.
        flag: the flag that named the polygons, for messages.

    Raises:
        UserError: the polygons are invalid.
    """
    left, bottom = ((number * BLOCK - margin) / 100 for number in block)
    transform = Affine(cell / 100, 0, left, 0, cell / 100, bottom)
    try:
        inside = rasterize(polygons, (side, side), transform=transform, dtype="uint8")
    except (RasterioError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{flag}: its polygons cannot be used ({error})") from None
    return inside.astype(bool)


def _scaled(coordinates: Any, unit: float) -> Any:
    if isinstance(coordinates[0], (int, float)):
        return [float(value) * unit for value in coordinates[:2]]
    return [_scaled(each, unit) for each in coordinates]


def _lowest(partition: Partition, block: Block) -> np.ndarray:
    """The lowest height in every cell of a block and its margin, metres; infinite if empty."""
    none = np.iinfo(np.int32).max
    lowest = np.full(_WIDE * _WIDE, none, np.int32)
    for i, j, records in partition.around(block, _MARGIN):
        np.minimum.at(lowest, (j // CELL) * _WIDE + i // CELL, records["z"])
    return np.where(lowest < none, lowest * HEIGHT_STEP, np.inf).reshape(_WIDE, _WIDE)


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
    sizes = np.bincount(parts.ravel())
    road = np.zeros_like(flat)
    for part in np.flatnonzero(sizes >= _SMALLEST_ROAD):
        if part and not _is_above_kerbs(parts == part, raised, height):
            road |= parts == part
    holes, _ = ndimage.label(~road)
    hole_sizes = np.bincount(holes.ravel())
    small = hole_sizes <= _LARGEST_HOLE
    small[0] = False
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
    weight = ndimage.gaussian_filter(mask.astype(float), 3)
    # Relative to one height, so that the sums keep their precision.
    middle = float(np.median(lowest[mask])) if mask.any() else 0.0
    total = ndimage.gaussian_filter(np.where(mask, lowest - middle, 0.0), 3)
    level = np.full(mask.shape, np.nan)
    level[mask] = middle + total[mask] / weight[mask]
    return level
