"""Which points are of the road: by their class, by polygons, or by a simple filter of this program.

The filter knows three things of roads: what stands on them is narrower than 4.5 m, they are not
steep, and a kerb ends them, below which the road is. It takes a driveway, a cycle path without a
kerb or a square for road, too: classes or polygons that others have made are better.
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

CELL = 16  # centimetres, in which the road is told from the rest
ROAD_CLASS, GROUND_CLASS = 11, 2
ABOVE, BELOW = 0.10, 0.15  # metres around its level in which points are of the road

_EDGE = 50  # cells of the filter's view beyond a block
_MARGIN = _EDGE * CELL
_WIDE = BLOCK // CELL + 2 * _EDGE
_WIDEST_OBJECT = 28  # cells: 4.5 m
_OVER_OPENING = 0.15  # what is higher above the opened surface stands on it
_KERB = 0.05
_STEEPEST = 0.15
_SMALLEST_ROAD = 8 / 0.16**2  # cells: 8 m2
_LARGEST_HOLE = 2 / 0.16**2  # which a pothole may be


@dataclass(frozen=True)
class Road:
    """How points of the road are told from others.

    Attributes:
        rule: in words.
        classes: of its points; None where their class says nothing.
        polygons: GeoJSON geometries in metres that it lies in; None without.
    """

    rule: str
    classes: tuple[int, ...] | None = None
    polygons: tuple[dict[str, Any], ...] | None = None

    def level(self, partition: Partition, block: Block) -> np.ndarray | None:
        """The height of the road (S, S) in a block, float32 metres, NaN where there is none.

        None where classes decide, and heights do not count.
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
        """Which points (N,) of a block are of the road.

        Args:
            kind: their classes.
            i, j: centimetres from the lower left corner of the block.
            z: heights in steps of `HEIGHT_STEP`.
            level: of the block, see above.
        """
        if level is None:
            assert self.classes is not None
            return np.isin(kind, self.classes)
        above = z * HEIGHT_STEP - level[j // CELL, i // CELL]
        return (above <= ABOVE) & (above >= -BELOW)  # not where the level is NaN


def choose_road(classes: np.ndarray, polygons: tuple[dict[str, Any], ...] | None) -> Road:
    """The way that what is known of the points allows.

    Args:
        classes: (256,) how many points there are of each.
        polygons: of ``--road``.
    """
    if polygons is not None:
        return Road("polygons of --road", polygons=polygons)
    for kind, name in ((ROAD_CLASS, "road"), (GROUND_CLASS, "ground")):
        if classes[kind]:
            return Road(f"class {kind} ({name})", classes=(kind,))
    return Road("the filter of this program")


def read_polygons(path: Path, unit: float, flag: str) -> tuple[dict[str, Any], ...]:
    """Polygons of a GeoJSON file in the scan's coordinates, turned into metres.

    Args:
        path: the file.
        unit: metres in a unit of its coordinates.
        flag: what asked for it, for messages.

    Raises:
        UserError: it cannot be read, or holds none.
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
        raise UserError(f"{flag} {path}: is no GeoJSON file") from None
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
        polygons: of `read_polygons`.
        block, margin: where the cells begin, so many centimetres before the block.
        cell: centimetres.
        side: cells.
        flag: for messages.

    Raises:
        UserError: the polygons are none.
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
    """The lowest height in every cell of a block and its margin, metres; infinite without any."""
    none = np.iinfo(np.int32).max
    lowest = np.full(_WIDE * _WIDE, none, np.int32)
    for i, j, records in partition.around(block, _MARGIN):
        np.minimum.at(lowest, (j // CELL) * _WIDE + i // CELL, records["z"])
    return np.where(lowest < none, lowest * HEIGHT_STEP, np.inf).reshape(_WIDE, _WIDE)


def _opened(lowest: np.ndarray) -> np.ndarray:
    """The cells (S, S) bool of the ground: cars, posts and what hangs over it are not."""
    opened = ndimage.minimum_filter(lowest, _WIDEST_OBJECT, mode="nearest")
    opened[np.isinf(opened)] = -np.inf
    # The window of an even width is shifted back.
    opened = ndimage.maximum_filter(opened, _WIDEST_OBJECT, mode="nearest", origin=-1)
    with np.errstate(invalid="ignore"):
        return np.isfinite(lowest) & (lowest - opened <= _OVER_OPENING)


def _largest_below_kerbs(lowest: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The ground (S, S) bool that is flat, large, and not above a kerb."""
    height = np.where(ground, lowest, np.inf)
    # The upper cells at every step: the lower side keeps its last cell.
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
    """Whether a part is mostly the upper side of the steps along its border."""
    border = raised & ndimage.binary_dilation(part, iterations=2)
    count = ndimage.uniform_filter(part.astype(float), 5)
    beside = ndimage.uniform_filter(np.where(part, height, 0), 5)
    border &= count > 0.01
    step = height[border] - beside[border] / count[border]
    return int((step < _KERB / 2).sum()) > int((step >= _KERB / 2).sum())


def _smoothed(lowest: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The height in a mask (S, S), smoothed within it; NaN outside."""
    weight = ndimage.gaussian_filter(mask.astype(float), 3)
    # About one height: the sums below keep their digits.
    middle = float(np.median(lowest[mask])) if mask.any() else 0.0
    total = ndimage.gaussian_filter(np.where(mask, lowest - middle, 0.0), 3)
    level = np.full(mask.shape, np.nan)
    level[mask] = middle + total[mask] / weight[mask]
    return level
