"""The points of a scan and of those around it, sorted on disk by blocks of the map.

Blocks and cells are counted from the origin of the map, so that files and scans of different days
share one grid. Points are stored by centimetres, so that the size of cells can be chosen later.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import laspy
import numpy as np
from laspy.point.record import ScaleAwarePointRecord
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.las import Scan, read_points
from crn.system.files import writing

log = logging.getLogger(__name__)

BLOCK = 2560  # centimetres on a side: whole cells and whole tiles of every size
CENTIMETRE = 0.01
HEIGHT_STEP = 1e-4  # metres
NOISE_CLASSES = (7, 18)
SOURCES = 256  # a scan and its neighbours; those beyond are one

# A point on the border between cells belongs to the upper one, whatever its rounding.
_BORDER = 1e-3
_HIGHEST = 2e5  # metres; larger numbers are not heights
# A point: centimetres from the corner of its block, its scan, and its place in that.
RECORD = np.dtype(
    {
        "names": ["i", "j", "z", "intensity", "kind", "source", "index"],
        "formats": ["<u2", "<u2", "<i4", "<u2", "u1", "u1", "<u4"],
    }
)
_NEEDED = (
    laspy.DecompressionSelection.base()
    .decompress_z()
    .decompress_intensity()
    .decompress_classification()
    .decompress_flags()
)

Block = tuple[int, int]


def centimetres(scan: Scan, points: ScaleAwarePointRecord) -> tuple[np.ndarray, np.ndarray]:
    """The centimetre cells of points, counted east and north: (N,) int64 each."""
    steps = (scan.steps(points, axis, CENTIMETRE) for axis in (0, 1))
    east, north = (np.floor(each + _BORDER, out=each).astype(np.int64) for each in steps)
    return east, north


def heights(scan: Scan, points: ScaleAwarePointRecord) -> np.ndarray:
    """Heights (N,) in steps of `HEIGHT_STEP`, rounded, float64."""
    z = scan.steps(points, 2, HEIGHT_STEP)
    return np.floor(z + (0.5 + _BORDER), out=z)


def usable(points: ScaleAwarePointRecord) -> np.ndarray:
    """Which points (N,) may belong to a surface: last returns, neither noise nor withheld.

    Return number 0 of 1, which many files have, is the first and last.
    """
    number, of = (np.asarray(each) for each in (points.return_number, points.number_of_returns))
    keep = np.maximum(number, 1) >= of
    keep &= np.asarray(points.withheld) == 0
    kind = np.asarray(points.classification)
    for noise in NOISE_CLASSES:
        keep &= kind != noise
    return keep


def around(blocks: Collection[Block], reach: int) -> set[Block]:
    """The blocks and those up to ``reach`` blocks around them."""
    steps = range(-reach, reach + 1)
    return {(east + i, north + j) for east, north in blocks for i in steps for j in steps}


def append(path: Path, array: np.ndarray) -> None:
    """Add an array to the end of a file.

    Raises:
        UserError: the system refuses to.
    """
    with writing(path), path.open("ab") as file:
        file.write(np.ascontiguousarray(array).data)


class Partition:
    """The points of all blocks, each block in a file of `RECORD`.

    Attributes:
        classes: (`SOURCES`, 256) number of points of each class in the scan (0) and its neighbours.
        own: the blocks with points of the scan.
        offsets: (`SOURCES`,) how much higher each is than the scan, in steps of `HEIGHT_STEP`.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self.classes = np.zeros((SOURCES, 256), np.int64)
        self.offsets = np.zeros(SOURCES, np.int32)
        self.own: set[Block] = set()
        self._folder = folder
        self._blocks: set[Block] = set()
        with writing(folder):
            folder.mkdir(parents=True)

    @property
    def blocks(self) -> list[Block]:
        """The blocks with points, as numbers east and north, sorted."""
        return sorted(self._blocks)

    def fill(
        self, scan: Scan, neighbours: Sequence[Scan], reach: int, stored: Path | None = None
    ) -> None:
        """Read a scan, and the points of its neighbours near it.

        Args:
            scan: the scan.
            neighbours: other scans; one that is damaged is left out.
            reach: number of blocks around those of the scan for which neighbours are read.
            stored: a file that receives the points of the scan, uncompressed.

        Raises:
            UserError: the scan is damaged, no point is usable, or the disk is full.
        """
        total = scan.points + sum(each.points for each in neighbours)
        with tqdm(total=total, unit="points", unit_scale=True, desc="read", disable=None) as bar:
            done = 0
            for points in read_points(scan, None if stored else _NEEDED):
                self._add(scan, 0, points, done, None)
                if stored:
                    append(stored, points.array)
                done += len(points)
                bar.update(len(points))
            if not self._blocks:
                raise UserError(
                    f"{scan.path}: none of {scan.points:,} points can be used: each is withheld, "
                    "noise (classes 7 and 18), or not the last return of its pulse"
                )
            self.own = set(self._blocks)
            wanted = around(self.own, reach)
            for number, neighbour in enumerate(neighbours, 1):
                try:
                    for points in read_points(neighbour, _NEEDED):
                        self._add(neighbour, min(number, SOURCES - 1), points, 0, wanted)
                        bar.update(len(points))
                except UserError as error:
                    log.warning("%s: without its neighbour: %s", scan.path, error)

    def _add(
        self,
        scan: Scan,
        source: int,
        points: ScaleAwarePointRecord,
        done: int,
        wanted: set[Block] | None,
    ) -> None:
        z = heights(scan, points)
        keep = usable(points)
        keep &= abs(z) <= _HIGHEST / HEIGHT_STEP
        kinds = np.asarray(points.classification)
        self.classes[source] += np.bincount(kinds.compress(keep), minlength=256)
        i, j = centimetres(scan, points)
        if wanted is not None:
            for places, numbers in zip((i, j), zip(*wanted, strict=True), strict=True):
                keep &= (places >= min(numbers) * BLOCK) & (places < (max(numbers) + 1) * BLOCK)
        index = np.arange(done, done + len(z), dtype=np.uint32)
        values = [i, j, z, points.array["intensity"], kinds, index]
        if not keep.all():
            values = [each.compress(keep) for each in values]  # faster than by an index
        i, j, z, intensity, kinds, index = values
        if not len(i):
            return
        columns, rows = i // BLOCK, j // BLOCK
        records = np.empty(len(i), RECORD)
        records["i"], records["j"] = i - columns * BLOCK, j - rows * BLOCK
        records["z"], records["intensity"], records["kind"] = z, intensity, kinds
        records["source"], records["index"] = source, index
        for block, which in groups(columns, rows):
            if wanted is None or block in wanted:
                self.add(block, records if isinstance(which, slice) else records.take(which))

    def points(self, block: Block) -> np.ndarray:
        """The points of a block, (N,) of `RECORD`."""
        known = block in self._blocks
        return np.fromfile(self._path(block), RECORD) if known else np.empty(0, RECORD)

    def add(self, block: Block, records: np.ndarray) -> None:
        """Add points to a block."""
        if len(records):
            self._blocks.add(block)
            append(self._path(block), records)

    def drop(self, block: Block) -> None:
        """Leave out the points of a block."""
        self._blocks.discard(block)

    def around(
        self, block: Block, margin: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The points of a block and up to ``margin`` centimetres around it.

        Yields:
            Columns and rows (N,) int32 in centimetres from the lower left corner of the block with
            its margin, and the records; one block after another.
        """
        last = BLOCK + 2 * margin
        for neighbour in sorted(around({block}, 1) & self._blocks):
            records = self.points(neighbour)
            steps = [(neighbour[n] - block[n]) * BLOCK + margin for n in (0, 1)]
            for axis, step in zip("ij", steps, strict=True):
                if step < 0:
                    records = records.compress(records[axis] >= -step)
                elif step + BLOCK > last:
                    records = records.compress(records[axis] < last - step)
            i, j = (records[a].astype(np.int32) + s for a, s in zip("ij", steps, strict=True))
            yield i, j, records

    def _path(self, block: Block) -> Path:
        return self._folder / f"{block[0]}_{block[1]}.points"


def groups(columns: np.ndarray, rows: np.ndarray) -> Iterator[tuple[Block, np.ndarray | slice]]:
    """Yield each block with points and the indices of its points, in order."""
    left, bottom = int(columns.min()), int(rows.min())
    wide, high = int(columns.max()) - left + 1, int(rows.max()) - bottom + 1
    if wide * high == 1:
        yield (left, bottom), slice(None)
        return
    number = (columns - left) * high + (rows - bottom)
    if wide * high < 1 << 16:  # unless a stray point lies far from the others
        number = number.astype(np.uint16)  # which are sorted much faster
    order = np.argsort(number, kind="stable")
    ends = np.flatnonzero(np.diff(number[order])) + 1
    for index in np.split(order, ends):
        yield (int(columns[index[0]]), int(rows[index[0]])), index
