"""A run survives being killed anywhere: a training goes on, and ends as if nothing had happened.

The long form kills more often, and prints figures:

    KILLS=100 python -m pytest -n0 -s -m long tests/test_kills.py
"""

import glob
import os
import random
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import pytest
import torch
import yaml
from conftest import inference, short_or_long, write_model
from outputs import (
    assert_nothing_is_unfinished,
    assert_same_states,
    assert_whole,
    read_table,
    step_of,
)
from victims import Victim, run_program

from crn.checkpoints.writing import write_checkpoint
from crn.report.pages import write_page
from crn.system.files import claimed
from crn.training.metrics_logger import MetricsLogger

Strike = TypeVar("Strike")

SEED = int(os.environ.get("SEED", "0"))

TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


class Killer(Generic[Strike]):
    """Kills runs of the program.

    Attributes:
        kills: how often, by the signals and by what the run was doing.
    """

    def __init__(self, strikes: Sequence[Strike]) -> None:
        self.kills: Counter[tuple[str, str]] = Counter()
        self._random = random.Random(SEED)
        self._strikes = strikes
        self._left: list[Strike] = []

    def strike(self) -> Strike:
        """One of the strikes, each as often as the others."""
        if not self._left:
            self._left = self._random.sample(self._strikes, len(self._strikes))
        return self._left.pop()

    def tell(self, what: str) -> None:
        """Print how often what was killed."""
        print(f"\n{self.kills.total()} kills of {what}, seed {SEED}")
        for (signals, doing), count in sorted(self.kills.items()):
            print(f"  {signals:<20} while {doing:<29} {count:4}")


# --- training ---


STEPS = 30

TRAINING = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--training-steps", STEPS, "--validation-interval", 3, "--seed", 1,
    "--checkpoint-path", "kept", "--image-output-path", "pictures", "--image-output-interval", 7,
)  # fmt: skip

# What is sent while a checkpoint is being written, and what at a random moment.
WHILE_WRITING = ((KILL,), (TERM,), (KILL,), (INT,), (TERM, INT), (INT, TERM))
AT_RANDOM = ((KILL,), (TERM,), (INT,))
STRIKES = [(s, True) for s in WHILE_WRITING] + [(s, False) for s in AT_RANDOM]


def unfinished(folder: Path) -> set[Path]:
    """Checkpoints that are being written, or were when their process was killed."""
    return set((folder / "kept").glob(".*.tmp"))


class TrainingKiller(Killer[tuple[tuple[int, ...], bool]]):
    """Kills trainings and sees that each kill leaves what can be gone on with.

    Attributes:
        resumed: how many trainings went on from a checkpoint.
    """

    def __init__(self, roads: Path) -> None:
        super().__init__(STRIKES)
        self.resumed = 0
        self._words = (*TRAINING, "--dataset", "RoadImages", "--dataset-path", roads)

    def start(self, folder: Path) -> Victim:
        """Start the training, or go on with what is left of it."""
        can_go_on = (folder / "kept/last.ckpt").exists()
        more = ("--model-input", "kept/last.ckpt") if can_go_on else ()
        return Victim(folder, run_program, (*self._words, *more), True)

    def kill(self, folder: Path) -> bool:
        """Start the training, or go on with it, and kill it; False where it ended sooner."""
        signals, is_writing = self.strike()
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


@pytest.mark.parametrize("wanted", short_or_long(25, "KILLS", 100))
def test_trainings_that_are_killed_again_and_again(read_only_road_images, tmp_path, wanted):
    killer = TrainingKiller(read_only_road_images)
    undisturbed = tmp_path / "undisturbed"
    killer.start(undisturbed).succeed()
    trainings = 0
    while killer.kills.total() < wanted:
        folder = tmp_path / str(trainings)
        trainings += 1
        while killer.kills.total() < wanted and killer.kill(folder):
            pass
        killer.start(folder).succeed()
        check_the_end(folder, undisturbed)
    assert killer.resumed > 5
    killer.tell(f"{trainings} trainings of {STEPS} steps, resumed {killer.resumed} times")


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


class ScoringKiller(Killer[tuple[int, str]]):
    """Kills runs of inference and sees that each leaves what can be used, or nothing."""

    def __init__(self, roads: Path, model: Path) -> None:
        super().__init__(SCORING_STRIKES)
        self._words = inference(model, "RoadImages", roads, "--image-output-path", "out")

    def start(self, folder: Path) -> Victim:
        return Victim(folder, run_program, self._words)

    def kill(self, folder: Path) -> None:
        """Start a run and kill it, unless it ends sooner."""
        number, doing = self.strike()
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
    killer.start(folder).succeed()
    assert_whole(folder)
    assert_nothing_is_unfinished(folder)
    for pattern in ("anomaly_scores.csv", "inference/*/*", "diff/*/*", "overlay/*/*"):
        files = sorted((undisturbed / "out").glob(pattern))
        assert files
        for file in files:
            mine = folder / file.relative_to(undisturbed)
            assert mine.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("wanted", short_or_long(10, "KILLS", 100))
def test_inferences_that_are_killed_again_and_again(
    read_only_road_images, tmp_path_factory, tmp_path, wanted
):
    model = write_model(tmp_path_factory.mktemp("model") / "model.ckpt", seed=1)
    killer = ScoringKiller(read_only_road_images, model)
    undisturbed = tmp_path / "undisturbed"
    killer.start(undisturbed).succeed()
    folders = 0
    while killer.kills.total() < wanted:
        folder = tmp_path / str(folders)
        folders += 1
        for _ in range(10):
            killer.kill(folder)
        check_the_scores(killer, folder, undisturbed)
    killer.tell(f"inferences in {folders} folders")


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


# Makes something in a folder, yields what is to be killed, is told whether it was, and looks.
Case = Callable[[Path], Iterator[Callable[[], None]]]


def replacing_a_checkpoint(folder: Path):
    path = folder / "last.ckpt"
    write_checkpoint({"value": torch.zeros(1000)}, path)
    was_killed = yield lambda: write_checkpoint({"value": torch.ones(1000)}, path)
    value = torch.load(path, weights_only=True)["value"].unique().tolist()
    assert value == [1.0] or (was_killed and value == [0.0])
    assert len(os.listdir(folder)) <= (2 if was_killed else 1)
    with claimed(path):
        assert len(os.listdir(folder)) == 2  # the lock is the other one


def adding_to_metrics(row: dict[str, float], folder: Path):
    table = MetricsLogger(folder)
    table.log_metrics({"loss": 0.25}, step=1)
    was_killed = yield lambda: table.log_metrics(row, step=2)
    rows = read_table(table.folder / "metrics.csv")
    steps = [row["step"] for row in rows]
    assert steps == ["1", "2"] or (was_killed and steps == ["1"])
    assert rows[0]["loss"] == "0.25"
    assert all(None not in {*row, *row.values()} for row in rows)


def writing_a_report_where_another_is(folder: Path):
    path = folder / "report.html"
    write_page(path, "page.html", {}, "earlier")
    earlier = path.read_text()
    was_killed = yield lambda: write_page(path, "page.html", {}, "later")
    pages = {page.name: page.read_text() for page in folder.glob("[!.]*")}
    assert earlier in pages.values()
    assert all(page.endswith("</html>\n") for page in pages.values())
    assert len(list(folder.glob(".*"))) <= was_killed
    if not was_killed:
        assert pages["report-v1.html"] == earlier
        assert '>"later"<' in pages["report.html"]


def die_everywhere(case: Case) -> int:
    """Kill at the first call, at the second and so on, each in a folder of its own."""
    number, was_killed = 0, True
    while was_killed:
        number += 1
        folder = Path(str(number))
        folder.mkdir()
        steps = case(folder)
        was_killed = die_at_call(number, next(steps))
        with suppress(StopIteration):
            steps.send(was_killed)
    assert number > 6
    return 0


@pytest.mark.parametrize(
    "case",
    [
        replacing_a_checkpoint,
        partial(adding_to_metrics, {"loss": 0.5}),
        partial(adding_to_metrics, {"auroc": 0.5}),
        writing_a_report_where_another_is,
    ],
)
def test_writing_is_killed_at_every_call(tmp_path, case):
    Victim(tmp_path, die_everywhere, case).succeed()


INTERRUPTED = """
import sys
from pathlib import Path
import torch
from crn.checkpoints.writing import write_checkpoint

def interrupt(frame, event, argument):
    if frame.f_code.co_name == "__exit__" and frame.f_code.co_filename.endswith("serialization.py"):
        sys.setprofile(None)
        raise KeyboardInterrupt

sys.setprofile(interrupt)
try:
    write_checkpoint({"value": torch.ones(1000)}, Path("a.ckpt"))
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_before_torch_ends_a_checkpoint(tmp_path: Path, run_python) -> None:
    ended = run_python("-c", INTERRUPTED, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "stopped\n", "")
    assert list(tmp_path.iterdir()) == []
