"""Places of damage: where scores are high, and what the heights say about them.

A place is a group of cells above the threshold, `_NEAR` apart at most, that cover the least area.
Its outline is that of the hole, crack or bump in the heights there; where the heights show nothing,
it is the group of cells itself.

Kinds: a *crack* is at least four times as long as it is wide on average, and at most 0.25 m wide;
of the others, a *pothole* is at least 15 mm deep, a *bump* at least 15 mm high, and a *patch* less
of either; *texture* shows in the scores only. Severities follow the table of ASTM D6433 for
potholes, by depth (or height) and by the diameter of a circle of the same area.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from crn.errors import UserError
from crn.pointcloud.las import Scan
from crn.pointcloud.layers import GDAL, Grid, grid_of, layer_path, read
from crn.pointcloud.partition import BLOCK, Block

LEAST_AREA = 0.02  # square metres
SEVERITIES = ("low", "medium", "high")
FIRST = 20  # places to look at first, without a threshold

_MOST_CELLS = 5_000_000  # above the threshold
_NEAR = 12  # centimetres between the parts of a place
_AROUND = (0.5, 1.0, 2.0)  # metres around the hot cells in which the outline lies
_RING = 0.12  # metres around them that are not taken for the undamaged road
_LEAST_MM = 2.0  # of a hole or bump that is outlined
_LEAST_CELLS, _LEAST_SHARE = 4, 0.02  # and at least this share of the hot cells
_OF_PEAK = 0.25  # share of the depth at which the outline lies
_CRACK_RATIO, _CRACK_WIDTH = 4.0, 0.25
_DEEP_MM = 15.0
# Depth in mm from which, and the diameters in metres from which places are medium and high.
_STEPS = ((50.0, 0.0, 0.45), (25.0, 0.2, 0.45), (0.0, 0.45, np.inf))
_SHARES = np.geomspace(1e-7, 0.05, 60)  # of a sound road, above the thresholds that are tried


@dataclass(frozen=True)
class Cells:
    """Cells with high scores, sorted by their row and column.

    Attributes:
        place: (N, 2) int32, row from the north and column.
        score: (N,) float32.
        cell: side of a cell in centimetres.
    """

    place: np.ndarray
    score: np.ndarray
    cell: int

    def above(self, threshold: float) -> "Cells":
        """Those with a score above a threshold."""
        keep = self.score > threshold
        return Cells(self.place[keep], self.score[keep], self.cell)

    def groups(self, least_area: float) -> list[np.ndarray]:
        """The indices of the cells of every group that covers the least area."""
        row, column = (self.place // max(1, _NEAR // self.cell)).T.astype(np.int64)
        wide = int(column.max(initial=0)) + 3
        key, of = np.unique(row * wide + column, return_inverse=True)
        part = _connected(key, wide)[of]
        order = np.argsort(part, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
        least = least_area * 1e4 / self.cell**2
        return [each for each in groups if len(each) >= max(1, least)]


def _connected(key: np.ndarray, wide: int) -> np.ndarray:
    """The number (N,) of the group of cells, given sorted as row * wide + column (N,)."""
    pairs = []
    for step in (1, wide - 1, wide, wide + 1):  # corners are adjacent
        at = np.searchsorted(key, key + step).clip(0, max(0, len(key) - 1))
        found = np.flatnonzero(key[at] == key + step)
        pairs.append((found, at[found]))
    one, other = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(len(key), len(key)))
    return connected_components(graph, directed=False)[1]


def cells_above(layers: Path, grid: Grid, blocks: Iterable[Block], threshold: float) -> Cells:
    """The cells whose score is above a threshold.

    Raises:
        UserError: there are far too many.
    """
    places, scores, count = [np.empty((0, 2), np.int32)], [np.empty(0, np.float32)], 0
    with rasterio.Env(**GDAL), rasterio.open(layer_path(layers, "score")) as file:
        for window in map(grid.window, blocks):
            score = file.read(1, window=window)
            place = np.argwhere(score > threshold)
            count += len(place)
            if count > _MOST_CELLS:
                raise UserError(
                    f"more than {count:,} cells have scores above {threshold:.6g}; give a higher "
                    "--threshold"
                )
            scores.append(score[tuple(place.T)])
            places.append((place + np.array((window.row_off, window.col_off))).astype(np.int32))
    place, score = np.concatenate(places), np.concatenate(scores)
    order = np.lexsort((place[:, 1], place[:, 0]))
    return Cells(place[order], score[order], grid.cell)


def highest(layers: Path, grid: Grid, blocks: Iterable[Block], share: float) -> float:
    """The score that a share of the road exceeds, or some million cells; by every 16th.

    It is infinite without scores.
    """
    with rasterio.Env(**GDAL), rasterio.open(layer_path(layers, "score")) as file:
        scores = (file.read(1, window=grid.window(block)) for block in blocks)
        known = np.concatenate([each[np.isfinite(each)][::16] for each in scores])
    share = min(share, _MOST_CELLS / 3 / max(1, len(known) * 16))
    return float(np.quantile(known, 1 - share)) if len(known) else np.inf


def find_places(
    layers: Path,
    grid: Grid,
    blocks: Mapping[Block, int],
    scans: Sequence[Scan],
    threshold: float,
    least_area: float,
    first: int | None = None,
) -> geopandas.GeoDataFrame:
    """All places, the most severe first, in the coordinates of the map.

    Args:
        layers: folder of the layers.
        grid: their grid.
        blocks: the blocks with scores, each with the number of its scan.
        scans: the scans.
        threshold: of the scores.
        least_area: square metres.
        first: only so many with the highest scores; None: all.

    Raises:
        UserError: far too many cells are above the threshold.
    """
    cells = cells_above(layers, grid, blocks, threshold)
    groups = cells.groups(least_area)
    if first is not None:
        groups = sorted(groups, key=lambda index: -cells.score[index].max())[:first]
    with rasterio.Env(**GDAL), rasterio.open(layer_path(layers, "height_mm")) as heights:
        rows = [_place(cells.place[index], cells.score[index], grid, heights) for index in groups]
    rows = [row for row in rows if row["area_m2"] >= least_area]
    for row in rows:
        east, north = (int(row[name] * grid.unit * 100 // BLOCK) for name in ("east", "north"))
        scan = scans[blocks.get((east, north), 0)]
        row["scan"] = getattr(scan, "name", scan.path.name)
        row["date"] = str(scan.header.creation_date or "")
        row["excess"] = (row["score_mean"] - threshold) * row["area_m2"]
    columns = [*COLUMNS, "excess", "geometry"]
    frame = geopandas.GeoDataFrame(rows, columns=columns, geometry="geometry", crs=grid.crs)
    frame["severe"] = [SEVERITIES.index(each) for each in frame["severity"]]
    frame = frame.sort_values(["severe", "excess"], ascending=False, ignore_index=True)
    # Several hot groups can lie in one hole.
    one, other = frame.sindex.query(frame.geometry, predicate="intersects")
    shapes = np.asarray(frame.geometry)
    shared = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    again = (one < other) & (shared > shapely.area(shapes[other]) / 2)
    frame = frame.drop(index=np.unique(other[again])).reset_index(drop=True)
    frame["number"] = np.arange(1, len(frame) + 1)
    return frame.drop(columns=["severe", "excess"])


COLUMNS = (
    "number",
    "kind",
    "severity",
    "score_max",
    "score_mean",
    "area_m2",
    "depth_mm",
    "length_m",
    "width_m",
    "east",
    "north",
    "scan",
    "date",
)


def _place(cells: np.ndarray, score: np.ndarray, grid: Grid, heights: Any) -> dict[str, Any]:
    """The properties and the outline of the place of a group of cells (N, 2) with scores (N,)."""
    size = grid.cell / 100
    for around in _AROUND:
        edge = round(around / size)
        (top, left), (bottom, right) = cells.min(0) - edge, cells.max(0) + edge + 1
        hot = np.zeros((bottom - top, right - left), bool)
        hot[tuple((cells - (top, left)).T)] = True
        height = read(heights, Window(left, top, right - left, bottom - top))
        mask, depth = _outlined(height, hot, size)
        if not (mask[[0, -1]].any() or mask[:, [0, -1]].any()):
            break
    shows = mask.sum() >= max(_LEAST_CELLS, hot.sum() * _LEAST_SHARE)
    mask = mask if shows else hot
    transform = grid.transform @ Affine.translation(int(left), int(top))
    rings = shapes(mask.astype(np.uint8), mask=mask, transform=transform)
    outline = shapely.union_all([shapely.geometry.shape(ring) for ring, _ in rings])
    area = float(mask.sum() * size**2)
    box = shapely.oriented_envelope(outline)
    sides = np.hypot(*np.diff(shapely.get_coordinates(box.exterior)[:3], axis=0).T) * grid.unit
    length, width = float(max(sides)), float(min(sides))
    kind = "texture"
    if shows:
        mean_width = area / length
        narrow = length >= _CRACK_RATIO * mean_width and mean_width <= _CRACK_WIDTH
        if depth > 0 and narrow:
            kind, width = "crack", mean_width
        elif abs(depth) >= _DEEP_MM:
            kind = "pothole" if depth > 0 else "bump"
        else:
            kind = "patch"
    return {
        "number": 0,  # set once all are known
        "kind": kind,
        "severity": severity(abs(depth) if shows else 0.0, area),
        "score_max": float(score.max()),
        "score_mean": float(score.mean(dtype=np.float64)),
        "area_m2": round(area, 4),
        "depth_mm": round(depth, 1) if shows else 0.0,
        "length_m": round(length, 2),
        "width_m": round(width, 2),
        "east": round(outline.centroid.x, 3),
        "north": round(outline.centroid.y, 3),
        "geometry": outline,
    }


def severity(depth_mm: float, area_m2: float) -> str:
    """Low, medium or high."""
    diameter = 2 * np.sqrt(area_m2 / np.pi)
    medium, high = next(sizes for least, *sizes in _STEPS if depth_mm >= least)
    return SEVERITIES[int(diameter > medium) + int(diameter > high)]


def _outlined(height: np.ndarray, hot: np.ndarray, size: float) -> tuple[np.ndarray, float]:
    """The hole or bump (H, W) bool at hot cells, and its depth in mm, negative for a bump.

    Heights are means of three by three cells, so that single noisy cells do not count, above the
    median around the hot cells.

    Args:
        height: (H, W) mm, NaN where nothing is known.
        hot: (H, W) bool.
        size: metres on a side of a cell.
    """
    known = np.isfinite(height)
    share = ndimage.uniform_filter(known.astype(float), 3, mode="constant")
    mean = ndimage.uniform_filter(np.where(known, height, 0.0), 3, mode="constant")
    known &= share > 0.5
    level = np.where(known, mean / np.maximum(share, 1e-6), 0.0)
    inside = ndimage.binary_fill_holes(hot) & known
    far = ndimage.distance_transform_edt(~hot) * size
    ring = level[known & (far > _RING)]
    if not inside.any():
        return inside, 0.0
    base = float(np.median(ring)) if len(ring) else 0.0
    noise = 1.4826 * float(np.median(abs(ring - base))) if len(ring) else 0.0
    level -= base
    low, high = np.quantile(level[inside], (0.02, 0.98))
    sign = 1.0 if -low >= high else -1.0
    depth = -sign * level
    limit = max(_OF_PEAK * max(-low, high), 3 * noise, _LEAST_MM)
    mask = ndimage.binary_propagation(inside & (depth > limit), mask=known & (depth > limit))
    mask = ndimage.binary_fill_holes(mask)
    return mask, sign * float(depth[mask].max(initial=0.0))


def sound_threshold(
    layers: Path, tags: Mapping[str, str], false_places: float, least_area: float
) -> tuple[float, str]:
    """The lowest threshold that leaves few places on a road known to be sound.

    Thresholds are tried from the highest score down, until there are too many places.

    Args:
        layers: the result folder of the sound road.
        tags: those of the scorer, which has to be the same.
        false_places: how many places there may be per 100 m of road.
        least_area: of a place, square metres.

    Returns:
        The threshold, and what it means in words.

    Raises:
        UserError: the folder has no layers with scores, or they are of another model.
    """
    grid, blocks = grid_of(layers, "--threshold-from", tags)
    length = road_length(layers, grid, blocks)
    cells = cells_above(layers, grid, blocks, highest(layers, grid, blocks, _SHARES[-1]))
    threshold, found = float(cells.score.max(initial=-np.inf)), 0
    for each in np.quantile(cells.score, 1 - _SHARES / _SHARES[-1]) if len(cells.score) else ():
        places = len(cells.above(each).groups(least_area))
        if places > false_places * length / 100:
            break
        threshold, found = float(each), places
    return threshold, f"{found} false places on {length:.0f} m of sound road in {layers}"


def road_length(layers: Path, grid: Grid, blocks: Iterable[Block]) -> float:
    """The length of the road in metres: its area by its width.

    The width is four times the mean distance to the edge, as it is of any strip.
    """
    step = 16 if grid.cell <= 2 else 4  # cells, as an overview has
    edge = 1024 // grid.cell  # cells around a block: 10 m
    width = count = 0.0
    with rasterio.Env(**GDAL), rasterio.open(layer_path(layers, "score")) as file:
        for block in blocks:
            left, top, side, _ = grid.window(block).flatten()
            near = Window(left - edge, top - edge, side + 2 * edge, side + 2 * edge)
            far = ndimage.distance_transform_edt(np.isfinite(read(file, near, step)))
            inner = slice(edge // step, (edge + side) // step)
            far = far[inner, inner]
            far = far[far > 0] - 0.5
            count, width = count + len(far), width + 4 * far.sum()
    return count**2 / width * step * grid.cell / 100 if width else 0.0
