"""The table of docs/pointclouds.md: what scores find of a street's damage."""

import re

import numpy as np
import pytest

for name in ("laspy", "pyproj", "rasterio", "geopandas"):
    pytest.importorskip(name)

from crn.pointcloud.demo import LENGTH  # noqa: E402
from crn.pointcloud.street import make_street, write_scan, write_truth  # noqa: E402
from crn.pointcloud.street_ground import some_damages  # noqa: E402


def test_the_table(run_python, tmp_path):
    damages = some_damages(np.random.default_rng(1), 15)
    assert [each.kind for each in damages] == ["pothole", "patch", "crack"]
    demo = tmp_path / "demo"
    demo.mkdir()
    damaged = make_street(16, damages, seed=1)
    write_scan(demo / "damaged.laz", damaged)
    write_truth(demo / "damages.gpkg", damaged)
    # The second has a gully, which the first has not.
    for name, seed in (("sound_2", 2), ("sound_3", 10)):
        write_scan(demo / f"{name}.laz", make_street(16, [], seed=seed))
    words = ("-m", "benchmarks.road_points", demo, tmp_path / "heights-1", "--heights")
    finished = run_python(*words, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    ranks, found = (
        [float(each) for each in re.findall(r" (\d+\.\d+)", line)]
        for line in finished.stdout.splitlines()
        if line.startswith("| heights |")
    )
    assert ranks[0] > 0.95
    assert ranks[0] > ranks[3] > min(ranks[1:3]) > 0.5
    assert found[0] == 1
    assert found[3] in [round(count / LENGTH * 100, 1) for count in range(1, 9)]
