"""Painting loses nothing: points, records and coordinate systems of every kind of file."""

import io
from pathlib import Path

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")
pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")

from laspy.vlrs.vlrlist import VLRList  # noqa: E402

from crn.errors import UserError  # noqa: E402
from crn.pointcloud.las import CHUNK, Scan, check_scans, read_points  # noqa: E402
from crn.pointcloud.paint import PointScores, name_of_copy, paint, refuse_unfit  # noqa: E402
from crn.pointcloud.partition import BLOCK, Partition, centimetres  # noqa: E402

POINTS = 2500
ROAD = 11
CELL = 4


def random_file(
    path: Path, version: str, point_format: int, extra: bool = True, count: int = POINTS
) -> Path:
    """A file in which every dimension has every kind of value."""
    chance = np.random.default_rng(point_format)
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.array((0.001, 0.002, 0.0005)), np.array((-7.5, 1e6, 33.3))
    header.file_source_id, header.system_identifier = 7, "a scanner"
    header.vlrs.append(laspy.VLR("someone", 42, "a record", b"its bytes"))
    header.add_crs(pyproj.CRS("EPSG:25832"))
    if extra:
        header.add_extra_dims(
            [
                laspy.ExtraBytesParams("label", "u1", "what it is"),
                laspy.ExtraBytesParams("pulse", "3f8"),
                laspy.ExtraBytesParams(
                    "width", "i4", scales=np.array((0.01,)), offsets=np.array((5.0,))
                ),
            ]
        )
    size = header.point_format.dtype().itemsize
    bytes_ = chance.integers(0, 256, (count, size), np.uint8)
    array = bytes_.view(header.point_format.dtype()).ravel()
    points = laspy.ScaleAwarePointRecord(array, header.point_format, header.scales, header.offsets)
    for name, most in (("X", 10**5), ("Y", 10**5), ("Z", 1000)):
        points[name] = chance.integers(-most, most, count)
    points.return_number[:] = chance.integers(1, 3, count)
    points.number_of_returns[:] = 2
    points.classification[:] = chance.choice((ROAD, 1, 7, 18), count)
    if "gps_time" in array.dtype.names:
        points["gps_time"] = chance.normal(1e5, 10, count)
    if extra:
        points.array["pulse"] = chance.normal(0, 1, (count, 3))
    with laspy.open(path, "w", header=header) as writer:
        writer.write_points(points)
        if version == "1.4":
            writer.write_evlrs(VLRList([laspy.VLR("someone", 43, "after the points", b"more")]))
    return path


def painted(path: Path, out: Path, threshold: float | None = 1e5, crs: str | None = None) -> Scan:
    """Paint the points of class `ROAD` with scores that tell the cell: its number in the block."""
    (scan,) = check_scans([path], crs)
    refuse_unfit(scan)
    work, side = out.with_suffix(".work"), BLOCK // CELL
    points, scores = Partition(work / "points"), PointScores(work / "scores")
    points.fill(scan, (), 0, work / "stored")
    for block in points.blocks:
        records = points.points(block)
        numbers = np.arange(side * side, dtype=np.float32).reshape(side, side)
        scores.add(records[records["kind"] == ROAD], numbers)
    paint(scan, work / "stored", out, scores, threshold)
    return scan


def records(vlrs) -> list:
    skipped = {"LasZipVlr", "ExtraBytesVlr"}
    return [
        (each.user_id, each.record_id, each.description, each.record_data_bytes())
        for each in vlrs or ()
        if type(each).__name__ not in skipped
    ]


def assert_same_but_for_scores(before: Path, after: Path) -> None:
    one, other = laspy.read(before), laspy.read(after)
    assert str(other.header.version) == "1.4"
    assert one.point_format.id == other.point_format.id
    names = list(one.point_format.dimension_names)
    assert list(other.point_format.dimension_names) == [*names, "crn_score", "crn_anomalous"]
    for name in one.points.array.dtype.names:
        mine, theirs = one.points.array[name], other.points.array[name]
        assert mine.tobytes() == theirs.tobytes(), name
    assert records(one.vlrs) == records(other.vlrs)
    assert records(one.evlrs) == records(other.evlrs)
    for name in ("scales", "offsets", "mins", "maxs"):
        np.testing.assert_array_equal(getattr(one.header, name), getattr(other.header, name))
    for name in ("file_source_id", "system_identifier", "uuid", "creation_date"):
        assert getattr(one.header, name) == getattr(other.header, name)
    assert one.header.parse_crs() == other.header.parse_crs()
    assert (one.header.global_encoding.value) == other.header.global_encoding.value


KINDS = [
    ("1.1", 0), ("1.1", 1), ("1.2", 2), ("1.2", 3), ("1.3", 4), ("1.3", 5), ("1.4", 1), ("1.4", 6),
    ("1.4", 7), ("1.4", 8), ("1.4", 9), ("1.4", 10),
]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "point_format", "suffix"),
    [*((*kind, "laz") for kind in KINDS), ("1.1", 0, "las"), ("1.4", 7, "las")],
)
def test_nothing_is_lost(tmp_path, version, point_format, suffix):
    path = random_file(tmp_path / f"before.{suffix}", version, point_format)
    # What libraries change of waveforms is not compressed.
    name = f"after.{'las' if point_format in (4, 5, 9, 10) else suffix}"
    scan = painted(path, tmp_path / name)
    assert name_of_copy(scan) == name.replace("after", "before")
    assert_same_but_for_scores(path, tmp_path / name)
    (points,) = read_points(scan)
    assert_scores_tell_cells(scan, points, laspy.read(tmp_path / name))


def test_a_file_of_several_chunks(tmp_path):
    path = random_file(tmp_path / "before.laz", "1.4", 6, extra=False, count=2 * CHUNK + 7)
    scan = painted(path, tmp_path / "after.laz")
    after = laspy.read(tmp_path / "after.laz")
    assert len(after) == 2 * CHUNK + 7
    assert_scores_tell_cells(scan, laspy.read(path).points, after)


def assert_scores_tell_cells(scan: Scan, points, after) -> None:
    """The points of the road have scores as `painted` gives them, and no others have any."""
    scores = np.array(after.crn_score)
    i, j = (each % BLOCK // CELL for each in centimetres(scan, points))
    road = np.array(points.classification) == ROAD
    road &= np.array(points.withheld) == 0
    road &= np.array(points.return_number) == 2
    assert 0 < road.sum() < len(points) / 2
    np.testing.assert_array_equal(scores[road], (j * (BLOCK // CELL) + i)[road])
    assert np.isnan(scores[~road]).all()
    assert np.isnan(np.array(after.crn_anomalous)[~road]).all()
    np.testing.assert_array_equal(np.array(after.crn_anomalous)[road], scores[road] > 1e5)


@pytest.mark.parametrize("point_format", [1, 3, 6, 8])
def test_both_libraries_read_what_is_written(tmp_path, point_format):
    pytest.importorskip("laszip")
    path = random_file(tmp_path / "before.laz", "1.4", point_format)
    painted(path, tmp_path / "after.laz")
    one, other = (
        laspy.read(tmp_path / "after.laz", laz_backend=backend)
        for backend in (laspy.LazBackend.Lazrs, laspy.LazBackend.Laszip)
    )
    assert one.points.array.tobytes() == other.points.array.tobytes()


def test_a_file_with_records_of_copc_becomes_a_plain_one(tmp_path):
    path = random_file(tmp_path / "before.laz", "1.4", 7)
    content = laspy.read(path)
    content.vlrs.insert(0, laspy.VLR("copc", 1, "info", bytes(160)))
    content.evlrs = VLRList([laspy.VLR("copc", 1000, "hierarchy", bytes(32)), *content.evlrs])
    content.write(tmp_path / "copc.laz")
    painted(tmp_path / "copc.laz", tmp_path / "after.laz")
    after = laspy.read(tmp_path / "after.laz")
    names = {each.user_id for each in (*after.vlrs, *after.evlrs)}
    assert "copc" not in names
    assert "someone" in names
    assert after.points.array["X"].tobytes() == content.points.array["X"].tobytes()


def test_bytes_that_no_record_describes(tmp_path):
    path = random_file(tmp_path / "described.las", "1.2", 1)
    content = bytearray(path.read_bytes())
    # The record of the extra bytes becomes another one.
    place = content.index(b"LASF_Spec")
    content[place : place + 9] = b"elsewhere"
    (tmp_path / "before.las").write_bytes(content)
    painted(tmp_path / "before.las", tmp_path / "after.las")
    before, after = (laspy.read(tmp_path / f"{name}.las") for name in ("before", "after"))
    bytes_ = [after[name] for name in after.point_format.dimension_names if "byte_" in name]
    assert before.ExtraBytes.tobytes() == np.stack(bytes_, 1).tobytes()
    assert np.isfinite(np.array(after.crn_score)).any()


def test_waveforms_in_the_file_are_refused(tmp_path):
    """LAS 1.3 has them after the points, where a number in the header points to."""
    path = random_file(tmp_path / "plain.las", "1.3", 4, extra=False)
    content = bytearray(path.read_bytes())
    packets = bytes(range(256)) * 5
    record = b"\0\0" + b"LASF_Spec".ljust(16, b"\0") + (65535).to_bytes(2, "little")
    record += len(packets).to_bytes(8, "little") + b"waveforms".ljust(32, b"\0") + packets
    content[227:235] = len(content).to_bytes(8, "little")
    content[6] |= 2  # waveforms are in this file
    (tmp_path / "before.las").write_bytes(content + record)
    with pytest.raises(UserError, match="holds waveforms"):
        painted(tmp_path / "before.las", tmp_path / "after.las")


def raw_records(content: bytes) -> list[bytes]:
    """The bytes of the records before the points."""
    place, found = int.from_bytes(content[94:96], "little"), []
    for _ in range(int.from_bytes(content[100:104], "little")):
        end = place + 54 + int.from_bytes(content[place + 20 : place + 22], "little")
        found.append(content[place:end])
        place = end
    return found


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_text_and_records_stay_to_the_byte(tmp_path, version, suffix):
    """Latin-1 in the header and in a record; an own no-data value; a record after the points."""
    header = laspy.LasHeader(version=version, point_format=1)
    header.scales = np.full(3, 0.001)
    header.vlrs.append(laspy.VLR("someone", 42, "Vermessung M#ller", b"its \xfc bytes"))
    amplitude = laspy.ExtraBytesParams(
        "Amplitude", "i2", no_data=[-9999], scales=[0.01], offsets=[0]
    )
    header.add_extra_dim(amplitude)
    points = laspy.ScaleAwarePointRecord.zeros(9, header=header)
    points.classification[:] = ROAD
    path = tmp_path / f"before.{suffix}"
    with laspy.open(path, "w", header=header) as writer:
        writer.write_points(points)
        if version == "1.4":
            writer.write_evlrs(VLRList([laspy.VLR("someone", 43, "Stra#e", b"m\xf6re")]))
    content = bytearray(
        path.read_bytes().replace(b"M#ller", b"M\xfcller").replace(b"a#e", b"a\xdfe")
    )
    content[26:90] = "Büro Süd\0and more".encode("latin-1").ljust(
        32, b"\0"
    ) + b"\xe4\xf6\xfc\xff".ljust(32, b"x")
    path.write_bytes(content)
    painted(path, tmp_path / f"after.{suffix}", crs="EPSG:25832")
    after = (tmp_path / f"after.{suffix}").read_bytes()
    assert after[26:94] == content[26:94]
    before = {each[2:20]: each for each in raw_records(bytes(content)) if b"laszip" not in each}
    now = {each[2:20]: each for each in raw_records(after)}
    extra = b"LASF_Spec".ljust(16, b"\0") + b"\4\0"
    assert now[extra][54:].startswith(before.pop(extra)[54:])
    assert before.items() <= now.items()
    read = laspy.read(tmp_path / f"after.{suffix}")
    (record,) = read.vlrs.get("ExtraBytesVlr")
    amplitude, score, decision = record.extra_bytes_structs
    assert amplitude.no_data == [-9999]
    names = [each.name.rstrip(b"\0") for each in (score, decision)]
    assert names == [b"crn_score", b"crn_anomalous"]
    assert np.isnan(score.no_data).all()
    if version == "1.4":
        start = int.from_bytes(after[235:243], "little")
        assert after[start:].startswith(b"\0\0someone")
        assert after[start:] == content[int.from_bytes(content[235:243], "little") :]


def test_a_header_that_cannot_be_copied_is_refused_before_scoring(tmp_path, monkeypatch):
    path = random_file(tmp_path / "before.las", "1.2", 1)
    (scan,) = check_scans([path], None)
    monkeypatch.setattr(laspy.header, "LAS_HEADERS_SIZE", {})
    with pytest.raises(UserError, match=r"before\.las: cannot be read"):
        refuse_unfit(scan)


def test_the_copy_names_the_system_of_the_flag(tmp_path):
    path = random_file(tmp_path / "before.las", "1.2", 3)
    painted(path, tmp_path / "after.las", crs="EPSG:25833")
    assert laspy.read(path).header.parse_crs().to_epsg() == 25832
    after = laspy.read(tmp_path / "after.las")
    assert after.header.parse_crs().to_epsg() == 25833
    assert sum(each.user_id == "LASF_Projection" for each in after.vlrs) == 1


def test_a_file_without_a_coordinate_system_gets_that_of_the_flag(tmp_path):
    path = random_file(tmp_path / "named.las", "1.2", 3)
    content = laspy.read(path)
    content.vlrs = [each for each in content.vlrs if each.user_id != "LASF_Projection"]
    content.write(tmp_path / "before.las")
    painted(tmp_path / "before.las", tmp_path / "after.las", crs="EPSG:28992")
    assert laspy.read(tmp_path / "after.las").header.parse_crs().to_epsg() == 28992


def test_files_that_the_other_library_has_compressed(tmp_path):
    pytest.importorskip("laszip")
    content = laspy.read(random_file(tmp_path / "before.las", "1.2", 3))
    stream = io.BytesIO()
    content.write(stream, do_compress=True, laz_backend=laspy.LazBackend.Laszip)
    (tmp_path / "before.laz").write_bytes(stream.getvalue())
    painted(tmp_path / "before.laz", tmp_path / "after.laz")
    assert_same_but_for_scores(tmp_path / "before.las", tmp_path / "after.laz")
