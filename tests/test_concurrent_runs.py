"""Simultaneous runs in the same folders: none overwrites what another one writes."""

import errno
import fcntl
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import inference
from outputs import read_table, step_of
from victims import Ended, Victim, run_program

from crn.system.files import claimed, written_whole

SMALL = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--dataset", "RoadImages",
)  # fmt: skip

KEPT = ("--checkpoint-path", "kept")
PICTURES = ("--image-output-path", "pictures", "--image-output-interval", 2)


@pytest.fixture
def train(read_only_road_images, tmp_path) -> Callable[..., Victim]:
    """Start a training run that saves at every step: ``train("--training-steps", 2)``."""
    words = (*SMALL, "--dataset-path", read_only_road_images)
    return lambda *more: Victim(tmp_path, run_program, (*words, *more), True)


@pytest.fixture
def scoring(read_only_road_images, trained_models) -> list[str]:
    """The words that score the images."""
    return inference(trained_models["crn"], "RoadImages", read_only_road_images)


def count_done(runs: list[Victim], taken: str) -> int:
    """Wait for runs that started together: some have done their work, the others are refused."""
    ended = [run.end() for run in runs]
    refused = [one for one in ended if one.status]
    for one in refused:
        assert_refused(one, taken)
    assert len(refused) < len(runs)
    return len(runs) - len(refused)


def contents(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def assert_refused(ended: Ended, path: str) -> None:
    """The run has said, in one line, what is taken and what to do; and nothing else."""
    assert ended.status == 2
    assert ended.err.startswith(f"train.py: error: {path}: another run is writing it; give another")
    assert ended.err.count("\n") == 1


# --- as processes ---


def test_a_run_keeps_its_outputs_for_itself(train, scoring, tmp_path):
    endless = ("--training-steps", 100_000, "--validation-interval", 10)
    first = train(*KEPT, *PICTURES, *endless)
    assert first.wait_for("saved kept/last.ckpt", 3), first.err
    (version,) = (tmp_path / "logged_metrics").iterdir()

    for outputs, taken in ((KEPT, "kept/best.ckpt"), (PICTURES, "pictures/training")):
        second = train(*outputs, "--training-steps", 2)
        assert_refused(second.end(), taken)
    resuming = train(*KEPT, "--model-input", "kept/last.ckpt").end()
    assert_refused(resuming, "kept/best.ckpt")
    # Runs that write other files are allowed.
    others = [
        train("--training-steps", 2),
        Victim(tmp_path, run_program, (*scoring, *PICTURES[:2])),
    ]
    for other in others:
        other.succeed()

    first.send(signal.SIGTERM)
    ended = first.end()
    assert ended.status == 128 + signal.SIGTERM, ended.err
    step = step_of(tmp_path / "kept/last.ckpt")
    assert f"saved kept/last.ckpt at step {step}\n" in ended.err
    assert {path.name for path in (tmp_path / "kept").iterdir()} <= {"best.ckpt", "last.ckpt"}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "anomaly_scores.csv", "metrics.json", "inference", "diff", "overlay", "colour_scale.svg",
        "report.html", "report_files", "training",
    }  # fmt: skip
    assert {path.name for path in version.iterdir()} == {
        "hparams.yaml", "metrics.csv", "report.html",
    }  # fmt: skip


def test_training_runs_that_start_together(train, tmp_path):
    runs = [train(*KEPT, *PICTURES, "--training-steps", 4, "--seed", seed) for seed in range(3)]
    done = count_done(runs, "kept/best.ckpt")
    # One that has started after the end of another one has set aside what it left.
    for pattern in ("kept/last*.ckpt", "kept/best*.ckpt", "pictures/*", "logged_metrics/*"):
        assert len(list(tmp_path.glob(pattern))) == done, pattern
    assert not list(tmp_path.rglob(".*"))


def test_training_runs_that_share_only_their_logs(train, tmp_path):
    length = ("--training-steps", 20, "--validation-interval", 5)
    runs = [train(*length, "--seed", seed) for seed in range(3)]
    for run in runs:
        run.succeed()
    folders = sorted((tmp_path / "logged_metrics").iterdir())
    assert [folder.name for folder in folders] == ["version_0", "version_1", "version_2"]
    for folder in folders:
        rows = read_table(folder / "metrics.csv")
        assert [int(row["step"]) for row in rows] == [5, 10, 10, 15, 20, 20]
    seeds = [(folder / "hparams.yaml").read_text().partition("seed: ")[2][0] for folder in folders]
    assert sorted(seeds) == ["0", "1", "2"]


def test_inferences_that_start_together(scoring, tmp_path):
    beside = ("--anomaly-score-file", "pictures/anomaly_scores.csv")
    runs = [
        Victim(tmp_path, run_program, (*scoring, *outputs))
        for outputs in (PICTURES[:2], PICTURES[:2], beside)
    ]
    done = count_done(runs, "pictures/anomaly_scores.csv")
    tables = list((tmp_path / "pictures").glob("anomaly_scores*.csv"))
    assert len(tables) == done
    assert all(len(read_table(table)) == 9 for table in tables)
    for kind in ("inference", "diff"):
        for folder in (tmp_path / "pictures").glob(kind + "*"):
            assert len(list(folder.rglob("*.png"))) == 9
    assert not list(tmp_path.rglob(".*"))


def test_demos_that_start_together(tmp_path):
    words = ("--demo", "--cpu", "--max-network-depth", 2, "--training-steps", 1)
    runs = [Victim(tmp_path, run_program, words) for _ in range(2)]
    for run in runs:
        run.succeed()
    assert {path.name for path in (tmp_path / "datasets").iterdir()} == {"demo_roads"}


# --- claims ---


def test_a_claim_is_known_and_leaves_nothing(run_main, scoring, tmp_path):
    path = tmp_path / "tables/scores.csv"
    path.parent.mkdir()
    path.write_text("earlier")
    before = contents(tmp_path)
    with claimed(path):
        finished = run_main(*scoring, "--anomaly-score-file", path)
        assert_refused(Ended(finished.status, finished.err), str(path))
        assert path.read_text() == "earlier"
        with claimed(path.with_name("other.csv")):
            pass
    assert contents(tmp_path) == before
    with claimed(path):
        pass


def test_a_claim_removes_what_killed_runs_left(tmp_path):
    path = tmp_path / "scores.csv"
    with written_whole(path) as file:
        left = Path(file.name)
    path.unlink()
    pictures = tmp_path / "training"
    (pictures / "crack").mkdir(parents=True)
    of_another = "." + "other.csv" + left.name.removeprefix(".scores.csv")
    kept = {Path(of_another), Path(".scores.csv.tmp"), Path("training/crack/000.png")}
    for name in (*kept, left.name, f"training/{left.name}", f"training/crack/{left.name}"):
        (tmp_path / name).touch()
    with claimed(path, pictures):
        files = {path for path in contents(tmp_path) if (tmp_path / path).is_file()}
        assert files == kept | {Path(".scores.csv.lock"), Path(".training.lock")}


def test_without_locks_nothing_is_claimed_or_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOSYS, "no locks")))
    unfinished = tmp_path / ".last.ckpt.0123abcd.tmp"
    unfinished.touch()
    with claimed(tmp_path / "last.ckpt"), claimed(tmp_path / "last.ckpt"):
        assert unfinished.exists()
    assert contents(tmp_path) == {Path(unfinished.name)}


def test_checkpoints_are_claimed_beside_pictures_in_one_folder(
    run_main, read_only_road_images, tmp_path
):
    words = (*SMALL, "--dataset-path", read_only_road_images, *KEPT, "--image-output-path", "kept")
    (tmp_path / "kept").mkdir()
    with claimed(tmp_path / "kept/best.ckpt"):
        finished = run_main(*map(str, words), "--training-steps", "1")
    assert finished.status == 2
    assert "kept/best.ckpt: another run is writing it" in finished.err


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        (("--anomaly-score-file", "metrics.json"), "metrics.json is written beside it"),
        (("--anomaly-score-file", "pictures/diff/a.csv"), "diff/a.csv: this run writes"),
    ],
)
def test_a_run_does_not_take_itself_for_another(run_main, scoring, tmp_path, words, mention):
    finished = run_main(*scoring, *PICTURES[:2], *words)
    assert finished.status == 2
    assert mention in finished.err
    assert "another run" not in finished.err
    assert finished.err.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
