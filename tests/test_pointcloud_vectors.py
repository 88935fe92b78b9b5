"""Areas that users draw: any format, any system, lines; and what cannot be used is told."""

import json
from pathlib import Path

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")
geopandas = pytest.importorskip("geopandas")

import pyproj  # noqa: E402
import shapely  # noqa: E402
import shapely.affinity  # noqa: E402
from scans import small_street, write_las  # noqa: E402

from crn.errors import UserError  # noqa: E402
from crn.pointcloud.las import check_scans  # noqa: E402
from crn.pointcloud.partition import BLOCK  # noqa: E402
from crn.pointcloud.street import CRS  # noqa: E402
from crn.pointcloud.vectors import read_areas  # noqa: E402

CELL = 4
SIDE = BLOCK // CELL
TOWN = (  # a city's own grid, which has no code
    "+proj=tmerc +lat_0=0 +lon_0=7.03 +k=1 +x_0=362000 +y_0=20000 +ellps=GRS80 +units=m +type=crs"
)


@pytest.fixture(scope="module")
def street():
    return small_street()


@pytest.fixture(scope="module")
def scans(street, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.las"
    return check_scans([write_las(path, street)], None)


@pytest.fixture(scope="module")
def outline(street):
    return shapely.Polygon(street.outlines[0])


def burnt(areas, shape) -> np.ndarray:
    """The burnt cells of the block of a shape."""
    block = tuple(int(value * 100 // BLOCK) for value in shape.centroid.coords[0])
    return areas.burn(block, 0, CELL, SIDE)


def area_of(cells: np.ndarray) -> float:
    return cells.sum() * (CELL / 100) ** 2


FORMATS = {
    "areas.gpkg": CRS,
    "degrees.geojson": "EPSG:4326",
    "mercator.shp": "EPSG:3857",
    "town.gpkg": TOWN,
    "feet.gpkg": "+proj=utm +zone=32 +ellps=GRS80 +units=us-ft +type=crs",
}


@pytest.mark.parametrize(("name", "crs"), FORMATS.items())
def test_any_format_in_any_system(scans, outline, tmp_path, name, crs):
    frame = geopandas.GeoDataFrame(geometry=[outline], crs=CRS)
    expected = burnt(read_areas(written(tmp_path / "a.gpkg", frame), "--damages", scans), outline)
    assert area_of(expected) == pytest.approx(outline.area, rel=0.03)
    path = written(tmp_path / name, frame.to_crs(crs))
    found = burnt(read_areas(path, "--damages", scans), outline)
    assert (found != expected).sum() <= 4  # cells whose middle is on the border


def written(path: Path, frame) -> Path:
    frame.to_file(path)
    return path


def test_scans_in_feet(street, outline, tmp_path):
    feet = check_scans([write_las(tmp_path / "a.las", street, crs="EPSG:2222", unit=0.3048)], None)
    shape = shapely.transform(outline, lambda xy: xy / 0.3048)
    frame = geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:2222")
    areas = read_areas(written(tmp_path / "a.gpkg", frame), "--road", feet)
    assert area_of(burnt(areas, outline)) == pytest.approx(outline.area, rel=0.03)


def geojson(path: Path, *shapes, bom: bool = False, **more) -> Path:
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    text = json.dumps({"type": "FeatureCollection", "features": features, **more})
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    return path


def test_what_others_write(scans, outline, tmp_path, caplog):
    """A byte order mark, empty shapes, a collection with a line; no system, so the scans'."""
    x, y = outline.centroid.coords[0]
    line = {"type": "LineString", "coordinates": [[x + 1, y, 61], [x + 2, y, 61]]}
    both = {"type": "GeometryCollection", "geometries": [line, shapely.geometry.mapping(outline)]}
    empty = {"type": "Polygon", "coordinates": []}
    point = {"type": "Point", "coordinates": [x, y]}
    away = shapely.geometry.mapping(shapely.box(x + 500, y, x + 501, y + 1))
    path = geojson(tmp_path / "a.geojson", empty, None, point, both, away, bom=True)
    areas = read_areas(path, "--damages", scans)
    # The line is as wide as two cells of 8 cm, with round ends.
    expected = outline.area + 0.16 + np.pi * 0.08**2
    assert area_of(burnt(areas, outline)) == pytest.approx(expected, rel=0.05)
    assert "names no system; that of the scans is taken" in caplog.text
    assert "2 shapes are left out: Point, Polygon" in caplog.text
    assert "1 of 3 areas touch no scan" in caplog.text


def test_reviewed_places(scans, outline, tmp_path):
    shapes = [shapely.affinity.translate(outline, east) for east in (0, 1, 2)]
    frame = geopandas.GeoDataFrame(
        {"verdict": ["right", "wrong", "ignore"]}, geometry=shapes, crs=CRS
    )
    path = written(tmp_path / "a.gpkg", frame)
    for verdict, shape in (("right", shapes[0]), ("ignore", shapes[2])):
        cells = burnt(read_areas(path, "--damages", scans, verdict), outline)
        only = geopandas.GeoDataFrame(geometry=[shape], crs=CRS)
        expected = burnt(read_areas(written(tmp_path / "b.gpkg", only), "--x", scans), outline)
        np.testing.assert_array_equal(cells, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "cannot be read"),
        (None, "no such file"),
        ('{"type": "FeatureCollection", "features": []}', "holds no area and no line"),
        ('{"type": "Point", "coordinates": [7, 51]}', "holds no area and no line"),
    ],
)
def test_what_cannot_be_used(scans, tmp_path, content, message):
    path = tmp_path / "a.geojson"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        read_areas(path, "--damages", scans)
    assert str(refused.value).startswith(f"--damages {path}: ")


def test_degrees_need_the_system_of_the_scans(street, outline, tmp_path):
    unknown = check_scans([write_las(tmp_path / "a.las", street, crs=None)], None)
    frame = geopandas.GeoDataFrame(geometry=[outline], crs=CRS).to_crs("EPSG:4326")
    with pytest.raises(UserError, match="name it with --crs"):
        read_areas(written(tmp_path / "a.geojson", frame), "--damages", unknown)
    assert pyproj.CRS(TOWN).to_epsg() is None
