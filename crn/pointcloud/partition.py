"""All points of all files, sorted into blocks of the map on disk: the only decoding but painting's.

Blocks and cells are counted from the origin of the map, so that several files, and scans of other
days, share one grid. A cell of 2, 4 or 8 cm is 2, 4 or 8 cells of a centimetre, so which cell size
fits can be told afterwards.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import laspy
import numpy as np
from laspy.point.record import ScaleAwarePointRecord
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.las import Scan, read_points
from crn.system.files import writing

BLOCK = 2560  # centimetres on a side: whole cells and whole tiles of every size
CENTIMETRE = 0.01
HEIGHT_STEP = 1e-4  # metres
NOISE_CLASSES = (7, 18)

# What lies on a border between cells goes to the one above it, whatever rounding makes of it.
_BORDER = 1e-3
_HIGHEST = 2e5  # metres; beyond it are no heights
RECORD = np.dtype(
    [("i", "<u2"), ("j", "<u2"), ("z", "<i4"), ("intensity", "<u2"), ("kind", "u1"), ("_", "u1")]
)
_NEEDED = (
    laspy.DecompressionSelection.base()
    .decompress_z()
    .decompress_intensity()
    .decompress_classification()
    .decompress_flags()
)

Block = tuple[int, int]


@dataclass
class Counts:
    """What was found while reading.

    Attributes:
        points: all of them.
        withheld, noise, not_last: those that were left out, by the first reason.
        classes: (256,) of those that were not.
    """

    points: int = 0
    withheld: int = 0
    noise: int = 0
    not_last: int = 0
    classes: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    @property
    def kept(self) -> int:
        """Points that were not left out."""
        return int(self.classes.sum())


def centimetres(scan: Scan, points: ScaleAwarePointRecord) -> tuple[np.ndarray, np.ndarray]:
    """The cells of a centimetre that points are in, counted east and north: (N,) int64 each."""
    steps = (scan.steps(points, axis, CENTIMETRE) for axis in (0, 1))
    east, north = (np.floor(each + _BORDER, out=each).astype(np.int64) for each in steps)
    return east, north


def heights(scan: Scan, points: ScaleAwarePointRecord) -> np.ndarray:
    """Heights (N,) in steps of `HEIGHT_STEP`, rounded, float64."""
    z = scan.steps(points, 2, HEIGHT_STEP)
    return np.floor(z + (0.5 + _BORDER), out=z)


def usable(points: ScaleAwarePointRecord, counts: Counts | None = None) -> np.ndarray:
    """Which points (N,) may be of a surface: no noise, not withheld, the last of their pulse."""
    keep = np.asarray(points.withheld) == 0
    withheld = len(keep) - np.count_nonzero(keep)
    kinds = np.asarray(points.classification)
    keep &= (kinds != NOISE_CLASSES[0]) & (kinds != NOISE_CLASSES[1])
    noise = len(keep) - np.count_nonzero(keep) - withheld
    keep &= np.asarray(points.return_number) >= np.asarray(points.number_of_returns)
    if counts is not None:
        counts.points += len(keep)
        counts.withheld += withheld
        counts.noise += noise
        counts.not_last += len(keep) - np.count_nonzero(keep) - withheld - noise
    return keep


class Partition:
    """Points in a folder, by block: a file of `RECORD` for each."""

    def __init__(self, folder: Path) -> None:
        """Use an empty folder."""
        self.folder = folder
        self.counts = Counts()
        self._blocks: set[Block] = set()

    @property
    def blocks(self) -> list[Block]:
        """Those with points, by their numbers east and north, sorted."""
        return sorted(self._blocks)

    def fill(self, scans: Sequence[Scan]) -> None:
        """Read all scans.

        Raises:
            UserError: a file is damaged, no point is of use, or the disk is full.
        """
        total = sum(scan.points for scan in scans)
        with tqdm(total=total, unit="points", unit_scale=True, desc="read", disable=None) as bar:
            for scan in scans:
                for points in read_points(scan, _NEEDED):
                    self._add(scan, points)
                    bar.update(len(points))
        counts = self.counts
        if not counts.kept:
            raise UserError(
                f"{scans[0].path}: of {counts.points:,} points none is left: {counts.withheld:,} "
                f"are withheld, {counts.noise:,} are noise (classes 7 and 18), {counts.not_last:,} "
                "are not the last return of their pulse"
            )

    def _add(self, scan: Scan, points: ScaleAwarePointRecord) -> None:
        keep = usable(points, self.counts)
        i, j = centimetres(scan, points)
        z = heights(scan, points)
        keep &= abs(z) <= _HIGHEST / HEIGHT_STEP
        values = [i, j, z, points.array["intensity"], np.asarray(points.classification)]
        if not keep.all():
            values = [each[keep] for each in values]
        if not len(values[0]):
            return
        i, j, z, intensity, kinds = values
        columns, rows = i // BLOCK, j // BLOCK
        records = np.zeros(len(i), RECORD)
        records["i"], records["j"] = i - columns * BLOCK, j - rows * BLOCK
        records["z"], records["intensity"], records["kind"] = z, intensity, kinds
        self.counts.classes += np.bincount(kinds, minlength=256)
        for block, index in groups(columns, rows):
            self.add(block, records[index])

    def has(self, block: Block) -> bool:
        """Whether a block has points."""
        return block in self._blocks

    def points(self, block: Block) -> np.ndarray:
        """The points of a block, (N,) of `RECORD`."""
        return np.fromfile(self._path(block), RECORD)

    def add(self, block: Block, records: np.ndarray) -> None:
        """Add points to a block."""
        if len(records):
            self._blocks.add(block)
            self._write(block, records)

    def around(
        self, block: Block, margin: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Points of a block and up to ``margin`` centimetres around it.

        Yields:
            Columns and rows (N,) int32 in centimetres from the lower left corner of the block with
            its margin, and the records; for one block after another.
        """
        last = BLOCK + 2 * margin
        for neighbour in with_neighbours(block):
            if neighbour not in self._blocks:
                continue
            records = self.points(neighbour)
            steps = [(neighbour[n] - block[n]) * BLOCK + margin for n in (0, 1)]
            for axis, step in zip("ij", steps, strict=True):
                if step < 0:
                    records = records[records[axis] >= -step]
                elif step + BLOCK > last:
                    records = records[records[axis] < last - step]
            i, j = (records[a].astype(np.int32) + s for a, s in zip("ij", steps, strict=True))
            yield i, j, records

    def _path(self, block: Block) -> Path:
        return self.folder / f"{block[0]}_{block[1]}.points"

    def _write(self, block: Block, records: np.ndarray) -> None:
        with writing(self._path(block)), open(self._path(block), "ab") as file:
            file.write(np.ascontiguousarray(records).data)


def with_neighbours(block: Block) -> Iterable[Block]:
    """A block and the eight around it."""
    return ((block[0] + east, block[1] + north) for east in (-1, 0, 1) for north in (-1, 0, 1))


def groups(columns: np.ndarray, rows: np.ndarray) -> Iterator[tuple[Block, np.ndarray | slice]]:
    """The blocks (N,) that points are in, and for each the indices of its points, in order."""
    left, bottom = int(columns.min()), int(rows.min())
    wide, high = int(columns.max()) - left + 1, int(rows.max()) - bottom + 1
    if wide * high == 1:
        yield (left, bottom), slice(None)
        return
    if wide * high < 1 << 16:
        number = ((columns - left) * high + (rows - bottom)).astype(np.uint16)
    else:  # a stray point, far from the others
        _, number = np.unique(np.stack((columns, rows)), axis=1, return_inverse=True)
        number = number.ravel()
    order = np.argsort(number, kind="stable")
    ends = np.flatnonzero(np.diff(number[order])) + 1
    for index in np.split(order, ends):
        yield (int(columns[index[0]]), int(rows[index[0]])), index
