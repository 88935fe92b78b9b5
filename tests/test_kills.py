"""A run survives being killed anywhere: a training goes on, and ends as if nothing had happened.

The long form kills more often, also processes that are still starting, and prints figures:

    KILLS=100 python -m pytest -n0 -s -m long tests/test_kills.py
"""

import glob
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from outputs import assert_nothing_is_unfinished, assert_whole
from test_inference import write_model
from test_runs import assert_same_states, read_table
from victims import Victim, run_program

from crn.checkpoints.reading import read_checkpoint
from crn.checkpoints.writing import write_checkpoint
from crn.report.pages import write_page
from crn.system.files import claimed, set_aside
from crn.training.metrics_logger import MetricsLogger

STEPS = 30

TRAINING = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--training-steps", STEPS, "--validation-interval", 3, "--seed", 1,
    "--checkpoint-path", "kept", "--image-output-path", "pictures", "--image-output-interval", 7,
)  # fmt: skip

TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL

# What is sent while a checkpoint is being written, and what at a random moment.
WHILE_WRITING = ((KILL,), (TERM,), (KILL,), (INT,), (TERM, INT), (INT, TERM))
AT_RANDOM = ((KILL,), (TERM,), (INT,))
STRIKES = [(s, True) for s in WHILE_WRITING] + [(s, False) for s in AT_RANDOM]

# Of processes that start with the interpreter: until when most have made their first steps.
SECONDS_TO_START = 10


def command(roads: Path, folder: Path) -> list[str]:
    """The words that start the training, or go on with what is left of it."""
    words = [*TRAINING, "--dataset", "RoadImages", "--dataset-path", roads]
    if (folder / "kept/last.ckpt").exists():
        words += ["--model-input", "kept/last.ckpt"]
    return [str(word) for word in words]


def unfinished(folder: Path) -> set[Path]:
    """Checkpoints that are being written, or were when their process was killed."""
    return set((folder / "kept").glob(".*.tmp"))


class Killer:
    """Kills trainings and sees that each kill leaves what can be gone on with.

    Attributes:
        kills: how often, by the signals and by what the training was doing.
        resumed: how many trainings went on from a checkpoint.
    """

    def __init__(self, roads: Path, seed: int) -> None:
        self.kills: Counter[tuple[str, str]] = Counter()
        self.resumed = 0
        self._roads = roads
        self._random = random.Random(seed)
        self._strikes: list[tuple[tuple[int, ...], bool]] = []

    def start(self, folder: Path) -> Victim:
        return Victim(folder, run_program, command(self._roads, folder), True)

    def kill(self, folder: Path) -> bool:
        """Start the training, or go on with it, and kill it; False where it ended sooner."""
        if not self._strikes:
            self._strikes = self._random.sample(STRIKES, len(STRIKES))
        signals, is_writing = self._strikes.pop()
        self.resumed += (folder / "kept/last.ckpt").exists()
        victim = self.start(folder)
        if is_writing:
            doing = self._strike_while_writing(victim, folder, signals)
        else:
            doing = self._strike_at_random(victim, signals)
        status, err = victim.end()
        assert "Traceback" not in err, err
        check_what_is_left(folder)
        if status == 0:
            return False
        names = " then ".join(signal.Signals(number).name for number in signals)
        if KILL in signals:
            assert status == -KILL, err
        elif doing in ("starting", "ending"):
            assert status in (-TERM, 128 + INT, 128 + TERM), err
        else:
            assert status in {128 + number for number in signals}, err
        if len(signals) == 1 and status > 128 and "stopped at step" in err:
            assert f"saved kept/last.ckpt at step {step_of(folder / 'kept/last.ckpt')}" in err
        self.kills[names, doing] += 1
        return True

    def kill_fresh(self, folder: Path) -> bool:
        """As `kill`, by SIGKILL at a random moment from the start of the interpreter on."""
        self.resumed += (folder / "kept/last.ckpt").exists()
        words = command(self._roads, folder)
        code = f"import sys, victims; sys.exit(victims.run_program({words}, True))"
        paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))
        try:
            subprocess.run(
                [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": paths},
                capture_output=True, check=True, timeout=self._random.uniform(0, SECONDS_TO_START),
            )  # fmt: skip
        except subprocess.TimeoutExpired as killed:
            check_what_is_left(folder)
            self.kills["SIGKILL", doing_what((killed.stderr or b"").decode())] += 1
            return True
        return False

    def _strike_while_writing(self, victim: Victim, folder: Path, signals: tuple[int, ...]) -> str:
        # Not at the first one, so that the training comes on.
        victim.wait_for("saved", self._random.randint(1, 4))
        for index, number in enumerate(signals):
            if index:
                victim.wait_for("stopping after this step")
            self._freeze_while_writing(victim, folder)
            victim.send(number, signal.SIGCONT)
        return "writing"

    def _freeze_while_writing(self, victim: Victim, folder: Path) -> None:
        """Halt a process while it writes a checkpoint, unless it ends without another one."""
        before = unfinished(folder)
        while victim.is_alive:
            if not unfinished(folder) - before:
                continue
            time.sleep(self._random.uniform(0, 0.01))
            victim.send(signal.SIGSTOP)
            time.sleep(0.005)
            if unfinished(folder) - before:
                return
            victim.send(signal.SIGCONT)

    def _strike_at_random(self, victim: Victim, signals: tuple[int, ...]) -> str:
        # Before that Ctrl-C would meet multiprocessing, which does not belong to the program.
        if KILL not in signals:
            victim.wait_for("\n")
        time.sleep(self._random.uniform(0, 1))
        victim.send(*signals)
        victim.end()
        return doing_what(victim.err)


def doing_what(err: str) -> str:
    """What a killed training was doing, by what it has said."""
    if "trained" in err:
        return "ending"
    return "training" if "saved" in err else "starting"


def step_of(checkpoint: Path) -> int:
    return read_checkpoint(checkpoint).progress["step"]


def check_what_is_left(folder: Path) -> None:
    """Whatever has a name is whole, and not more than one file is unfinished."""
    assert_whole(folder)
    for checkpoint in (folder / "kept").glob("[!.]*"):
        assert checkpoint.suffix == ".ckpt"
        with zipfile.ZipFile(checkpoint) as archive:
            assert archive.testzip() is None
    assert len(unfinished(folder)) <= 1
    for file in (folder / "logged_metrics").glob("*/[!.]*.yaml"):
        assert yaml.safe_load(file.read_text())["seed"] == 1


def check_the_end(folder: Path, undisturbed: Path) -> None:
    """The training has ended, and as one does that is not killed."""
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_states(folder / "kept" / name, undisturbed / "kept" / name)
        mine, other = (
            torch.load(root / "kept" / name, weights_only=True)["progress"]
            for root in (folder, undisturbed)
        )
        assert {**mine, "training_seconds": 0} == {**other, "training_seconds": 0}
    assert step_of(folder / "kept/last.ckpt") == STEPS
    assert_nothing_is_unfinished(folder / "kept")
    assert_nothing_is_unfinished(folder / "pictures")
    assert {path.name for path in (folder / "pictures/training").iterdir()} == {
        path.name for path in (undisturbed / "pictures/training").iterdir()
    }


@pytest.fixture(scope="module")
def undisturbed(read_only_road_images, tmp_path_factory) -> Path:
    """The folder of a training that was not killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, err = Killer(read_only_road_images, seed=0).start(folder).end()
    assert status == 0, err
    return folder


def kill_trainings(
    killer: Killer, wanted: int, undisturbed: Path, folder: Path, has_fresh: bool = False
) -> int:
    """Kill trainings so often, each until it ends, and see how it ends.

    Args:
        has_fresh: kill, for every fifth, a process that starts with the interpreter.

    Returns:
        How many trainings there were.
    """
    trainings = 0
    while killer.kills.total() < wanted:
        training = folder / str(trainings)
        training.mkdir()
        trainings += 1
        while (done := killer.kills.total()) < wanted:
            kill = killer.kill_fresh if has_fresh and done % 5 == 4 else killer.kill
            if not kill(training):
                break
        status, err = killer.start(training).end()
        assert status == 0, err
        check_the_end(training, undisturbed)
    return trainings


def test_trainings_that_are_killed_again_and_again(read_only_road_images, undisturbed, tmp_path):
    killer = Killer(read_only_road_images, seed=0)
    kill_trainings(killer, 25, undisturbed, tmp_path)
    assert killer.resumed > 5


@pytest.mark.long
def test_many_trainings_that_are_killed_again_and_again(
    read_only_road_images, undisturbed, tmp_path
):
    """KILLS: how often; every fifth of them is a process that starts with the interpreter."""
    wanted = int(os.environ.get("KILLS", "100"))
    seed = int(os.environ.get("SEED", "0"))
    killer = Killer(read_only_road_images, seed)
    began = time.monotonic()
    trainings = kill_trainings(killer, wanted, undisturbed, tmp_path, has_fresh=True)
    print(
        f"\n{killer.kills.total()} kills in {trainings} trainings of {STEPS} steps, seed {seed}; "
        f"resumed {killer.resumed} times; {time.monotonic() - began:.0f} s"
    )
    for (signals, doing), count in sorted(killer.kills.items()):
        print(f"  {signals:<20} while {doing:<9} {count:4}")
    print("all ended with the weights of the training that was not killed, bit for bit")


# --- inference ---


# What a run is doing, by the file that is there then and was not before; None: at any time.
DOING = {
    "starting or scoring": None,
    "writing the table": ".anomaly_scores.csv.*.tmp",
    "writing metrics": ".metrics.json.*.tmp",
    "writing pictures": "inference/*/*",
    "writing the report's pictures": "report_files/*/*.jpg",
    "writing the report": ".report.html.*.tmp",
}
SCORING_STRIKES = [(number, doing) for number in (KILL, TERM, INT) for doing in DOING]


class ScoringKiller:
    """Kills runs of inference and sees that each leaves what can be used, or nothing.

    Attributes:
        kills: how often, by the signal and by what the run was doing.
    """

    def __init__(self, roads: Path, model: Path, seed: int) -> None:
        self.kills: Counter[tuple[str, str]] = Counter()
        self._random = random.Random(seed)
        self._strikes: list[tuple[int, str]] = []
        self._words = (
            "--mode", "inference", "--cpu", "--model-input", model, "--image-output-path", "out",
            "--dataset", "RoadImages", "--dataset-path", roads,
        )  # fmt: skip

    def start(self, folder: Path) -> Victim:
        return Victim(folder, run_program, self._words)

    def kill(self, folder: Path) -> None:
        """Start a run and kill it, unless it ends sooner."""
        if not self._strikes:
            self._strikes = self._random.sample(SCORING_STRIKES, len(SCORING_STRIKES))
        number, doing = self._strikes.pop()
        victim = self._strike(folder, number, DOING[doing])
        status, err = victim.end()
        assert "Traceback" not in err, err
        assert_whole(folder)
        if number == INT:
            # A lock may stay where Ctrl-C comes while it is removed, and does no harm.
            assert [str(path) for path in folder.rglob(".*.tmp")] == []
        if status:
            assert status == (128 + INT if number == INT else -number), err
            self.kills[signal.Signals(number).name, doing] += 1

    def _strike(self, folder: Path, number: int, pattern: str | None) -> Victim:
        def seen() -> set[str]:
            return set(glob.glob(pattern, root_dir=folder / "out"))

        before = set() if pattern is None else seen()
        victim = self.start(folder)
        if pattern is None:
            # Before it has imported anything Ctrl-C would meet multiprocessing.
            if number == INT:
                victim.wait_for("scoring")
            time.sleep(self._random.uniform(0, 0.2))
        else:
            while victim.is_alive and not seen() - before:
                pass
            time.sleep(self._random.choice((0, 0.001, 0.01)))
        victim.send(number)
        return victim


def check_the_scores(killer: ScoringKiller, folder: Path, undisturbed: Path) -> None:
    """A run in a folder where others were killed ends as one in a new one."""
    status, err = killer.start(folder).end()
    assert status == 0, err
    assert_whole(folder)
    assert_nothing_is_unfinished(folder)
    for pattern in ("anomaly_scores.csv", "inference/*/*", "diff/*/*", "overlay/*/*"):
        files = sorted((undisturbed / "out").glob(pattern))
        assert files
        for file in files:
            mine = folder / file.relative_to(undisturbed)
            assert mine.read_bytes() == file.read_bytes()


@pytest.fixture
def scoring_killer(read_only_road_images, tmp_path_factory, tmp_path) -> ScoringKiller:
    """One that has run in tmp_path / "undisturbed"."""
    model = write_model(tmp_path_factory.mktemp("model") / "model.ckpt", seed=1)
    killer = ScoringKiller(read_only_road_images, model, int(os.environ.get("SEED", "0")))
    (tmp_path / "undisturbed").mkdir()
    status, err = killer.start(tmp_path / "undisturbed").end()
    assert status == 0, err
    return killer


def kill_inferences(killer: ScoringKiller, wanted: int, folder: Path) -> int:
    """Kill inferences so often, up to ten in a folder, and see how the next one there ends.

    Returns:
        How many folders there were.
    """
    folders = 0
    while killer.kills.total() < wanted:
        one = folder / str(folders)
        one.mkdir()
        folders += 1
        for _ in range(10):
            killer.kill(one)
        check_the_scores(killer, one, folder / "undisturbed")
    return folders


def test_inferences_that_are_killed_again_and_again(scoring_killer, tmp_path):
    kill_inferences(scoring_killer, 10, tmp_path)


@pytest.mark.long
def test_many_inferences_that_are_killed_again_and_again(scoring_killer, tmp_path):
    """KILLS: how often."""
    wanted = int(os.environ.get("KILLS", "100"))
    began = time.monotonic()
    folders = kill_inferences(scoring_killer, wanted, tmp_path)
    kills = scoring_killer.kills
    print(
        f"\n{kills.total()} kills of inferences in {folders} folders; "
        f"{time.monotonic() - began:.0f} s"
    )
    for (name, doing), count in sorted(kills.items()):
        print(f"  {name:<8} while {doing:<29} {count:4}")
    print("the next run in each folder wrote what one writes that is not killed, byte for byte")


# --- the same at every point of the code that writes ---


WRITING_CODE = (
    "crn/system/files", "crn/report/tables", "contextlib", "pathlib", "torch/serialization",
)  # fmt: skip


def die_at_call(number: int, act: Callable[[], None]) -> bool:
    """Fork, and kill the child when the writing code calls into C; False where it ended before.

    Nothing happens to files between two of these calls. What torch does within one of them, kills
    at random meet.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    seen = 0

    def watch(frame, kind, _) -> None:
        nonlocal seen
        if kind == "c_call" and any(name in frame.f_code.co_filename for name in WRITING_CODE):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    act()
    os._exit(0)


def write_and_die_everywhere() -> int:
    """Replace a checkpoint, killed at the first call, at the second and so on."""
    path = Path("last.ckpt")
    write_checkpoint({"value": torch.zeros(1000)}, path)
    number = 1
    while die_at_call(number, lambda: write_checkpoint({"value": torch.ones(1000)}, path)):
        value = torch.load(path, weights_only=True)["value"]
        assert value.unique().tolist() in ([0.0], [1.0])
        assert len(os.listdir()) <= 2
        with claimed(path):
            assert len(os.listdir()) == 2  # the lock is the other one
        number += 1
    assert torch.load(path, weights_only=True)["value"].unique().tolist() == [1.0]
    assert os.listdir() == ["last.ckpt"]
    print(f"killed {number - 1} times")
    return 0


def set_aside_and_die_everywhere() -> int:
    """Set a file and a folder aside, killed at the first call, at the second and so on."""
    for kind in ("file", "folder"):
        number = 1
        while True:
            folder = Path(kind, str(number))
            path = folder / "last.ckpt"
            path.parent.mkdir(parents=True)
            (path.with_name("last-v1.ckpt")).write_text("an earlier one")
            content = path
            if kind == "folder":
                path.mkdir()
                content = path / "picture"
            content.write_text("this one")
            was_killed = die_at_call(number, lambda path=path: set_aside(path))
            files = [file for file in folder.rglob("*") if file.is_file()]
            assert sorted({file.read_text() for file in files}) == ["an earlier one", "this one"]
            assert (folder / "last-v1.ckpt").read_text() == "an earlier one"
            if not was_killed:
                assert not path.exists()
                break
            number += 1
        print(f"killed {number - 1} times")
    return 0


def log_and_die_everywhere() -> int:
    """Add a row to metrics.csv, and one with a new column, killed at every call."""
    for row in ({"step": 2, "loss": 0.5}, {"step": 2, "auroc": 0.5}):
        number = 1
        while True:
            table = MetricsLogger(Path("logs"))
            table.log_metrics({"loss": 0.25}, step=1)
            was_killed = die_at_call(number, lambda t=table, r=row: t.log_metrics(r, r["step"]))
            rows = read_table(table.folder / "metrics.csv")
            assert [row["step"] for row in rows] in (["1"], ["1", "2"])
            assert rows[0]["loss"] == "0.25"
            assert all(None not in {*row, *row.values()} for row in rows)
            if not was_killed:
                assert len(rows) == 2
                break
            number += 1
        print(f"killed {number - 1} times")
    return 0


def report_and_die_everywhere() -> int:
    """Write a report where an earlier one is, killed at every call."""
    number = 1
    while True:
        path = Path(str(number), "report.html")
        path.parent.mkdir()
        write_page(path, "page.html", {}, "earlier")
        earlier = path.read_text()
        was_killed = die_at_call(
            number, lambda path=path: write_page(path, "page.html", {}, "later")
        )
        pages = {page.name: page.read_text() for page in path.parent.glob("[!.]*")}
        assert earlier in pages.values()
        assert all(page.endswith("</html>\n") for page in pages.values())
        assert len(list(path.parent.glob(".*"))) <= 1
        if not was_killed:
            assert pages["report-v1.html"] == earlier
            assert '>"later"<' in pages["report.html"]
            break
        number += 1
    print(f"killed {number - 1} times")
    return 0


@pytest.mark.parametrize(
    "act",
    [
        write_and_die_everywhere,
        set_aside_and_die_everywhere,
        log_and_die_everywhere,
        report_and_die_everywhere,
    ],
)
def test_writing_is_killed_at_every_call(tmp_path, act):
    status, out = Victim(tmp_path, act).end()
    assert status == 0, out
    assert all(int(line.split()[1]) > 5 for line in out.splitlines()), out
