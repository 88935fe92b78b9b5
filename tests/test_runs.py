"""What users do: train, stop, resume, score. With real files, most of it in real processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import inference
from outputs import assert_same_states, read_table
from PIL import Image

from crn.checkpoints.model import load_model
from crn.evaluation.results import read_metrics
from crn.report.pictures import heat_colours

TINY = ("--demo", "--cpu", "--max-network-depth", 2, "--num-competitive-units", 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, read_only_road_images, run_train) -> Path:
    """A folder in which a process has trained six steps on a miniature data set."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ("--dataset", "RoadImages", "--dataset-path", read_only_road_images)
    finished = run_train(
        *TINY, *arguments, "--training-steps", 6, "--validation-interval", 4, "--seed", 5,
        "--checkpoint-path", "checkpoints", "--image-output-path", "pictures",
        "--image-output-interval", 3, cwd=folder,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return folder


def test_demo_makes_its_own_sample_and_trains_on_it(run_train, tmp_path):
    finished = run_train("--demo", "--cpu", "--seed", 1, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "on the road tiles in datasets/demo_roads, with --recipe balanced\n" in finished.stderr
    assert len(list((tmp_path / "datasets/demo_roads/good_ones/height_files").iterdir())) == 60
    (metrics,) = tmp_path.glob("logged_metrics/version_0/metrics.csv")
    rows = [row for row in read_table(metrics) if row["metrics/roc_auc"]]
    assert [row["step"] for row in rows] == ["21", "42", "50"]
    # Seeds 1 to 5 have 0.93 to 0.98.
    assert float(rows[-1]["metrics/roc_auc"]) > 0.9
    report = "logged_metrics/version_0/results/report.html"
    assert finished.stderr.endswith(f"wrote {report}\n")
    assert "bad_ones/pothole_001.png" in (tmp_path / report).read_text()
    scores = read_metrics(tmp_path / "logged_metrics/version_0/results/metrics.json").scores
    assert scores["discrimination"].auroc == pytest.approx(float(rows[-1]["metrics/roc_auc"]))


def test_demo_on_given_data_has_the_published_recipe_and_ends_with_the_training(
    run_main, read_only_road_images, tmp_path
):
    words = ("--dataset", "RoadImages", "--dataset-path", read_only_road_images)
    finished = run_main("--demo", "--cpu", "--training-steps", 2, *words)
    assert finished.status == 0
    assert "recipe=published" in finished.err
    assert {path.name for path in (tmp_path / "logged_metrics/version_0").iterdir()} == {
        "hparams.yaml", "metrics.csv", "report.html",
    }  # fmt: skip
    assert finished.out == ""


def test_training_logs_what_the_readme_says(trained):
    rows = read_table(trained / "logged_metrics/version_0/metrics.csv")
    validations = [row for row in rows if row["metrics/roc_auc"]]
    assert [row["step"] for row in validations] == ["4", "6"]
    for row in validations:
        assert row["metrics/roc_auc"] == row["metrics/roc_auc_residual"]
        assert {"metrics/roc_auc_reconstruction", "metrics/roc_auc_discrimination"} <= row.keys()
        assert float(row["metrics/training_time"]) > 0
    best = max(float(row["metrics/roc_auc"]) for row in validations)
    assert float(validations[-1]["metrics/max_roc_auc"]) == best
    options = yaml.safe_load((trained / "logged_metrics/version_0/hparams.yaml").read_text())
    assert (options["batch_size"], options["seed"], options["lr_steps"]) == (2, 5, [30, 60, 90])


def test_picture_grids_come_at_their_interval(trained):
    grids = sorted(path.name for path in (trained / "pictures/training").iterdir())
    assert grids == ["step_000003.png", "step_000006.png"]
    with Image.open(trained / "pictures/training" / grids[0]) as grid:
        # two normal and three anomalous test images, each with its reconstruction and map
        assert grid.size == (3 * 34 + 2, 5 * 34 + 2)


def test_every_checkpoint_is_plain_data(trained):
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(trained / "checkpoints" / name, weights_only=True)
        assert checkpoint["hyper_parameters"]["network"]["imsize"] == 32
    assert checkpoint["progress"]["step"] == 6


def test_scoring_reads_the_two_units_it_needs(trained):
    cpu = torch.device("cpu")
    best = load_model(trained / "checkpoints/last.ckpt", cpu)
    (pair,) = best.pairs
    assert set(best.parts) == {
        *(f"units.{unit}" for unit in pair),
        "contrast",
        "scorer",
    }
    everything = load_model(trained / "checkpoints/last.ckpt", cpu, pairs="all")
    assert set(everything.parts) > {"units.0", "units.1", "units.2"}
    assert len(everything.pairs) == 6
    assert not any(part.training for part in everything.parts.values())


@pytest.fixture(scope="module")
def scored(trained, read_only_road_images, run_train) -> Path:
    """The folder of the pictures and scores of a run of inference."""
    words = inference("checkpoints/last.ckpt", "RoadImages", read_only_road_images)
    finished = run_train(*words, "--image-output-path", "results", cwd=trained)
    assert finished.returncode == 0, finished.stderr
    return trained / "results"


def test_inference_writes_a_row_for_every_sample(scored):
    rows = read_table(scored / "anomaly_scores.csv")
    assert list(rows[0]) == [
        "file", "split", "label", "residual", "reconstruction", "discrimination", "threshold",
        "decision",
    ]  # fmt: skip
    assert len({row["file"] for row in rows}) == len(rows) == 9
    assert [row["split"] for row in rows] == ["train"] * 4 + ["test"] * 5
    assert [row["label"] for row in rows] == ["0"] * 6 + ["1"] * 3
    assert rows[0]["file"] == "good_ones/tile_0.png"
    assert all(float(row["discrimination"]) <= 0 <= float(row["residual"]) for row in rows)


def test_pictures_show_what_they_claim(scored, read_only_road_images):
    keys = [row["file"] for row in read_table(scored / "anomaly_scores.csv")]
    for kind in ("inference", "diff", "overlay"):
        written = {path.relative_to(scored / kind) for path in (scored / kind).rglob("*.png")}
        assert written == {Path(key) for key in keys}
    with Image.open(scored / "diff" / keys[0]) as diff:
        assert diff.size == (24, 28)
    with Image.open(scored / "inference" / keys[0]) as row:
        assert row.size == (3 * 32 + 2 * 2, 32)
        shown = np.asarray(row.crop((0, 0, 32, 32))).astype(int)
    name = keys[0].rpartition("/")[2]
    with Image.open(read_only_road_images / "good_ones/intensity_files" / name) as file:
        intensity = np.asarray(file.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(shown[..., 1] - intensity).max() <= 2
    assert (shown[..., 1] == shown[..., 2]).all()


def test_maps_of_a_run_share_one_colour_scale(scored):
    maps = []
    for path in sorted((scored / "inference").rglob("*.png")):
        with Image.open(path) as row:
            maps.append(np.asarray(row.crop((68, 0, 100, 32))).reshape(-1, 3))
    coldest, hottest = heat_colours()[[0, -1]]
    for colour in (coldest, hottest):
        assert 1 <= sum((pixels == colour).all(1).any() for pixels in maps) < len(maps)


def untimed(row: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in row.items() if not k.endswith(("time", "max_roc_auc"))}


@pytest.mark.parametrize(("steps", "stop_at"), [(12, 5), (12, 8), (40, 20)])
def test_resuming_continues_bit_for_bit(
    run_main, read_only_mvtec_category, tmp_path, steps, stop_at
):
    # At 64 pixels a network is deep enough for levels that have dropout.
    common = (
        "--cpu", "--imsize", 64, "--width", 2, "--use-dropout", 1, "--batch-size", 2,
        "--num-competitive-units", 3, "--dataset", "MVTec", "--dataset-path",
        read_only_mvtec_category, "--seed", 3, "--validation-interval", 4,
        "--lr-scheduler", "", "--image-output-path", "grids", "--image-output-interval", 2,
    )  # fmt: skip
    whole = run_main(*common, "--training-steps", steps, "--checkpoint-path", "whole")
    first = run_main(*common, "--training-steps", stop_at, "--checkpoint-path", "parts")
    second = run_main(
        *common, "--training-steps", steps, "--checkpoint-path", "parts",
        "--model-input", "parts/last.ckpt",
    )  # fmt: skip
    assert (whole.status, first.status, second.status) == (0, 0, 0)
    assert f"from step {stop_at}" in second.err
    assert_same_states(tmp_path / "whole/last.ckpt", tmp_path / "parts/last.ckpt")
    whole_log, rest = (
        {row["step"]: untimed(row) for row in read_table(tmp_path / f"logged_metrics/{name}")}
        for name in ("version_0/metrics.csv", "version_2/metrics.csv")
    )
    assert rest == {step: whole_log[step] for step in rest}


def test_a_finished_training_has_nothing_to_resume(run_main, trained, read_only_road_images):
    finished = run_main(
        "--dataset", "RoadImages", "--dataset-path", read_only_road_images, "--cpu",
        "--training-steps", 6, "--model-input", trained / "checkpoints/last.ckpt",
    )  # fmt: skip
    assert finished.status == 0
    assert "6 of 6 steps" in finished.err


def test_the_same_seed_gives_the_same_numbers(run_main, read_only_panorama, tmp_path):
    for folder in ("one", "two"):
        torch.rand(7)  # what came before does not matter
        finished = run_main(
            *TINY, "--dataset", "Panorama", "--dataset-path", read_only_panorama,
            "--epochs", 2, "--seed", 11, "--checkpoint-path", folder,
        )  # fmt: skip
        assert finished.status == 0
    assert_same_states(tmp_path / "one/last.ckpt", tmp_path / "two/last.ckpt")
    checkpoint = torch.load(tmp_path / "one/last.ckpt", weights_only=True)
    assert checkpoint["progress"]["step"] == 4  # two epochs of four images in batches of two


def test_earlier_results_are_kept(run_main, trained, read_only_road_images, tmp_path):
    model = trained / "checkpoints/last.ckpt"
    scoring = inference(model, "RoadImages", read_only_road_images, "--image-output-path", "out")
    training = (
        *TINY, "--dataset", "RoadImages", "--dataset-path", read_only_road_images,
        "--training-steps", 1, "--checkpoint-path", "kept",
    )  # fmt: skip
    for arguments in (scoring, training):
        for _ in range(2):
            assert run_main(*arguments).status == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "anomaly_scores.csv", "anomaly_scores-v1.csv", "metrics.json", "metrics-v1.json",
        "colour_scale.svg", "colour_scale-v1.svg", "diff", "diff-v1", "inference", "inference-v1",
        "overlay", "overlay-v1", "report.html", "report-v1.html", "report_files",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "best.ckpt", "best-v1.ckpt", "last.ckpt", "last-v1.ckpt",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "logged_metrics").iterdir()} == {
        "version_0", "version_1",
    }  # fmt: skip


def test_best_checkpoint_is_of_the_best_validation(trained):
    rows = read_table(trained / "logged_metrics/version_0/metrics.csv")
    aurocs = {int(r["step"]): float(r["metrics/roc_auc"]) for r in rows if r["metrics/roc_auc"]}
    best = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)["progress"]
    assert best["max_roc_auc"] == max(aurocs.values())
    assert aurocs[best["step"]] == best["max_roc_auc"]


def test_the_demo_on_real_road_images(shared_data, run_train, tmp_path):
    finished = run_train(
        "--mode", "train", "--dataset", "RoadImages", "--dataset-path", shared_data / "roadimages",
        "--model", "crn", "--demo", "--num-workers", 4, "--cpu", "--seed", 41020,
        "--training-steps", 4, "--checkpoint-path", "model_checkpoints", cwd=tmp_path,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "52 to train on" in finished.stderr
    scoring = run_train(
        *inference("model_checkpoints/last.ckpt", "RoadImages", shared_data / "roadimages"),
        "--image-output-path", "inference_images/", "--model", "crn", cwd=tmp_path,
    )  # fmt: skip
    assert scoring.returncode == 0, scoring.stderr
    assert len(read_table(tmp_path / "inference_images/anomaly_scores.csv")) == 311
