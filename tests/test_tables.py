"""tables.py: what it trains, that it goes on where it was, and what its tables say."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, Finished, write_mvtec_category
from PIL import Image

from crn.experiments.tables.pages import write_results
from crn.experiments.tables.summary import Method, summarize
from crn.experiments.tables.trainings import DataSet, Grid, Result, Run
from crn.experiments.tables.trivial import TRIVIAL, trivial_scores
from tables import main

# For train.py, so that a training takes no time.
TINY = ("--", "--demo", "--cpu", "--imsize", 8, "--max-network-depth", 1)
TRIVIAL_AUROCS = {"brightness": 0.5, "contrast": 0.6, "gradient energy": 0.4, "mean image": 0.3}


@pytest.fixture
def make_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run tables.py in this process and in ``tmp_path``: ``make_tables("--table", "mvtec")``."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Finished:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def start(tmp_path: Path):
    """Start tables.py as a process in ``tmp_path``, which ends with the test."""
    started: list[subprocess.Popen] = []

    def run(*words: Any) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, REPOSITORY / "tables.py", *map(str, words)],
            cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- with real trainings ---


def test_a_table_with_a_category_that_is_missing(make_tables, tmp_path: Path) -> None:
    write_mvtec_category(tmp_path / "mvtec/widget")
    words = (
        "--table", "mvtec", "--root", "mvtec", "--categories", "widget", "nothing", "--seeds", 7,
        "--units", 2, "--workers", 2, *TINY, "--training-steps", 3,
    )  # fmt: skip
    finished = make_tables(*words)
    assert finished.status == 1  # something has failed
    folder = tmp_path / "table_results/mvtec"
    rows = table(folder)
    trained = {(row["dataset"], row["method"]): row for row in rows if row["seed"]}
    assert set(trained) == {(c, m) for c in ("widget", "nothing") for m in ("crn", "dagan")}
    for (category, method), row in trained.items():
        assert row["units"] == ("2" if method == "crn" else "")
        if category == "nothing":
            assert row["state"] == "failed"
            assert "mvtec/nothing: no such folder" in row["error"]
            continue
        assert (row["state"], row["steps"], row["error"]) == ("complete", "3", "")
        (metrics,) = Path(row["folder"]).glob("logged_metrics/version_0/metrics.csv")
        with metrics.open(newline="") as file:
            *_, last = csv.DictReader(file)
        assert row["last_auroc"] == last["metrics/roc_auc"]
        assert row["best_auroc"] == last["metrics/max_roc_auc"]
        assert row["training_seconds"] == last["metrics/training_time"]
        # Checkpoints are gigabytes.
        assert not (Path(row["folder"]) / "checkpoints").exists()
    trivial = [row for row in rows if not row["seed"] and row["dataset"] == "widget"]
    assert [row["method"] for row in trivial] == list(TRIVIAL)
    assert all(0 <= float(row["last_auroc"]) <= 1 for row in trivial)
    text = (folder / "results.md").read_text()
    assert finished.out.strip() == text.strip()
    assert "| nothing | DAGAN | – | – | – | 0, 1 failed |" in text
    assert "mvtec/nothing: no such folder" in text
    assert "`python tables.py --table mvtec --root mvtec" in text

    # Nothing is done twice, and what failed is tried again when that is asked for.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/widget*/**/*")}
    assert make_tables(*words).status == 1
    write_mvtec_category(tmp_path / "mvtec/nothing")
    retried = make_tables(
        *words[: words.index("--")], "--retry-failed", *words[words.index("--") :]
    )
    assert retried.status == 0, retried.err
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert all(row["state"] == "complete" for row in table(folder))


def test_it_goes_on_where_it_was(start, make_tables, tmp_path: Path) -> None:
    """After a signal from its checkpoint, and after kill -9 with what its trainings have done."""
    write_mvtec_category(tmp_path / "widget")
    words = (
        "--table", "units", "--root", "widget", "--seeds", 3, "--units", 2, "--", "--cpu",
        "--imsize", 8, "--max-network-depth", 1, "--batch-size", 2, "--training-steps", 500,
        "--validation-interval", 100,
    )  # fmt: skip
    run = tmp_path / "table_results/units/runs/widget-crn-2-units-seed-3"
    process = start(*words)
    wait_for((run / "logged_metrics/version_0/metrics.csv").exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "stopped; to go on: python tables.py --table units" in err
    assert (run / "checkpoints/last.ckpt").exists()
    assert not (run / "result.json").exists()

    process = start(*words)
    wait_for((run / "logged_metrics/version_1/metrics.csv").exists)
    process.kill()
    process.wait()
    finished = make_tables(*words)
    assert finished.status == 0, finished.err
    (row, *_) = table(tmp_path / "table_results/units")
    assert (row["state"], row["steps"]) == ("complete", "500")
    assert not (run / "checkpoints").exists()
    assert len(list(run.glob("logged_metrics/*/metrics.csv"))) == 2
    with Image.open(tmp_path / "table_results/units/units.png") as plot:
        assert plot.size == (960, 630)

    end = words.index("--")
    undisturbed = make_tables(*words[:end], "--folder", "other", *words[end:])
    assert undisturbed.status == 0, undisturbed.err
    (other, *_) = table(tmp_path / "other")
    assert (other["last_auroc"], other["best_auroc"]) == (row["last_auroc"], row["best_auroc"])


def test_without_locks_and_with_an_output_in_ascii(
    run_python, without_locks, tmp_path: Path
) -> None:
    write_mvtec_category(tmp_path / "widget")
    finished = run_python(
        REPOSITORY / "tables.py", "--table", "units", "--root", "widget", "--seeds", 3, "--units",
        2, *TINY, "--training-steps", 1, cwd=tmp_path, PYTHONIOENCODING="ascii", **without_locks,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "mean \\xb1 standard deviation" in finished.stdout
    assert table(tmp_path / "table_results/units")[0]["state"] == "complete"


# --- tables from results that are made up ---


def make_grid(folder: Path, table: str, results: dict[Run, Result]) -> Grid:
    flags = ["--training-steps", "300"]
    grid = Grid(list(results), folder, table, Path("data"), flags, f"tables.py --table {table}")
    for run, result in results.items():
        if result is not None:
            grid.record(run, result)
    return grid


def test_means_deviations_and_averages(tmp_path: Path) -> None:
    cable, screw, wood = (DataSet(n, "MVTec", Path(n)) for n in ("cable", "=screw|x", "wood"))
    crn, dagan = Method("crn", 4), Method("dagan", None)
    results = {
        Run("crn", 4, cable, 1): Result(0.5, 0.9, 60.0, 300),
        Run("crn", 4, cable, 2): Result(0.7, 0.7, 120.0, 300),
        Run("crn", 4, screw, 1): Result(0.9, 0.9, 10.0, 300),
        Run("crn", 4, screw, 2): Result(0.8, 0.8, 11.0, 300),
        Run("crn", 4, wood, 1): Result(error="the reason"),
        Run("crn", 4, wood, 2): None,
        Run("dagan", None, cable, 1): Result(0.65, 0.65, 4000.0, 300),
        Run("dagan", None, cable, 2): None,
        Run("dagan", None, screw, 1): None,
        Run("dagan", None, screw, 2): None,
        Run("dagan", None, wood, 1): None,
        Run("dagan", None, wood, 2): None,
    }
    grid = make_grid(tmp_path, "mvtec", results)
    trivial = {cable: TRIVIAL_AUROCS, screw: TRIVIAL_AUROCS | {"contrast": 1.0}, wood: "unreadable"}
    summary = summarize(grid, trivial)
    assert summary.averages(crn, "last") == pytest.approx([0.7, 0.75])  # without wood
    assert summary.averages(dagan, "last") == [0.65]
    assert summary.best_trivial(screw) == ("contrast", 1.0)
    assert summary.trivial_average("contrast") == pytest.approx(0.8)

    lines = write_results(grid, trivial).splitlines()
    assert "**6 of 12 trainings have ended.**" in lines
    for line in (
        "| AUROC, last | CRN, 4 units | DAGAN | brightness | contrast | gradient energy | "
        "mean image |",
        "| cable | 0.600 ± 0.141 | 0.650 | 0.500 | 0.600 | 0.400 | 0.300 |",
        "| average | 0.725 ± 0.035 | 0.650 | 0.500 | 0.800 | 0.400 | 0.300 |",
        "| cable | CRN, 4 units | 0.600 ± 0.141 | 0.800 ± 0.141 | 1:30 | 2 |",
        "| cable | DAGAN | 0.650 | 0.650 | 1:06:40 | 1 |",
        "| wood | CRN, 4 units | – | – | – | 0, 1 failed |",
        "| wood | contrast | – |  |  |  |",
        "- CRN, 4 units is **not** above the best trivial baseline on cable (contrast: 0.600), "
        "=screw|x (contrast: 1.000).",
        "- DAGAN is above the best trivial baseline on cable (contrast: 0.600).",
        "- wood, CRN, 4 units **failed**: the reason",
        "- wood, trivial baselines **failed**: unreadable",
    ):
        assert line in lines
    assert any(line.startswith("| =screw\\|x | CRN, 4 units |") for line in lines)
    rows = table(tmp_path)
    assert len(rows) == 12 + 3 * 4
    assert {row["dataset"] for row in rows} == {"cable", "'=screw|x", "wood"}
    assert [row["state"] for row in rows].count("missing") == 6


def test_a_table_of_units_has_a_plot_even_before_the_first_result(tmp_path: Path) -> None:
    roads = DataSet("roads", "RoadImages", Path("roads"))
    runs = [Run("crn", units, roads, seed) for units in (2, 8) for seed in (1, 2)]
    runs.append(Run("dagan", None, roads, 1))
    nothing = dict.fromkeys(runs)
    write_results(make_grid(tmp_path, "units", nothing), {roads: "unreadable"})
    empty = Image.open(tmp_path / "units.png").tobytes()
    some = {run: Result(0.5 + index / 10, 0.9, 1.0, 300) for index, run in enumerate(runs)}
    text = write_results(make_grid(tmp_path, "units", some), {roads: TRIVIAL_AUROCS})
    assert "(units.png)" in text
    assert Image.open(tmp_path / "units.png").tobytes() != empty


def test_trivial_baselines_by_hand() -> None:
    train = torch.zeros(2, 3, 2, 2)
    train[1] = 4.0  # brightness 0 and 4, the mean image is 2; no contrast
    test = torch.full((2, 3, 2, 2), 3.0)
    test[1, :, 0, 0] = 7.0  # brightness 4, contrast sqrt(3), differences 4 twice of 2 each
    scores = trivial_scores(train, test)
    assert list(scores) == list(TRIVIAL)
    # The mean over the training images is 2, the standard deviation 2.
    torch.testing.assert_close(scores["brightness"], torch.tensor([0.5, 1.0]))
    assert scores["contrast"][0] == 0 < scores["contrast"][1]
    assert scores["gradient energy"][0] == 0 < scores["gradient energy"][1]
    torch.testing.assert_close(scores["mean image"], torch.tensor([1.0, 2.0]))
    # In standard deviations of figures that differ.
    noise = torch.linspace(0, 1, 10 * 3 * 16).reshape(10, 3, 4, 4) ** 2
    known = noise.std((1, 2, 3), correction=0)
    expected = (noise[0].std(correction=0) - known.mean()).abs() / known.std(correction=0)
    torch.testing.assert_close(trivial_scores(noise, noise[:1])["contrast"][0], expected)
    down, across = noise.diff(dim=2).square(), noise.diff(dim=3).square()
    energy = down.mean((1, 2, 3)) + across.mean((1, 2, 3))
    expected = (energy[0] - energy.mean()).abs() / energy.std(correction=0)
    torch.testing.assert_close(trivial_scores(noise, noise[:1])["gradient energy"][0], expected)


def test_trivial_baselines_on_real_images(make_tables, shared_data: Path, tmp_path: Path) -> None:
    """The distance to the mean image is known to reach 0.73 on MVTec's transistors at 64 pixels."""
    from crn.command_line import parse_options
    from crn.experiments.tables.trivial import trivial_aurocs

    data = DataSet("transistor", "MVTec", shared_data / "mvtec/transistor")
    words = ["--dataset", "MVTec", "--dataset-path", str(data.path), "--imsize", "64"]
    aurocs = trivial_aurocs(data, parse_options(words), tmp_path)
    assert aurocs["mean image"] == pytest.approx(0.73, abs=0.01)
    (kept,) = (tmp_path / "trivial").iterdir()
    kept.write_text(json.dumps(dict.fromkeys(TRIVIAL, 0.25)))
    assert trivial_aurocs(data, parse_options(words), tmp_path)["mean image"] == 0.25


# --- bad input ---


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        ((), "--table"),
        (("--table", "mvtec"), "--root datasets/mvtec: no such folder"),
        (("--table", "panorama", "--categories", "cable"), "--categories are of --table mvtec"),
        (("--table", "mvtec", "--root", "data", "--categories", "../x"), "--categories ../x"),
        (("--table", "mvtec", "--root", "data", "--categories", ".."), "--categories .."),
        (("--table", "panorama", "--root", "data", "--seeds", "-1"), "--seeds"),
        (("--table", "panorama", "--root", "data", "--units", "0"), "--units"),
        (("--table", "panorama", "--root", "data", "--", "--seed=3"), "--seed: leave it out"),
        (("--table", "panorama", "--root", "data", "--", "--imsize", "65"), "--imsize takes"),
        (("--table", "panorama", "--root", "data", "--", "--unheard-of"), "--unheard-of"),
        (("--table", "panorama", "--root", "data", "--models", "gan"), "--models"),
        (
            ("--table", "panorama", "--root", "data", "--", "--contextual-loss-weight", "3"),
            "--contextual-loss-weight works with --model dagan only",
        ),
    ],
)
def test_bad_input(make_tables, tmp_path: Path, words: tuple[str, ...], mention: str) -> None:
    (tmp_path / "data").mkdir()
    finished = make_tables(*words)
    assert finished.status == 2
    assert mention in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not (tmp_path / "table_results/panorama/runs").exists()


def test_the_folder_of_another_table(make_tables, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    words = ("--table", "panorama", "--seeds", "1", "--models", "dagan", "--folder", "results")
    assert make_tables(*words, "--root", "one", *TINY).status == 1  # trained, and failed
    other = make_tables(*words, "--root", "two", *TINY)
    assert other.status == 2
    assert "the trainings in it have other --root" in other.err
    other = make_tables(*words, "--root", "one", *TINY, "--lr", "0.1")
    assert "have other flags after --" in other.err
    (damaged,) = (tmp_path / "results/runs").glob("*/result.json")
    damaged.write_text("{")
    assert (
        f"{damaged.relative_to(tmp_path)}: is damaged"
        in make_tables(*words, "--root", "one", *TINY).err
    )


def test_the_plot_needs_matplotlib(make_tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finished = make_tables("--table", "units")
    assert finished.status == 2
    assert "pip install -r requirements-benchmark.txt" in finished.err
