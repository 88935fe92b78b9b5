"""A run survives being killed anywhere: training resumes and ends as if nothing had happened.

The long form kills more often, and prints what it did:

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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import pytest
import torch
import yaml
from conftest import inference, short_or_long
from outputs import (
    assert_nothing_is_unfinished,
    assert_same_states,
    assert_whole,
    step_of,
)
from victims import Victim, run_program

from crn.checkpoints.writing import write_checkpoint
from crn.system.files import append_whole, claimed, set_aside, written_whole

T = TypeVar("T")

SEED = int(os.environ.get("SEED", "0"))
TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


class Deck(Generic[T]):
    """Draws each of some items as often as the others, and counts what was done."""

    def __init__(self, items: Sequence[T]) -> None:
        self.chance = random.Random(SEED)
        self.done: Counter[tuple[str, str]] = Counter()
        self._items = items
        self._left: list[T] = []

    def draw(self) -> T:
        self._left = self._left or self.chance.sample(self._items, len(self._items))
        return self._left.pop()

    def tell(self, what: str) -> None:
        print(f"\n{self.done.total()} kills of {what}, seed {SEED}")
        for (signals, doing), count in sorted(self.done.items()):
            print(f"  {signals:<20} while {doing:<29} {count:4}")


# --- training ---

STEPS = 30

TRAINING = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--training-steps", STEPS, "--validation-interval", 3, "--seed", 1,
    "--checkpoint-path", "kept", "--image-output-path", "pictures", "--image-output-interval", 7,
    "--dataset", "RoadImages", "--dataset-path",
)  # fmt: skip

# Signals to send while a checkpoint is being written, and at a random moment.
WHILE_WRITING = ((KILL,), (TERM,), (KILL,), (INT,), (TERM, INT), (INT, TERM))
AT_RANDOM = ((KILL,), (TERM,), (INT,))
STRIKES = [(s, True) for s in WHILE_WRITING] + [(s, False) for s in AT_RANDOM]


def unfinished(folder: Path) -> set[Path]:
    """Checkpoints that are being written, or were when their process was killed."""
    return set((folder / "kept").glob(".*.tmp"))


def start_training(folder: Path, roads: Path) -> Victim:
    """Start training, or resume from the checkpoint that is left."""
    can_resume = (folder / "kept/last.ckpt").exists()
    more = ("--model-input", "kept/last.ckpt") if can_resume else ()
    return Victim(folder, run_program, (*TRAINING, roads, *more), True)


def kill_training(folder: Path, roads: Path, deck: Deck) -> bool:
    """Start or resume training, and kill it; False if it ended sooner."""
    signals, is_writing = deck.draw()
    victim = start_training(folder, roads)
    strike = strike_while_writing if is_writing else strike_at_random
    doing = strike(victim, signals, deck.chance)
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
    deck.done[names, doing] += 1
    return True


def strike_while_writing(victim: Victim, signals: Sequence[int], chance: random.Random) -> str:
    # Not at the first checkpoint, so that training advances.
    victim.wait_for("saved", chance.randint(1, 4))
    for index, number in enumerate(signals):
        if index:
            victim.wait_for("stopping after this step")
        freeze_while_writing(victim, chance)
        victim.send(number, signal.SIGCONT)
    return "writing"


def freeze_while_writing(victim: Victim, chance: random.Random) -> None:
    """Halt a process while it writes a checkpoint, unless it ends without another one."""
    before = unfinished(victim.folder)
    while victim.is_alive:
        if not unfinished(victim.folder) - before:
            continue
        time.sleep(chance.uniform(0, 0.01))
        victim.send(signal.SIGSTOP)
        time.sleep(0.005)
        if unfinished(victim.folder) - before:
            return
        victim.send(signal.SIGCONT)


def strike_at_random(victim: Victim, signals: Sequence[int], chance: random.Random) -> str:
    # Earlier, Ctrl-C would meet multiprocessing, which is not part of the program.
    if KILL not in signals:
        victim.wait_for("\n")
    time.sleep(chance.uniform(0, 1))
    victim.send(*signals)
    victim.end()
    if "trained" in victim.err:
        return "ending"
    return "training" if "saved" in victim.err else "starting"


def check_what_is_left(folder: Path) -> None:
    """Every file that has its name is whole, and at most one is unfinished."""
    assert_whole(folder)
    for checkpoint in (folder / "kept").glob("[!.]*"):
        assert checkpoint.suffix == ".ckpt"
        with zipfile.ZipFile(checkpoint) as archive:
            assert archive.testzip() is None
    assert len(unfinished(folder)) <= 1
    for file in (folder / "logged_metrics").glob("*/[!.]*.yaml"):
        assert yaml.safe_load(file.read_text())["seed"] == 1


def check_the_end(folder: Path, undisturbed: Path) -> None:
    """Training has ended as a run does that is not killed."""
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


@pytest.mark.parametrize("wanted", short_or_long(15, "KILLS", 100))
def test_training_that_is_killed_again_and_again(read_only_road_images, tmp_path, wanted):
    deck = Deck(STRIKES)
    undisturbed = tmp_path / "undisturbed"
    start_training(undisturbed, read_only_road_images).succeed()
    runs = 0
    while deck.done.total() < wanted:
        folder = tmp_path / str(runs)
        runs += 1
        while deck.done.total() < wanted and kill_training(folder, read_only_road_images, deck):
            pass
        start_training(folder, read_only_road_images).succeed()
        check_the_end(folder, undisturbed)
    assert runs < wanted / 2  # most runs were resumed, some several times
    deck.tell(f"{runs} training runs of {STEPS} steps")


# --- inference ---

# What a run is doing, by a file that appears then; None: at any time.
DOING = {
    "starting or scoring": None,
    "writing the table": ".anomaly_scores.csv.*.tmp",
    "writing pictures": "inference/*/*",
    "writing the report's pictures": "report_files/*/*.jpg",
    "writing the report": ".report.html.*.tmp",
}


def kill_inference(
    folder: Path, words: Sequence[str], number: int, doing: str, chance: random.Random
) -> Victim:
    def seen() -> set[str]:
        return set(glob.glob(DOING[doing] or "", root_dir=folder / "out"))

    before = seen()
    victim = Victim(folder, run_program, words)
    if DOING[doing] is None:
        # Before the program has imported anything, Ctrl-C would meet multiprocessing.
        if number == INT:
            victim.wait_for("scoring")
        time.sleep(chance.uniform(0, 0.2))
    else:
        while victim.is_alive and not seen() - before:
            pass
        time.sleep(chance.choice((0, 0.001, 0.01)))
    victim.send(number)
    return victim


@pytest.mark.parametrize("wanted", short_or_long(10, "KILLS", 100))
def test_inference_that_is_killed_again_and_again(
    read_only_road_images, untrained_model, tmp_path, wanted
):
    words = inference(
        untrained_model, "RoadImages", read_only_road_images, "--image-output-path", "out"
    )
    deck = Deck([(number, doing) for number in (KILL, TERM, INT) for doing in DOING])
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    Victim(undisturbed, run_program, words).succeed()
    while deck.done.total() < wanted:
        number, doing = deck.draw()
        status, err = kill_inference(folder, words, number, doing, deck.chance).end()
        assert "Traceback" not in err, err
        assert_whole(folder)
        if number == INT:
            # A lock may stay if Ctrl-C comes while it is removed, and does no harm.
            assert list(folder.rglob(".*.tmp")) == []
        if status:
            assert status == (128 + INT if number == INT else -number), err
            deck.done[signal.Signals(number).name, doing] += 1
    # A run in a folder where others were killed ends as one in a new folder.
    Victim(folder, run_program, words).succeed()
    assert_whole(folder)
    assert_nothing_is_unfinished(folder)
    for pattern in ("anomaly_scores.csv", "inference/*/*", "diff/*/*", "overlay/*/*"):
        files = sorted((undisturbed / "out").glob(pattern))
        assert files
        for file in files:
            mine = folder / file.relative_to(undisturbed)
            assert mine.read_bytes() == file.read_bytes()
    deck.tell("inference")


# --- every call of the code that writes ---

WRITING_CODE = ("crn/system/files", "contextlib", "pathlib", "torch/serialization")


def die_at_call(number: int, act: Callable[[], None]) -> bool:
    """Fork, and kill the child when the writing code calls into C; False if it ended before.

    Nothing happens to files between two of these calls.
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


def write_all(folder: Path, value: int, page: str) -> None:
    write_checkpoint({"value": torch.full((1000,), value)}, folder / "last.ckpt")
    append_whole(folder / "rows.csv", f"{value}\n")
    set_aside(folder / "page.html")
    with written_whole(folder / "page.html", "w") as file:
        file.write(page)


def die_everywhere() -> int:
    """Kill at the first call, at the second and so on, each in a folder of its own."""
    number, was_killed = 0, True
    while was_killed:
        number += 1
        folder = Path(str(number))
        folder.mkdir()
        write_all(folder, 0, "earlier")
        was_killed = die_at_call(number, partial(write_all, folder, 1, "later"))
        values = torch.load(folder / "last.ckpt", weights_only=True)["value"].unique().tolist()
        rows = (folder / "rows.csv").read_text()
        pages = {path.name: path.read_text() for path in folder.glob("page*.html")}
        assert values in ([0], [1])
        assert rows in ("0\n", "0\n1\n")
        assert "earlier" in pages.values()
        assert {*pages.values()} <= {"earlier", "later"}
        assert len(list(folder.glob(".*"))) <= was_killed
        with claimed(folder / "last.ckpt", folder / "page.html"):
            assert not list(folder.glob(".*.tmp"))
    assert (values, rows) == ([1], "0\n1\n")
    assert pages == {"page.html": "later", "page-v1.html": "earlier"}
    assert number > 20
    return 0


def test_writing_is_killed_at_every_call(tmp_path):
    Victim(tmp_path, die_everywhere).succeed()


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
