"""The command line: every promised option, its default, how it is typed, and what it costs."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, data_of, model_config

from crn.command_line import parse_options, uses_demo_sample
from crn.config import GROUPS, RECIPES, ModelConfig, Run
from crn.errors import UserError
from crn.option import flag, has_effect, is_list, value_type

DATA = data_of("MVTec", "somewhere")


def parse(*words: str) -> dict[str, Any]:
    """Option name to plain value, for a training with a data set."""
    return parse_options([*DATA, *words]).flat()


# --- every option ---


def typed(option_field: dataclasses.Field) -> tuple[str, Any]:
    """A word that can be typed for an option, and the value that it stands for."""
    limits, kind = option_field.metadata, value_type(option_field)
    if limits["choices"]:
        value = [choice for choice in limits["choices"] if choice != option_field.default][-1]
        return str(value), value
    if kind is bool:
        return str(int(not option_field.default)), not option_field.default
    if is_list(option_field):
        return "[20, 50]", (20, 50)
    if kind in (int, float):
        least = max(1, limits["low"] or 1)
        value = kind(least if option_field.default != least else limits["high"] or 2)
        return str(value), value
    return "some_name", kind("some_name")


@pytest.mark.parametrize(
    ("mode", "model"), [("train", "crn"), ("train", "dagan"), ("inference", "crn")]
)
def test_every_option_can_be_typed(
    mode: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    run = Run(mode=mode, model=model)
    # These contradict others, or say what the run is.
    left_out = {"mode", "model", "model_input", "demo", "epochs", "threshold_from", "dataset"}
    expected, words = {}, ["--mode", mode, "--dataset", "MVTec"]
    if mode == "train":
        words += ["--model", model]
    else:
        (tmp_path / "model.ckpt").touch()  # parsing does not open it
        words += ["--model-input", str(tmp_path / "model.ckpt")]
    fields = [each for group in GROUPS.values() for each in dataclasses.fields(group)]
    for each in fields:
        if each.name not in left_out and has_effect(each, run):
            word, expected[each.name] = typed(each)
            words.append(f"{flag(each.name)}={word}")
    values = parse_options(words).values()
    assert {name: values[name] for name in expected} == expected
    assert len(expected) > 20
    assert any(expected.get(each.name, each.default) != each.default for each in fields)


def test_the_defaults_are_those_of_the_paper() -> None:
    values = parse()
    expected = {
        "mode": "train", "model": "crn", "training_steps": 20_000, "batch_size": 64,
        "num_competitive_units": 12, "imsize": 128, "reconstruction_weight": 0.5,
        "feedback_weight": 1.0, "discrimination_weight": 2.0, "optimizer": "adam", "lr": 1e-4,
        "anomaly_score": "residual", "pairs": "best", "norm": "batch", "improved": True,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--experiment", "roads"), "--experiment has no effect without --wandb"),
        (("--momentum", 0.5), "--momentum has no effect without --optimizer sgd or rmsprop"),
        (("--lr-steps", 50), "--lr-steps has no effect without --lr-scheduler step"),
        (
            ("--lr-factor", 0.5, "--lr-scheduler", "cosine"),
            "--lr-factor has no effect without --lr-scheduler step or exponential",
        ),
        (("--momentum", 0.5, "--optimizer", "sgd"), None),
        (("--lr-steps", 50, "--lr-factor", 0.5, "--lr-scheduler", "step"), None),
    ],
)
def test_flags_without_effect_are_told(
    run_main, read_only_panorama: Path, words: tuple, message: str | None
) -> None:
    """Sweep agents type all of them, so the training goes on."""
    result = run_main(
        "--cpu", "--imsize", 8, "--max-network-depth", 1, "--num-competitive-units", 1,
        "--training-steps", 1, *data_of("Panorama", read_only_panorama), *words,
    )  # fmt: skip
    assert result.status == 0
    told = [line for line in result.err.splitlines() if "no effect" in line]
    assert told == ([message] if message else [])


# --- how values are typed ---


@pytest.mark.parametrize("name", ["improved", "use_dropout", "cpu", "demo"])
def test_boolean(name: str) -> None:
    for word, expected in (("1", True), ("0", False)):
        assert parse(flag(name), word)[name] is expected
    for word, expected in (("true", True), ("false", False), ("True", True), ("False", False)):
        assert parse(f"{flag(name)}={word}")[name] is expected
    assert parse(flag(name))[name] is True
    assert parse(flag(name), "--lr", "0.5")[name] is True


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--lr-steps", "30", "60", "90"), [30, 60, 90]),
        (("--lr-steps", "30 60 90"), [30, 60, 90]),
        (("--lr-steps", "[30, 60, 90]"), [30, 60, 90]),
        (("--lr-steps=[1,2]",), [1, 2]),
        (("--lr-steps", "25"), [25]),
        (("--lr-steps", "10,20", "--cpu"), [10, 20]),
    ],
)
def test_list(words: tuple[str, ...], expected: list[int]) -> None:
    assert parse(*words)["lr_steps"] == expected


def test_what_was_typed_is_remembered() -> None:
    options = parse_options([*DATA, "--batch-size", "64", "--cpu"])
    assert options.given == {"dataset", "dataset_path", "batch_size", "cpu"}


# --- the demo ---


def test_demo_profile() -> None:
    values = parse("--demo")
    small = {
        "batch_size": 2, "imsize": 32, "num_competitive_units": 3, "max_network_depth": 3,
        "training_steps": 50,
    }  # fmt: skip
    assert {name: values[name] for name in small} == small
    unlike = {name for name, value in parse().items() if values[name] != value}
    assert unlike == {*small, "demo"}


def test_demo_on_its_own_sample_has_the_balanced_recipe_unless_another_is_typed() -> None:
    def on_sample(*words: str) -> dict[str, Any]:
        return parse_options(["--demo", *words]).flat()

    values = on_sample()
    profile = {"batch_size": 2, "num_competitive_units": 3, "max_network_depth": 3}
    own = {"model": "crn", "imsize": 64, "width": 16, "anomaly_score": "discrimination"}
    expected = RECIPES["balanced"] | {"recipe": "balanced"} | profile | own
    assert {name: values[name] for name in expected} == expected
    assert on_sample("--recipe", "balanced") == values
    assert on_sample("--imsize", "32")["imsize"] == 32
    assert on_sample("--anomaly-score", "residual")["anomaly_score"] == "residual"
    own_path = {"dataset": "RoadImages", "dataset_path": values["dataset_path"]}
    for recipe in ("published", "pretrained"):
        assert on_sample("--recipe", recipe) == parse("--demo", "--recipe", recipe) | own_path
    assert on_sample("--model", "features")["recipe"] == "pretrained"


def test_demo_0_is_no_demo() -> None:
    assert parse("--demo", "0") == parse()


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("batch_size", "8", 8),
        ("imsize", "64", 64),
        ("num_competitive_units", "12", 12),
        ("training_steps", "20", 20),
        ("training_steps", "20000", 50),
        ("max_network_depth", "2", 2),
        ("max_network_depth", "8", 3),
    ],
)
def test_demo_with_another_flag(name: str, word: str, expected: int) -> None:
    assert parse("--demo", flag(name), word)[name] == expected
    assert parse(flag(name), word, "--demo")[name] == expected


def test_demo_without_a_data_set_has_its_own() -> None:
    options = parse_options(["--demo"])
    assert options.data.dataset == "RoadImages"
    assert options.data.dataset_path is not None
    assert uses_demo_sample(options)


def test_demo_with_a_data_set_uses_that() -> None:
    options = parse_options(["--demo", *DATA])
    assert (options.data.dataset, options.data.dataset_path) == ("MVTec", Path("somewhere"))
    assert not uses_demo_sample(options)
    assert not uses_demo_sample(parse_options(DATA))


def test_demo_does_not_make_up_other_data_sets() -> None:
    with pytest.raises(UserError, match="--dataset-path"):
        parse_options(["--demo", "--dataset", "MVTec"])


def test_typed_training_steps_stand_against_the_epochs_of_a_checkpoint(
    run_main, read_only_road_images: Path, tmp_path: Path
) -> None:
    common = ("--demo", "--cpu", *data_of("RoadImages", read_only_road_images))
    small = ("--max-network-depth", "1", "--num-competitive-units", "2")
    stored = tmp_path / "checkpoints"
    first = run_main(*common, *small, "--epochs", "1", "--checkpoint-path", stored)
    assert "step 2/2" in first.err  # 4 training images make 2 batches of 2
    resumed = run_main(*common, "--model-input", stored / "last.ckpt", "--training-steps", "5")
    assert resumed.status == 0
    assert "step 5/5" in resumed.err


# --- help, and what is imported ---


def test_help_names_every_flag_with_its_default_and_loads_nothing_heavy(
    run_train, tmp_path: Path
) -> None:
    result = run_train("--help", cwd=tmp_path, COLUMNS="1000", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    entries = dict(re.findall(r"^  (--[a-z-]+)(.*(?:\n {3,}.*)*)", result.stdout, re.MULTILINE))
    for group in GROUPS.values():
        assert f"\n{group.title}:\n" in result.stdout
        for each in dataclasses.fields(group):
            entry = entries[flag(each.name)]
            if isinstance(each.default, float | str) and each.default:
                assert f"(default: {each.default})" in entry
    assert "(default: 30 60 90)" in entries["--lr-steps"]
    assert "(default: 1)" in entries["--improved"]
    names = re.findall(r"^import time:.*\|\s*(\S+)$", result.stderr, re.MULTILINE)
    modules = {name.partition(".")[0] for name in names}
    assert {"argparse", "crn"} <= modules
    assert not {"torch", "pytorch_lightning", "torchvision", "sklearn", "wandb"} & modules
    assert list(tmp_path.iterdir()) == []


def test_help_without_docstrings(run_python, tmp_path: Path) -> None:
    result = run_python("-OO", REPOSITORY / "train.py", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "\nwhat to do:\n" in result.stdout
    assert "(mode" not in result.stdout


def test_only_decoding_loads_torch(run_python, read_only_road_images: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import crn.command_line, crn.config, crn.errors, crn.system.files, crn.run
assert "torch" not in sys.modules, "imports"
from datasets.layouts import LAYOUTS
from datasets.samples import list_samples
from pathlib import Path
samples = list_samples(LAYOUTS["RoadImages"], Path({str(read_only_road_images)!r}))
assert "torch" not in sys.modules, "listing"
from datasets.reader import read_images
assert "torch" in sys.modules, "decoding"
print(len(samples), tuple(read_images(samples[:1], 8).pixels[0].shape))
"""
    result = run_python("-c", code, cwd=tmp_path)
    assert result.stderr == ""
    assert result.stdout == "9 (3, 8, 8)\n"


# --- what a checkpoint carries ---


@pytest.fixture
def plain_values() -> dict[str, Any]:
    return dataclasses.asdict(model_config())


def test_model_config_survives_as_plain_values() -> None:
    words = ("--imsize", "64", "--improved", "0", "--norm", "none", "--lr", "3e-5", "--seed", "5")
    more = ("--lr-steps", "10", "20", "--anomaly-score", "discrimination")
    config = parse_options([*DATA, *words, *more]).model_config()
    assert (config.network.imsize, config.seed, config.optimization.lr_steps) == (64, 5, (10, 20))
    text = json.dumps(dataclasses.asdict(config))  # which knows nothing but plain values
    values = json.loads(text)
    assert ModelConfig.from_plain_values(values) == config
    assert json.dumps(values) == text
    assert ModelConfig.from_plain_values({**values, "seed": 6}) != config


@pytest.mark.parametrize("part", [None, "network", "competition", "adversarial", "optimization"])
def test_unknown_keys_are_refused(plain_values: dict[str, Any], part: str | None) -> None:
    (plain_values if part is None else plain_values[part])["imsice"] = 64
    with pytest.raises((KeyError, TypeError), match="imsice"):
        ModelConfig.from_plain_values(plain_values)


@pytest.mark.parametrize("name", ["network", "competition", "optimization", "seed", "model"])
def test_missing_parts_are_refused(plain_values: dict[str, Any], name: str) -> None:
    del plain_values[name]
    with pytest.raises((KeyError, TypeError), match=name):
        ModelConfig.from_plain_values(plain_values)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("network", "imsize", 100),
        ("network", "imsize", "64"),
        ("network", "improved", 1),
        ("network", "max_network_depth", 0),
        ("network", "norm", "layer"),
        ("competition", "num_competitive_units", 0),
        ("competition", "num_competitive_units", True),
        ("competition", "feedback_weight", -1.0),
        ("competition", "feedback_weight", float("inf")),
        ("optimization", "lr", float("nan")),
        ("optimization", "lr", 0.0),
        ("optimization", "lr_steps", [50, 101]),
        ("optimization", "lr_steps", ["50"]),
        ("optimization", "training_steps", 0),
        ("optimization", "batch_size", 2.5),
        ("scoring", "anomaly_score", "unheard of"),
        (None, "seed", -1),
        (None, "seed", "5"),
        (None, "model", "unheard of"),
        (None, "recipe", "unheard of"),
    ],
)
def test_values_out_of_range_are_refused(
    plain_values: dict[str, Any], part: str | None, name: str, value: Any
) -> None:
    values = plain_values if part is None else plain_values[part]
    assert name in values
    values[name] = value
    with pytest.raises(ValueError, match=f"{flag(name)} takes "):
        ModelConfig.from_plain_values(plain_values)
