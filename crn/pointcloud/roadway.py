"""The road in the scans: its points by blocks, its levels and its density."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.las import Scan
from crn.pointcloud.partition import BlockArrays, Partition
from crn.pointcloud.raster import FEWEST_POINTS, PATCH_AREA, densities
from crn.pointcloud.surface import Road, choose_road
from crn.pointcloud.vectors import Areas

log = logging.getLogger(__name__)

_PERCENT = (1.0, 99.0)  # percentiles of intensity that are black and white


@dataclass(frozen=True)
class Roadway:
    """The road.

    Attributes:
        where: what was read, for messages.
        points: the points of the road.
        road: the rule that selects them.
        levels: the `Road.level` of every block.
        density: points per square metre of all patches of the road.
        intensities: (65536,), number of points with each intensity.
    """

    where: str
    points: Partition
    road: Road
    levels: BlockArrays
    density: np.ndarray
    intensities: np.ndarray

    @property
    def summary(self) -> str:
        """The area and density of the road, and the rule by which it was found."""
        area = len(self.density) * PATCH_AREA
        sparse = np.count_nonzero(self.density < FEWEST_POINTS) * PATCH_AREA
        text = f"{area:,.0f} m2 of road with {np.median(self.density):,.0f} points/m2"
        if sparse > area / 4:
            text += f"; {sparse:,.0f} m2 with fewer than {FEWEST_POINTS} hardly fill a tile"
        return f"{text}, by {self.road.rule}"

    def intensity_range(self) -> tuple[float, float]:
        """The intensities that become black and white.

        Raises:
            UserError: nearly all intensities are equal.
        """
        below = np.cumsum(self.intensities)
        low, high = (int(np.searchsorted(below, each / 100 * below[-1])) for each in _PERCENT)
        if low == high:
            raise UserError(
                f"{self.where}: nearly all points of the road have intensity {low}, which tells "
                "nothing; --no-intensity uses heights only"
            )
        return float(low), float(high)


def find_road(scans: Sequence[Scan], polygons: Areas | None, folder: Path) -> Roadway:
    """Read all scans and keep the points of the road, in new folders in ``folder``.

    Raises:
        UserError: a file is damaged, there is no road, or the disk is full.
    """
    where = str(scans[0].path) if len(scans) == 1 else f"{scans[0].path} and {len(scans) - 1} more"
    everything, points = Partition(folder / "all"), Partition(folder / "road")
    levels = BlockArrays(folder / "levels")
    everything.fill(scans)
    road = choose_road(everything.classes, polygons)
    density = [np.empty(0)]
    intensities = np.zeros(1 << 16, np.int64)
    for block in tqdm(everything.blocks, unit="blocks", desc="find the road", disable=None):
        records = everything.points(block)
        level = road.level(everything, block)
        if level is not None:
            levels.keep(block, level)
        i, j, z = (records[name] for name in "ijz")
        records = records[road.of_road(records["kind"], i, j, z, level)]
        points.add(block, records)
        density.append(densities(records))
        intensities += np.bincount(records["intensity"], minlength=1 << 16)
    if not points.blocks:
        count, found = everything.classes.sum(), np.flatnonzero(everything.classes)
        raise UserError(
            f"{where}: no road was found by {road.rule}, in {count:,} points of class "
            f"{', '.join(map(str, found[:9]))}; give its polygons with --road"
        )
    shutil.rmtree(folder / "all")
    roadway = Roadway(where, points, road, levels, np.concatenate(density), intensities)
    log.info("%s", roadway.summary)
    return roadway
