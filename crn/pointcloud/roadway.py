"""The road in a scan: its points by blocks, and its density."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.las import Scan
from crn.pointcloud.partition import BLOCK, Block, Partition, around
from crn.pointcloud.raster import FEWEST_POINTS, PATCH_AREA, densities
from crn.pointcloud.surface import choose_road, lowest_heights
from crn.pointcloud.vectors import Areas

log = logging.getLogger(__name__)

AROUND = 2  # blocks around those of a scan in which its neighbours are read
_PERCENT = (1.0, 99.0)  # percentiles of intensity that are black and white
_PATCH = 32  # centimetres on a side, in which two scans are compared
_LEAST_SHARED = 20.0  # square metres of these, from which on their heights are brought together
_BLOCKS_HELD = 64  # whose lowest heights are in memory
_LEAST_AREA = 8  # square metres; less road, with nothing around it, is stray points


@dataclass(frozen=True)
class Roadway:
    """The road of a scan.

    Attributes:
        where: what was read, for messages.
        points: the points of the road, those of neighbours among them.
        rule: the rule that selects the road, in words.
        own: the blocks in which the scan itself has points of the road.
        density: points per square metre of all patches of the road in these.
        intensities: (65536,), number of its points of the road with each intensity.
    """

    where: str
    points: Partition
    rule: str
    own: tuple[Block, ...]
    density: np.ndarray
    intensities: np.ndarray

    @property
    def summary(self) -> str:
        """The area and density of the road, and the rule by which it was found."""
        return summary(self.density, [self.rule])


def summary(density: np.ndarray, rules: Sequence[str]) -> str:
    """The area and density of roads, and the rules by which they were found."""
    area = len(density) * PATCH_AREA
    sparse = np.count_nonzero(density < FEWEST_POINTS) * PATCH_AREA
    text = f"{area:,.0f} m2 of road with {np.median(density):,.0f} points/m2"
    if sparse > area / 4:
        text += f"; {sparse:,.0f} m2 with fewer than {FEWEST_POINTS} hardly fill a tile"
    return f"{text}, by {', '.join(dict.fromkeys(rules))}"


def intensity_range(intensities: np.ndarray, where: str) -> tuple[float, float]:
    """The intensities that become black and white.

    Args:
        intensities: (65536,), number of points with each intensity.
        where: what was read, for messages.

    Raises:
        UserError: nearly all intensities are equal.
    """
    below = np.cumsum(intensities)
    low, high = (int(np.searchsorted(below, each / 100 * below[-1])) for each in _PERCENT)
    if low == high:
        raise UserError(
            f"{where}: nearly all points of the road have intensity {low}, which tells nothing; "
            "--no-intensity uses heights only"
        )
    return float(low), float(high)


def find_road(
    scan: Scan,
    areas: Areas | None,
    folder: Path,
    neighbours: Sequence[Scan] = (),
    stored: Path | None = None,
) -> Roadway:
    """Read a scan and the points of its neighbours near it, and keep those of the road.

    In the blocks of the scan, and one block around these, the road is the same as if all scans were
    one.

    Args:
        scan: the scan.
        areas: areas of ``--road``; None: classes or the filter select the road.
        folder: a folder for temporary files.
        neighbours: the scans around it.
        stored: a file that receives the points of the scan, uncompressed.

    Raises:
        UserError: the scan is damaged, it has no road, or the disk is full.
    """
    where = str(scan.path)
    everything, points = Partition(folder / "all"), Partition(folder / "road")
    everything.fill(scan, neighbours, AROUND, stored)
    road = choose_road(scan.path, everything.classes, areas)

    @lru_cache(_BLOCKS_HELD)
    def lowest(block: Block) -> np.ndarray:
        return lowest_heights(everything.points(block))

    density: dict[Block, np.ndarray] = {}
    counts: dict[Block, int] = {}
    intensities = np.zeros(1 << 16, np.int64)
    higher: dict[int, list[np.ndarray]] = {}
    blocks = sorted(around(everything.own, 1) & set(everything.blocks))
    for block in tqdm(blocks, unit="blocks", desc="find the road", disable=None):
        records = everything.points(block)
        level = None
        if road.filtered.any():
            level = road.level(lowest, block)
        records = records.compress(road.of_road(records, level))
        points.add(block, records)
        counts[block] = len(records)
        for each, differences in _higher(records).items():
            higher.setdefault(each, []).append(differences)
        mine = records["intensity"][records["source"] == 0]
        if len(mine):
            density[block] = densities(records)
            intensities += np.bincount(mine, minlength=1 << 16)
    shutil.rmtree(folder / "all")
    for each, parts in higher.items():
        differences = np.concatenate(parts)
        if len(differences) * (_PATCH / 100) ** 2 >= _LEAST_SHARED:
            points.offsets[each] = round(float(np.median(differences)))
    strays = _strays({block: count for block, count in counts.items() if count})
    if density.keys() - strays:  # otherwise the density says what is wrong
        told = density.keys() & strays
        if told:
            log.warning(
                "%s: %d points of the road lie alone, far from the others, and are left out",
                *(where, sum(counts[block] for block in told)),
            )
        for block in strays:
            points.drop(block)
            density.pop(block, None)
    if not density:
        count, found = everything.classes[0].sum(), np.flatnonzero(everything.classes[0])
        raise UserError(
            f"{where}: no road was found by {road.rule}, in {count:,} points of class "
            f"{', '.join(map(str, found[:9]))}; give its areas with --road"
        )
    own, each_density = tuple(sorted(density)), np.concatenate(list(density.values()))
    return Roadway(where, points, road.rule, own, each_density, intensities)


def _higher(records: np.ndarray) -> dict[int, np.ndarray]:
    """How much higher each neighbour is than the scan, in the patches of a block that they share.

    Scans of two passes differ by centimetres, which would drown damage in the cells of both.

    Returns:
        For each neighbour, (N,) in steps of `HEIGHT_STEP`.
    """
    side = BLOCK // _PATCH
    sources = np.unique(records["source"])
    patch = (records["j"] // _PATCH).astype(np.int32) * side + records["i"] // _PATCH
    means = {}
    for each in sources if len(sources) > 1 and sources[0] == 0 else ():
        of_it = records["source"] == each
        with np.errstate(invalid="ignore"):
            total = np.bincount(patch[of_it], records["z"][of_it], side**2)
            means[int(each)] = total / np.bincount(patch[of_it], minlength=side**2)
    own = means.pop(0) if means else np.empty(0)
    return {each: (mean - own)[np.isfinite(mean - own)] for each, mean in means.items()}


def _strays(counts: dict[Block, int]) -> set[Block]:
    """The blocks of groups of blocks with hardly any points, of their number in each block."""
    left, strays = set(counts), set()
    while left:
        group = [left.pop()]
        for block in group:  # which grows meanwhile
            near = around({block}, 1) & left
            left -= near
            group += near
        if sum(counts[block] for block in group) < _LEAST_AREA * FEWEST_POINTS:
            strays.update(group)
    return strays
