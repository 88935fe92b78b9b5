"""Small made-up scans, a scorer that stands in for a model, and the commands on them."""

from pathlib import Path

import laspy
import numpy as np
import pyproj
import rasterio

from crn.pointcloud.layers import layer_path
from crn.pointcloud.score import score_scans
from crn.pointcloud.street import CRS, Street, make_street
from crn.pointcloud.street_ground import Damage
from crn.pointcloud.tiles import TileSet

POTHOLE = Damage("pothole", 8.0, -1.4, (0.4,), 0.04)
LAYERS = ("score", "height_mm", "intensity")
TILES = TileSet(cell=4, intensity_range=(5000.0, 26_000.0))


class Depth:
    """Scores a cell by its depth in mm, and remembers the tiles that it was given."""

    name = "depth"

    def __init__(self) -> None:
        self.tiles = 0
        self.tags = {"model": "depth"}

    def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:
        assert (height.dtype, intensity.dtype) == (np.uint16, np.uint8)
        self.tiles += len(height)
        return 60 - height.astype(np.float32) / 65535 * 120


def small_street(**more) -> Street:
    """Sixteen metres with a pothole."""
    return make_street(16, [POTHOLE], seed=3, **more)


def write_las(
    path: Path,
    street: Street,
    order: np.ndarray | slice = slice(None),
    crs: str | None = CRS,
    unit: float = 1.0,
    scale: float = 0.001,
    point_format: int = 6,
    version: str = "1.4",
    **dimensions: np.ndarray | int,
) -> Path:
    """Write points of a street.

    Args:
        path: the file; compressed where its name ends in .laz.
        street: of it.
        order: which points, in which order.
        crs: None leaves it out.
        unit: metres in a unit of the file.
        scale: metres in a step of its whole numbers, which are the same in every unit.
        point_format, version: of the file.
        dimensions: others, by their names.
    """
    header = laspy.LasHeader(version=version, point_format=point_format)
    offsets = np.floor(street.xyz.min(0))
    header.scales, header.offsets = np.full(3, scale) / unit, offsets / unit
    if crs is not None:
        header.add_crs(pyproj.CRS(crs))
    points = laspy.ScaleAwarePointRecord.zeros(len(street.xyz), header=header)
    for name, whole in zip("XYZ", np.rint((street.xyz - offsets) / scale).T, strict=True):
        points[name] = whole
    points.intensity = street.intensity
    points.return_number = points.number_of_returns = np.ones(len(points), np.uint8)
    for name, values in dimensions.items():
        points[name][:] = values
    with laspy.open(path, "w", header=header) as writer:
        writer.write_points(points[np.arange(len(points))[order]])
    return path


def run_score(
    scans: list[Path], out: Path, threshold: float | None = 20.0, tiles: TileSet = TILES, **more
) -> Depth:
    """Score scans by their depth, as the command does."""
    scorer = Depth()
    score_scans(scans, out, tiles, scorer, threshold=threshold, threshold_source="a test", **more)
    return scorer


def layer(folder: Path, name: str) -> np.ndarray:
    """A picture as float32 bits, so that NaN equals NaN."""
    with rasterio.open(layer_path(folder, name)) as file:
        cells = file.read(1)
    cells[np.isnan(cells)] = np.nan  # without a sign
    return cells.view(np.uint32)
