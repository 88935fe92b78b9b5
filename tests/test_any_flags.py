"""Command lines that nobody would type: each succeeds, or ends with one line of error.

Hypothesis draws them. The long form draws more, and prints how they end:

    CASES=300 python -m pytest -n0 -s -m long tests/test_any_flags.py
"""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import short_or_long
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from outputs import checked_run, files_in

from crn.command_line import parse_options
from crn.config import GROUPS, MODELS, Adversarial, Competition, Network, Optimization, Run
from crn.errors import UserError
from crn.option import flag, has_effect, option_names, value_type

FIELDS = {
    flag(field.name): field for group in GROUPS.values() for field in dataclasses.fields(group)
}
# For each command line that is run, more are only read.
READ_FOR_EACH_RUN = 10


def draw(count: int, each: st.SearchStrategy, test: Callable[[Any], str]) -> Counter[str]:
    """Test drawn command lines, the same ones for the same `SEED`, and count how they end."""
    ends: Counter[str] = Counter()

    def run(drawn: Any) -> None:
        ends[test(drawn)] += 1

    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    options = settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=checks
    )
    seed(int(os.environ.get("SEED", "0")))(options(given(each)(run)))()
    print(f"{ends.total()} command lines:", ends)
    return ends


# --- command lines that are read ---

ODD_WORDS = st.one_of(
    st.sampled_from([
        "", " ", "-", "--", "=", "-0", "-1", "1e-400", "1e400", "nan", "-inf", "0x10", "1_0", "٣",
        "9" * 5000, "TRUE", "None", "[1,", "1 2", "..", "a" * 5000, "\x1b[31m", "two\nlines",
        "%s", "{}", "\udcff", "--imsize", "crn", "MVTec",
    ]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip


def choices(field: dataclasses.Field) -> list[str]:
    """All values that an option takes; none if that is a range, or any text."""
    if value_type(field) is bool:
        return ["0", "1", "true", "False"]
    return [str(value) for value in field.metadata["choices"] or ()]


def near_words(name: str) -> st.SearchStrategy[str]:
    """Values that a flag takes, and the next ones beyond."""
    field = FIELDS[name]
    ends = [field.metadata[end] for end in ("low", "high", "above")]
    limits = [end for end in ends if end is not None] or [0]
    numbers = [str(end + step) for end in limits for step in (-1, 0, 1)]
    return st.sampled_from(choices(field) or numbers)


PARTS = st.sampled_from([*FIELDS]).flatmap(
    lambda name: st.one_of(
        st.sampled_from([[name], ["--imsise", "8"], ["stray"]]),
        st.one_of(near_words(name), ODD_WORDS).map(lambda word: [name, word]),
        st.one_of(near_words(name), ODD_WORDS).map(lambda word: [f"{name}={word}"]),
    )
)
COMMAND_LINES = st.lists(PARTS, max_size=3).map(lambda parts: [w for part in parts for w in part])


def read(words: list[str]) -> str:
    """How reading a command line ends."""
    try:
        parse_options(["--dataset", "MVTec", "--dataset-path", "somewhere", *words])
    except UserError:
        return "refused"
    except SystemExit as after_help:
        return f"left with {after_help.code}"
    return "accepted"


@pytest.mark.parametrize("cases", short_or_long(30, "CASES", 300))
def test_any_words_are_read(cases: int) -> None:
    ends = draw(cases * READ_FOR_EACH_RUN, COMMAND_LINES, read)
    assert {"accepted", "refused"} <= ends.keys() <= {"accepted", "refused", "left with 0"}


# --- command lines that are run ---

# What keeps a run small, unless something else is drawn.
SMALL = {"--imsize": "8", "--max-network-depth": "2", "--training-steps": "2"}
# Flags that every run has, or none.
GIVEN = ("--mode", "--model", "--cpu", "--dataset", "--wandb")
RIGHT_WORDS = {
    **{n: choices(f) for n, f in FIELDS.items() if choices(f) and n not in GIVEN},
    "--seed": ["0", "1"],
    "--num-workers": ["0", "3"],
    "--imsize": ["8", "16"],
    "--max-network-depth": ["1", "10"],
    "--num-competitive-units": ["1", "3"],
    "--reconstruction-weight": ["0", "1e30"],
    "--discrimination-weight": ["0", "1e300"],
    "--adversarial-loss-weight": ["0", "1e30"],
    "--training-steps": ["3", "4"],
    "--epochs": ["1", "3"],
    "--batch-size": ["1", "3"],
    "--lr": ["1e-300", "0.1", "1e30"],
    "--lr-factor": ["1e-300", "1"],
    "--lr-steps": ["0", "0 0 100", "[50]"],
    "--threshold-quantile": ["0", "1"],
    "--anomaly-score-file": ["a/b/scores", "out/x.csv"],
    "--map-smoothing": ["0", "1e-300", "25"],
    "--checkpoint-path": ["kept", "out", "."],
    "--validation-interval": ["1", "1000"],
    "--image-output-path": ["out", ".", "kept"],
    "--image-output-interval": ["1", "1000"],
    "--log-dir": ["logs", "out", "."],
    "--log-file": ["log.txt", "out/log"],
}
# Names that cannot lead out of the folder of the test.
ODD_NAMES = st.sampled_from(["", " ", "a" * 300, "\x1b[31m", "two\nlines", "\udcff", "é"])


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A model, and words of a command line that mostly fit it and each other."""
    model, mode = draw(st.sampled_from(MODELS)), draw(st.sampled_from(["train", "inference"]))
    is_new = mode == "train" and draw(st.booleans())
    run = Run(mode=mode, model=model)
    fitting = [name for name in RIGHT_WORDS if has_effect(FIELDS[name], run)]
    words = {"--mode": mode}
    if is_new:
        words |= {"--model": model, **SMALL}
        words |= {"--num-competitive-units": "2"} if model == "crn" else {}
    else:
        words["--model-input"] = "checkpoint"
        # Flags that contradict it are drawn seldom.
        if draw(st.integers(0, 4)):
            fixed = {*option_names(Network, Competition, Adversarial, Optimization)}
            fixed -= {"training_steps", "epochs", "batch_size", "lr"} if mode == "train" else set()
            fitting = [name for name in fitting if FIELDS[name].name not in fixed]
            words |= {"--training-steps": "4"} if mode == "train" else {}
    for name in draw(st.lists(st.sampled_from(fitting), max_size=5, unique=True)):
        words[name] = draw(st.sampled_from(RIGHT_WORDS[name]))
    if "--epochs" in words:
        words.pop("--training-steps", None)
    if {"--image-output-interval", "--save-maps"} & words.keys():
        words.setdefault("--image-output-path", "out")
    if not draw(st.integers(0, 4)):
        name = draw(st.sampled_from([*RIGHT_WORDS]))
        odd = ODD_NAMES if value_type(FIELDS[name]) is Path else ODD_WORDS
        words[name] = draw(st.one_of(odd, st.sampled_from(RIGHT_WORDS[name])))
    return model, [f"{name}={word}" for name, word in words.items()]


@pytest.mark.parametrize("cases", short_or_long(20, "CASES", 300))
def test_any_flags_are_run(
    cases: int, trained_models: dict[str, Path], read_only_panorama: Path, tmp_path: Path
) -> None:
    def test(drawn: tuple[str, list[str]]) -> str:
        model, words = drawn
        checkpoint = f"--model-input={trained_models[model]}"
        words = [checkpoint if word == "--model-input=checkpoint" else word for word in words]
        data = ("--cpu", "--dataset=Panorama", f"--dataset-path={read_only_panorama}")
        finished = checked_run(tmp_path / "run", (*data, *words))
        if not finished.refused:
            names = {Path(name).name for name in files_in(tmp_path / "run")}
            # A training run that is resumed may have nothing left to do.
            assert "metrics.json" in names or "--mode=inference" not in words
            assert "metrics.csv" in names or "--model=" not in " ".join(words)
        shutil.rmtree(tmp_path / "run")
        return "refused" if finished.refused else "done"

    assert draw(cases, runs(), test)["done"] > 5
