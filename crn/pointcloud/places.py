"""Places of damage: where scores are high, and what the heights say about them.

A place is a group of cells above the threshold, `_NEAR` apart at most, that cover the least area.
Its outline is that of the hole, crack or bump in the heights there; where the heights show nothing,
it is the group of cells itself.

Kinds: a *crack* is at least four times as long as it is wide on average, and at most 0.25 m wide;
of the others, a *pothole* is at least 15 mm deep, a *bump* at least 15 mm high, and a *patch* less
of either; *texture* shows in the scores only. Severities go by depth (or height) and by the
diameter of a circle of the same area; their table is modelled on the one for potholes in ASTM
D6433.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from rasterio.windows import Window
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

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
# Severities by depth in mm, up to 25, 50 and more, and by diameter in metres, up to 0.2, 0.45 and
# more.
_DEPTHS, _DIAMETERS = (25.0, 50.0), (0.2, 0.45)
_TABLE = (("low", "low", "medium"), ("low", "medium", "high"), ("medium", "medium", "high"))
_SHARES = np.geomspace(1e-7, 0.05, 60)  # of a sound road, above the thresholds that are tried
_PARKED = 3.0  # metres; half the width of gaps in the road that cars may have left
_COLUMNS = (
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
    "geometry",
)


def cells_above(
    layers: Path, grid: Grid, blocks: Iterable[Block], threshold: float
) -> pandas.DataFrame:
    """The ``row`` from the north, ``column`` and ``score`` of the cells above a threshold.

    Raises:
        UserError: there are far too many.
    """
    found, count = [], 0
    with rasterio.Env(**GDAL), rasterio.open(layer_path(layers, "score")) as file:
        for window in map(grid.window, blocks):
            score = file.read(1, window=window)
            row, column = np.nonzero(score > threshold)
            count += len(row)
            if count > _MOST_CELLS:
                raise UserError(
                    f"more than {count:,} cells have scores above {threshold:.6g}; give a higher "
                    "--threshold"
                )
            place = {"row": row + window.row_off, "column": column + window.col_off}
            found.append(pandas.DataFrame({**place, "score": score[row, column].astype(float)}))
    return pandas.concat(found, ignore_index=True)


def _groups(cells: pandas.DataFrame, cell: int, least_area: float) -> list[pandas.DataFrame]:
    """The groups of cells, a cell being `cell` cm wide, that cover the least area."""
    coarse = cells[["row", "column"]] // max(1, _NEAR // cell)
    number = coarse.groupby(["row", "column"], sort=False).ngroup()
    coarse = coarse.drop_duplicates()
    # Corners are adjacent.
    pairs = KDTree(coarse).query_pairs(1, p=np.inf, output_type="ndarray")
    shape = len(coarse), len(coarse)
    adjacent = coo_matrix((np.ones(len(pairs), bool), pairs.T), shape)
    group = connected_components(adjacent, directed=False)[1][number]
    is_large = (np.bincount(group) >= least_area * 1e4 / cell**2)[group]
    return [each for _, each in cells[is_large].groupby(group[is_large])]


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
    groups = _groups(cells_above(layers, grid, blocks, threshold), grid.cell, least_area)
    if first is not None:
        groups = sorted(groups, key=lambda cells: -cells["score"].max())[:first]
    with rasterio.Env(**GDAL), rasterio.open(layer_path(layers, "height_mm")) as heights:
        rows = [_place(cells, grid, heights) for cells in groups]
    rows = [row for row in rows if row["area_m2"] >= least_area]
    for row in rows:
        east, north = (int(row[name] * grid.unit * 100 // BLOCK) for name in ("east", "north"))
        scan = scans[blocks.get((east, north), 0)]
        row["scan"], row["date"] = scan.name, str(scan.header.creation_date or "")

    def badness(row: Mapping[str, Any]) -> tuple[int, float]:
        excess = (row["score_mean"] - threshold) * row["area_m2"]
        return SEVERITIES.index(row["severity"]), excess

    rows.sort(key=badness, reverse=True)
    frame = geopandas.GeoDataFrame(rows, columns=_COLUMNS, geometry="geometry", crs=grid.crs)
    # Several hot groups can lie in one hole.
    place, around = frame.sindex.query(frame.representative_point(), predicate="within")
    frame = frame.drop(index=place[around < place])
    return frame.assign(number=np.arange(1, len(frame) + 1)).reset_index(drop=True)


def _place(cells: pandas.DataFrame, grid: Grid, heights: Any) -> dict[str, Any]:
    """The properties and the outline of the place of a group of cells."""
    size = grid.cell / 100
    place = cells[["row", "column"]].to_numpy()
    for around in _AROUND:
        edge = round(around / size)
        (top, left), (bottom, right) = place.min(0) - edge, place.max(0) + edge + 1
        hot = np.zeros((bottom - top, right - left), bool)
        hot[tuple((place - (top, left)).T)] = True
        height = read(heights, Window(left, top, right - left, bottom - top))
        mask, depth = _outlined(height, hot, size)
        if not (mask[[0, -1]].any() or mask[:, [0, -1]].any()):
            break
    transform = grid.transform @ Affine.translation(int(left), int(top))
    rings = shapes(mask.astype(np.uint8), mask=mask, transform=transform)
    outline = shapely.union_all([shapely.geometry.shape(ring) for ring, _ in rings])
    area = float(mask.sum() * size**2)
    box = shapely.get_coordinates(shapely.oriented_envelope(outline))
    width, length = sorted(np.hypot(*np.diff(box[:3], axis=0).T) * grid.unit)
    kind = _kind(depth, length, area / length)
    return {
        "kind": kind,
        "severity": severity(abs(depth), area),
        "score_max": float(cells["score"].max()),
        "score_mean": float(cells["score"].mean()),
        "area_m2": round(area, 4),
        "depth_mm": round(depth, 1),
        "length_m": round(length, 2),
        "width_m": round(area / length if kind == "crack" else width, 2),
        "east": round(outline.centroid.x, 3),
        "north": round(outline.centroid.y, 3),
        "geometry": outline,
    }


def _kind(depth_mm: float, length: float, mean_width: float) -> str:
    """The kind of a place; its depth is 0 where the heights show nothing."""
    if depth_mm == 0:
        return "texture"
    if depth_mm > 0 and mean_width <= min(_CRACK_WIDTH, length / _CRACK_RATIO):
        return "crack"
    if abs(depth_mm) < _DEEP_MM:
        return "patch"
    return "pothole" if depth_mm > 0 else "bump"


def severity(depth_mm: float, area_m2: float) -> str:
    """Low, medium or high, by the depth or height."""
    diameter = 2 * np.sqrt(area_m2 / np.pi)
    return _TABLE[np.searchsorted(_DEPTHS, depth_mm)][np.searchsorted(_DIAMETERS, diameter)]


def _outlined(height: np.ndarray, hot: np.ndarray, size: float) -> tuple[np.ndarray, float]:
    """The hole or bump (H, W) bool at hot cells, and its depth in mm, negative for a bump.

    Heights are means of three by three cells, so that single noisy cells do not count, above the
    median around the hot cells. Where they show nothing, it is the hot cells with a depth of 0.

    Args:
        height: (H, W) mm, NaN where nothing is known.
        hot: (H, W) bool.
        size: metres on a side of a cell.
    """
    known = np.isfinite(height)
    share = ndimage.uniform_filter(known.astype(float), 3, mode="constant")
    mean = ndimage.uniform_filter(np.where(known, height, 0.0), 3, mode="constant")
    known &= share > 0.5
    level = mean / np.maximum(share, 1e-6)
    inside = ndimage.binary_fill_holes(hot) & known
    ring = level[known & (ndimage.distance_transform_edt(~hot) * size > _RING)]
    if not inside.any() or not len(ring):
        return hot, 0.0
    base = np.median(ring)
    noise = 1.4826 * np.median(abs(ring - base))
    low, high = np.quantile(level[inside] - base, (0.02, 0.98))
    sign = 1.0 if -low >= high else -1.0
    depth = sign * (base - level)
    limit = max(_OF_PEAK * max(-low, high), 3 * noise, _LEAST_MM)
    mask = ndimage.binary_propagation(inside & (depth > limit), mask=known & (depth > limit))
    mask = ndimage.binary_fill_holes(mask)
    if mask.sum() < max(_LEAST_CELLS, hot.sum() * _LEAST_SHARE):
        return hot, 0.0
    return mask, sign * float(depth[mask].max())


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
    threshold, found = float(cells["score"].max()), 0
    for each in cells["score"].quantile(1 - _SHARES / _SHARES[-1]):
        places = len(_groups(cells[cells["score"] > each], grid.cell, least_area))
        if places > false_places * length / 100:
            break
        threshold, found = float(each), places
    return threshold, f"{found} false places on {length:.0f} m of sound road in {layers}"


def road_length(layers: Path, grid: Grid, blocks: Iterable[Block]) -> float:
    """The length of the road in metres: its area by its width; parked cars stand on the road.

    The width is four times the mean distance to the edge, as it is of any strip.
    """
    step = 16 if grid.cell <= 2 else 4  # cells, as an overview has
    edge = 1024 // grid.cell  # cells around a block: 10 m
    size = step * grid.cell / 100
    parked = round(_PARKED / size)
    count = total = 0.0
    with rasterio.Env(**GDAL), rasterio.open(layer_path(layers, "score")) as file:
        for block in blocks:
            left, top, side, _ = grid.window(block).flatten()
            near = Window(left - edge, top - edge, side + 2 * edge, side + 2 * edge)
            gap = ndimage.distance_transform_edt(np.isnan(read(file, near, step)))
            # The road is widened, and as much is taken off the distance to its edge.
            far = ndimage.distance_transform_edt(gap <= parked) - parked
            inner = slice(edge // step, (edge + side) // step)
            far = far[inner, inner]
            far = far[far > 0] - 0.5
            count, total = count + len(far), total + far.sum()
    return count**2 / (4 * total) * size if total else 0.0
