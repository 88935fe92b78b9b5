"""A scan is scored, and the scores are where the damage is: on the map and on the points."""

import json

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")
rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

import shapely  # noqa: E402
from scans import LAYERS, POTHOLE, TILES, layer, run_score, small_street, write_las  # noqa: E402

from crn.pointcloud.street import CRS  # noqa: E402
from crn.pointcloud.street_ground import NOT_ROAD, SOUND  # noqa: E402

CELL = TILES.cell / 100
HOT = 20  # mm; where a rut crosses the ring of a manhole, the road is 18 mm deep
FEET = "EPSG:2222"  # Arizona East in international feet


@pytest.fixture(scope="module")
def street():
    return small_street()


@pytest.fixture(scope="module")
def scored(street, tmp_path_factory):
    """A folder with scan.laz, and what scoring it has written in result/."""
    folder = tmp_path_factory.mktemp("scored")
    write_las(folder / "scan.laz", street)
    run_score([folder / "scan.laz"], folder / "result")
    return folder


def scores_of(path) -> np.ndarray:
    return np.array(laspy.read(path)["crn_score"])


def assert_pothole_is_found(street, scores):
    """Hot points are those of the pothole, to a cell."""
    middle = street.outlines[0].mean(0)
    distance = np.hypot(*(street.xyz[:, :2] - middle).T)
    road = street.truth != NOT_ROAD
    hot = road & (scores > HOT)
    assert distance[hot].max() < POTHOLE.size[0] + CELL * 1.5
    assert np.hypot(*(street.xyz[hot, :2].mean(0) - middle)) < CELL
    bottom = road & (distance < POTHOLE.size[0] - 0.1 - CELL)
    assert abs(np.median(scores[bottom]) - 1000 * POTHOLE.depth) < 5
    assert hot[bottom].all()


def test_every_point_of_the_road_carries_the_value_of_its_cell(street, scored):
    scores = scores_of(scored / "result/scan.laz")
    read = laspy.read(scored / "scan.laz")
    with rasterio.open(scored / "result/score.tif") as file:
        column, row = ~file.transform * (np.array(read.x), np.array(read.y))
        # A thousandth of a centimetre: points on a border are of the cell above it.
        row, column = (np.floor(each + s).astype(int) for each, s in ((row, -1e-4), (column, 1e-4)))
        expected = file.read(1)[row, column]
    has = np.isfinite(scores)
    np.testing.assert_array_equal(scores[has], expected[has])
    road = street.truth != NOT_ROAD
    assert has[road].mean() > 0.98
    assert has[~road].mean() < 0.01


def test_the_pothole_is_where_it_is(street, scored):
    assert_pothole_is_found(street, scores_of(scored / "result/scan.laz"))


def test_damages(street, scored):
    found = geopandas.read_file(scored / "result/damages.gpkg", layer="places")
    assert found.crs == CRS
    ((_, place),) = found.iterrows()
    outline = shapely.Polygon(street.outlines[0])
    shape = place.geometry
    assert shape.intersection(outline).area / shape.union(outline).area >= 0.8
    assert abs(place.depth_mm - 1000 * POTHOLE.depth) < 5
    assert place.area_m2 == pytest.approx(shape.area, abs=1e-4)
    assert place.area_m2 == pytest.approx(outline.area, rel=0.15)
    assert 0.65 < place.width_m <= place.length_m < 0.9
    assert (place.kind, place.severity, place.scan) == ("pothole", "high", "scan.laz")
    assert place["date"] == str(laspy.open(scored / "scan.laz").header.creation_date)
    assert np.hypot(place.east - shape.centroid.x, place.north - shape.centroid.y) < 0.002


def test_the_web_has_degrees(scored):
    text = (scored / "result/damages.geojson").read_text()
    assert "crs" not in json.loads(text)
    degrees = geopandas.read_file(scored / "result/damages.geojson")
    places = geopandas.read_file(scored / "result/damages.gpkg", layer="places")
    assert degrees.crs == "EPSG:4326"
    back = degrees.to_crs(CRS).geometry[0].centroid
    assert back.distance(places.geometry[0].centroid) < 0.01


def test_the_road_is_told_from_the_rest_by_the_filter(street, scored):
    with rasterio.open(scored / "result/intensity.tif") as file:
        known = np.isfinite(file.read(1))
        left, top = file.bounds.left, file.bounds.top
    column = ((street.xyz[:, 0] - left) / CELL).astype(int)
    row = ((top - street.xyz[:, 1]) / CELL).astype(int)
    assert known[row, column][street.truth != NOT_ROAD].mean() > 0.98
    # Of what is beside the road, only what shares a cell with it.
    assert known[row, column][street.truth == NOT_ROAD].mean() < 0.02
    assert street.truth.max() > SOUND


@pytest.mark.parametrize("kind", ["shuffled", "in two files", "in feet", "not compressed"])
def test_how_the_points_come_does_not_matter(street, scored, tmp_path, kind):
    chance = np.random.default_rng(0)
    if kind == "shuffled":
        files = [write_las(tmp_path / "a.laz", street, chance.permutation(len(street.xyz)))]
    elif kind == "in two files":
        # Cut through the pothole; the parts have other offsets.
        left = street.xyz[:, 0] < street.outlines[0][:, 0].mean()
        files = [
            write_las(tmp_path / name, street, np.flatnonzero(part))
            for name, part in (("a.laz", left), ("b.laz", ~left))
        ]
    elif kind == "in feet":
        files = [write_las(tmp_path / "a.laz", street, crs=FEET, unit=0.3048)]
    else:
        files = [write_las(tmp_path / "a.las", street, point_format=1, version="1.2")]
    run_score(files, tmp_path / "out")
    for name in LAYERS:
        np.testing.assert_array_equal(
            layer(tmp_path / "out", name), layer(scored / "result", name), name
        )
    found, expected = (
        geopandas.read_file(path / "damages.gpkg", layer="places")
        for path in (tmp_path / "out", scored / "result")
    )
    assert found.area_m2.tolist() == expected.area_m2.tolist()


def test_feet_stay_feet(street, scored, tmp_path):
    write_las(tmp_path / "a.laz", street, crs=FEET, unit=0.3048)
    run_score([tmp_path / "a.laz"], tmp_path / "out")
    with rasterio.open(tmp_path / "out/score.tif") as file:
        assert file.res == pytest.approx((CELL / 0.3048,) * 2)
        assert file.crs.to_epsg() == 2222
    feet, metres = (
        geopandas.read_file(path / "damages.gpkg", layer="places").iloc[0]
        for path in (tmp_path / "out", scored / "result")
    )
    assert feet.area_m2 == metres.area_m2
    assert feet.length_m == metres.length_m
    assert feet.east * 0.3048 == pytest.approx(metres.east, abs=1e-3)


@pytest.mark.parametrize(
    "more",
    [
        {"angle": -70.0, "place": (-5.3, 7.7, -3.0)},
        {"angle": 180.0, "place": (1e7, 1e7, 2500.0)},
    ],
)
def test_elsewhere_and_turned(tmp_path, more):
    street = small_street(**more)
    write_las(tmp_path / "a.laz", street, crs=None)
    run_score([tmp_path / "a.laz"], tmp_path / "out")
    assert_pothole_is_found(street, scores_of(tmp_path / "out/a.laz"))


def test_without_a_threshold_nothing_is_called_damage(street, scored, tmp_path):
    run_score([scored / "scan.laz"], tmp_path / "out", None)
    names = laspy.read(tmp_path / "out/scan.laz").point_format.dimension_names
    assert "crn_anomalous" not in names
    assert not (tmp_path / "out/damages.gpkg").exists()
    first = geopandas.read_file(tmp_path / "out/look_here_first.gpkg", layer="places")
    assert 1 <= len(first) <= 20
    assert first.score_max.is_monotonic_decreasing
    assert not first.severity.any()
    assert first.geometry[0].intersects(shapely.Point(street.outlines[0].mean(0)))
    assert "nothing is called damage" in (tmp_path / "out/report.html").read_text()
    decided = laspy.read(scored / "result/scan.laz")
    scores, anomalous = (np.array(decided[n]) for n in ("crn_score", "crn_anomalous"))
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(anomalous))
    np.testing.assert_array_equal(scores > HOT, anomalous == 1)


def test_classes_and_polygons_tell_the_road(street, scored, tmp_path):
    road = np.where(street.truth == NOT_ROAD, 1, 11).astype(np.uint8)
    write_las(tmp_path / "a.laz", street, classification=road)
    run_score([tmp_path / "a.laz"], tmp_path / "classes")
    has = np.isfinite(scores_of(tmp_path / "classes/a.laz"))
    assert has[street.truth == NOT_ROAD].sum() == 0
    assert has[street.truth != NOT_ROAD].mean() > 0.99
    # Three metres around the pothole.
    middle = street.outlines[0].mean(0)
    corners = (middle + np.array(((-3, -3), (3, -3), (3, 3), (-3, 3), (-3, -3)))).tolist()
    shape = {"type": "Polygon", "coordinates": [corners]}
    (tmp_path / "road.geojson").write_text(json.dumps(shape))
    run_score([scored / "scan.laz"], tmp_path / "polygon", road=tmp_path / "road.geojson")
    has = np.isfinite(scores_of(tmp_path / "polygon/scan.laz"))
    assert abs(street.xyz[has, :2] - middle).max() < 3.2
    assert has.sum() > 0.9 * 36 * 1250


def test_two_passes_whose_heights_differ(tmp_path):
    """The second is 3 cm higher: a scan of its own, which must not hide the pothole."""
    street = small_street()
    first = street.seconds < 3600
    street.xyz[~first, 2] += 0.03
    files = [
        write_las(tmp_path / name, street, np.flatnonzero(part))
        for name, part in (("a.laz", first), ("b.laz", ~first))
    ]
    run_score(files, tmp_path / "out")
    places = geopandas.read_file(tmp_path / "out/damages.gpkg", layer="places")
    outline = shapely.Polygon(street.outlines[0])
    (shape,) = places.geometry
    assert shape.intersection(outline).area / shape.union(outline).area > 0.75
    assert abs(places.depth_mm[0] - 1000 * POTHOLE.depth) < 5
