"""What is said about a road: layers, places, sections, two surveys, thresholds, what is ignored."""

import math
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("laspy")
rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

import pandas  # noqa: E402
import pyproj  # noqa: E402
import shapely  # noqa: E402
from PIL import Image  # noqa: E402
from scans import POTHOLE, run_score, small_street, write_las  # noqa: E402
from scipy.ndimage import gaussian_filter  # noqa: E402

from crn.errors import UserError  # noqa: E402
from crn.pointcloud.command import run_pointcloud  # noqa: E402
from crn.pointcloud.drawing import draw_layers  # noqa: E402
from crn.pointcloud.joined import join_layers  # noqa: E402
from crn.pointcloud.layers import LAYERS, Grid, grid_of  # noqa: E402
from crn.pointcloud.mosaic import Mosaic  # noqa: E402
from crn.pointcloud.partition import BLOCK  # noqa: E402
from crn.pointcloud.places import road_length, severity, sound_threshold  # noqa: E402
from crn.pointcloud.results import Wanted, write_results  # noqa: E402
from crn.pointcloud.sections import named_axes  # noqa: E402
from crn.pointcloud.street import CRS, make_street  # noqa: E402
from crn.pointcloud.street_ground import Damage  # noqa: E402
from crn.pointcloud.surveys import Earlier  # noqa: E402
from crn.pointcloud.vectors import read_shapes  # noqa: E402

CELL, SIDE = 0.04, BLOCK // 4
TAGS = {"model": "made up"}
WEST, SOUTH = 14_000 * 25.6, 222_000 * 25.6
TOWN = "+proj=tmerc +lat_0=0 +lon_0=7 +k=1 +x_0=362000 +y_0=0 +ellps=GRS80 +units=m +type=crs"


def survey(
    folder: Path, holes=(), blocks=4, crs: str = CRS, raised: float = 0.0, rims=False, **more
) -> Path:
    """Results of a straight road, 8 m wide and west to east, with holes at (east, north, ...).

    A hole is (east, north, half length, half width, depth in mm). The scores are halos around what
    is not flat, as a model's are, or high at the western and eastern rims only.
    """
    folder.mkdir(exist_ok=True)
    chance = np.random.default_rng(len(holes))
    all_blocks = {(14_000 + east, 222_000): 0 for east in range(blocks)}

    def mosaics():
        for block in all_blocks:
            x = (block[0] - 14_000) * 25.6 + (np.arange(SIDE) + 0.5) * CELL
            x, y = np.meshgrid(x, (np.arange(SIDE) + 0.5) * CELL)
            height = chance.normal(0, 1.5, x.shape) + raised
            for east, north, long, wide, depth in holes:
                height[(abs(x - east) < long) & (abs(y - north) < wide)] -= depth
            score = gaussian_filter(abs(height - raised), 2)
            if rims:
                score[(abs(abs(x - 10) - 0.5) > 0.12) | (abs(y - 12) > 0.3)] = 0
            road = abs(y - 12) < 4
            intensity = chance.normal(9000, 500, x.shape)
            layers = (score, height, intensity)
            yield block, Mosaic(*(np.where(road, each, np.nan).astype("f4") for each in layers))

    grid = Grid.around(all_blocks, 4, 1.0, pyproj.CRS(crs))
    draw_layers(folder, grid, mosaics(), tags=TAGS)
    header = SimpleNamespace(creation_date="2026-05-01")
    scan = SimpleNamespace(path=Path("a.laz"), name="day1/a.laz", header=header)
    facts = {"model": "made up", "cell_m": CELL, "road": "8 m wide", "scans": ["a.laz"]}
    wanted = Wanted(**{"threshold": 4.0, "source": "a test", **more})
    write_results(folder, folder, grid, all_blocks, [scan], facts, wanted)
    return folder


def places_of(folder: Path, layer: str = "places"):
    return geopandas.read_file(folder / "damages.gpkg", layer=layer)


HOLES = [
    (10, 12, 0.4, 0.3, 40),  # a pothole
    (30, 10, 1.2, 0.05, 14),  # a crack
    (50, 13, 0.6, 0.5, -9),  # a patch, raised
    (70, 12, 0.3, 0.3, -30),  # a bump
    (90, 11, 0.04, 0.04, 20),  # too small
]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    return survey(tmp_path_factory.mktemp("road") / "out", HOLES)


def test_kinds_and_outlines(road):
    places = places_of(road)
    assert sorted(places.kind) == ["bump", "crack", "patch", "pothole"]
    for place in places.itertuples():
        east, north, long, wide, depth = min(
            HOLES, key=lambda hole: abs(WEST + hole[0] - place.east)
        )
        true = shapely.box(
            *(WEST + east - long, SOUTH + north - wide), *(WEST + east + long, SOUTH + north + wide)
        )
        assert place.geometry.intersection(true).area > 0.85 * true.area, place.kind
        # A cell on each side, since heights are means of three by three cells.
        assert place.area_m2 < true.buffer(1.5 * CELL).area, place.kind
        assert abs(place.depth_mm - depth) < (6 if place.kind == "crack" else 3)
        assert place.length_m == pytest.approx(2 * long, abs=0.1)
        assert (place.scan, place.date) == ("day1/a.laz", "2026-05-01")
    assert places.number.tolist() == [1, 2, 3, 4]
    order = [["high", "medium", "low"].index(each) for each in places.severity]
    assert order == sorted(order)


def test_a_hole_with_two_hot_rims_is_one_place(tmp_path):
    (place,) = places_of(survey(tmp_path / "out", [(10, 12, 0.5, 0.4, 40)], rims=True)).itertuples()
    assert place.area_m2 == pytest.approx(0.8, rel=0.25)


@pytest.mark.parametrize(
    ("depth", "diameter", "expected"),
    [(20, 0.3, "low"), (25, 0.3, "low"), (20, 0.5, "medium"), (30, 0.15, "low"),
     (30, 0.3, "medium"), (30, 0.5, "high"), (60, 0.15, "medium"), (60, 0.5, "high")],
)  # fmt: skip
def test_severities(depth, diameter, expected):
    assert severity(depth, math.pi * diameter**2 / 4) == expected


def test_the_least_area(road, tmp_path):
    few = places_of(survey(tmp_path / "a", HOLES, least_area=0.8))
    assert set(few.kind) == {"patch"}
    assert len(places_of(survey(tmp_path / "b", HOLES, least_area=0.001))) == 5


def test_layers_say_what_they_are(road):
    for name, unit, colours in (
        ("score", None, 5),
        ("height_mm", "mm", 5),
        ("intensity", None, 2),
    ):
        with rasterio.open(road / f"{name}.tif") as file:
            cells = file.read(1)
            assert math.isnan(file.nodata)
            assert file.descriptions[0]
            assert file.units[0] == unit
            assert file.tags()["model"] == "made up"
            tags = file.tags(1)
            known = cells[np.isfinite(cells)].astype(float)
            for key, value in (
                ("MINIMUM", known.min()),
                ("MAXIMUM", known.max()),
                ("MEAN", known.mean()),
                ("STDDEV", known.std()),
            ):
                assert float(tags[f"STATISTICS_{key}"]) == pytest.approx(value, rel=1e-5)
            assert file.overviews(1) == [4, 16, 64]
        with rasterio.open(road / f"{name}.tif", overview_level=1) as file:
            small = file.read(1)
        parts = cells.reshape(small.shape[0], 16, small.shape[1], 16)
        if name == "score":  # no hot cell is lost from afar
            expected = np.fmax.reduce(parts, axis=(1, 3))
            np.testing.assert_array_equal(small, expected)
        else:
            inner = np.isfinite(parts).all((1, 3))
            np.testing.assert_allclose(
                small[inner], parts.mean((1, 3))[inner], rtol=1e-3, atol=0.01
            )
        style = ElementTree.parse(road / f"{name}.qml")
        values = [float(item.get("value")) for item in style.iter("item")]
        assert len(values) == colours
        assert values == sorted(values)


def test_drawing_grows_with_the_road_and_not_with_its_extent(tmp_path):
    cells = np.ones((3, SIDE, SIDE), np.float32)
    sizes = []
    for apart in (1, 200):  # 5 km
        folder = tmp_path / str(apart)
        folder.mkdir()
        blocks = [(0, 0), (apart, apart)]
        grid = Grid.around(blocks, 4, 1.0, pyproj.CRS(TOWN))
        draw_layers(folder, grid, ((each, Mosaic(*cells)) for each in blocks))
        sizes.append(sum(path.stat().st_blocks for path in folder.iterdir()) * 512)
        found, known = grid_of(folder, "--against")
        assert (found, sorted(known)) == (grid, blocks)
    assert sizes[1] < sizes[0] + 20e6  # lists of empty tiles; all cells would be 50e9


def test_several_scans_are_joined(tmp_path):
    chance = np.random.default_rng(0)
    blocks = {(0, 0): 0, (1, 0): 0, (1, 1): 1}
    cells = {each: chance.normal(0, 1, (3, SIDE, SIDE)).astype("f4") for each in blocks}
    cells[1, 0][:, :100] = np.nan
    cells[1, 1] += 3  # means that differ count in the deviation of both
    stems = []
    (tmp_path / "day1").mkdir()
    for number in (0, 1):
        own = [each for each in blocks if blocks[each] == number or each == (1, 0)]
        grid = Grid.around(own, 4, 1.0, pyproj.CRS(CRS))
        stems.append(f"day1/{number}_")
        draw_layers(tmp_path, grid, ((each, Mosaic(*cells[each])) for each in own), stems[-1])
    grid = Grid.around(blocks, 4, 1.0, pyproj.CRS(CRS))
    join_layers(tmp_path, tmp_path, grid, stems)
    for number, name in enumerate(LAYERS):
        with rasterio.open(tmp_path / f"{name}.vrt") as file:
            assert file.crs.to_epsg() == 25832
            for block, expected in cells.items():
                window = grid.window(block)
                np.testing.assert_array_equal(file.read(1, window=window), expected[number][::-1])
            assert np.isnan(file.read(1, window=grid.window((0, 1)))).all()
            known, tags = np.array([each[number] for each in cells.values()]), file.tags(1)
            for key, value in (("MINIMUM", np.nanmin(known)), ("MAXIMUM", np.nanmax(known))):
                assert float(tags[f"STATISTICS_{key}"]) == pytest.approx(float(value), rel=1e-5)
            # Both scans have the second block: its cells count twice.
            twice = known[[0, 1, 1, 2]]
            for key, value in (("MEAN", np.nanmean(twice)), ("STDDEV", np.nanstd(twice))):
                assert float(tags[f"STATISTICS_{key}"]) == pytest.approx(float(value), rel=1e-4)
            assert tags["STATISTICS_APPROXIMATE"] == "YES"
    assert grid_of(tmp_path, "--against")[1].keys() == blocks.keys()


def test_a_system_without_a_code(tmp_path):
    folder = survey(tmp_path / "out", HOLES[:1], crs=TOWN)
    places = places_of(folder)
    assert places.crs == pyproj.CRS(TOWN)
    with rasterio.open(folder / "score.tif") as file:
        assert pyproj.CRS(file.crs.to_wkt()).is_projected
    degrees = geopandas.read_file(folder / "damages.geojson")
    assert degrees.to_crs(TOWN).geometry[0].centroid.distance(places.geometry[0].centroid) < 0.01


def axis(path: Path, **columns) -> Path:
    """Axes along the middle of the road, from east to west, and far away."""
    lines = [
        shapely.LineString([(WEST + 102.4, SOUTH + 12), (WEST, SOUTH + 12)]),
        shapely.LineString([(WEST, SOUTH + 500), (WEST + 100, SOUTH + 500)]),
    ]
    frame = geopandas.GeoDataFrame(columns, geometry=lines, crs=CRS)
    frame.to_crs("EPSG:4326").to_file(path)
    return path


def test_sections_by_the_axis(tmp_path):
    scan = SimpleNamespace(crs=pyproj.CRS(CRS), unit=1.0)
    path = axis(tmp_path / "axis.gpkg", lanes=[2, 2], road=["L 123", "K 4"])
    axes = named_axes(read_shapes(path, "--axis", [scan]))
    assert axes.index.tolist() == ["L 123", "K 4"]
    folder = survey(tmp_path / "out", HOLES, axes=axes)
    places = places_of(folder).set_index("kind")
    assert set(places.road) == {"L 123"}
    for kind, station, side, offset in (
        ("pothole", 92.4, "left", 0),
        ("crack", 72.4, "left", 2),  # south of an axis that goes west
        ("patch", 52.4, "right", 1),
    ):
        place = places.loc[kind]
        assert place.station_m == pytest.approx(station, abs=0.05)
        assert place.offset_m == pytest.approx(offset, abs=0.05)
        assert place.side == side or not offset
    text = (folder / "sections_10m.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")
    table = pandas.read_csv(folder / "sections_10m.csv")
    assert table.columns.tolist() == [
        "road", "from_m", "to_m", "places", "area_m2", "worst", "severity",
    ]  # fmt: skip
    # All that have been measured; those without places as well.
    assert table.from_m.tolist() == list(range(0, 110, 10))
    assert table.set_index("from_m").places[lambda n: n > 0].index.tolist() == [30, 50, 70, 90]
    whole = pandas.read_csv(folder / "sections_100m.csv")
    assert whole.places.tolist() == [4, 0]
    assert whole.worst[0] == 1
    assert whole.severity[0] == "high"
    assert whole.area_m2[0] == pytest.approx(places.area_m2.sum())
    lines = places_of(folder, "sections_10m")
    assert lines.length.round(3).tolist() == [10.0] * 10 + [2.4]


def test_sections_without_an_axis(road):
    table = pandas.read_csv(road / "sections_100m.csv")
    assert table.columns.tolist()[:3] == ["scan", "east_m", "north_m"]
    assert table.places.sum() == 4
    squares = places_of(road, "sections_10m")
    for square, count in zip(squares.geometry, squares.places, strict=True):
        assert square.area == pytest.approx(100)
        inside = [square.covers(each) for each in places_of(road).centroid]
        assert sum(inside) == count


def test_two_surveys(tmp_path):
    before = [(10, 12, 0.4, 0.3, 40), (30, 12, 0.3, 0.3, 30), (60, 12, 0.3, 0.3, 30)]
    after = [(10, 12, 0.4, 0.3, 42), (30, 12, 0.5, 0.4, 45), (80, 12, 0.4, 0.3, 42)]
    old = survey(tmp_path / "old", before)
    # The second pass is 3 cm higher, and one block longer.
    new = survey(tmp_path / "new", after, 5, raised=30, earlier=Earlier.read(old))
    places = places_of(new)
    found = {round(p.east - WEST): (p.status, p.change_mm) for p in places.itertuples()}
    assert {east: status for east, (status, _) in found.items()} == {
        10: "unchanged", 30: "grown", 80: "new",
    }  # fmt: skip
    assert found[80][1] == pytest.approx(-42, abs=6)
    assert found[10][1] == pytest.approx(-2, abs=2)
    repaired = places_of(new, "repaired")
    assert (repaired.east - WEST).round().tolist() == [60]
    assert repaired.change_mm[0] == pytest.approx(30, abs=6)
    with rasterio.open(new / "difference_mm.tif") as file:
        window = rasterio.windows.from_bounds(
            *(WEST + 79.8, SOUTH + 11.8), *(WEST + 80.2, SOUTH + 12.2), file.transform
        )
        assert file.read(1, window=window).mean() == pytest.approx(-42, abs=1)
        assert abs(np.nanmedian(file.read(1))) < 0.1


def test_surveys_without_places(tmp_path):
    some = [(10, 12, 0.4, 0.3, 40)]
    scan = SimpleNamespace(crs=pyproj.CRS(CRS), unit=1.0)
    axes = named_axes(read_shapes(axis(tmp_path / "axis.gpkg"), "--axis", [scan]))
    assert axes.index.tolist() == ["1", "2"]
    none = survey(tmp_path / "none", axes=axes)
    assert len(places_of(none)) == 0
    assert pandas.read_csv(none / "sections_10m.csv").places.sum() == 0
    new = survey(tmp_path / "new", some, earlier=Earlier.read(none))
    assert places_of(new).status.tolist() == ["new"]
    gone = survey(tmp_path / "gone", earlier=Earlier.read(new))
    assert places_of(gone, "repaired").status.tolist() == ["repaired"]
    with pytest.raises(UserError, match="holds no line"):
        named_axes(places_of(new))


def test_surveys_that_cannot_be_compared(road, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no layers"):
        Earlier.read(tmp_path / "empty")
    listed = survey(tmp_path / "listed", HOLES, threshold=None)
    with pytest.raises(UserError, match="score that survey with a threshold"):
        Earlier.read(listed)
    earlier = Earlier.read(road)
    renamed = pyproj.CRS(CRS).to_wkt().replace("ETRS89 / UTM zone 32N", "UTM32")
    for same in (CRS, f"{CRS}+7837", renamed):
        earlier.require_same_grid(4, pyproj.CRS(same))
    with pytest.raises(UserError, match=r"its cells are of 4 cm, those of this model of 2 cm"):
        earlier.require_same_grid(2, pyproj.CRS(CRS))
    with pytest.raises(UserError, match=r"is ETRS89 / UTM zone 32N, here it is ETRS89 .* 33N"):
        earlier.require_same_grid(4, pyproj.CRS("EPSG:25833"))
    with pytest.raises(UserError, match="here it is none"):
        earlier.require_same_grid(4, None)


def test_the_threshold_of_a_sound_road(tmp_path):
    # Ten false places of rising height on 102 m.
    bumps = [(5 + 10 * n, 12, 0.2, 0.2, 10 + n) for n in range(10)]
    sound = survey(tmp_path / "sound", bumps)
    grid, blocks = grid_of(sound, "x")
    assert road_length(sound, grid, blocks) == pytest.approx(102.4, rel=0.1)
    counts = []
    for allowed in (0.0, 3.0, 8.0):
        threshold, words = sound_threshold(sound, TAGS, allowed, 0.02)
        scored = survey(tmp_path / f"{allowed}", bumps, threshold=threshold)
        counts.append(len(places_of(scored)))
        assert f"{counts[-1]} false places on " in words
    assert counts[0] == 0
    assert counts == [round(allowed * 1.024 - 0.5) if allowed else 0 for allowed in (0, 3, 8)]
    with pytest.raises(UserError, match="another model"):
        sound_threshold(sound, {"model": "other"}, 1.0, 0.02)


def test_parked_cars_make_a_road_no_longer(tmp_path):
    blocks = [(east, 0) for east in range(4)]
    x, y = np.meshgrid((np.arange(SIDE) + 0.5) * CELL, (np.arange(SIDE) + 0.5) * CELL)
    lengths = []
    for gap in (0.0, 4.4):
        folder = tmp_path / str(gap)
        folder.mkdir()
        is_road = (abs(y - 12) < 4) & ~((abs(y - 15) < 0.9) & (x % 5.5 < gap))
        cells = Mosaic(*[np.where(is_road, 1.0, np.nan).astype("f4")] * 3)
        grid = Grid.around(blocks, 4, 1.0, None)
        draw_layers(folder, grid, ((each, cells) for each in blocks))
        lengths.append(road_length(folder, grid, blocks))
    assert lengths == pytest.approx([102.4, 102.4], rel=0.05)


def test_ignored_areas(tmp_path):
    other = Damage("pothole", 12.0, 1.0, (0.4,), 0.04)
    street = make_street(16, [POTHOLE, other], seed=3)
    scan = write_las(tmp_path / "scan.laz", street)
    shapes = [shapely.Polygon(outline).buffer(0.1) for outline in street.outlines]
    frame = geopandas.GeoDataFrame({"verdict": ["ignore", "wrong"]}, geometry=shapes, crs=CRS)
    frame.to_crs("EPSG:4326").to_file(tmp_path / "reviewed.geojson")
    run_score([scan], tmp_path / "out", ignore=tmp_path / "reviewed.geojson")
    (place,) = places_of(tmp_path / "out").geometry
    assert place.intersects(shapes[1])
    assert not place.intersects(shapes[0])
    with rasterio.open(tmp_path / "out/score.tif") as file:
        (value,) = file.sample([shapes[0].centroid.coords[0]])
        assert np.isnan(value)


def test_tiles_leave_out_ignored_areas(tmp_path):
    street = small_street()
    scan = write_las(tmp_path / "scan.laz", street)
    shape = shapely.Polygon(street.outlines[0]).buffer(0.1)
    geopandas.GeoDataFrame(geometry=[shape], crs=CRS).to_file(tmp_path / "ignore.gpkg")
    deepest = []
    for more in ([], ["--ignore", str(tmp_path / "ignore.gpkg")]):
        out = tmp_path / f"tiles{len(more)}"
        run_pointcloud(["tiles", str(scan), "--out", str(out), *more])
        heights = [np.array(Image.open(path)) for path in out.glob("height_files/*.png")]
        deepest.append((32768 - np.min(heights)) / 65535 * 120)
    assert deepest[0] > 35
    assert deepest[1] < 25
