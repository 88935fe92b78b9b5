"""Scans become cells and tiles: what is in them, and that a model scores them as files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

laspy = pytest.importorskip("laspy")
pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from scans import POTHOLE, TILES, small_street, write_las  # noqa: E402

from crn.errors import UserError  # noqa: E402
from crn.pointcloud.command import run_pointcloud  # noqa: E402
from crn.pointcloud.las import Scan, check_scans  # noqa: E402
from crn.pointcloud.mosaic import score_block  # noqa: E402
from crn.pointcloud.partition import (  # noqa: E402
    BLOCK,
    HEIGHT_STEP,
    centimetres,
    groups,
    heights,
)
from crn.pointcloud.raster import choose_cell, rasterise, typical_density  # noqa: E402
from crn.pointcloud.roadway import find_road  # noqa: E402
from crn.pointcloud.street import Street, make_street, write_truth  # noqa: E402
from crn.pointcloud.street_ground import CROWN, NOT_ROAD, SLOPE, SOUND, Ground  # noqa: E402
from crn.pointcloud.tiles import Tiles, images_of, levelled, read_tile_set  # noqa: E402
from datasets.layouts import LAYOUTS  # noqa: E402
from datasets.samples import list_samples  # noqa: E402


@pytest.fixture(scope="module")
def roads(tmp_path_factory) -> Path:
    """A folder with scan.laz, its truth, and the tiles of the scan in tiles/."""
    folder = tmp_path_factory.mktemp("roads")
    street = small_street()
    write_las(folder / "scan.laz", street)
    write_truth(folder / "truth.gpkg", street)
    words = ["tiles", folder / "scan.laz", "--out", folder / "tiles"]
    run_pointcloud([*map(str, words), "--damages", str(folder / "truth.gpkg")])
    return folder


def images(folder: Path, kind: str) -> dict[str, np.ndarray]:
    return {path.name: np.array(Image.open(path)) for path in folder.rglob(f"{kind}_files/*.png")}


def test_tiles_are_a_road_images_set(roads):
    samples = list_samples(LAYOUTS["RoadImages"], roads / "tiles")
    assert len(samples) == json.loads((roads / "tiles/tiles.json").read_text())["facts"]["tiles"]
    height, intensity, empty = (
        images(roads / "tiles", kind) for kind in ("height", "intensity", "empty")
    )
    assert height.keys() == intensity.keys() > empty.keys() > set()
    for name, pixels in height.items():
        assert (pixels.dtype, pixels.shape) == (np.uint16, (64, 64))
        assert intensity[name].dtype == np.uint8
        # What is empty is at the level, and of the tile's own intensity.
        if name in empty:
            assert 0 < empty[name].mean() <= 0.3
            assert np.unique(pixels[empty[name]]) == 32768
            assert len(np.unique(intensity[name][empty[name]])) == 1


def test_the_pothole_is_in_bad_tiles_only_and_as_deep_as_it_is(roads):
    def depth(folder: str) -> float:
        pixels = np.stack([*images(roads / "tiles" / folder, "height").values()])
        # A thousandth of the cells may be noise, or the ring of a manhole.
        return 60 - np.quantile(pixels, 0.001) / 65535 * 120

    assert depth("good_ones") < 16
    # The pothole lies in a rut, 5 mm deep on average.
    assert depth("bad_ones") == pytest.approx(1000 * POTHOLE.depth + 5, abs=6)


def test_north_is_up(roads):
    """The pothole is where the tile's name says that it is."""
    middle = geopandas.read_file(roads / "truth.gpkg").geometry[0].centroid
    east, north = middle.x, middle.y
    found = 0
    for name, pixels in images(roads / "tiles/bad_ones", "height").items():
        left, bottom = (int(part[1:]) / 100 for part in name.removesuffix(".png").split("_"))
        column, row = (east - left) / 0.04, 63 - (north - bottom) / 0.04
        if 15 < column < 48 and 15 < row < 48:
            hole = np.argwhere(pixels < 32768 - 25 / 120 * 65535)
            np.testing.assert_allclose(hole.mean(0), (row, column), atol=1)
            found += 1
    assert found


def test_a_model_scores_a_tile_as_inference_scores_its_file(roads, run_main, tmp_path):
    from crn.pointcloud.model import TileScorer

    data = ("--cpu", "--dataset", "RoadImages", "--dataset-path", roads / "tiles")
    trained = run_main(
        *data, "--imsize", 32, "--max-network-depth", 2, "--num-competitive-units", 2, "--seed", 1,
        "--batch-size", 2, "--training-steps", 2, "--checkpoint-path", "kept",
    )  # fmt: skip
    assert trained.status == 0, trained.err
    model = tmp_path / "kept/last.ckpt"
    result = run_main(
        *data, "--mode", "inference", "--save-maps", "1", "--model-input", model,
        "--image-output-path", "out",
    )  # fmt: skip
    assert result.status == 0, result.err
    scorer = TileScorer(model, "best", None, cpu=True)
    thresholds = json.loads((tmp_path / "out/metrics.json").read_text())["threshold"]
    assert thresholds["pixel"] != thresholds["image"]
    # The checkpoint carries what its tiles are.
    own = read_tile_set(roads / "tiles/tiles.json")
    assert own.intensity_range is not None
    assert scorer.tile_set(None) == scorer.tile_set(own) == own
    with pytest.raises(UserError, match="describes other tiles"):
        scorer.tile_set(replace(own, intensity=False, intensity_range=None))
    # Cells are decided on, not tiles.
    assert scorer.threshold_from(tmp_path / "out/metrics.json") == thresholds["pixel"]
    for path in sorted((roads / "tiles/bad_ones/height_files").iterdir())[:5]:
        height, intensity = (
            np.array(Image.open(path.parents[1] / f"{kind}_files" / path.name))[None]
            for kind in ("height", "intensity")
        )
        (mine,) = scorer(height, intensity)
        theirs = Image.open(tmp_path / f"out/maps/bad_ones/{path.stem}.tiff")
        np.testing.assert_allclose(mine, np.array(theirs), rtol=1e-5, atol=1e-6)


def test_tiles_without_known_damage_are_in_one_folder(roads, tmp_path):
    out = tmp_path / "tiles"
    words = ["tiles", roads / "scan.laz", "--out", out, "--no-intensity", "--cell", "0.08"]
    run_pointcloud([*map(str, words), "--height-range-mm", "-100", "50"])
    tiles = read_tile_set(out / "tiles.json")
    assert (tiles.cell, tiles.height_range_mm, tiles.intensity) == (8, (-100, 50), False)
    height, intensity = images(out, "height"), images(out, "intensity")
    for name, pixels in height.items():
        assert pixels.shape == (32, 32)
        np.testing.assert_allclose(pixels / 257, intensity[name], atol=0.51)


@pytest.mark.parametrize(
    ("density", "cell"), [(9000, 1), (8000, 1), (2500, 2), (600, 4), (499, 8), (101, 8)]
)
def test_the_cell_follows_from_the_density(density, cell):
    assert choose_cell(typical_density(np.array([density] * 50 + [3] * 90), "a scan")) == cell


def level_ground(side: int, seed: int = 0) -> np.ndarray:
    """Heights in metres of a slope with a crown, and 3 mm of noise."""
    y, x = np.mgrid[:side, :side] / side
    noise = np.random.default_rng(seed).normal(0, 0.003, (side, side))
    return 1500 + 0.2 * x - 0.1 * y - 0.05 * (x - 0.5) ** 2 + noise


@pytest.mark.parametrize("side", [32, 64, 128])
def test_levelling_takes_the_road_away_and_leaves_the_damage(side):
    height = np.stack([level_ground(side), level_ground(side, 1)])
    y, x = np.mgrid[:side, :side] / side
    hole = np.hypot(x - 0.4, y - 0.6) < 0.15
    height[1][hole] -= 0.04
    measured = np.random.default_rng(2).random(height.shape) < 0.5
    height[~measured] = np.nan
    sound, damaged = levelled(height, measured)
    assert abs(np.nanmean(sound)) < 0.5
    assert np.nanstd(sound) == pytest.approx(3, abs=0.3)
    assert abs(np.nanmedian(damaged[~hole])) < 1
    assert np.nanmedian(damaged[hole]) == pytest.approx(-40, abs=3)
    np.testing.assert_array_equal(np.isnan(sound), ~measured[0])


def test_a_tile_of_one_line_of_cells_is_levelled_too():
    measured = np.zeros((1, 64, 64), bool)
    measured[0, 30] = True
    height = np.where(measured, 5.0, np.nan)
    assert np.abs(levelled(height, measured)[measured]).max() < 1e-3


@pytest.fixture
def made(tmp_path):
    """Make the roadway of some coordinates, all of class 11."""

    def make(xyz: np.ndarray, **more):
        count = len(xyz)
        intensity, truth = np.arange(count) % 60000, np.ones(count)
        street = Street(xyz, intensity.astype(np.uint16), truth, truth, (), ())
        path = write_las(tmp_path / "made.las", street, classification=11, **more)
        (scan,) = check_scans([path], None)
        work = tmp_path / "work"
        work.mkdir()
        return scan, find_road(scan, None, work)

    return make


def test_a_measured_road_surface_comes_back(shared_data, made):
    """The cobbles of OpenCRG's sample, written as points, to a tenth of a millimetre."""
    content = (shared_data / "pointclouds/belgian_block.crg").read_bytes()
    content = content[content.index(b"$$$$\n") + 5 :]
    # A transfer as text has taken carriage returns out of this copy.
    for place in (125998, 253334, 352454, 865610, 1118274, 1280333):
        content = content[:place] + b"\r" + content[place:]
    grid = np.frombuffer(content, ">f4", 342 * 1001).reshape(1001, 342)[1:, 1:].astype(float)
    along, across = np.mgrid[: grid.shape[0], : grid.shape[1]]
    xyz = np.stack((100 + along / 100 + 0.005, 50 + across / 100 + 0.005, grid), -1)
    known = np.isfinite(grid)
    _, roadway = made(xyz[known], scale=0.0001)
    assert choose_cell(typical_density(roadway.density, "cobbles")) == 1
    worst = 0.0
    for block in roadway.points.blocks:
        raster = rasterise(roadway.points, block, 0, 1, 0.0)
        row, column = np.nonzero(raster.measured)
        i = column + block[0] * BLOCK - 10_000
        j = row + block[1] * BLOCK - 5_000
        worst = max(worst, abs(raster.height[row, column] - grid[i, j]).max())
        known[i, j] = False
    assert not known.any()
    assert worst < 1e-4


def test_gaps_are_filled_between_cells_and_not_beside_them(made):
    # Two strips of cells of 4 cm, one cell apart, and others three cells apart.
    rows = [0, 1, 3, 4, 8]
    xyz = np.array([(x * 0.04 + 0.02, y * 0.04 + 0.02, 1.0 + y) for x in range(80) for y in rows])
    xyz[:, 2] /= 10  # a flat file
    _, roadway = made(xyz)
    raster = rasterise(roadway.points, (0, 0), 0, 4, 0.05)
    known = raster.known[:12, 10]
    assert known.tolist() == [True] * 5 + [False] * 3 + [True] + [False] * 3
    assert raster.height[2, 10] in (pytest.approx(0.2), pytest.approx(0.4))
    assert not raster.known[:, 80:].any()


class Given:
    """Scores all cells of a tile alike, by the number of the tile: from south to north by rows."""

    name = "given"

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:
        each = self.values.astype(np.float32)[:, None, None]
        return np.broadcast_to(each, height.shape)


@pytest.fixture
def scored_strip(made):
    """Score a level strip of 64 by 128 cells with a hole in its north, by rows of three tiles.

    Of the last row, the tiles at the corners are too empty to be scored.
    """
    known = np.zeros((640, 640), bool)
    known[128:256, 128:192] = True
    known[230:250, 150:170] = False
    row, column = np.nonzero(known)
    xyz = np.stack((column * 0.04 + 0.02, row * 0.04 + 0.02, np.ones(len(row))), 1)
    _, roadway = made(xyz)

    def score(values: np.ndarray) -> np.ndarray:
        mosaic = score_block(roadway, (0, 0), TILES, Given(values))
        np.testing.assert_array_equal(np.isnan(mosaic.score), ~known)
        return mosaic.score

    return score


def test_a_tile_counts_most_in_its_middle(scored_strip):
    """Its weight falls to nothing at its edges, as the square of a sine."""
    score = scored_strip(np.arange(13) // 3 == 2)  # the row of tiles on the cells 160 to 223
    expected = {160: 0.0006, 168: 0.164, 176: 0.525, 184: 0.870, 140: 0}
    for row, value in expected.items():
        assert score[row, 160] == pytest.approx(value, abs=1e-3)


def test_a_tile_that_is_half_empty_hardly_counts(scored_strip):
    """For a 256th of what it would if it were full."""
    score = scored_strip(np.arange(13) % 3 == 1)  # the column of tiles that is full
    # By a sine's square the full tile has 0.5245 and 0.1642 here, the other one the rest.
    assert score[180, 144] == pytest.approx(0.5245 / (0.5245 + 0.4755 / 256), abs=1e-4)
    assert score[180, 136] == pytest.approx(0.1642 / (0.1642 + 0.8358 / 256), abs=1e-4)


def test_what_is_unknown_looks_like_the_rest_of_its_tile():
    height, intensity = np.full((2, 1, 10, 10), 30.0, np.float32)
    intensity *= 3
    height[:, 0] = intensity[:, 0] = np.nan  # the southernmost cells
    part = Tiles(np.zeros((1, 2)), height, intensity, np.array([0.9]))
    heights, intensities = images_of(part, replace(TILES, intensity_range=(0.0, 255.0)))
    assert np.unique(heights[:, -1]) == 32768  # level, in the middle of -60 to 60 mm
    assert np.unique(heights[:, :-1]) == 49151
    assert np.unique(intensities) == 90


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2), min_size=1, max_size=50, unique=True
    ),
    st.sampled_from([0.001, 0.0001, 0.01, 1 / 3000]),
    st.sampled_from([0.0, 1e7, -5.55, 0.3048]),
    st.sampled_from([1, 2, 4, 8]),
)
def test_both_passes_put_a_point_into_one_cell(whole, scale, offset, cell):
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.full(3, scale), np.full(3, offset)
    points = laspy.ScaleAwarePointRecord.zeros(len(whole), header=header)
    points["X"], points["Y"] = np.array(whole).T
    scan = Scan(Path("a"), header, len(whole), None, False, 1.0, 1.0)
    i, j = centimetres(scan, points)
    seen = np.zeros(len(whole), int)
    for block, index in groups(i // BLOCK, j // BLOCK):
        east, north = i[index] - block[0] * BLOCK, j[index] - block[1] * BLOCK
        assert ((east >= 0) & (east < BLOCK) & (north >= 0) & (north < BLOCK)).all()
        seen[index] += 1
        # That of the cell is floor(coordinate / cell), but for what rounding does at a border.
        exact = (points["X"][index] * scale + offset) / (cell / 100)
        own = block[0] * BLOCK // cell + east // cell
        assert ((own <= exact + 0.002) & (exact < own + 1.0001)).all()
    assert (seen == 1).all()
    assert abs(heights(scan, points) * HEIGHT_STEP - offset).max() <= HEIGHT_STEP


def test_amsterdam_gives_tiles(shared_data, tmp_path, capsys):
    """A real street, all of it and what the filter takes; of a sparse one little."""
    folder = shared_data / "pointclouds"
    corners = [(114_600, 484_800), (114_800, 484_800), (114_800, 485_000), (114_600, 485_000)]
    shape = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    (tmp_path / "all.geojson").write_text(json.dumps(shape))
    for name, more, least in (
        ("all", ("--road", tmp_path / "all.geojson"), 120),
        ("filter", (), 110),
    ):
        words = ["tiles", folder / "2293_9698.laz", "--out", tmp_path / name, *more]
        run_pointcloud([*map(str, words), "--crs", "EPSG:28992"])
        assert read_tile_set(tmp_path / name / "tiles.json").cell == 4
        assert len(images(tmp_path / name, "height")) >= least
    run_pointcloud(["tiles", str(folder / "2292_9700.laz"), "--out", str(tmp_path / "sparse")])
    said = capsys.readouterr().err
    assert "with fewer than 100 hardly fill a tile" in said
    assert "only deep potholes" in said
    assert 0 < len(images(tmp_path / "sparse", "height")) < 20


def road_points(path: Path, work: Path, crs: str | None = None) -> np.ndarray:
    """Which points (N,) of a file the filter takes for road."""
    (scan,) = check_scans([path], crs)
    work.mkdir()
    roadway = find_road(scan, None, work)
    road = np.zeros(scan.points, bool)
    for block in roadway.own:
        road[roadway.points.points(block)["index"]] = True
    return road


def test_the_filter_keeps_the_road_of_amsterdam(shared_data, tmp_path):
    """It takes what a municipality's map calls pavement for road as well, where no kerb is."""
    path = shared_data / "pointclouds/road_ground_labelled_2293_9698.laz"
    road = road_points(path, tmp_path / "work", "EPSG:28992")
    label = np.array(laspy.read(path).label) == 1
    assert road[label].mean() > 0.98
    union = (road & label).sum() / (road | label).sum()
    assert 0.45 < union < 0.6


def test_a_deep_pothole_is_no_kerb(tmp_path):
    street = make_street(12, [replace(POTHOLE, u=6.0, depth=0.1)], seed=3)
    path = write_las(tmp_path / "deep.laz", street)
    road = road_points(path, tmp_path / "work")
    assert road[street.truth > SOUND].all()
    assert road[street.truth != NOT_ROAD].mean() > 0.99
    assert road[street.truth == NOT_ROAD].mean() < 0.01


def test_pavement_beside_parked_cars_is_not_road(tmp_path):
    """The street climbs, so that the mean of one side is off."""
    street = make_street(32, [], seed=1)
    road = road_points(write_las(tmp_path / "cars.laz", street), tmp_path / "work")
    assert street.truth[road].all()
    assert road[street.truth != NOT_ROAD].mean() > 0.99


def test_the_street_of_the_demo_has_what_it_says():
    street = small_street()
    road = street.truth != NOT_ROAD
    assert 0.5 < road.mean() < 0.65
    assert len(street.xyz) / (16 * 11) == pytest.approx(1250, rel=0.01)


def test_sound_road_is_not_even():
    """It has ruts, manholes, passes that differ, and ground that cars hide."""
    street = make_street(32, [], seed=1, angle=0, place=(0, 0, 0))
    u, v, z = street.xyz.T
    crown = CROWN * (np.hypot(v, 0.6) - 0.6)
    above = 1000 * (z - SLOPE * u + crown)
    assert set(np.unique(street.truth)) == {NOT_ROAD, SOUND}

    def level(part: np.ndarray) -> float:
        return float(np.median(above[(street.truth == SOUND) & part]))

    for track in (-2.5, -1.0):
        edges = [level(abs(v - track - side) < 0.1) for side in (-0.7, 0.7)]
        assert 2 < np.mean(edges) - level(abs(v - track) < 0.1) < 10
    ground = Ground(np.random.default_rng(1), 32, [])
    (joint, *_), lane = ground.joints[0], (v < -0.2) & (v > -3)
    before, after = (level(lane & (abs(u - joint - side) < 0.15)) for side in (-0.2, 0.2))
    step = 1000 * (ground.levels[0][1] - ground.levels[0][0])
    assert 1 < abs(step) < 2
    # Beside the joint the ground has waves as well.
    assert after - before == pytest.approx(step, abs=0.7)
    sealed, beside = (np.median(street.intensity[abs(v - at) < 0.01]) for at in (0.12, 0.3))
    assert beside - sealed > 2500
    is_metal = abs(street.intensity - 18_000.0) < 2000
    manholes = [each for each in ground.covers if each.kind == "manhole" and each.u < 31]
    assert len(manholes) == 2
    for each in manholes:
        assert any(np.allclose(corners.mean(0), (each.u, each.v)) for corners in street.covers)
        away = np.hypot(u - each.u, v - each.v)
        assert is_metal[away < 0.25].mean() > 0.95
        assert level(abs(away - 0.3) < 0.01) - level(away < 0.25) == pytest.approx(-10, abs=3)
    first = street.seconds < 3600
    apart = [
        level(first & (u // 4 == part)) - level(~first & (u // 4 == part)) for part in range(8)
    ]
    assert 1 < np.abs(apart).max() < 5
    # A car 1.5 m high stands from u = 8.8 to 13.2.
    assert (above[(abs(u - 11) < 1) & (abs(v - 2.45) < 0.7)] > 900).all()
    behind = (v > 3.4) & (v < 5)
    assert not (behind & (abs(u - 11) < 0.5)).any()
    assert (behind & (abs(u - 5) < 0.5)).sum() > 1500
