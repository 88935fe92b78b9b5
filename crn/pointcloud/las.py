"""LAS and LAZ files: checked before they are read; a damaged file ends in a `UserError`.

Readers trust the header: a changed byte makes them reserve gigabytes, loop over billions of records
or end the process. So its counts are first compared with the size of the file.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import laspy
import numpy as np
import pyproj
from laspy.errors import LaspyException
from laspy.point.record import ScaleAwarePointRecord

from crn.errors import UserError
from crn.system.interrupts import ctrl_c_waits
from crn.system.text import shortened

log = logging.getLogger(__name__)
# This module reports the problems that laspy finds, once.
logging.getLogger("laspy").setLevel(logging.CRITICAL + 1)

CHUNK = 1_000_000  # points in memory at a time
SUFFIXES = (".las", ".laz")
COARSEST_HEIGHT = 0.005  # metres; a coarser z shows no damage

# Of the header: its size, the positions of numbers in it, and the least size of a record (bytes).
_HEADER, _MINOR_VERSION_AT, _OFFSET_AT, _VLRS_AT, _EVLRS_AT = 227, 25, 96, 100, 243
_VLR, _EVLR = 54, 60
_POINTWISE = b"\1\0"  # LASzip's first way to compress, without chunks
_AT_THE_END = 2**64 - 1  # the position of the chunk table then is in the last 8 bytes
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
    """

    path: Path
    header: laspy.LasHeader
    points: int
    crs: pyproj.CRS | None
    has_crs: bool
    unit: float
    unit_of_z: float

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


def find_files(inputs: Sequence[Path]) -> list[Path]:
    """The given files, and the LAS and LAZ files in the given folders.

    Raises:
        UserError: there are none, or one is given twice.
    """
    files = []
    for path in inputs:
        if path.is_dir():
            found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
            if not found:
                raise UserError(f"{path}: contains no .las or .laz file")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file; give a LAS or LAZ file, or a folder of them")
    twice = [file for file in files if sum(os.path.samefile(file, each) for each in files) > 1]
    if twice:
        raise UserError(f"{twice[0]}: is named twice; name it once")
    return files


def check_scans(files: Sequence[Path], crs_name: str | None) -> list[Scan]:
    """Check the headers of all files without reading points.

    Args:
        files: at least one.
        crs_name: value of ``--crs``, e.g. EPSG:25832.

    Raises:
        UserError: a file cannot be used, or the files do not go together.
    """
    asked = _crs_of_flag(crs_name) if crs_name else None
    headers = [_read_header(path) for path in files]
    own = [_own_crs(path, header) for path, header in zip(files, headers, strict=True)]
    known = {each.to_wkt(): path for path, each in zip(files, own, strict=True) if each}
    if asked is None and len(known) > 1:
        one, other = list(known.values())[:2]
        raise UserError(
            f"{one} and {other} have different coordinate reference systems; reproject one "
            "(pdal translate -f filters.reprojection), or name the true one of both with --crs"
        )
    crs = asked or next(filter(None, own), None)
    for path, each in zip(files, own, strict=True):
        if each is None or asked not in (None, each):
            says = f"says {each.name}" if each else "has no coordinate reference system"
            taken = f"{crs.name} is taken" if crs else "metres are assumed; --crs names it"
            log.warning("%s: %s; %s", path, says, taken)
    unit, unit_of_z = _units(files[0] if crs_name is None else Path("--crs"), crs)
    if unit != 1 or unit_of_z != 1:
        log.info(
            "coordinates are converted to metres: x and y times %.9g, z times %.9g", unit, unit_of_z
        )
    scans = [
        Scan(path, header, header.point_count, crs, each is not None, unit, unit_of_z)
        for path, header, each in zip(files, headers, own, strict=True)
    ]
    for scan in scans:
        _check_numbers(scan)
    return scans


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
    with reading(path):
        _refuse_impossible(path)
        with laspy.open(path) as reader:
            header = reader.header
    if header.point_count == 0:
        raise UserError(f"{path}: holds no points; leave it out")
    if header.are_points_compressed:
        _check_compression(path, header)
    else:
        room = path.stat().st_size - header.offset_to_point_data
        if header.point_count * header.point_format.size > room:
            raise UserError(
                f"{path}: promises {header.point_count:,} points, but has room for "
                f"{max(0, room) // header.point_format.size:,}; it is cut off; get it again"
            )
    return header


def _refuse_impossible(path: Path) -> None:
    """Refuse counts that exceed the size of the file.

    Raises:
        UserError: it is not a LAS file, or has such counts.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"LASF" or size < _HEADER:
            raise UserError(f"{path}: is not a LAS or LAZ file")
        start = _number(file, _OFFSET_AT, 4)
        damaged = start > size or _number(file, _VLRS_AT, 4) * _VLR > start
        if _number(file, _MINOR_VERSION_AT, 1) >= 4:
            damaged |= _number(file, _EVLRS_AT, 4) * _EVLR > size
    if damaged:
        raise UserError(f"{path}: its header does not fit its {size:,} bytes; get it again")


def _number(file: BinaryIO, position: int, length: int) -> int:
    """The whole number stored at a position of a file."""
    file.seek(position)
    return int.from_bytes(file.read(length), "little")


def _check_compression(path: Path, header: laspy.LasHeader) -> None:
    """Refuse a LAZ file whose table of compressed chunks is impossible.

    Raises:
        UserError: it is impossible, or the library that can read the file is not installed.
    """
    records = header.vlrs.get("LasZipVlr")
    if records and records[0].record_data[:2] == _POINTWISE:
        if not laspy.LazBackend.Laszip.is_available():
            raise UserError(f"{path}: is compressed as before 2011; pip install laszip")
        return
    size, start = path.stat().st_size, header.offset_to_point_data
    with path.open("rb") as file:
        table = _number(file, start, 8)
        if table == _AT_THE_END:
            table = _number(file, size - 8, 8)
        chunks = _number(file, table + 4, 4) if start < table <= size - 8 else 0
    in_a_chunk = int.from_bytes(records[0].record_data[12:16], "little") if records else 0
    if not header.point_count / max(1, in_a_chunk) <= chunks <= min(size, header.point_count):
        raise UserError(
            f"{path}: its compressed points do not fit its {size:,} bytes; get it again"
        )


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


def _own_crs(path: Path, header: laspy.LasHeader) -> pyproj.CRS | None:
    """The coordinate reference system of a file; None if it has none that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crs = header.parse_crs()
        # As text, since it is compared and written as such.
        return pyproj.CRS.from_wkt(crs.to_wkt()) if crs else None
    except (pyproj.exceptions.CRSError, LaspyException, ValueError, UnicodeError) as error:
        log.warning(
            "%s: its coordinate reference system cannot be read (%s)", path, shortened(str(error))
        )
        return None


def _crs_of_flag(name: str) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_user_input(name)
    except pyproj.exceptions.CRSError:
        raise UserError(
            f"--crs {name}: is not a coordinate reference system; give one like EPSG:25832"
        ) from None


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """The horizontal part of a coordinate reference system."""
    return crs.sub_crs_list[0] if crs.is_compound else crs


def _units(path: Path, crs: pyproj.CRS | None) -> tuple[float, float]:
    """Metres in a unit of x and y, and of z.

    Raises:
        UserError: coordinates are degrees, or geocentric.
    """
    if crs is None:
        return 1.0, 1.0
    flat = horizontal(crs)
    if flat.is_geographic or flat.is_geocentric or crs.is_geocentric:
        raise UserError(
            f"{path}: {crs.name} is not in metres; reproject the scan to a projected system, such "
            "as the UTM zone (pdal translate -f filters.reprojection)"
        )
    units = [axis.unit_conversion_factor for axis in flat.axis_info] or [1.0]
    if crs.is_compound:
        return units[0], crs.sub_crs_list[1].axis_info[0].unit_conversion_factor
    return units[0], units[2] if len(units) > 2 else units[0]
