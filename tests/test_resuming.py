"""Going on from a checkpoint: what is kept, what is taken over, and what starts anew."""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from outputs import assert_same_states, read_table, step_of
from victims import Victim, run_program

from crn.checkpoints.flags import options_to_score
from crn.checkpoints.reading import read_checkpoint
from crn.command_line import parse_options
from crn.config import GROUPS
from crn.option import flag
from crn.training.data import InMemoryData
from crn.training.processes import Place
from datasets.layouts import LAYOUTS
from datasets.samples import ANOMALOUS, NORMAL, Sample, list_samples

SMALL = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--seed", 1,
)  # fmt: skip


@pytest.fixture
def data(read_only_mvtec_category: Path) -> tuple[str | Path, ...]:
    """The words that name the images."""
    return ("--cpu", "--dataset", "MVTec", "--dataset-path", read_only_mvtec_category)


@pytest.fixture
def train(run_main, data) -> Callable[..., str]:
    """Train, which has to succeed, and return what is said; a checkpoint brings what is small."""

    def run(*words: Any) -> str:
        small = () if "--model-input" in words else SMALL
        finished = run_main(*data, *small, "--validation-interval", 2, *words)
        assert finished.status == 0, finished.err
        return finished.err

    return run


@pytest.fixture
def trained(train, tmp_path: Path) -> Path:
    """A folder with the checkpoints of ten steps, the best validation well before the last."""
    train("--training-steps", 10, "--checkpoint-path", "kept")
    return tmp_path / "kept"


def name(paths) -> set[str]:
    return {path.name for path in paths}


def stop_early(train, tmp_path: Path) -> Path:
    """A folder whose best.ckpt is of an earlier step than its last.ckpt."""
    for seed in range(2, 12):
        folder = tmp_path / f"seed_{seed}"
        train("--training-steps", 10, "--checkpoint-path", folder, "--seed", seed)
        if 2 <= step_of(folder / "best.ckpt") < 10:
            return folder
    pytest.fail("the last validation of every seed was the best")


# --- nothing is lost ---


def test_going_on_from_the_best_state_keeps_the_last_one(train, tmp_path: Path) -> None:
    kept = stop_early(train, tmp_path)
    best, last = (torch.load(kept / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    said = train(
        "--model-input", kept / "best.ckpt", "--checkpoint-path", kept, "--lr", 1e-9,
        "--training-steps", best["progress"]["step"] + 1,
    )  # fmt: skip
    assert {"best.ckpt", "last.ckpt", "last-v1.ckpt"} <= name(kept.iterdir())
    aside = torch.load(kept / "last-v1.ckpt", weights_only=True)
    assert aside["progress"] == last["progress"]
    assert f"kept the earlier {kept}/last.ckpt as last-v1.ckpt" in said


def test_picture_grids_are_kept(train, trained: Path, tmp_path: Path) -> None:
    grids = ("--image-output-path", "pictures", "--image-output-interval", 2)
    for lr in (1e-4, 1e-4, 0.3):
        going_on = ("--model-input", trained / "last.ckpt", "--training-steps", 12, "--lr", lr)
        train(*going_on, *grids)
    written = name((tmp_path / "pictures/training").iterdir())
    # Of the same training the same picture is not kept twice.
    assert written == {"step_000012.png", "step_000012-v1.png"}


def test_the_best_state_comes_along_into_a_new_folder(train, tmp_path: Path) -> None:
    kept = stop_early(train, tmp_path)
    before = read_checkpoint(kept / "best.ckpt").progress
    said = train(
        "--model-input", kept / "last.ckpt", "--checkpoint-path", "new", "--training-steps", 11,
        "--lr", 1e-9,
    )  # fmt: skip
    after = read_checkpoint(tmp_path / "new/best.ckpt").progress
    assert after["max_roc_auc"] >= before["max_roc_auc"]
    assert f"{after['max_roc_auc']:.3f} at the best" in said


def test_without_its_best_state_the_best_so_far_starts_anew(train, tmp_path: Path) -> None:
    kept = stop_early(train, tmp_path)
    (kept / "best.ckpt").unlink()
    said = train(
        "--model-input", kept / "last.ckpt", "--checkpoint-path", "new", "--training-steps", 12,
    )  # fmt: skip
    assert "the best validation so far is forgotten: there is no best.ckpt" in said
    *_, last = read_table(tmp_path / "logged_metrics" / newest(tmp_path) / "metrics.csv")
    assert last["metrics/max_roc_auc"] == last["metrics/roc_auc"]
    assert step_of(tmp_path / "new/best.ckpt") == 12


def newest(folder: Path) -> str:
    versions = (folder / "logged_metrics").iterdir()
    return max(versions, key=lambda path: int(path.name.rpartition("_")[2])).name


@pytest.mark.parametrize("change", ["score", "images"])
def test_the_best_so_far_is_about_one_score_and_one_data_set(
    train, read_only_panorama: Path, tmp_path: Path, change: str
) -> None:
    kept = stop_early(train, tmp_path)
    # As if nothing could ever be better.
    for path in (kept / "best.ckpt", kept / "last.ckpt"):
        content = torch.load(path, weights_only=True)
        content["progress"]["max_roc_auc"] = 1.0
        torch.save(content, path)
    going_on = ("--model-input", kept / "last.ckpt", "--checkpoint-path", kept)
    if change == "score":
        other = ("--anomaly-score", "reconstruction")
    else:
        other = ("--dataset", "Panorama", "--dataset-path", read_only_panorama)
    said = train(*going_on, "--training-steps", 12, *other)
    assert "the best validation so far is forgotten: it was of" in said
    progress = read_checkpoint(kept / "best.ckpt").progress
    assert (progress["step"], progress["best_step"]) == (12, 12)
    assert step_of(kept / "best-v1.ckpt") < 10


def test_the_best_so_far_is_about_the_labels_too(read_only_mvtec_category: Path) -> None:
    samples = list_samples(LAYOUTS["MVTec"], read_only_mvtec_category)
    *rest, last = samples

    def fingerprint(*samples: Sample) -> str:
        return InMemoryData(samples, 8, 0, Place(), 1).fingerprint

    assert last.label == ANOMALOUS
    assert fingerprint(*samples) == fingerprint(*rest, replace(last, key="another"))
    assert fingerprint(*samples) != fingerprint(*rest, replace(last, label=NORMAL))
    assert fingerprint(*samples) != fingerprint(*rest, replace(last, files=rest[-1].files))


def test_training_time_is_that_of_all_parts(train, trained: Path, tmp_path: Path) -> None:
    path = trained / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["progress"]["training_seconds"] = 5000.0
    torch.save(content, path)
    said = train("--model-input", path, "--training-steps", 12, "--checkpoint-path", "new")
    assert re.search(r"trained 2 steps in 50\d\d\.\d s", said)
    *_, last = read_table(tmp_path / "logged_metrics" / newest(tmp_path) / "metrics.csv")
    assert 5000 < float(last["metrics/training_time"]) < 5100
    assert 5000 < read_checkpoint(tmp_path / "new/last.ckpt").progress["training_seconds"] < 5100


# --- what a checkpoint decides ---


def typed_again(values: dict[str, Any]) -> dict[str, Any]:
    """The options of a CRN that can be typed in every mode."""
    options = [each for group in GROUPS.values() for each in fields(group)]
    can_be = {
        each.name
        for each in options
        if not each.metadata["mode"] and each.metadata["model"] in ((), ("crn",))
    }
    return {name: value for name, value in values.items() if name in can_be and value is not None}


@pytest.mark.parametrize("mode", ["train", "inference", "export"])
def test_options_can_be_typed_as_the_checkpoint_has_them(
    run_main, train, data, tmp_path: Path, mode: str
) -> None:
    unusual = (
        "--lr-scheduler", "step", "--lr-steps", 20, 50, "--optimizer", "sgd", "--improved", 0,
    )  # fmt: skip
    train("--training-steps", 2, "--checkpoint-path", "kept", *unusual)
    values = read_checkpoint(tmp_path / "kept/last.ckpt").config.values()
    words: list[Any] = ["--mode", mode, "--cpu", "--model-input", "kept/last.ckpt"]
    for option, value in typed_again(values).items():
        text = list(value) if isinstance(value, tuple) else [value]
        words += [flag(option), *map(str, text)]
    words += {
        "train": ["--training-steps", 3],
        "inference": ["--anomaly-score-file", "scores.csv"],
        "export": ["--export-path", "model.onnx"],
    }[mode]
    if mode != "export":
        words += data
    finished = run_main(*words)
    assert finished.status == 0, finished.err


def test_scoring_has_a_batch_size_of_its_own(train, data, tmp_path: Path) -> None:
    train("--training-steps", 2, "--checkpoint-path", "kept")
    path = tmp_path / "kept/last.ckpt"
    typed = parse_options(["--mode", "inference", *map(str, data), "--model-input", str(path)])
    options = options_to_score(read_checkpoint(path), typed)
    assert options.optimization.batch_size == typed.optimization.batch_size
    assert options.network.imsize != typed.network.imsize  # as it was trained


def test_the_demo_caps_epochs(train) -> None:
    assert "trained 50 steps" in train("--demo", "--epochs", 1000)


@pytest.mark.parametrize(("first", "second"), [("bf16", "32"), ("32", "bf16")])
def test_the_precision_stays_unless_another_is_typed(
    train, tmp_path: Path, first: str, second: str
) -> None:
    said = {"32": "precision: 32-true", "bf16": "precision: bf16-mixed"}
    assert said[first] in train(
        "--training-steps", 2, "--checkpoint-path", "kept", "--precision", first
    )
    going_on = ("--model-input", "kept/last.ckpt", "--training-steps", 4)
    assert said[first] in train(*going_on)
    assert said[second] in train(*going_on, "--precision", second)
    # Earlier checkpoints do not tell it.
    content = torch.load(tmp_path / "kept/last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["optimization"].pop("precision") == first
    torch.save(content, tmp_path / "kept/last.ckpt")
    assert "precision: " in train(*going_on)


def test_inference_and_export_use_the_score_of_the_training(
    run_main, train, data, tmp_path: Path
) -> None:
    score = ("--anomaly-score", "discrimination")
    train("--training-steps", 2, "--checkpoint-path", "kept", *score)
    model = ("--model-input", "kept/last.ckpt")
    scoring = ("--mode", "inference", *model, *data)
    exporting = ("--mode", "export", "--cpu", *model)
    for more, expected in ((), "discrimination"), (("--anomaly-score", "residual"), "residual"):
        scored = run_main(*scoring, "--anomaly-score-file", f"{expected}.csv", *more)
        assert scored.status == 0, scored.err
        assert list(read_table(tmp_path / f"{expected}.csv")[0])[3] == expected
        exported = run_main(*exporting, "--export-path", "model.onnx", *more)
        assert exported.status == 0, exported.err
        assert f"anomaly_score={expected}" in exported.err
    assert json.loads((tmp_path / "metrics.json").read_text())["anomaly_score"] == "residual"


# --- a process alone, whatever is in its environment ---

SLURM = {
    "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [
        {**SLURM, "SLURM_NTASKS": "1"},
        {**SLURM, "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2"},
        {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "MASTER_PORT": "1"},
        {"LOCAL_RANK": "1", "NODE_RANK": "1", "GROUP_RANK": "1"},
        {"RANK": "", "LOCAL_RANK": "first", "NODE_RANK": "", "WORLD_SIZE": ""},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1"},
        {"LSB_JOBID": "5", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_RANK": "1"},
    ],
    ids=["one task", "one of four tasks", "launcher", "local rank", "nothing", "mpi", "lsf"],
)
def test_a_run_without_devices_is_one_process(
    run_train, trained: Path, data, tmp_path: Path, offline_wandb: Path, environment: dict
) -> None:
    words = (*SMALL, *data, "--validation-interval", 2, "--training-steps", 10, "--wandb")
    # Lightning would go on from it, unasked.
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes((trained / "last.ckpt").read_bytes())
    words = (*words, "--checkpoint-path", "alone")
    finished = run_train(*words, cwd=tmp_path, timeout=60, **environment)
    assert finished.returncode == 0, finished.stderr
    assert "trained 10 steps" in finished.stderr
    assert_same_states(tmp_path / "alone/last.ckpt", trained / "last.ckpt")
    rows = read_table(tmp_path / "logged_metrics/version_1/metrics.csv")
    assert [row["step"] for row in rows if row["metrics/roc_auc"]] == ["2", "4", "6", "8", "10"]
    (offline,) = (offline_wandb / "logged_metrics/wandb").glob("offline-run-*/*.wandb")
    assert b"metrics/roc_auc_residual" in offline.read_bytes()


def test_a_rank_that_lightning_was_imported_with_does_not_count(
    train, offline_wandb: Path, monkeypatch
) -> None:
    """As in a notebook that a launcher has started."""
    import wandb
    from pytorch_lightning.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 3)
    assert "trained 2 steps" in train("--training-steps", 2, "--wandb")
    wandb.finish()  # for the tests that follow in this process
    assert len([*offline_wandb.glob("logged_metrics/wandb/offline-run-*/*.wandb")]) == 1


# --- processes that are told to stop ---


def endless(roads: Path, *more: Any) -> tuple[Any, ...]:
    return (
        *SMALL, "--dataset", "RoadImages", "--dataset-path", roads, "--training-steps", 100_000,
        "--checkpoint-path", "kept", *more,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_of_users_clusters_and_closed_terminals_save_and_stop(
    read_only_road_images: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = endless(read_only_road_images, "--validation-interval", 1)
    victim = Victim(tmp_path, partial(run_program, environment=SLURM), words)
    assert victim.wait_for("\nstep 2/"), victim.err
    victim.send(number)
    status, err = victim.end()
    assert status == 128 + number, err
    step = step_of(tmp_path / "kept/last.ckpt")
    assert step >= 2
    assert f"saved kept/last.ckpt at step {step}" in err


def run_on_terminal(name: str, words: tuple[Any, ...]) -> int:
    terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    return run_program(words)


def test_a_terminal_that_is_closed(read_only_road_images: Path, tmp_path: Path) -> None:
    """What is written to it afterwards fails, and the training is saved all the same."""
    terminal, theirs = os.openpty()
    words = endless(read_only_road_images, "--validation-interval", 1)
    victim = Victim(tmp_path, run_on_terminal, os.ttyname(theirs), words)
    seen = b""
    while b"saved kept/last.ckpt" not in seen:
        seen += os.read(terminal, 1000)
    os.close(theirs)
    os.close(terminal)
    victim.send(signal.SIGHUP)
    assert victim.end().status == 128 + signal.SIGHUP
    assert step_of(tmp_path / "kept/last.ckpt") > 0
