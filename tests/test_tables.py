"""tables.py: what it trains, that it goes on where it was, and what its tables say."""

import os
import signal
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Finished, write_mvtec_category
from experiments import in_process, processes, rows_of, wait_for
from PIL import Image

from crn.evaluation.metrics import auroc
from crn.evaluation.results import read_metrics
from crn.experiments.tables.baselines import (
    baseline_aurocs,
    scores_of_features,
    scores_of_maps,
    scores_of_numbers,
)
from crn.experiments.tables.pages import write_results
from crn.experiments.tables.runs import DataSet, Result, Table, TableMethod, TableRun, swing
from crn.experiments.tables.summary import BASELINES, Summary
from tables import main

# For train.py, so that a training takes no time.
HPARAMS = "logged_metrics/version_0/hparams.yaml"
TINY = ("--", "--demo", "--cpu", "--imsize", 8, "--max-network-depth", 1)
BASELINE_AUROCS = {name: [0.3] for name in BASELINES} | {
    "brightness": [0.5], "contrast": [0.6], "untrained features": [0.3, 0.5],
}  # fmt: skip


@pytest.fixture
def make_tables(tmp_path: Path, monkeypatch, capsys) -> Callable[..., Finished]:
    monkeypatch.chdir(tmp_path)
    return in_process(main, capsys)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable]:
    with processes("tables.py", tmp_path) as start:
        yield start


def table(folder: Path) -> list[dict[str, str]]:
    return rows_of(folder / "results.csv")


# --- with real training runs ---


def test_a_table_with_a_category_that_is_missing(make_tables, tmp_path: Path) -> None:
    write_mvtec_category(tmp_path / "mvtec/widget")
    words = (
        "--table", "mvtec", "--root", "mvtec", "--categories", "widget", "nothing", "--seeds", 7,
        "--units", 2, "--models", "crn", "control", "--workers", 2, *TINY, "--training-steps", 3,
        "--validation-interval", 1,
    )  # fmt: skip
    finished = make_tables(*words)
    assert finished.status == 1  # something has failed
    folder = tmp_path / "table_results/mvtec"
    rows = table(folder)
    assert (folder / "results.csv").read_bytes().startswith(BOM_UTF8 + b"dataset,")
    methods = [("crn", "published"), ("crn", "balanced"), ("control", "balanced")]
    trained = {(r["dataset"], (r["method"], r["recipe"])): r for r in rows if r["units"]}
    assert set(trained) == {(c, m) for c in ("widget", "nothing") for m in methods}
    for (category, (_, recipe)), row in trained.items():
        assert row["units"] == "2"
        if category == "nothing":
            assert row["state"] == "failed"
            assert "mvtec/nothing: no such folder" in row["error"]
            continue
        assert (row["state"], row["steps"], row["error"]) == ("complete", "3", "")
        (metrics,) = Path(row["folder"]).glob("logged_metrics/version_0/metrics.csv")
        *_, last = validations = [r for r in rows_of(metrics) if r["metrics/roc_auc"]]
        assert not metrics.read_bytes().startswith(BOM_UTF8)  # more rows may follow
        assert row["last_auroc"] == last["metrics/roc_auc"]
        assert row["best_auroc"] == last["metrics/max_roc_auc"]
        assert row["training_seconds"] == last["metrics/training_time"]
        assert (len(validations), row["swing"]) == (3, "")  # a single validation has none
        inferred = read_metrics(Path(row["folder"]) / "metrics.json")
        score = "residual" if recipe == "published" else "reconstruction"
        assert inferred.anomaly_score == score
        # Of the last state, as the last validation is.
        assert inferred.scores[score].auroc == pytest.approx(float(row["last_auroc"]))
        assert float(row["pixel_auroc"]) == inferred.pixels.auroc
        assert float(row["aupro"]) == inferred.pixels.aupro
        assert float(row["false_alarms"]) == inferred.decisions.false_positives / 3
        assert float(row["found"]) == inferred.decisions.true_positives / 6
        assert len(rows_of(Path(row["folder"]) / "anomaly_scores.csv")) == 15
        # Checkpoints are gigabytes.
        assert not (Path(row["folder"]) / "checkpoints").exists()
    # The control differs from the balanced game by its losses alone.
    hparams = [
        yaml.safe_load((Path(trained["widget", m]["folder"]) / HPARAMS).read_text())
        for m in methods[1:]
    ]
    assert {k for k in hparams[0] if hparams[0][k] != hparams[1][k]} == {
        *("feedback_weight", "balance", "discrimination_weight"),
        *("checkpoint_path", "log_dir"),
    }
    baselines = [row for row in rows if not row["units"] and row["dataset"] == "widget"]
    assert list(dict.fromkeys(row["method"] for row in baselines)) == list(BASELINES)
    assert all(0 <= float(row["last_auroc"]) <= 1 for row in baselines)
    drawn = [row["seed"] for row in baselines if row["method"] == "untrained features"]
    assert drawn == ["0", "1", "2", "3", "4"]
    text = (folder / "results.md").read_text()
    assert finished.out.strip() == text.strip()
    assert "| nothing | 2 autoencoders, balanced |" in text
    assert "| 0, 1 failed |" in text
    assert "mvtec/nothing: no such folder" in text
    assert "`python tables.py --table mvtec --root mvtec" in text
    assert "the score `residual` (published) and `reconstruction` (balanced)" in text

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
    """After a signal from its checkpoint, and after kill -9 with what its runs have done."""
    write_mvtec_category(tmp_path / "widget")
    words = (
        "--table", "units", "--root", "widget", "--seeds", 3, "--units", 2, "--", "--cpu",
        "--imsize", 8, "--max-network-depth", 1, "--batch-size", 2, "--training-steps", 500,
        "--validation-interval", 100,
    )  # fmt: skip
    run = tmp_path / "table_results/units/runs/widget-crn-2-units-published-seed-3"
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
    refused = make_tables(*words)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "another run is writing it" in refused.err  # what it has started
    wait_for(lambda: make_tables(*words).status == 0)
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
    for column in ("last_auroc", "best_auroc", "swing", "pixel_auroc", "aupro", "found"):
        assert other[column] == row[column] != ""


def test_a_failure_of_inference_is_one_of_the_run(make_tables, tmp_path: Path) -> None:
    """And what was trained is kept for the next try."""
    write_mvtec_category(tmp_path / "widget")
    words = ("--table", "units", "--root", "widget", "--seeds", 3, "--units", 2)
    run = tmp_path / "table_results/units/runs/widget-crn-2-units-published-seed-3"
    (run / "anomaly_scores.csv").mkdir(parents=True)
    assert make_tables(*words, *TINY, "--training-steps", 1).status == 1
    (row, *_) = table(tmp_path / "table_results/units")
    assert row["state"] == "failed"
    assert "anomaly_scores.csv: is a folder" in row["error"]
    stored = (run / "checkpoints/last.ckpt").read_bytes()
    (run / "anomaly_scores.csv").rmdir()
    # What has been trained is not trained again: nothing is logged.
    assert stored
    assert make_tables(*words, "--retry-failed", *TINY, "--training-steps", 1).status == 0
    assert [path.name for path in (run / "logged_metrics").iterdir()] == ["version_0"]
    assert table(tmp_path / "table_results/units")[0]["state"] == "complete"


# --- tables from results that are made up ---


def make_up_table(folder: Path, name: str, results: dict[TableRun, Result]) -> Table:
    flags = ["--training-steps", "300"]
    ended = {run: result for run, result in results.items() if result is not None}
    return Table(
        list(results), folder, name, Path("data"), flags, f"tables.py --table {name}", ended
    )


def test_means_deviations_and_averages(tmp_path: Path) -> None:
    cable, screw, wood = (DataSet(n, "MVTec", Path(n)) for n in ("cable", "=screw|x", "wood"))
    crn, dagan = TableMethod("crn", "balanced", 4), TableMethod("dagan", "published")
    control = TableMethod("control", "balanced", 4)
    results = {
        TableRun(crn, cable, 1): Result(0.5, 0.9, 60.0, 300, 0.1, 0.8, 0.7, 0.25, 0.5, 0.4, 0.7),
        TableRun(crn, cable, 2): Result(0.7, 0.7, 120.0, 300, 0.3, 0.9, 0.7, 0.75, 0.5, 0.8, 0.9),
        TableRun(crn, screw, 1): Result(0.9, 0.9, 10.0, 300),
        TableRun(crn, screw, 2): Result(0.8, 0.8, 11.0, 300),
        TableRun(crn, wood, 1): Result(error="the reason"),
        TableRun(crn, wood, 2): None,
        TableRun(dagan, cable, 1): Result(0.65, 0.65, 4000.0, 300),
        TableRun(dagan, cable, 2): None,
        TableRun(dagan, screw, 1): None,
        TableRun(dagan, wood, 1): None,
        TableRun(control, cable, 1): Result(0.45, 0.65, 1.0, 300),
        TableRun(control, screw, 1): Result(0.95, 0.95, 1.0, 300),
        TableRun(control, wood, 1): None,
    }
    runs = make_up_table(tmp_path, "mvtec", results)
    baselines = {
        cable: BASELINE_AUROCS,
        screw: BASELINE_AUROCS | {"contrast": [1.0], "untrained features": [0.5, 0.7]},
        wood: "unreadable",
    }
    summary = Summary(runs, baselines)
    assert summary.averages(crn) == pytest.approx([0.7, 0.75])  # without wood
    assert summary.averages(dagan) == [0.65]
    assert summary.best_baseline(screw) == ("contrast", [1.0])

    lines = write_results(runs, baselines).splitlines()
    assert "**8 of 13 training runs have ended.**" in lines
    label = "CRN, 4 units, balanced"
    for line in (
        "| AUROC, last | cable | =screw\\|x | wood | average |",
        f"| {label} | 0.600 ± 0.141 | 0.850 ± 0.071 | – | 0.725 ± 0.035 |",
        "| DAGAN, published | 0.650 | – | – | 0.650 |",
        "| contrast | 0.600 | 1.000 | – | 0.800 |",
        "| untrained features | 0.400 ± 0.141 | 0.600 ± 0.141 | – | 0.500 ± 0.141 |",
        "| cable | untrained features | 0.400 ± 0.141 |  |  |  |  |  |  |  |  |  |  |",
        f"| cable | {label} | 0.600 ± 0.141 | 0.800 ± 0.141 | 0.200 | 0.850 ± 0.071 | "
        "0.700 ± 0.000 | 50 % | 50 % | 60 % | 80 % | 1:30 | 2 |",
        "| cable | DAGAN, published | 0.650 | 0.650 | – | – | – | – | – | – | – | 1:06:40 | 1 |",
        f"| wood | {label} | – | – | – | – | – | – | – | – | – | – | 0, 1 failed |",
        "| wood | contrast | – |  |  |  |  |  |  |  |  |  |  |",
        f"- {label} is **not** above the best baseline on cable (contrast: 0.600), "
        "=screw|x (contrast: 1.000).",
        f"- {label} is above its control on cable (4 autoencoders, balanced: 0.450).",
        f"- {label} is **not** above its control on =screw|x (4 autoencoders, balanced: 0.950).",
        "- DAGAN, published is above the best baseline on cable (contrast: 0.600).",
        f"- wood, {label} **failed**: the reason",
        "- wood, baselines **failed**: unreadable",
    ):
        assert line in lines, line
    rows = table(tmp_path)
    assert len(rows) == 13 + 3 * len(BASELINES) + 2
    assert {row["dataset"] for row in rows} == {"cable", "'=screw|x", "wood"}
    assert [row["state"] for row in rows].count("missing") == 5


@pytest.mark.parametrize(("auroc", "verb"), [(0.84, "is **not** above"), (0.85, "is above")])
def test_what_several_networks_reach_without_training_has_its_spread_added(
    tmp_path: Path, auroc: float, verb: str
) -> None:
    roads, crn = DataSet("roads", "RoadImages", Path("roads")), TableMethod("crn", "balanced", 4)
    runs = make_up_table(
        tmp_path, "roadimages", {TableRun(crn, roads, 1): Result(auroc, auroc, 1.0, 300)}
    )
    text = write_results(runs, {roads: BASELINE_AUROCS | {"untrained features": [0.6, 0.8]}})
    # 0.7, and a deviation of 0.141.
    assert f"{verb} the best baseline on roads (untrained features: 0.841)." in text


def test_a_table_of_units_has_a_plot_even_before_the_first_result(tmp_path: Path) -> None:
    roads = DataSet("roads", "RoadImages", Path("roads"))
    methods = [TableMethod("crn", r, n) for r in ("published", "balanced") for n in (2, 8)]
    runs = [TableRun(method, roads, seed) for method in methods for seed in (1, 2)]
    runs.append(TableRun(TableMethod("dagan", "published"), roads, 1))
    nothing = dict.fromkeys(runs)
    write_results(make_up_table(tmp_path, "units", nothing), {roads: "unreadable"})
    empty = Image.open(tmp_path / "units.png").tobytes()
    some = {run: Result(0.5 + index / 20, 0.9, 1.0, 300) for index, run in enumerate(runs)}
    text = write_results(make_up_table(tmp_path, "units", some), {roads: BASELINE_AUROCS})
    assert "(units.png)" in text
    assert Image.open(tmp_path / "units.png").tobytes() != empty


def test_the_swing_is_over_the_last_third_of_the_validations(tmp_path: Path) -> None:
    """Also where the training was killed, and has done some steps twice."""
    for version, aurocs in (("0", {1: 0.1, 2: 0.9, 3: 0.2}), ("1", {3: 0.4, 4: 0.5, 5: 0.8})):
        path = tmp_path / f"logged_metrics/version_{version}/metrics.csv"
        path.parent.mkdir(parents=True)
        lines = [f"{step},{auroc},0.5" for step, auroc in aurocs.items()] + ["6,,0.4"]
        path.write_text("\n".join(["step,metrics/roc_auc,losses/generator", *lines]))
        os.utime(path, (int(version), int(version)))
    assert swing(tmp_path) == pytest.approx(0.3)  # 0.5 and 0.8, the last two of five


def test_baselines_of_whole_images_by_hand() -> None:
    train = torch.zeros(2, 3, 2, 2)
    train[1] = 4.0  # brightness 0 and 4, the mean image is 2; no contrast
    test = torch.full((2, 3, 2, 2), 3.0)
    test[1, :, 0, 0] = 7.0  # brightness 4, contrast sqrt(3), differences 4 twice of 2 each
    scores = scores_of_numbers(train, test)
    assert list(scores) == list(BASELINES[:4])
    # The mean over the training images is 2, the standard deviation 2.
    torch.testing.assert_close(scores["brightness"], torch.tensor([0.5, 1.0]))
    # No training image has any: in parts of the least deviation, 1e-12.
    torch.testing.assert_close(scores["contrast"], torch.tensor([0, 3**0.5]) * 1e12)
    torch.testing.assert_close(scores["gradient energy"], torch.tensor([0, 16.0]) * 1e12)
    torch.testing.assert_close(scores["mean image"], torch.tensor([1.0, 2.0]))
    # In standard deviations of figures that differ.
    noise = torch.linspace(0, 1, 10 * 3 * 16).reshape(10, 3, 4, 4) ** 2
    known = noise.std((1, 2, 3), correction=0)
    expected = (known[0] - known.mean()).abs() / known.std(correction=0)
    torch.testing.assert_close(scores_of_numbers(noise, noise[:1])["contrast"][0], expected)


def test_baselines_with_maps_find_what_is_small() -> None:
    """By its place alone where other places vary more, and whatever the light is."""
    random = torch.Generator().manual_seed(0)
    images = 0.05 * torch.randn(60, 3, 16, 16, generator=random)
    images[:, :, :, 8:] *= 8
    train, test = images[:40], images[40:]
    test[10:, :, 4:7, 2:5] += 0.5
    labels = [0] * 10 + [1] * 10
    state = torch.get_rng_state()
    scores = scores_of_maps(train, test)
    features = [scores_of_features(train, test, seed) for seed in (0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    scores |= features[0]
    assert scores.keys() == set(BASELINES[4:])
    for name, mine in features[1].items():
        assert not torch.equal(mine, scores[name])
    # Covariances lean on those of all positions, which here are ten times apart.
    leaning = {"untrained features", "coarse patches"}
    assert all(auroc(scores[name], labels) > 0.95 for name in scores.keys() - leaning)
    assert auroc((test - train.mean(0)).abs().mean(1).amax((1, 2)), labels) < 0.8
    brighter = scores_of_maps(train, test + 0.5)
    torch.testing.assert_close(
        brighter["high-pass image"], scores["high-pass image"], rtol=1e-3, atol=1e-3
    )
    assert (brighter["standardised mean image"] > scores["standardised mean image"] + 1).all()


def test_centred_baselines_count_more_than_the_highest_pixel() -> None:
    """Three of 256 count: a single spot scores less than four that are as bright."""
    train = 0.05 * torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    test = train.mean(0).repeat(2, 1, 1, 1)
    test[0, :, 4, 4] += 1
    for row, column in ((4, 4), (4, 10), (10, 4), (10, 10)):
        test[1, :, row, column] += 1
    scores = scores_of_maps(train, test)
    single, several = scores["centred mean image"].tolist()
    assert several > 2 * single
    single, several = scores["standardised mean image"].tolist()
    assert single <= several < 1.8 * single


def test_baselines_on_real_images(shared_data: Path, tmp_path: Path) -> None:
    """What they are known to reach on MVTec's transistors at 64 pixels."""
    data = DataSet("transistor", "MVTec", shared_data / "mvtec/transistor")
    aurocs = baseline_aurocs(data, 64, tmp_path)
    assert aurocs["mean image"] == [pytest.approx(0.73, abs=0.01)]
    assert aurocs["standardised mean image"] == [pytest.approx(0.84, abs=0.02)]
    for name in ("untrained features", "centred untrained features"):
        assert aurocs[name] == [pytest.approx(0.88, abs=0.025)] * 5
        assert len(set(aurocs[name])) > 1
    assert aurocs["coarse patches"] == [pytest.approx(0.94, abs=0.02)]


def test_baselines_are_kept_for_the_same_images_only(tmp_path: Path) -> None:
    root = write_mvtec_category(tmp_path / "widget")
    data = DataSet("widget", "MVTec", root)
    aurocs = baseline_aurocs(data, 8, tmp_path)
    (kept,) = (tmp_path / "baselines").iterdir()
    kept.write_text(kept.read_text().replace(str(aurocs["contrast"][0]), "0.125"))
    assert baseline_aurocs(data, 8, tmp_path)["contrast"] == [0.125]
    # No file is another one; two change places.
    one, other = root / "test/crack/000.png", root / "test/good/000.png"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert baseline_aurocs(data, 8, tmp_path)["contrast"] != [0.125]
    (tmp_path / "elsewhere").mkdir()
    assert baseline_aurocs(data, 8, tmp_path) == baseline_aurocs(data, 8, tmp_path / "elsewhere")


# --- bad input ---


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        ("", "--table"),
        ("--table mvtec", "--root datasets/mvtec: no such folder"),
        ("--table panorama --categories cable", "--categories are for --table mvtec"),
        ("--table mvtec --root data --categories ../x", "--categories ../x"),
        ("--table panorama --root data --seeds -1", "--seeds"),
        ("--table panorama --root data -- --seed=3", "--seed: leave it out"),
        ("--table panorama --root data -- --imsize 65", "--imsize takes"),
        ("--table panorama --root data --models gan", "--models"),
        ("--table units --root data --models control", "control has balanced and pretrained"),
        (
            "--table panorama --root data -- --contextual-loss-weight 3",
            "--contextual-loss-weight works with --model dagan only",
        ),
    ],
)
def test_bad_input(make_tables, tmp_path: Path, words: str, mention: str) -> None:
    (tmp_path / "data").mkdir()
    finished = make_tables(*words.split())
    assert finished.status == 2
    assert mention in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not (tmp_path / "table_results/panorama/runs").exists()


def test_the_folder_of_another_table(make_tables, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    words = (
        "--table", "panorama", "--seeds", 1, "--models", "autoencoder", "--folder", "results",
    )  # fmt: skip
    assert make_tables(*words, "--root", "one", *TINY).status == 1  # trained, and failed
    other = make_tables(*words, "--root", "two", *TINY)
    assert other.status == 2
    assert "--folder results: was started with other --root" in other.err
    other = make_tables(*words, "--root", "one", *TINY, "--lr", "0.1")
    assert "other flags after --" in other.err
    (damaged,) = (tmp_path / "results/runs").glob("*/result.json")
    damaged.write_text("{")
    finished = make_tables(*words, "--root", "one", *TINY)
    assert f"{damaged.relative_to(tmp_path)}: is damaged" in finished.err


def test_the_plot_needs_matplotlib(make_tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finished = make_tables("--table", "units")
    assert finished.status == 2
    assert "pip install -r requirements-benchmark.txt" in finished.err
