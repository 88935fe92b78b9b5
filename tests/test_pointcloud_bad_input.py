"""What cannot be used ends with one line that says what and why, status 2, and nothing written."""

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from damage import damaged

laspy = pytest.importorskip("laspy")
pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")

from scans import TILES, run_score, small_street, write_las  # noqa: E402

import pointcloud  # noqa: E402
from crn.errors import UserError  # noqa: E402
from crn.pointcloud.las import check_scans, read_points  # noqa: E402
from crn.pointcloud.street import Street  # noqa: E402
from crn.pointcloud.tiles import TileSet  # noqa: E402


@pytest.fixture(scope="module")
def street() -> Street:
    whole = small_street()
    near = np.flatnonzero(whole.seconds % 3600 < 0.8)  # eight metres of both passes
    return Street(
        whole.xyz[near], whole.intensity[near], whole.truth[near], whole.seconds[near], (), ()
    )


@pytest.fixture(scope="module")
def sound(street, tmp_path_factory) -> Path:
    """A folder with sound.las and sound.laz."""
    folder = tmp_path_factory.mktemp("sound")
    for suffix in ("las", "laz"):
        write_las(folder / f"sound.{suffix}", street)
    return folder


@pytest.fixture
def refused(tmp_path, capsys) -> Callable[..., str]:
    """Run the program, which has to refuse: ``refused("tiles", path)`` gives its line of error."""

    def run(*words: object, out: Path = tmp_path / "out") -> str:
        before = sorted(tmp_path.rglob("*"))
        status = pointcloud.main([*map(str, words), "--out", str(out)])
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("pointcloud.py: error: ")]
        assert status == 2, err
        assert "Traceback" not in err
        assert lines == err.splitlines()[-1:], err
        assert set(tmp_path.rglob("*")) - set(before) <= {out}
        assert not out.is_dir() or not list(out.rglob(".*"))
        return lines[0]

    return run


def changed(path: Path, to: Path, place: int, content: bytes) -> Path:
    """A copy with other bytes at some place."""
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content)] = content
    to.write_bytes(whole)
    return to


def number(value: int, length: int = 4) -> bytes:
    return value.to_bytes(length, "little")


def double(value: float) -> bytes:
    return np.float64(value).tobytes()


def offset(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[96:100], "little")


NOT_LAS = {
    "text": (b"x y z\n1 2 3\n" * 50, "not a LAS or LAZ"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(500), "not a LAS or LAZ"),
    "empty": (b"", "not a LAS or LAZ"),
    "only the beginning of a header": (b"LASF" + bytes(90), "not a LAS or LAZ"),
}


@pytest.mark.parametrize("kind", NOT_LAS)
def test_no_las_file(tmp_path, refused, kind):
    content, why = NOT_LAS[kind]
    (tmp_path / "a.laz").write_bytes(content)
    assert why in refused("tiles", tmp_path / "a.laz")


# Where in the file, other bytes, and what the line says.
HEADERS = {
    "4e9 points in LAS": ("las", 247, number(4 * 10**9, 8), "room for"),
    "4e9 points in LAZ": ("laz", 247, number(4 * 10**9, 8), "room for"),
    "4e9 records": ("laz", 100, number(4 * 10**9), "header does not fit"),
    "4e9 records after the points": ("laz", 243, number(4 * 10**9), "cannot be read"),
    "points begin beyond the end": ("las", 96, number(10**9), "room for 0"),
    "half of the points": ("las", 247, number(55_000, 8), "55,000 .* holds at least 110,0"),
    "half of the chunks": ("laz", 247, number(50_000, 8), "50,000 .* holds at least 100,001"),
    "no points": ("laz", 247, number(0, 8), "counts 0 points .* holds at least"),
    "scale 0": ("laz", 131, double(0), "not coordinates"),
    "scale NaN": ("las", 139, double(np.nan), "not coordinates"),
    "offset infinite": ("laz", 155, double(np.inf), "not coordinates"),
    "coarse scale": ("laz", 131, double(0.1), "rounded to 100 mm.*8 cm"),
    "coarse heights": ("laz", 147, double(0.01), "rounded to 10 mm"),
    "unknown point format": ("las", 104, bytes([77]), "cannot be read"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_promise_what_is_not_there(tmp_path, sound, refused, kind):
    suffix, place, content, why = HEADERS[kind]
    path = changed(sound / f"sound.{suffix}", tmp_path / f"a.{suffix}", place, content)
    line = refused("tiles", path)
    assert str(path) in line
    assert_matches(why, line)


def assert_matches(why: str, line: str) -> None:
    assert re.search(why, line), line


def test_a_table_of_billions_of_chunks(tmp_path, sound, refused):
    """The library would reserve 34 GB for it, and end the process."""
    path = sound / "sound.laz"
    table = int.from_bytes(path.read_bytes()[offset(path) :][:8], "little")
    broken = changed(path, tmp_path / "a.laz", table + 4, number(2**31 + 5))
    assert "room for 0" in refused("tiles", broken)


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_cut_off(tmp_path, sound, refused, suffix):
    content = (sound / f"sound.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 2])
    assert_matches("cut off|do not fit|cannot be read", refused("tiles", tmp_path / f"a.{suffix}"))


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_are_read_or_refused(tmp_path, sound, seed, suffix):
    chance = random.Random(seed)
    content = (sound / f"sound.{suffix}").read_bytes()
    start = offset(sound / f"sound.{suffix}")
    if seed % 2:  # in the header and the records, where little hides much
        head, _ = damaged(content[:start], chance)
        content = head + content[start:]
    else:
        content, _ = damaged(content, chance)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    refusal = str(path)
    try:
        for scan in check_scans([path], None):
            assert sum(map(len, read_points(scan))) == scan.points
    except UserError as error:
        refusal = str(error)
    assert str(path) in refusal
    assert "\n" not in refusal


def test_no_file_and_no_folder(tmp_path, refused, sound):
    assert "no such file" in refused("tiles", tmp_path / "missing.laz")
    (tmp_path / "empty").mkdir()
    assert "contains no .las or .laz" in refused("tiles", tmp_path / "empty")
    scan = sound / "sound.laz"
    assert "named twice" in refused("tiles", scan, scan)


def test_coordinate_systems(tmp_path, street, sound, refused):
    scan = sound / "sound.laz"
    assert "--crs nonsense" in refused("tiles", scan, "--crs", "nonsense")
    assert "not in metres" in refused("tiles", scan, "--crs", "EPSG:4326")
    degrees = write_las(tmp_path / "degrees.laz", street, crs="EPSG:4258")
    assert "not in metres" in refused("tiles", degrees)
    other = write_las(tmp_path / "other.laz", street, crs="EPSG:25833")
    assert "other scans are in ETRS89 / UTM zone 32N; reproject it" in refused("tiles", scan, other)


def test_points_that_say_nothing(tmp_path, street, sound, refused):
    def written(**more) -> Path:
        return write_las(tmp_path / "a.laz", street, **more)

    def made(xyz: np.ndarray) -> Path:
        count = len(xyz)
        rest = (street.intensity[:count], street.truth[:count], street.seconds[:count], (), ())
        return write_las(tmp_path / "a.laz", Street(xyz, *rest))

    assert "--no-intensity" in refused("tiles", written(intensity=7))
    assert "withheld" in refused("tiles", written(withheld=1))
    assert "noise" in refused("tiles", written(classification=18))
    wild = np.random.default_rng(0).uniform(0, 20, (20_000, 3))
    line = refused("tiles", made(wild))
    assert_matches("no road was found by the filter.*20,000 points of class 0", line)
    assert_matches("no road|too few", refused("tiles", made(street.xyz[:13])))
    some = write_las(tmp_path / "b.laz", street, slice(None, None, 150), classification=11)
    assert_matches(r" \d points/m2, too few.* 100 are needed", refused("tiles", some))
    narrow = write_las(
        tmp_path / "c.laz", street, np.flatnonzero(street.xyz[:, 0] % 4 < 1), classification=11
    )
    assert "no tile of 2.56 m is 70% full" in refused("tiles", narrow)


def test_flags_of_tiles(tmp_path, sound, refused):
    scan = sound / "sound.laz"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("")
    assert "is not empty" in refused("tiles", scan, out=tmp_path / "full")
    assert "cannot be written to" in refused("tiles", scan, out=tmp_path / "full/a")
    (tmp_path / "a.geojson").write_text("no JSON")
    (tmp_path / "b.geojson").write_text('{"type": "Point", "coordinates": [1, 2]}')
    (tmp_path / "c.geojson").write_text('{"type": "Polygon", "coordinates": [[[1, "x"]]]}')
    for flag in ("--road", "--damages"):
        assert "cannot be read" in refused("tiles", scan, flag, tmp_path / "a.geojson")
        assert "holds no area and no line" in refused("tiles", scan, flag, tmp_path / "b.geojson")
        assert flag in refused("tiles", scan, flag, tmp_path / "c.geojson")
        assert "cannot be read" in refused("tiles", scan, flag, tmp_path / "missing")
    assert "--height-range-mm" in refused("tiles", scan, "--height-range-mm", "5", "60")
    assert "--cell" in refused("tiles", scan, "--cell", "0.05")


def test_flags_of_score(tmp_path, sound, refused):
    scan = sound / "sound.laz"
    good = TileSet(4, intensity_range=(0.0, 9.0)).description({})
    tiles = tmp_path / "tiles.json"

    def score(*more: object) -> str:
        return refused("score", scan, "--model-input", "no.ckpt", "--tiles-from", tiles, *more)

    assert "--tiles-from" in score()
    for content in (
        "no JSON",
        "[]",
        json.dumps({**good, "version": 99}),
        json.dumps({**good, "cell": 5}),
        json.dumps({**good, "height_range_mm": [60, -60]}),
        json.dumps({**good, "intensity_range": None}),
    ):
        tiles.write_text(content)
        assert "does not describe tiles of this version of the program" in score()
    tiles.write_text(json.dumps(good))
    assert "--model-input no.ckpt: no such file" in score()
    assert "--threshold" in score("--threshold", "nan")
    assert "not allowed with" in score("--threshold", "1", "--threshold-from", "a.json")


def test_scans_that_cannot_be_scored(tmp_path, street, sound):
    def refuse(why: str, *scans: Path, out: Path = tmp_path / "out", **more) -> None:
        with pytest.raises(UserError, match=why):
            run_score(list(scans), out, **more)
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]

    copy = tmp_path / "scans/sound.laz"
    copy.parent.mkdir()
    shutil.copy(sound / "sound.laz", copy)
    refuse("itself is there", copy, out=copy.parent)
    copc = tmp_path / "scans/sound.copc.laz"
    shutil.copy(copy, copc)
    refuse("another scan is named sound.laz as well", copy, copc)
    fine = replace(TILES, cell=1)
    refuse("too few for the cells of 1 cm of --tiles-from.*cells of 4 cm", copy, tiles=fine)
    coarse = write_las(tmp_path / "coarse.laz", street, scale=0.005)
    refuse("rounded to 5 mm, too much", coarse)
    run_score([copy], tmp_path / "out")
    refuse("already has crn_anomalous", tmp_path / "out/sound.laz", out=tmp_path / "again")


def test_without_its_libraries_the_program_names_the_command(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lazrs", None)
    assert pointcloud.main(["--help"]) == 2
    assert capsys.readouterr().err == (
        "pointcloud.py: error: point clouds need the package lazrs: pip install -r "
        "requirements-pointcloud.txt\n"
    )


def test_paths_are_read_as_those_of_the_other_programs(refused) -> None:
    line = refused("tiles", "s3://bucket/a.laz")
    assert "takes a file or folder of this machine, not 's3://bucket/a.laz'" in line


def test_the_folder_at_hand(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pointcloud.main(["tiles", str(sound / "sound.laz"), "--out", "."]) == 0
    assert (tmp_path / "tiles.json").exists()


def test_names_that_map_layers_cannot_have(sound, tmp_path):
    out = tmp_path / os.fsdecode(b"r\xe9s")
    with pytest.raises(UserError, match="this name is not UTF-8"):
        run_score([sound / "sound.laz"], out)


def test_coordinate_systems_of_another_program(sound, tmp_path):
    """PROJ_LIB of PostGIS or QGIS, with a database that is too old, is not worth 112 lines."""
    content = Path(pyproj.datadir.get_data_dir(), "proj.db").read_bytes()
    (tmp_path / "proj.db").write_bytes(content)
    with sqlite3.connect(tmp_path / "proj.db") as database:
        database.execute(
            "update metadata set value = 0 where key = 'DATABASE.LAYOUT.VERSION.MINOR'"
        )
    script = f"""
import sys
from unittest.mock import patch
from pathlib import Path
from scans import run_score
from crn.pointcloud import command
import pointcloud
score = lambda folder: run_score([Path({str(sound / "sound.laz")!r})], folder)
with patch.object(command, "_demo", score):
    sys.exit(pointcloud.main(["demo", {str(tmp_path / "out")!r}]))
"""
    paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))
    surroundings = {"PROJ_LIB": str(tmp_path), "PROJ_DATA": str(tmp_path), "PYTHONPATH": paths}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **surroundings},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "CPLE" not in ended.stderr
    assert (tmp_path / "out/sound.laz").exists()
