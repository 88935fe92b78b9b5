"""All points of all files, sorted on disk by blocks of the map.

Blocks and cells are counted from the origin of the map, so that files and scans of different days
share one grid. Points are stored by centimetres, so that the size of cells can be chosen later.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
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

# A point on the border between cells belongs to the upper one, whatever its rounding.
_BORDER = 1e-3
_HIGHEST = 2e5  # metres; larger numbers are not heights
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
    """Which points (N,) may belong to a surface: last returns, neither noise nor withheld."""
    keep = np.asarray(points.return_number) >= np.asarray(points.number_of_returns)
    keep &= np.asarray(points.withheld) == 0
    return keep & ~np.isin(np.asarray(points.classification), NOISE_CLASSES)


class Partition:
    """The points of all blocks, each block in a file of `RECORD`.

    Attributes:
        classes: (256,) number of points of each class that `fill` has kept.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self.classes = np.zeros(256, np.int64)
        self._folder = folder
        self._blocks: set[Block] = set()
        with writing(folder):
            folder.mkdir()

    @property
    def blocks(self) -> list[Block]:
        """The blocks with points, as numbers east and north, sorted."""
        return sorted(self._blocks)

    def fill(self, scans: Sequence[Scan]) -> None:
        """Read all scans.

        Raises:
            UserError: a file is damaged, no point is usable, or the disk is full.
        """
        total = sum(scan.points for scan in scans)
        with tqdm(total=total, unit="points", unit_scale=True, desc="read", disable=None) as bar:
            for scan in scans:
                for points in read_points(scan, _NEEDED):
                    self._add(scan, points)
                    bar.update(len(points))
        if not self._blocks:
            raise UserError(
                f"{scans[0].path}: none of {total:,} points can be used: each is withheld, noise "
                "(classes 7 and 18), or not the last return of its pulse"
            )

    def _add(self, scan: Scan, points: ScaleAwarePointRecord) -> None:
        keep = usable(points)
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
        self.classes += np.bincount(kinds, minlength=256)
        for block, index in groups(columns, rows):
            self.add(block, records[index])

    def points(self, block: Block) -> np.ndarray:
        """The points of a block, (N,) of `RECORD`."""
        return np.fromfile(self._path(block), RECORD)

    def add(self, block: Block, records: np.ndarray) -> None:
        """Add points to a block."""
        if len(records):
            self._blocks.add(block)
            with writing(self._path(block)), open(self._path(block), "ab") as file:
                file.write(np.ascontiguousarray(records).data)

    def around(
        self, block: Block, margin: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The points of a block and up to ``margin`` centimetres around it.

        Yields:
            Columns and rows (N,) int32 in centimetres from the lower left corner of the block with
            its margin, and the records; one block after another.
        """
        last = BLOCK + 2 * margin
        near = [(block[0] + east, block[1] + north) for east in (-1, 0, 1) for north in (-1, 0, 1)]
        for neighbour in near:
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
        return self._folder / f"{block[0]}_{block[1]}.points"


class BlockArrays:
    """An array for each block, each in a file of a folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self._folder = folder
        with writing(folder):
            folder.mkdir()

    def keep(self, block: Block, array: np.ndarray) -> None:
        """Write the array of a block; all are written before any is read.

        Raises:
            UserError: the system refuses to.
        """
        with writing(self._folder):
            np.save(self._path(block), array)

    def of(self, block: Block) -> np.ndarray | None:
        """The array of a block; None if it has none."""
        return _mapped(self._path(block))

    def _path(self, block: Block) -> Path:
        return self._folder / f"{block[0]}_{block[1]}.npy"


@lru_cache(maxsize=32)
def _mapped(path: Path) -> np.ndarray | None:
    return np.load(path, mmap_mode="r") if path.exists() else None


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
