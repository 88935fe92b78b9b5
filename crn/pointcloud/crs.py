"""Coordinate reference systems of scans and their units."""

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import laspy
import numpy as np
import pyproj
import rasterio
from PIL import Image, TiffImagePlugin
from pyproj.exceptions import CRSError, ProjError
from rasterio.errors import RasterioError

from crn.errors import UserError
from crn.system.text import shortened

# TIFF tags of GeoTIFF: the first two make a picture one, keys are in the last three.
_PIXELS, _PLACE, _KEYS, _DOUBLES, _TEXT = 33550, 33922, 34735, 34736, 34737
_SHORT, _DOUBLE, _ASCII = 3, 12, 2  # types of tags
_GEOGRAPHIC, _PROJECTED, _VERTICAL, _VERTICAL_UNIT = 2048, 3072, 4096, 4099
_LARGEST_DISTORTION = 0.01
_REPROJECT = "reproject the scan to the UTM zone (pdal translate -f filters.reprojection)"


def own_crs(path: Path, header: laspy.LasHeader, strict: bool) -> pyproj.CRS | None:
    """The coordinate reference system of a file; None if it has none that can be read.

    Raises:
        UserError: it names one that cannot be read, and ``strict`` is true.
    """
    records: dict[int, bytes] = {}
    for record in (*header.vlrs, *(header.evlrs or ())):
        if record.user_id == "LASF_Projection":
            content = record.record_data_bytes()
            records[record.record_id] = records.get(record.record_id) or content
    wkt = records.get(2112, b"").rstrip(b"\0").decode(errors="replace").strip()
    keys = (records.get(record, b"") for record in (_KEYS, _DOUBLES, _TEXT))
    reason = ""
    for read, content in ((_from_wkt, (wkt,)), (_from_keys, keys)):
        try:
            crs = read(*content)
        except (RasterioError, CRSError, ValueError) as error:
            reason = reason or shortened(str(error))
        else:
            if crs is not None:
                return crs
    if reason and strict:
        raise UserError(
            f"{path}: its coordinate reference system cannot be read ({reason}); name it with --crs"
        )
    return None


@lru_cache
def _from_wkt(text: str) -> pyproj.CRS | None:
    return pyproj.CRS.from_wkt(text) if text else None


@lru_cache
def _from_keys(content: bytes, doubles: bytes, text: bytes) -> pyproj.CRS | None:
    """The system that GDAL reads from GeoTIFF keys, by a picture that has them.

    Raises:
        ValueError, RasterioError, CRSError: they name a system that cannot be read.
    """
    keys = np.frombuffer(content[: len(content) // 8 * 8], "<u2").reshape(-1, 4)[1:]
    if not {_GEOGRAPHIC, _PROJECTED} & set(keys[:, 0]):
        return None
    if _VERTICAL_UNIT in keys[:, 0]:
        # GDAL would take the unit that is usual for the vertical system.
        keys = keys[keys[:, 0] != _VERTICAL]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, value in (
        (_PIXELS, _DOUBLE, (1.0, 1.0, 0.0)),
        (_PLACE, _DOUBLE, (0.0,) * 6),
        (_KEYS, _SHORT, (1, 1, 0, len(keys), *map(int, keys.ravel()))),
        (_DOUBLES, _DOUBLE, tuple(np.frombuffer(doubles[: len(doubles) // 8 * 8], "<f8"))),
        (_TEXT, _ASCII, text.decode("latin-1")),
    ):
        if value:
            tags.tagtype[tag], tags[tag] = kind, value
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "TIFF", tiffinfo=tags)
    with (
        warnings.catch_warnings(),
        rasterio.Env(GTIFF_REPORT_COMPD_CS=True),
        rasterio.MemoryFile(file.getvalue()) as memory,
        memory.open() as picture,
    ):
        warnings.simplefilter("ignore")
        crs = pyproj.CRS.from_wkt(picture.crs.to_wkt())
    if crs.type_name == "Engineering CRS":
        named = [f"{key} = {code}" for key, *_, code in keys if key in (_GEOGRAPHIC, _PROJECTED)]
        raise ValueError(f"key {', '.join(named)}")
    return crs


def crs_of_flag(name: str | None) -> pyproj.CRS | None:
    """The system that ``--crs`` names, if it is given.

    Raises:
        UserError: there is none of that name, or it is not in metres or feet.
    """
    try:
        crs = pyproj.CRS.from_user_input(name) if name else None
    except CRSError:
        raise UserError(
            f"--crs {name}: is not a coordinate reference system; give one like EPSG:25832"
        ) from None
    units("--crs", crs)
    return crs


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """The horizontal part of a coordinate reference system."""
    return crs.sub_crs_list[0] if crs.is_compound else crs


@lru_cache
def same_on_the_map(one: pyproj.CRS, other: pyproj.CRS) -> bool:
    """Whether the horizontal parts of two systems are equal, however they are written."""
    return horizontal(one).equals(horizontal(other), ignore_axis_order=True)


def most_common(systems: Sequence[pyproj.CRS]) -> pyproj.CRS | None:
    """The system that most share, however they write it; of several the first, None without any."""
    counts = Counter(systems)

    def shared(crs: pyproj.CRS) -> int:
        return sum(n for other, n in counts.items() if same_on_the_map(crs, other))

    return max(counts, key=shared, default=None)


def units(
    where: str, crs: pyproj.CRS | None, place: np.ndarray | None = None
) -> tuple[float, float]:
    """Metres in a unit of x and y, and of z.

    Args:
        where: the file or flag that names the system, for messages.
        crs: the system; None: metres are assumed.
        place: x and y in it where lengths have to be those on the ground; None: anywhere.

    Raises:
        UserError: coordinates are degrees, or geocentric, or lengths differ much from those on the
            ground, as in EPSG:3857 far from the equator.
    """
    if crs is None:
        return 1.0, 1.0
    flat = horizontal(crs)
    if flat.is_geographic or flat.is_geocentric or crs.is_geocentric:
        raise UserError(f"{where}: {crs.name} is not in metres; {_REPROJECT}")
    if place is not None:
        projection = pyproj.Proj(flat)
        # Coordinates outside the system tell nothing.
        with suppress(ProjError):
            x, y = map(float, place[:2])
            degrees = projection(x, y, inverse=True, errcheck=True)
            scale = projection.get_factors(*degrees, errcheck=True).areal_scale ** 0.5
            if abs(scale - 1) > _LARGEST_DISTORTION:
                raise UserError(
                    f"{where}: a metre on the ground is {scale:.3f} m in {crs.name} there; "
                    f"{_REPROJECT}"
                )
    metres = [axis.unit_conversion_factor for axis in flat.axis_info] or [1.0]
    if crs.is_compound:
        return metres[0], crs.sub_crs_list[1].axis_info[0].unit_conversion_factor
    return metres[0], metres[2] if len(metres) > 2 else metres[0]
