"""Layers of all scans as one cloud-optimised GeoTIFF each, as ``--cog`` asks for."""

import math
import resource
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("laspy")
rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

import pyproj  # noqa: E402
from scans import layer, run_score, small_street, write_las  # noqa: E402
from victims import Victim  # noqa: E402

from crn.pointcloud import joined  # noqa: E402
from crn.pointcloud.command import _parser  # noqa: E402
from crn.pointcloud.drawing import draw_layers  # noqa: E402
from crn.pointcloud.joined import join_layers, write_cogs  # noqa: E402
from crn.pointcloud.layers import LAYERS, Grid, grid_of, layer_path  # noqa: E402
from crn.pointcloud.mosaic import Mosaic  # noqa: E402
from crn.pointcloud.partition import BLOCK  # noqa: E402
from crn.pointcloud.street import CRS  # noqa: E402
from crn.pointcloud.styles import DESCRIPTIONS, STATISTICS  # noqa: E402
from crn.system.program import program  # noqa: E402


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """A folder with a street in two files."""
    folder, street = tmp_path_factory.mktemp("cog") / "scans", small_street()
    folder.mkdir()
    west = street.xyz[:, 0] < street.outlines[0][:, 0].mean()
    write_las(folder / "west.laz", street, west)
    write_las(folder / "east.laz", street, ~west)
    return folder


@pytest.fixture(scope="module")
def cogs(scans) -> Path:
    run_score([scans], scans.parent / "cogs", cog=True)
    return scans.parent / "cogs"


def assert_cloud_optimised(folder: Path) -> None:
    """The layers are, and their overviews are those of their own cells."""
    for name in LAYERS:
        path = folder / f"{name}.tif"
        assert layer_path(folder, name) == path
        with rasterio.open(path) as file:
            structure = file.tags(ns="IMAGE_STRUCTURE")
            assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
            assert math.isnan(file.nodata)
            assert (file.descriptions[0], file.units[0] or "") == DESCRIPTIONS[name]
            assert file.tags()["model"] == "depth"
            assert file.overviews(1) == [4, 16, 64]
            cells, tags = file.read(1), file.tags(1)
            known = cells[np.isfinite(cells)].astype(float)
            for key, value in zip(
                STATISTICS, (known.min(), known.max(), known.mean(), known.std()), strict=True
            ):
                assert float(tags[key]) == pytest.approx(value, rel=1e-5)
        for level, factor in enumerate((4, 16, 64)):
            with rasterio.open(path, overview_level=level) as file:
                small = file.read(1)
            parts = cells.reshape(small.shape[0], factor, small.shape[1], factor)
            if name == "score":
                np.testing.assert_array_equal(small, np.fmax.reduce(parts, axis=(1, 3)))
            inner = np.isfinite(parts).all((1, 3))
            mean = parts[inner.nonzero()[0], :, inner.nonzero()[1]].mean((1, 2))
            if name != "score":
                np.testing.assert_allclose(small[inner], mean, rtol=1e-3, atol=0.01)
        assert (folder / f"{name}.qml").exists()


def test_scans_in_one_file(scans, cogs, tmp_path):
    assert_cloud_optimised(cogs)
    run_score([scans], tmp_path / "out")
    for name in LAYERS:
        assert layer_path(tmp_path / "out", name).suffix == ".vrt"
        np.testing.assert_array_equal(layer(cogs, name), layer(tmp_path / "out", name))
    one, other = (
        geopandas.read_file(each / "damages.gpkg", layer="places")
        for each in (cogs, tmp_path / "out")
    )
    assert one.equals(other)
    assert len(one) == 1


def test_a_single_scan(scans, tmp_path):
    run_score([scans / "west.laz"], tmp_path / "out", cog=True)
    assert_cloud_optimised(tmp_path / "out")


def test_a_survey_to_compare_with(scans, cogs, tmp_path):
    run_score([scans], tmp_path / "out", against=cogs)
    places = geopandas.read_file(tmp_path / "out/damages.gpkg", layer="places")
    assert places.status.tolist() == ["unchanged"]


def test_the_same_folder_again(scans, tmp_path):
    """What is joined last is what counts."""
    out = tmp_path / "out"
    run_score([scans / "west.laz"], out)  # has a score.tif of its own
    run_score([scans], out, cog=True)
    assert_cloud_optimised(out)
    again = run_score([scans], out, cog=True)
    assert again.tiles == 0
    assert not (out / "score-v2.tif").exists()
    run_score([scans], out)
    assert layer_path(out, "score").suffix == ".vrt"
    assert (out / "score-v2.tif").exists()


def test_it_is_sparse(tmp_path):
    """A kilometre of road from corner to corner; all cells of a layer would be 2.6 GB."""
    blocks = [(0, 0), (40, 40)]
    grid = Grid.around(blocks, 4, 1.0, pyproj.CRS(CRS))
    cells = Mosaic(*np.ones((3, BLOCK // 4, BLOCK // 4), np.float32))
    draw_layers(tmp_path, grid, ((each, cells) for each in blocks), "a_")
    join_layers(tmp_path, tmp_path, grid, ["a_"])
    write_cogs(tmp_path, tmp_path, grid, blocks)
    assert sum((tmp_path / f"{name}.tif").stat().st_size for name in LAYERS) < 3e6
    found, known = grid_of(tmp_path, "--against")
    assert (found, sorted(known)) == (grid, blocks)


def copy_in_a_process(folder: Path, file_size: int) -> int:
    """To be the ``act`` of a `Victim`: files may have ``file_size`` bytes once layers are drawn."""
    draw = joined.draw_layers

    def draw_then_limit(*args, **kwargs) -> None:
        draw(*args, **kwargs)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    @program("pointcloud.py")
    def main(_: list[str]) -> int:
        joined.draw_layers = draw_then_limit
        grid = Grid.around([(0, 0)], 8, 1.0, None)
        noise = np.random.default_rng(0).normal(0, 1, (3, 320, 320)).astype("f4")
        draw(folder, grid, [((0, 0), Mosaic(*noise))], "a_")
        join_layers(folder, folder, grid, ["a_"])
        write_cogs(folder, folder, grid, [(0, 0)])
        return 0

    return main()


# The whole file has 408,000.
@pytest.mark.parametrize("file_size", [3_000, 200_000, 400_000, 405_000])
def test_a_full_disk(tmp_path, file_size):
    ended = Victim(tmp_path, copy_in_a_process, tmp_path, file_size).end()
    assert ended.status == 2, ended.err
    assert ended.err.splitlines()[-1].startswith(f"pointcloud.py: error: {tmp_path}: cannot be")
    assert "Traceback" not in ended.err


def test_the_flag():
    words = ["score", "a.laz", "--model-input", "a.ckpt", "--out", "out"]
    assert [_parser().parse_args([*words, *more]).cog for more in ([], ["--cog"])] == [False, True]
