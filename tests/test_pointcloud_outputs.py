"""Full disks, kills and Ctrl-C leave nothing half done; and the page, in a browser."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")
pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

from reports import DESKTOP, PHONE  # noqa: E402
from scans import run_score, small_street  # noqa: E402
from victims import Victim  # noqa: E402

from crn.pointcloud import score  # noqa: E402
from crn.pointcloud.drawing import draw_layers  # noqa: E402
from crn.pointcloud.las import check_scans  # noqa: E402
from crn.pointcloud.layers import FILES, Grid  # noqa: E402
from crn.pointcloud.mosaic import Mosaic  # noqa: E402
from crn.pointcloud.paint import paint  # noqa: E402
from crn.pointcloud.street import write_scan  # noqa: E402
from crn.pointcloud.vectors import DAMAGED, IGNORED, read_areas  # noqa: E402
from crn.system.files import written_whole  # noqa: E402
from crn.system.program import program  # noqa: E402

HEADERS = 5000  # bytes, more than a copy has before its points
OF_THE_SCAN = {"scans.jsonl", "scan.laz", *FILES}
RESULTS = {
    *OF_THE_SCAN,
    "damages.gpkg",
    "damages.geojson",
    "sections_10m.csv",
    "sections_100m.csv",
    "report.html",
}


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.laz"
    write_scan(path, small_street())
    return path


@pytest.fixture(scope="module")
def scored(scan, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "out"
    run_score([scan], folder)
    return folder


def score_in_a_process(scan: Path, out: Path, file_size: int | None = None) -> int:
    """To be the ``act`` of a `Victim`: score where files may have ``file_size`` bytes."""

    @program("pointcloud.py")
    def main(_: list[str]) -> int:
        print("began", flush=True)
        run_score([scan], out)
        return 0

    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    return main()


def paint_in_a_process(scan: Path, out: Path, file_size: int) -> int:
    """As `score_in_a_process`, but only what painting writes has a limit."""

    def limited(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        return paint(*arguments)

    score.paint = limited
    return score_in_a_process(scan, out)


def draw_in_a_process(folder: Path, file_size: int) -> int:
    """To be the ``act`` of a `Victim`: draw layers where files may have ``file_size`` bytes."""

    @program("pointcloud.py")
    def main(_: list[str]) -> int:
        chance = np.random.default_rng(0)
        blocks = [(0, 0), (0, 1)]
        noise = [Mosaic(*chance.normal(0, 1, (3, 320, 320)).astype("f4")) for _ in blocks]
        draw_layers(folder, Grid.around(blocks, 8, 1.0, None), zip(blocks, noise, strict=True))
        return 0

    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    return main()


def assert_refused(ended, path: str) -> None:
    assert ended.status == 2, ended.err
    assert "Traceback" not in ended.err
    *_, last = ended.err.splitlines()
    assert last.startswith("pointcloud.py: error: ")
    assert path in last
    assert os.strerror(errno.EFBIG) in last or "cannot be written" in last


def assert_all_or_nothing(out: Path) -> None:
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    assert names in (set(), OF_THE_SCAN, RESULTS), names


# Below the size of the points of a block, of all points, and of the painted points.
@pytest.mark.parametrize(
    ("act", "file_size", "path"),
    [
        (score_in_a_process, 400_000, ".points"),
        (score_in_a_process, 4_000_000, "stored"),
        (paint_in_a_process, 2_700_000, "scan.laz"),
    ],
)
def test_a_full_disk(scan, scored, tmp_path, act, file_size, path):
    assert (scored / "scan.laz").stat().st_size > 2_700_000
    ended = Victim(tmp_path, act, scan, tmp_path / "out", file_size).end()
    assert_refused(ended, path)
    assert_all_or_nothing(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("file_size", [3_000, 200_000, 700_000])
def test_a_full_disk_while_layers_are_drawn(tmp_path, file_size):
    ended = Victim(tmp_path, draw_in_a_process, tmp_path, file_size).end()
    assert_refused(ended, str(tmp_path))


@pytest.mark.parametrize("wait", [0.05, 0.4, 0.8, 1.3])
def test_ctrl_c(scan, tmp_path, wait):
    victim = Victim(tmp_path, score_in_a_process, scan, tmp_path / "out")
    victim.wait_for("began")
    time.sleep(wait)
    victim.send(signal.SIGINT)
    ended = victim.end()
    assert ended.status in (0, 130), ended.err
    assert "Traceback" not in ended.err
    assert_all_or_nothing(tmp_path / "out")
    assert not (tmp_path / ".out.lock").exists()


class InterruptedFile:
    """A file in which Ctrl-C is pressed while the points are written."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if self.file.tell() > HEADERS:
            signal.raise_signal(signal.SIGINT)
        return self.file.write(data)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_within_the_library_is_no_error_of_its_own(scan, tmp_path, monkeypatch):
    @contextmanager
    def interrupted(*args):
        with written_whole(*args) as file:
            yield InterruptedFile(file)

    monkeypatch.setattr("crn.pointcloud.paint.written_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_score([scan], tmp_path / "out")
    assert_all_or_nothing(tmp_path / "out")


def test_what_a_killed_run_leaves_is_gone_after_the_next(scan, tmp_path):
    out = tmp_path / "out"
    for wait in (0.3, 0.9):
        victim = Victim(tmp_path, score_in_a_process, scan, out)
        victim.wait_for("began")
        time.sleep(wait)
        victim.send(signal.SIGKILL)
        victim.end()
        assert {path.name for path in out.glob("[!.]*")} in (set(), OF_THE_SCAN, RESULTS)
    run_score([scan], out)
    assert {path.name for path in out.iterdir() if "-v1" not in path.name} == RESULTS


def test_results_of_earlier_runs_are_kept(scan, scored, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    run_score([scan], out, 30.0)
    for name in RESULTS - {"scans.jsonl"}:
        aside = out / f"{Path(name).stem}-v1{Path(name).suffix}"
        before = (scored / name).read_bytes()
        assert (aside if aside.exists() else out / name).read_bytes() == before
    assert {path.name for path in out.glob("*-v1*")} >= {"scan-v1.laz", "report-v1.html"}
    assert not (out / "score-v1.tif").exists()  # which the threshold does not change


def test_a_road_without_damage(scan, tmp_path):
    run_score([scan], tmp_path / "out", 1000.0)
    assert json.loads((tmp_path / "out/damages.geojson").read_text())["features"] == []
    assert "Nothing is above the threshold" in (tmp_path / "out/report.html").read_text()
    assert np.nanmax(np.array(laspy.read(tmp_path / "out/scan.laz").crn_anomalous)) == 0


def test_the_page(show, scored):
    path = scored / "report.html"
    page = show(path)
    run = page.run
    assert not re.search("http(?!-equiv|://www.w3.org/2000/svg)", path.read_text())
    pictures = run("return [...document.images].map((e) => [e.complete, e.naturalWidth])")
    assert len(pictures) >= 2 + 3
    assert all(complete and width for complete, width in pictures)
    assert "places above the threshold\n1" in page.text()
    assert "ETRS89 / UTM zone 32N (EPSG:25832)" in page.text()
    whole = run("return zoom")
    for button, factor in (("in", 1.5), ("out", 1)):
        page.click(f"#{button}")
        assert run("return zoom") == pytest.approx(whole * factor, rel=1e-4)
    wheel = "new WheelEvent('wheel', {deltaY: -400, clientX: 300, clientY: 300, cancelable: true})"
    run(f"document.getElementById('map').dispatchEvent({wheel})")
    assert run("return zoom") == pytest.approx(whole * np.e, rel=1e-4)
    page.click("#all")
    assert run("return zoom") == pytest.approx(whole)
    shown = "return levels.filter((level) => !level.hidden).map((level) => level.dataset.cells)"
    assert run(shown) == ["4", "1"]
    run("scaleBy(0.1, 0, 0)")
    assert run(shown) == ["4"]
    page.click(".places .show")
    box, mark = (
        run(f"const b = document.querySelector('{name}').getBoundingClientRect();"
            "return [(b.left + b.right) / 2, (b.top + b.bottom) / 2]")
        for name in ("#map", ".pin")
    )  # fmt: skip
    # The number stands above its place, which is in the middle.
    assert mark[0] == pytest.approx(box[0], abs=3)
    assert 0 < box[1] - mark[1] < 40
    for width in (PHONE, DESKTOP):
        page.resize(width)
        assert run("return document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        text, back = (
            run(f"return getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)")
            for name in ("color", "backgroundColor")
        )
        assert abs(np.mean(text) - np.mean(back)) > 180


def test_marks_of_the_page_are_areas_for_tiles(show, scan, scored, tmp_path):
    page = show(scored / "report.html")
    page.run("URL.createObjectURL = (blob) => { window.saved = blob; return '#'; }")
    page.click(".verdict [data-verdict=wrong]")
    page.click(".verdict [data-verdict=right]")
    page.click("#export")
    path = tmp_path / "reviewed.geojson"
    path.write_text(page.run("return saved.text()"))
    scans = check_scans([scan], None)
    areas, ignored = (
        read_areas(path, "--damages", scans, verdict) for verdict in (DAMAGED, IGNORED)
    )
    place = geopandas.read_file(scored / "damages.gpkg", layer="places").geometry[0]
    assert len(areas.shapes) == 1
    assert areas.shapes[0].symmetric_difference(place).area < 0.01 * place.area
    assert len(ignored.shapes) == 0
