"""Coordinate reference systems and units of scans, as the programs of the field write them."""

import struct
from pathlib import Path

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")
pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")

from scans import small_street, write_las  # noqa: E402

from crn.errors import UserError  # noqa: E402
from crn.pointcloud.las import Scan, check_scans  # noqa: E402
from crn.pointcloud.street import Street  # noqa: E402

FOOT, US_FOOT = 0.3048, 1200 / 3937
UTM = "EPSG:25832"


@pytest.fixture(scope="module")
def few() -> Street:
    whole = small_street()
    some = slice(None, 100)
    return Street(
        whole.xyz[some], whole.intensity[some], whole.truth[some], whole.seconds[some], (), ()
    )


def projection(number: int, content: bytes):
    return laspy.VLR("LASF_Projection", number, "", content)


def with_wkt(path: Path, street: Street, text: str) -> Path:
    return with_records(path, street, projection(2112, text.encode() + b"\0"))


def with_keys(path: Path, street: Street, *keys: tuple, doubles: tuple = ()) -> Path:
    """A file of LAS 1.2 with GeoTIFF keys: (number, value), or (number, index of its double)."""
    entries = [key if len(key) == 4 else (key[0], 0, 1, key[1]) for key in keys]
    content = struct.pack(
        f"<{4 + 4 * len(keys)}H", 1, 1, 0, len(keys), *(n for key in entries for n in key)
    )
    records = [projection(34735, content)]
    if doubles:
        records.append(projection(34736, struct.pack(f"<{len(doubles)}d", *doubles)))
    return with_records(path, street, *records)


def with_records(path: Path, street: Street, *records) -> Path:
    plain = laspy.read(write_las(path, street, crs=None, point_format=3, version="1.2"))
    plain.vlrs.extend(records)
    plain.write(path)
    return path


def checked(path: Path, crs: str | None = None) -> Scan:
    (scan,) = check_scans([path], crs)
    return scan


# Heights in feet, as most scans of the United States have them beside metres or feet on the map.
VERTICAL = {
    "unit alone": ((1024, 1), (3072, 25832), (4099, 9003)),
    "unit and an old datum": ((1024, 1), (3072, 25832), (3076, 9001), (4096, 5103), (4099, 9003)),
    "user-defined heights": ((1024, 1), (3072, 25832), (4096, 32767), (4099, 9003)),
    "a system in feet": ((1024, 1), (3072, 25832), (4096, 6360)),
}


@pytest.mark.parametrize("kind", VERTICAL)
def test_the_unit_of_heights(few, tmp_path, kind):
    scan = checked(with_keys(tmp_path / "a.las", few, *VERTICAL[kind]))
    assert (scan.unit, scan.unit_of_z) == (1, pytest.approx(US_FOOT, rel=1e-9))


def test_the_unit_of_the_map_by_its_key(few, tmp_path):
    keys = ((1024, 1), (3072, 25832), (3076, 9002), (4099, 9001))
    scan = checked(with_keys(tmp_path / "a.las", few, *keys))
    assert (scan.unit, scan.unit_of_z) == (pytest.approx(FOOT), 1)


def test_heights_have_the_unit_of_the_map_if_nothing_is_said(few, tmp_path):
    scan = checked(with_keys(tmp_path / "a.las", few, (1024, 1), (3072, 2222)))
    assert (scan.unit, scan.unit_of_z) == (pytest.approx(FOOT), pytest.approx(FOOT))


CITY = "+proj=tmerc +lat_0=0 +lon_0=7.03 +k=1 +x_0=362000 +y_0=0 +ellps=GRS80 +units=m +type=crs"


def test_a_projection_of_a_city_of_its_own(few, tmp_path):
    numbers = {3080: 0, 3081: 1, 3082: 2, 3083: 3, 3092: 4}
    keys = [
        *((1024, 1), (2048, 4258), (3072, 32767), (3074, 32767), (3075, 1), (3076, 9001)),
        *((number, 34736, 1, index) for number, index in numbers.items()),
    ]
    doubles = (7.03, 0.0, 362_000.0, 0.0, 1.0)
    scan = checked(with_keys(tmp_path / "a.las", few, *keys, doubles=doubles))
    assert scan.unit == 1
    transform = pyproj.Transformer.from_crs(scan.crs, CITY, always_xy=True).transform
    assert transform(362_500, 5_701_000) == pytest.approx((362_500, 5_701_000), abs=1e-3)


@pytest.mark.parametrize("code", [32767, 29999])
def test_a_system_that_cannot_be_read_is_named(few, tmp_path, code):
    path = with_keys(tmp_path / "a.las", few, (1024, 1), (2048, 4258), (3072, code))
    with pytest.raises(UserError, match=f"system cannot be read .*3072 = {code}.*--crs"):
        checked(path)
    assert checked(path, UTM).crs.to_epsg() == 25832


def test_keys_that_name_nothing_are_none(few, tmp_path, caplog):
    assert checked(with_keys(tmp_path / "a.las", few, (1024, 1))).crs is None
    assert "no coordinate reference system is named; metres are assumed" in caplog.text


SPELLINGS = {
    "WKT1 of GDAL": lambda: pyproj.CRS(UTM).to_wkt("WKT1_GDAL"),
    "WKT1 of ESRI": lambda: pyproj.CRS(UTM).to_wkt("WKT1_ESRI"),
    "WKT2": lambda: pyproj.CRS(UTM).to_wkt(),
    "with heights": lambda: pyproj.CRS("EPSG:25832+7837").to_wkt(),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_one_system_in_two_spellings(few, tmp_path, kind, caplog):
    one = write_las(tmp_path / "one.laz", few)
    other = with_wkt(tmp_path / "other.las", few, SPELLINGS[kind]())
    scans = check_scans([one, other], None)
    assert [scan.has_crs for scan in scans] == [True, True]
    assert not caplog.text
    keys = with_keys(tmp_path / "keys.las", few, (1024, 1), (3072, 25832))
    assert len(check_scans([other, keys], None)) == 2


def test_two_systems_do_not_go_together(few, tmp_path):
    one = write_las(tmp_path / "one.laz", few)
    other = with_wkt(tmp_path / "other.las", few, pyproj.CRS("EPSG:25833").to_wkt())
    with pytest.raises(UserError, match=r"r\.las: is in ETRS89 / UTM zone 33N, other scans are"):
        check_scans([one, other], None, {})
    scans = check_scans([one, other], UTM)
    assert [scan.has_crs for scan in scans] == [True, False]


def in_system(folder: Path, street: Street, code: str) -> Path:
    return write_las(folder / f"{len(list(folder.iterdir()))}.laz", street, crs=code)


@pytest.mark.parametrize(
    ("codes", "wrong"),
    [
        ((UTM, "EPSG:25833", "EPSG:25833"), [0]),
        (("EPSG:25833", UTM, UTM, "EPSG:25833"), [1, 2]),  # as many of both: the first
        (("EPSG:25833", UTM, "EPSG:25831"), [1, 2]),
        (("EPSG:4258", "EPSG:4258", "EPSG:4258", UTM, "EPSG:25833"), None),  # degrees do not count
        (("EPSG:4258", "EPSG:4258", UTM, "EPSG:25833", UTM), [0, 1, 3]),
    ],
)
def test_most_scans_decide_which_system_is_wrong(few, tmp_path, codes, wrong):
    scans = [in_system(tmp_path, few, code) for code in codes]
    refused: dict[Path, UserError] = {}
    if wrong is None:
        with pytest.raises(UserError, match="other scans are in ETRS89 / UTM zone 32N"):
            check_scans(scans, None, refused)
        return
    used = [scan.path for scan in check_scans(scans, None, refused)]
    assert [scans.index(path) for path in refused] == wrong
    assert used == [path for path in scans if path not in refused]
    with pytest.raises(UserError, match=r"other scans are in|not in metres"):
        check_scans(scans, None)


def test_a_scan_in_feet_among_others(few, tmp_path):
    """In feet on the map it is in another system; heights in feet alone are converted."""
    metres, feet = "EPSG:32110", "EPSG:2252"
    scans = [in_system(tmp_path, few, code) for code in (metres, metres, feet)]
    refused: dict[Path, UserError] = {}
    assert len(check_scans(scans, None, refused)) == 2
    assert list(refused) == scans[2:]
    heights = with_keys(tmp_path / "a.las", few, *VERTICAL["unit alone"])
    others = [in_system(tmp_path, few, UTM) for _ in range(2)]
    checked_scans = check_scans([*others, heights], None)
    assert [scan.unit_of_z for scan in checked_scans] == [1, 1, pytest.approx(US_FOOT, rel=1e-9)]


def test_what_many_scans_do_not_name_is_said_once(few, tmp_path, caplog):
    scans = [write_las(tmp_path / f"{number}.laz", few, crs=None) for number in range(5)]
    assert not any(scan.has_crs for scan in check_scans(scans, None))
    one = write_las(tmp_path / "one.laz", few)
    assert {scan.crs for scan in check_scans([*scans, one], None)} == {pyproj.CRS(UTM)}
    check_scans([scans[0], one], "EPSG:25833")
    first = f"{scans[0]} and 4 more: no coordinate reference system is named"
    assert caplog.messages == [
        f"{first}; metres are assumed; --crs names it",
        f"{first}; ETRS89 / UTM zone 32N is taken",
        f"{scans[0]}: no coordinate reference system is named; ETRS89 / UTM zone 33N is taken",
        f"{one}: ETRS89 / UTM zone 32N is named; ETRS89 / UTM zone 33N is taken",
    ]


def test_a_text_that_cannot_be_read(few, tmp_path):
    path = with_wkt(tmp_path / "a.las", few, "PROJCS[nonsense")
    with pytest.raises(UserError, match=r"a\.las: its coordinate reference system cannot be read"):
        checked(path)
    assert checked(path, UTM).unit == 1
    both = laspy.read(with_keys(tmp_path / "b.las", few, (1024, 1), (3072, 25832)))
    both.vlrs.append(projection(2112, b"PROJCS[nonsense"))
    both.write(tmp_path / "b.las")
    assert checked(tmp_path / "b.las").crs.to_epsg() == 25832


def test_lengths_on_the_ground(few, tmp_path):
    """A metre is 1.6 m in EPSG:3857 at 51 degrees north; at the equator it is one."""
    east, north = pyproj.Transformer.from_crs(UTM, "EPSG:3857").transform(362_000, 5_701_234)

    def moved(east: float, north: float) -> Street:
        xyz = few.xyz + np.array((east - 362_000, north - 5_701_234, 0))
        return Street(xyz, few.intensity, few.truth, few.seconds, (), ())

    path = write_las(tmp_path / "a.laz", moved(east, north), crs="EPSG:3857")
    with pytest.raises(UserError, match=r"a metre on the ground is 1\.60\d m in WGS 84 / Pseudo"):
        checked(path)
    assert checked(write_las(tmp_path / "b.laz", moved(0, 100), crs="EPSG:3857")).unit == 1


def test_a_header_in_latin_1_is_read(few, tmp_path):
    path = write_las(tmp_path / "a.las", few)
    content = bytearray(path.read_bytes())
    content[58:90] = "Vermessung Müller".encode("latin-1").ljust(32, b"\0")
    path.write_bytes(content)
    assert checked(path).points == 100
