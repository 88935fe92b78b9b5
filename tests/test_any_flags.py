"""Command lines as nobody would type them: each ends right, or with one line of error.

Hypothesis draws them. The long form draws more, and prints figures:

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
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from outputs import checked_run, files_in

from crn.command_line import parse_options
from crn.config import GROUPS, MANY, MODELS, Adversarial, Competition, Network, Optimization, Run
from crn.errors import UserError
from crn.option import flag, has_effect, option_names, value_type
from crn.system.text import printable

FIELDS = {
    flag(field.name): field for group in GROUPS.values() for field in dataclasses.fields(group)
}
# How many command lines are run; for each of them, more are only read.
CASES = pytest.mark.parametrize(
    "cases", [30, pytest.param(int(os.environ.get("CASES", "300")), marks=pytest.mark.long)]
)
READ_FOR_EACH_RUN = 10


def drawn(count: int, each: st.SearchStrategy, test: Callable[[Any], None]) -> None:
    """Have Hypothesis draw so many command lines, the same ones for the same `SEED`."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    options = settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=checks
    )
    seed(int(os.environ.get("SEED", "0")))(options(given(each)(test)))()


def tell(what: str, ends: Counter[str]) -> None:
    """Print figures."""
    words = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    print(f"{ends.total()} command lines are {what}: {words}")


# --- that are read ---

ODD_WORDS = st.one_of(
    st.sampled_from([
        "", " ", "-", "--", "=", "0", "-0", "-1", "1.5", "1e-400", "1e400", "nan", "-inf", "0x10",
        "1_0", "٣", "9" * 5000, "TRUE", "yes", "None", "[]", "[1,", "1 2", "101", str(MANY + 1),
        "..", "/", "a" * 5000, "\0", "\x1b[31m", "two\nlines", "%s", "{}", "\ud800", "\udcff",
        "--imsize", "crn", "MVTec",
    ]),
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip


def few_values(field: dataclasses.Field) -> list[str]:
    """All that an option takes; empty where that is a range, or any text."""
    if value_type(field) is bool:
        return ["0", "1", "true", "False"]
    return [str(value) for value in field.metadata["choices"] or ()]


def near_words(name: str) -> st.SearchStrategy[str]:
    """What a flag takes, and the next values beyond."""
    field = FIELDS[name]
    if values := few_values(field):
        return st.sampled_from(values)
    ends = [field.metadata[end] for end in ("low", "high", "above")]
    limits = [end for end in ends if end is not None] or [0]
    return st.sampled_from([end + step for end in limits for step in (-1, 0, 1)]).map(str)


PARTS = st.sampled_from([*FIELDS]).flatmap(
    lambda name: st.one_of(
        st.sampled_from([[name], ["--imsise", "8"], ["stray"]]),
        *(
            words.map(lambda word, form=form: form.format(name, word).split("\f"))
            for words in (near_words(name), near_words(name), ODD_WORDS)
            for form in ("{}\f{}", "{}={}")
        ),
    )
)
COMMAND_LINES = st.lists(PARTS, max_size=3).map(lambda parts: [w for part in parts for w in part])


def read(words: list[str]) -> str:
    """How the reading of a command line ends."""
    try:
        parse_options(["--dataset", "MVTec", "--dataset-path", "somewhere", *words])
    except UserError as error:
        return "refused" if printable(str(error)) else "refused without a word"
    except SystemExit as after_help:
        return f"left with {after_help.code}"
    return "accepted"


@CASES
def test_any_words_are_read(cases: int) -> None:
    ends: Counter[str] = Counter()

    def test(words: list[str]) -> None:
        end = read(words)
        ends[end] += 1
        assert end in ("accepted", "refused", "left with 0")

    drawn(cases * READ_FOR_EACH_RUN, COMMAND_LINES, test)
    tell("read", ends)


# --- that are run ---

# What keeps a run small, where nothing else is drawn.
SMALL = {"--imsize": "8", "--max-network-depth": "2", "--training-steps": "2"}

# Given anyway, or never.
GIVEN = ("--mode", "--model", "--cpu", "--dataset", "--wandb")
RIGHT_WORDS = {
    **{n: few_values(f) for n, f in FIELDS.items() if few_values(f) and n not in GIVEN},
    "--seed": ["0", str(2**32 - 1)],
    "--num-workers": ["0", "3"],
    "--imsize": ["8", "16"],
    "--max-network-depth": ["1", "10"],
    "--num-competitive-units": ["1", "3"],
    "--reconstruction-weight": ["0", "1e30"],
    "--feedback-weight": ["0", "1e-30"],
    "--discrimination-weight": ["0", "1e300"],
    "--adversarial-loss-weight": ["0", "1e30"],
    "--contextual-loss-weight": ["0"],
    "--training-steps": ["3", "4"],
    "--epochs": ["1", "3"],
    "--batch-size": ["1", "3", str(MANY)],
    "--lr": ["1e-300", "0.1", "1e30", "1e308"],
    "--lr-factor": ["1e-300", "1"],
    "--lr-steps": ["0", "0 0 100", "[50]"],
    "--momentum": ["0", "1"],
    "--threshold-quantile": ["0", "1"],
    "--anomaly-score-file": ["scores.csv", "a/b/scores", "out/x.csv"],
    "--map-smoothing": ["0", "1e-300", "25"],
    "--checkpoint-path": ["kept", "out", "."],
    "--validation-interval": ["1", str(MANY)],
    "--image-output-path": ["out", ".", "kept"],
    "--image-output-interval": ["1", str(MANY)],
    "--log-dir": ["logs", "out", "."],
    "--log-file": ["log.txt", "out/log"],
    "--experiment": ["x"],
}
# Names that cannot lead out of the folder of the test.
ODD_NAMES = st.sampled_from(["", " ", "a" * 300, "\x1b[31m", "two\nlines", "\udcff", "é", "\0"])


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
        # Only seldom those that contradict it.
        if draw(st.integers(0, 4)):
            fixed = option_names(Network, Competition, Adversarial, Optimization)
            free = {"training_steps", "epochs", "batch_size", "lr"} if mode == "train" else set()
            fitting = [n for n in fitting if FIELDS[n].name not in {*fixed} - free]
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


@CASES
def test_any_flags_are_run(
    cases: int, trained_models: dict[str, Path], read_only_panorama: Path, tmp_path: Path
) -> None:
    """Each in a new folder."""
    ends: Counter[str] = Counter()

    def test(each: tuple[str, list[str]]) -> None:
        model, drawn_words = each
        folder = tmp_path / str(ends.total())
        words = ["--cpu", "--dataset=Panorama", f"--dataset-path={read_only_panorama}"]
        for word in drawn_words:
            is_checkpoint = word.startswith("--model-input=")
            words.append(f"--model-input={trained_models[model]}" if is_checkpoint else word)
        finished = checked_run(folder, words)
        ends["refused" if finished.refused else "done"] += 1
        if not finished.refused:
            names = {Path(name).name for name in files_in(folder)}
            # A training that is resumed may have nothing left to do.
            assert "metrics.json" in names or "--mode=inference" not in words
            assert "metrics.csv" in names or "--model=" not in " ".join(words)
        shutil.rmtree(folder)

    drawn(cases, runs(), test)
    tell("run", ends)
    assert ends["done"] > 5
