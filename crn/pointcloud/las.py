"""LAS and LAZ files: checked before they are read; a damaged file ends in a `UserError`."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import laspy
import numpy as np
import pyproj
from laspy.point.record import ScaleAwarePointRecord

from crn.errors import UserError
from crn.pointcloud.crs import crs_of_flag, most_common, own_crs, same_on_the_map, units
from crn.system.interrupts import ctrl_c_waits
from crn.system.text import shortened

log = logging.getLogger(__name__)
# This module reports the problems that laspy finds, once.
logging.getLogger("laspy").setLevel(logging.CRITICAL + 1)

CHUNK = 500_000  # points in memory at a time
COARSEST_HEIGHT = 0.005  # metres; a coarser z shows no damage

_HEADER, _OFFSET_AT, _VLRS_AT = 227, 96, 100  # bytes: its size, and the positions of numbers in it
_VLR = 54  # bytes, the least size of a record
_POINTWISE = b"\1\0"  # LASzip's first way to compress, without chunks
_AT_THE_END = 2**64 - 1  # the position of the chunk table then is in the last 8 bytes
_OF_ANY_SIZE = 2**32 - 1  # the size of chunks that differ
_LARGEST_CELL = 8  # centimetres


@dataclass(frozen=True, eq=False)
class Scan:
    """A file whose header has been checked.

    Attributes:
        path: the file.
        header: as laspy has read it; never changed.
        points: number of points.
        crs: its coordinate reference system; None if unknown.
        has_crs: whether the file itself names its system.
        unit: metres in a unit of x and y.
        unit_of_z: metres in a unit of z.
        name: its path below the folder of all scans, for messages and results.
    """

    path: Path
    header: laspy.LasHeader
    points: int
    crs: pyproj.CRS | None
    has_crs: bool
    unit: float
    unit_of_z: float
    name: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """West, south, east and north by its header, in metres."""
        (west, south), (east, north) = (
            ends[:2] * self.unit for ends in (self.header.mins, self.header.maxs)
        )
        return west, south, east, north

    def scale(self, axis: int) -> float:
        """Metres in a step of the stored whole numbers of x, y or z (0, 1, 2)."""
        return float(self.header.scales[axis]) * self._unit(axis)

    def require_fine_scale(self, cell: int) -> None:
        """Refuse a file whose coordinates are rounded to more than a tenth of a cell.

        Args:
            cell: centimetres.

        Raises:
            UserError: its coordinates are too coarse.
        """
        scale = max(self.scale(0), self.scale(1))
        if scale > cell / 1000 * 1.001:
            raise UserError(
                f"{self.path}: its coordinates are rounded to {scale * 1000:.3g} mm, too much for "
                f"cells of {cell} cm; export it with a scale of 0.001"
            )

    def steps(self, points: ScaleAwarePointRecord, axis: int, metres: float) -> np.ndarray:
        """Coordinates (N,) counted in steps of ``metres``, float64, still with their fractions."""
        steps = points.array["XYZ"[axis]] * (self.scale(axis) / metres)
        steps += float(self.header.offsets[axis]) * self._unit(axis) / metres
        return steps

    def _unit(self, axis: int) -> float:
        return self.unit_of_z if axis == 2 else self.unit


def check_scans(
    files: Iterable[Path], crs_name: str | None, refused: dict[Path, UserError] | None = None
) -> list[Scan]:
    """Check the headers of all files without reading points.

    Args:
        files: at least one.
        crs_name: value of ``--crs``, e.g. EPSG:25832.
        refused: receives the errors of single files, which are then left out; None: the first
            error is raised.

    Raises:
        UserError: a file cannot be used, or two differ in their systems and no third one decides.
    """
    asked = crs_of_flag(crs_name)
    found: dict[Path, tuple[laspy.LasHeader, pyproj.CRS | None]] = {}
    for path in files:
        with _each(path, refused):
            header = _read_header(path)
            own = own_crs(path, header, strict=asked is None)
            if asked is None:  # scans in degrees have no say
                units(str(path), own, (header.mins + header.maxs) / 2)
            found[path] = header, own
    named = [own for _, own in found.values() if own]
    common = asked or most_common(named)
    scans, overruled = [], dict[str, list[Path]]()
    for path, (header, own) in found.items():
        has_crs = bool(own and common and same_on_the_map(own, common))
        if own and common and not has_crs and asked is None:
            with _each(path, refused if len(named) > 2 else None):
                raise UserError(
                    f"{path}: is in {own.name}, other scans are in {common.name}; reproject it "
                    "(pdal translate -f filters.reprojection), or name the true system of all "
                    "with --crs"
                )
            continue
        if not has_crs:
            name = own.name if own else "no coordinate reference system"
            overruled.setdefault(name, []).append(path)
        with _each(path, refused):
            crs = asked or own or common
            metres = units(str(path), crs, (header.mins + header.maxs) / 2)
            scan = Scan(path, header, header.point_count, crs, has_crs, *metres)
            _check_numbers(scan)
            scans.append(scan)
    taken = f"{common.name} is taken" if common else "metres are assumed; --crs names it"
    for name, paths in overruled.items():
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        log.warning("%s%s: %s is named; %s", paths[0], more, name, taken)
    for pair in {(scan.unit, scan.unit_of_z) for scan in scans} - {(1.0, 1.0)}:
        log.info("coordinates are converted to metres: x and y times %.9g, z times %.9g", *pair)
    return scans


@contextmanager
def _each(path: Path, refused: dict[Path, UserError] | None) -> Iterator[None]:
    """Note the error of a file, or raise it if it is not to be noted."""
    try:
        yield
    except UserError as error:
        if refused is None:
            raise
        refused[path] = error


def read_points(
    scan: Scan, selection: laspy.DecompressionSelection | None = None
) -> Iterator[ScaleAwarePointRecord]:
    """All points of a file in its order, in chunks of `CHUNK`.

    Args:
        scan: the file.
        selection: the fields that are needed, for formats that can skip the others.

    Raises:
        UserError: the file is damaged, or has fewer points than it promises.
    """
    done = 0
    with reading(scan.path):
        reader = laspy.open(scan.path, read_evlrs=False, decompression_selection=selection)
    with reader:
        while done < scan.points:
            with reading(scan.path):
                points = reader.read_points(CHUNK)
            if len(points) < min(CHUNK, scan.points - done):
                raise UserError(
                    f"{scan.path}: ends after {done + len(points):,} of {scan.points:,} points; "
                    "it is cut off; get it again"
                )
            done += len(points)
            yield points


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error of a reader into a `UserError` about a damaged file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        # lazrs would report Ctrl-C during a read as a damaged file.
        with warnings.catch_warnings(), ctrl_c_waits():
            warnings.simplefilter("ignore")
            yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  (those of lazrs's Rust code are not Exceptions)
        reason = shortened(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"{path}: cannot be read ({reason}); it is damaged, get it again") from None


def _read_header(path: Path) -> laspy.LasHeader:
    size = path.stat().st_size
    with reading(path):
        begin = path.open("rb").read(_HEADER)
        if begin[:4] != b"LASF" or len(begin) < _HEADER:
            raise UserError(f"{path}: is not a LAS or LAZ file")
        # laspy would read billions of records one by one.
        if _number(begin, _VLRS_AT, 4) * _VLR > _number(begin, _OFFSET_AT, 4) <= size:
            raise UserError(f"{path}: its header does not fit its {size:,} bytes; get it again")
        with laspy.open(path) as reader:
            header = reader.header
        least, most = _counted(path, header, size)
    if header.point_count > most:
        raise UserError(
            f"{path}: promises {header.point_count:,} points, but has room for {most:,}; it is cut "
            "off; get it again"
        )
    if header.point_count < least:
        raise UserError(
            f"{path}: counts {header.point_count:,} points in its header, but holds at least "
            f"{least:,}; repair the counts (lasinfo -repair), or export it again"
        )
    if header.point_count == 0:
        raise UserError(f"{path}: holds no points; leave it out")
    return header


def _counted(path: Path, header: laspy.LasHeader, size: int) -> tuple[int, int]:
    """The least and the largest number of points that the bytes of a file can hold.

    The table of compressed chunks is compared with the header, too, because lazrs would reserve
    gigabytes for a damaged one and end the process.
    """
    start = header.offset_to_point_data
    if not header.are_points_compressed:
        later = (header.start_of_waveform_data_packet_record, header.start_of_first_evlr)
        end = min((each for each in later if start < each < size), default=size)
        room = max(0, end - start) // header.point_format.size
        # A few other bytes may follow the points.
        return room if room > header.point_count * 1.01 + 1000 else 0, room
    record = header.vlrs.get("LasZipVlr")[0].record_data
    if record[:2] == _POINTWISE:
        return 0, size
    with path.open("rb") as file:
        file.seek(start)
        table = _number(file.read(8), 0, 8)
        if table == _AT_THE_END:
            file.seek(size - 8)
            table = _number(file.read(8), 0, 8)
        if not start < table <= size - 8:
            return 0, 0
        file.seek(table + 4)
        chunks = _number(file.read(4), 0, 4)
    if chunks > size:
        return 0, 0
    in_a_chunk = _number(record, 12, 4)
    if in_a_chunk == _OF_ANY_SIZE:
        return chunks, header.point_count
    return max(0, chunks - 1) * in_a_chunk + (chunks > 0), chunks * in_a_chunk


def _number(content: bytes, position: int, length: int) -> int:
    """The whole number stored at a position."""
    return int.from_bytes(content[position : position + length], "little")


def _check_numbers(scan: Scan) -> None:
    """Refuse unusable scales and offsets.

    Raises:
        UserError: says what is wrong.
    """
    scales, offsets = scan.header.scales, scan.header.offsets
    metres = [scan.scale(axis) for axis in range(3)]
    if not np.isfinite([*metres, *offsets]).all() or min(metres) <= 0:
        raise UserError(
            f"{scan.path}: its scale is {_listed(scales)} and its offset {_listed(offsets)}, which "
            "are not coordinates; export it again"
        )
    scan.require_fine_scale(_LARGEST_CELL)
    if metres[2] > COARSEST_HEIGHT * 1.001:
        raise UserError(
            f"{scan.path}: its heights are rounded to {metres[2] * 1000:.3g} mm, but damage is a "
            "few millimetres deep; export it with a scale of 0.001"
        )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
