"""Many scans: found, indexed, scored beside their neighbours, on several processes, to the end."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

geopandas = pytest.importorskip("geopandas")
laspy = pytest.importorskip("laspy")
pytest.importorskip("rasterio")

from scans import POTHOLE, TILES, Depth, run_score, small_street, write_las  # noqa: E402
from victims import Victim  # noqa: E402

import pointcloud  # noqa: E402
from crn.errors import UserError  # noqa: E402
from crn.pointcloud import score  # noqa: E402
from crn.pointcloud.campaign import Workers, find_files, run_tasks, tasks_of  # noqa: E402
from crn.pointcloud.command import run_pointcloud  # noqa: E402
from crn.pointcloud.las import check_scans  # noqa: E402
from crn.pointcloud.street import CRS, Street, make_street  # noqa: E402
from crn.pointcloud.street_ground import NOT_ROAD  # noqa: E402


@pytest.fixture(scope="module")
def street() -> Street:
    return small_street()


def halves(street: Street) -> tuple[np.ndarray, np.ndarray]:
    """Two parts, cut through the pothole."""
    west = street.xyz[:, 0] < street.outlines[0][:, 0].mean()
    return west, ~west


@pytest.fixture(scope="module")
def campaign(street, tmp_path_factory) -> Path:
    """A folder with the whole street, and its halves below days/, both named new.laz."""
    folder = tmp_path_factory.mktemp("campaign")
    write_las(folder / "whole.laz", street)
    for name, part in zip(("one", "two"), halves(street), strict=True):
        (folder / "days" / name).mkdir(parents=True)
        write_las(folder / "days" / name / "new.laz", street, part)
    return folder


def scores(path: Path) -> np.ndarray:
    return np.array(laspy.read(path).crn_score)


def assert_halves_are_as_the_whole(street: Street, whole: Path, out: Path) -> None:
    expected = scores(whole / "whole.laz")
    for name, part in zip(("one", "two"), halves(street), strict=True):
        np.testing.assert_array_equal(scores(out / name / "new.laz"), expected[part])
        assert np.isfinite(expected[part]).mean() > 0.6


@pytest.fixture(scope="module")
def whole(campaign, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    run_score([campaign / "whole.laz"], out)
    return out


# Where scans are.


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_scans_in_subfolders_keep_their_path(tmp_path):
    folder = touched(tmp_path / "scans", "day1/a.laz", "day2/a.laz", "b.LAS", "notes.txt")
    found = find_files([folder])
    assert sorted(found.values()) == ["b.LAS", "day1/a.laz", "day2/a.laz"]
    assert all(path == folder / name for path, name in found.items())
    apart = find_files([folder / "day1", folder / "day2/a.laz"])
    assert sorted(apart.values()) == ["day1/a.laz", "day2/a.laz"]


def test_second_files_of_a_scan_and_litter_are_left_out(tmp_path, caplog):
    folder = touched(
        tmp_path / "scans",
        *("a.laz", "a.copc.laz", "b.las", "b.laz", "c.copc.laz", "d.las", "d.copc.laz"),
        *("._a.laz", ".hidden/e.laz", "day/a.copc.laz", ".e.las"),
    )
    with caplog.at_level(logging.INFO):
        found = find_files([folder])
    assert sorted(found.values()) == ["a.laz", "b.laz", "c.copc.laz", "d.las", "day/a.copc.laz"]
    assert "3 files left out, as another file of the same scan" in caplog.text


def test_results_below_the_scans_are_no_scans(tmp_path):
    folder = touched(tmp_path / "scans", "a.laz", "out/a.laz")
    assert list(find_files([folder], folder / "out").values()) == ["a.laz"]


def test_a_file_is_named_once(tmp_path):
    folder = touched(tmp_path / "scans", "a.laz")
    (tmp_path / "link.laz").symlink_to(folder / "a.laz")
    for inputs in ([folder, folder / "a.laz"], [folder, tmp_path / "link.laz"]):
        with pytest.raises(UserError, match="named twice"):
            find_files(inputs)


def test_thousands_of_files_are_found_at_once(tmp_path):
    touched(tmp_path, *(f"{number}.laz" for number in range(3000)))
    start = time.process_time()
    assert len(find_files([tmp_path])) == 3000
    assert time.process_time() - start < 2


def test_neighbours_are_those_within_three_blocks(tmp_path, street):
    """Two blocks beyond the one in which a scan has a point."""
    scans = []
    for number, east in enumerate((0, 90, 200, 5000)):
        xyz = np.array(((east, 0.0, 0.0), (east + 13, 1, 1)))
        few = Street(xyz, street.intensity[:2], street.truth[:2], street.seconds[:2], (), ())
        scans.append(write_las(tmp_path / f"{number}.las", few))
    tasks = tasks_of(check_scans(scans, None))
    names = [[each.path.stem for each in task.neighbours] for task in tasks]
    # 77, 97 and 4,787 m are between them; three blocks are 76.8 m.
    assert names == [[], [], [], []]
    xyz[:, 0] -= 5000 - 89
    scans[1] = write_las(tmp_path / "1.las", replace(few, xyz=xyz))
    tasks = tasks_of(check_scans(scans, None))
    assert [len(task.neighbours) for task in tasks] == [1, 1, 0, 0]


# What a campaign does.


def test_a_street_cut_in_two_scores_as_the_whole(street, campaign, whole, tmp_path):
    run_score([campaign / "days"], tmp_path / "out")
    assert_halves_are_as_the_whole(street, whole, tmp_path / "out")


def tile_files(folder: Path) -> dict[str, np.ndarray]:
    paths = folder.rglob("*_files/*.png")
    return {str(path.relative_to(folder)): np.array(Image.open(path)) for path in paths}


def test_its_tiles_are_those_of_the_whole(campaign, tmp_path):
    for name in ("whole.laz", "days"):
        run_pointcloud(["tiles", str(campaign / name), "--out", str(tmp_path / name)])
    one, other = (tile_files(tmp_path / name) for name in ("whole.laz", "days"))
    assert one.keys() == other.keys() > set()
    for name, pixels in one.items():
        np.testing.assert_array_equal(pixels, other[name])
    described = [
        json.loads((tmp_path / name / "tiles.json").read_text()) for name in ("whole.laz", "days")
    ]
    ranges = [each["intensity_range"] for each in described]
    assert ranges[0] == ranges[1]


def test_intensities_are_scaled_as_in_training(campaign, tmp_path):
    """Whatever else is in the scans, and without any contrast in them."""

    class Intensity(Depth):
        def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:
            return intensity.astype(np.float32)

    from crn.pointcloud.score import score_scans

    tiles = replace(TILES, intensity_range=(4000.0, 24_000.0))
    score_scans([campaign / "whole.laz"], tmp_path / "out", tiles, Intensity(), threshold=1e9)
    scored = laspy.read(tmp_path / "out/whole.laz")
    middle = np.nanmedian(scored.crn_score)
    has = np.isfinite(scored.crn_score)
    expected = (np.median(np.array(scored.intensity)[has]) - 4000) / 20_000 * 255
    assert middle == pytest.approx(expected, abs=1.5)


def test_a_damaged_scan_does_not_stop_the_others(street, campaign, tmp_path, caplog):
    scans = tmp_path / "scans"
    for name, part in zip("ab", halves(street), strict=True):
        scans.mkdir(exist_ok=True)
        write_las(scans / f"{name}.laz", street, part)
    (scans / "c.laz").write_bytes(b"no scan")
    content = bytearray((scans / "b.laz").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    (scans / "b.laz").write_bytes(content)
    with pytest.raises(UserError, match=r"2 of 3 scans failed.*: [bc]\.laz, [bc]\.laz; .* others"):
        run_score([scans], tmp_path / "out")
    assert np.isfinite(scores(tmp_path / "out/a.laz")).mean() > 0.6
    assert not (tmp_path / "out/b.laz").exists()
    assert "c.laz: is not a LAS or LAZ file" in caplog.text
    assert "b.laz: cannot be read" in caplog.text
    # The only scan that is left fails again; what all scans share is written nevertheless.
    with pytest.raises(UserError, match="2 of 3 scans failed"):
        run_score([scans], tmp_path / "out", cog=True)
    assert (tmp_path / "out/score.tif").exists()
    with pytest.raises(UserError, match="is not a LAS"):
        run_score([scans], tmp_path / "strict", workers=Workers(strict=True))
    assert not (tmp_path / "strict").exists()


def test_a_scan_in_another_system_does_not_stop_the_others(street, tmp_path, caplog):
    parts, systems = (*halves(street), [0]), (CRS, CRS, "EPSG:25833")
    for name, part, crs in zip("abc", parts, systems, strict=True):
        write_las(tmp_path / f"{name}.laz", street, part, crs=crs)
    scans = [tmp_path / f"{name}.laz" for name in "abc"]
    with pytest.raises(UserError, match=r"1 of 3 scans failed.*: c\.laz; .* others"):
        run_score(scans, tmp_path / "out")
    assert "c.laz: is in ETRS89 / UTM zone 33N, other scans are in ETRS89 / UTM" in caplog.text
    assert (tmp_path / "out/report.html").exists()
    with pytest.raises(UserError, match=r"c\.laz: is in"):
        run_score(scans, tmp_path / "strict", workers=Workers(strict=True))


def test_the_same_command_goes_on_where_it_has_ended(street, campaign, tmp_path):
    out, days = tmp_path / "out", [campaign / "days"]
    first = run_score(days, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("new*")}
    assert run_score(days, out).tiles == 0 < first.tiles
    assert {path: path.stat().st_mtime_ns for path in out.rglob("new*")} == before
    # One result has gone: only its scan is scored again.
    (out / "one/new.laz").unlink()
    assert 0 < run_score(days, out).tiles < first.tiles
    # With other settings, or another scan, everything that depends on it is.
    assert run_score(days, out, 30.0).tiles == first.tiles
    os.utime(campaign / "days/one/new.laz")
    assert run_score(days, out, 30.0).tiles == first.tiles  # each is a neighbour of the other
    assert (out / "two/new-v1.laz").exists()


def test_a_dry_run_tells_and_writes_nothing(campaign, tmp_path, capsys):
    words = [str(campaign / "days"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert pointcloud.main(["tiles", *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("one/new.laz: 1")
    assert "ETRS89 / UTM zone 32N, 1 neighbour" in said[1]
    assert "2 scans, 219,999 points: about 0:00:00 h" in said[-1]
    assert not list(tmp_path.iterdir())


# On several processes.


def test_processes_give_the_same(street, campaign, whole, tmp_path):
    pytest.importorskip("distributed")
    run_score([campaign / "days"], tmp_path / "out", workers=Workers(jobs=2))
    assert_halves_are_as_the_whole(street, whole, tmp_path / "out")


def test_a_scheduler_elsewhere_gives_the_same(street, campaign, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        workers = Workers(scheduler=cluster.scheduler_address)
        run_score([campaign / "days"], tmp_path / "out", workers=workers)
    assert_halves_are_as_the_whole(street, whole, tmp_path / "out")


def test_a_scheduler_that_does_not_answer(campaign, monkeypatch, tmp_path):
    pytest.importorskip("distributed")
    monkeypatch.setattr("crn.pointcloud.campaign._PATIENCE", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(UserError, match=f"--scheduler {address}: does not answer"):
            run_score([campaign / "days"], tmp_path / "out", workers=Workers(scheduler=address))


def score_days(scans: Path, out: Path, jobs: int) -> int:
    """To be the ``act`` of a `Victim`."""
    from unittest.mock import patch

    from crn.pointcloud import command

    def score(folder: Path) -> None:
        print("began", flush=True)
        run_score([scans], out, workers=Workers(jobs=jobs))

    with patch.object(command, "_demo", score):
        return pointcloud.main(["demo", "unused"])


def ended(tmp_path: Path, scans: Path, jobs: int, number: int, wait: Callable[[Path], None]):
    victim = Victim(tmp_path, score_days, scans, tmp_path / "out", jobs)
    victim.wait_for("began")
    wait(tmp_path / "out")
    victim.send(number)
    return victim.end()


def until_scoring(out: Path) -> None:
    """Wait until a scan is being worked on."""
    end = time.monotonic() + 60
    while not list(out.glob(".unfinished-*/0/*")) and time.monotonic() < end:
        time.sleep(0.02)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_nothing(campaign, tmp_path, number, jobs):
    status, err = ended(tmp_path, campaign / "days", jobs, number, until_scoring)
    assert status == 128 + number, err
    assert "Traceback" not in err
    left = [path.name for path in (tmp_path / "out").iterdir() if path.name[0] == "."]
    assert left == []
    assert not (tmp_path / ".out.lock").exists()


def test_what_a_killed_run_has_finished_is_kept(campaign, tmp_path):
    def until_one_is_done(out: Path) -> None:
        end = time.monotonic() + 60
        while not (out / "scans.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.005)

    status, err = ended(tmp_path, campaign / "days", 1, signal.SIGKILL, until_one_is_done)
    assert status == -signal.SIGKILL, err
    entries = (tmp_path / "out/scans.jsonl").read_text().splitlines()
    names = [json.loads(each)["name"] for each in entries]
    assert names == ["one/new.laz"]
    again = run_score([campaign / "days"], tmp_path / "out")
    alone = run_score([campaign / "days"], tmp_path / "other")
    assert 0 < again.tiles < alone.tiles


# What comes in.


def found_road(path: Path, tmp_path: Path) -> np.ndarray:
    """Which points have a score."""
    run_score([path], tmp_path / "out")
    return np.isfinite(scores(tmp_path / "out" / path.name))


def test_the_page_names_scans_in_their_order_whichever_ends_first(campaign, tmp_path, monkeypatch):
    def last_first(*arguments):
        return reversed(list(run_tasks(*arguments)))

    monkeypatch.setattr(score, "run_tasks", last_first)
    run_score([campaign / "days"], tmp_path / "out")
    entries = [json.loads(line)["name"] for line in (tmp_path / "out/scans.jsonl").open()]
    assert entries == ["two/new.laz", "one/new.laz"]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.index("one/<wbr>new.laz") < page.index("two/<wbr>new.laz")


def test_earlier_results_that_do_not_fit_are_refused_before_scoring(campaign, whole, tmp_path):
    with pytest.raises(UserError, match="its cells are of 4 cm, those of this model of 8 cm"):
        run_score(
            [campaign / "whole.laz"], tmp_path / "out", tiles=replace(TILES, cell=8), against=whole
        )
    assert not (tmp_path / "out").exists()


def with_multipath(street: Street, count: int) -> tuple[Street, np.ndarray]:
    """The street with points 0.3 to 2 m below the road, and which these are."""
    chance = np.random.default_rng(count)
    which = chance.choice(np.flatnonzero(street.truth != NOT_ROAD), count, replace=False)
    xyz = street.xyz.copy()
    xyz[which, 2] -= chance.uniform(0.3, 2, count)
    return replace(street, xyz=xyz), which


@pytest.mark.parametrize("count", [1, 3, 10, 30, 110])
def test_points_below_the_road_cost_nothing(street, whole, tmp_path, count):
    strayed, which = with_multipath(street, count)
    road = found_road(write_las(tmp_path / "a.laz", strayed), tmp_path)
    expected = np.isfinite(scores(whole / "whole.laz"))
    assert road[expected].mean() > 0.998
    assert road[~expected].mean() < 0.002
    assert not road[which].any()
    hot = scores(tmp_path / "out/a.laz") > 16
    assert hot.sum() == pytest.approx((scores(whole / "whole.laz") > 16).sum(), rel=0.02)


@pytest.mark.parametrize("count", [1, 10, 110])
def test_points_below_the_road_that_are_classified_as_ground_are_no_damage(street, tmp_path, count):
    kinds = np.where(street.truth == NOT_ROAD, 1, 2)
    for name, each in (("sound", street), ("strayed", with_multipath(street, count)[0])):
        path = write_las(tmp_path / f"{name}.laz", each, classification=kinds)
        run_score([path], tmp_path / name)
    sound, strayed = (scores(tmp_path / name / f"{name}.laz") for name in ("sound", "strayed"))
    assert (strayed > 16).sum() == pytest.approx((sound > 16).sum(), rel=0.02)
    depths = [
        geopandas.read_file(tmp_path / name / "damages.gpkg", layer="places")["depth_mm"]
        for name in ("sound", "strayed")
    ]
    assert depths[1].to_list() == pytest.approx(depths[0].to_list(), abs=2)


def test_a_hole_deeper_than_stray_points_stays(tmp_path):
    street = make_street(16, [replace(POTHOLE, depth=0.6)], seed=3)
    kinds = np.where(street.truth == NOT_ROAD, 1, 2)
    run_score([write_las(tmp_path / "a.laz", street, classification=kinds)], tmp_path / "out")
    (place,) = geopandas.read_file(tmp_path / "out/damages.gpkg", layer="places").itertuples()
    assert place.depth_mm == pytest.approx(600, abs=15)
    assert place.area_m2 == pytest.approx(np.pi * POTHOLE.size[0] ** 2, rel=0.2)


def test_a_stray_point_far_away_is_left_out(street, tmp_path, caplog):
    xyz = street.xyz.copy()
    xyz[0] += (12_000, 0, 0)
    road = np.where(street.truth == NOT_ROAD, 1, 2).astype(np.uint8)
    road[0] = 2
    path = write_las(tmp_path / "a.laz", replace(street, xyz=xyz), classification=road)
    has = found_road(path, tmp_path)
    assert "1 points of the road lie alone, far from the others" in caplog.text
    assert not has[0]
    assert has[street.truth != NOT_ROAD].mean() > 0.99


def test_each_scan_goes_by_its_own_classes(street, tmp_path):
    """One is classified, its neighbour is not."""
    kinds = np.where(street.truth == NOT_ROAD, 1, 2).astype(np.uint8)
    for name, part, classes in zip("ab", halves(street), (kinds, 0 * kinds), strict=True):
        write_las(tmp_path / f"{name}.laz", street, part, classification=classes)
    run_score([tmp_path / "a.laz", tmp_path / "b.laz"], tmp_path / "out")
    for name, part in zip("ab", halves(street), strict=True):
        has = np.isfinite(scores(tmp_path / f"out/{name}.laz"))
        road = street.truth[part] != NOT_ROAD
        assert has[road].mean() > 0.99
        assert has[~road].mean() < 0.002


def test_a_few_classified_points_do_not_decide(street, tmp_path, caplog):
    kinds = np.zeros(len(street.xyz), np.uint8)
    kinds[:2000] = 2  # 0.9 %
    path = write_las(tmp_path / "a.laz", street, classification=kinds)
    assert found_road(path, tmp_path)[street.truth != NOT_ROAD].mean() > 0.99
    assert "only 0.91 % of the points are of class 2 (ground)" in caplog.text


def test_return_zero_of_one_is_the_first_of_one(street, whole, tmp_path):
    path = write_las(tmp_path / "a.laz", street, return_number=0, number_of_returns=1)
    np.testing.assert_array_equal(
        found_road(path, tmp_path), np.isfinite(scores(whole / "whole.laz"))
    )


def test_copies_of_points_count_once(street, tmp_path):
    twice = np.repeat(np.arange(len(street.xyz)), 2)
    path = write_las(tmp_path / "a.laz", street, twice)
    run_pointcloud(["tiles", str(path), "--out", str(tmp_path / "out")])
    described = json.loads((tmp_path / "out/tiles.json").read_text())
    assert described["cell"] == 4
    assert described["facts"]["points_per_m2"] == pytest.approx(1250, rel=0.02)


def test_storage_that_tells_no_free_space_is_used(campaign, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: (0, 0, 0))
    run_score([campaign / "whole.laz"], tmp_path / "out")
    monkeypatch.setattr("shutil.disk_usage", lambda _: (10**9, 10**9, 10**6))
    with pytest.raises(UserError, match=r"has 0\.0 GB free, and about 0\.0 GB are needed"):
        run_score([campaign / "whole.laz"], tmp_path / "other")


def test_a_long_road_needs_what_its_points_need(tmp_path):
    """Not what its extent would: two pieces, 6 km apart, in one file."""
    near = make_street(8, [], seed=1, density=600)
    xyz = np.concatenate((near.xyz, near.xyz + np.array((4500, 4000, 0))))
    both = Street(
        xyz, np.tile(near.intensity, 2), np.tile(near.truth, 2), np.tile(near.seconds, 2), (), ()
    )
    path = write_las(tmp_path / "a.laz", both)
    start = time.process_time()
    has = found_road(path, tmp_path)
    assert time.process_time() - start < 20
    assert has[both.truth != NOT_ROAD].mean() > 0.97


def test_temporary_files_of_a_scan_go_when_it_is_done(campaign, tmp_path, monkeypatch):
    from crn.pointcloud import score

    left: list[list[str]] = []
    score_scan = score._score_scan

    def looking(scoring: score._Scoring) -> dict:
        left.append(sorted(path.name for path in scoring.work.parent.iterdir()))
        return score_scan(scoring)

    monkeypatch.setattr(score, "_score_scan", looking)
    run_score([campaign / "days"], tmp_path / "out")
    assert left == [[], []]
