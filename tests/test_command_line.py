"""The command line: every promised option, its default, how it is typed, and what it costs."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crn.command_line import parse_options, uses_demo_sample
from crn.config import ModelConfig, Options
from crn.errors import UserError

DATA = ("--dataset", "MVTec", "--dataset-path", "somewhere")

UNSAID = object()  # the program may choose this default

# Flag, its default, and what can be typed instead with the value that comes of it.
OPTIONS: list[tuple[str, Any, str, Any]] = [
    ("--model", "crn", "crn", "crn"),
    ("--training-steps", 20000, "7", 7),
    ("--epochs", None, "3", 3),
    ("--batch-size", 64, "16", 16),
    ("--num-competitive-units", 12, "5", 5),
    ("--num-workers", 0, "4", 4),
    ("--imsize", 128, "64", 64),
    ("--max-network-depth", 8, "5", 5),
    ("--improved", True, "0", False),
    ("--use-dropout", False, "1", True),
    ("--norm", "batch", "instance", "instance"),
    ("--reconstruction-weight", 0.5, "0.25", 0.25),
    ("--feedback-weight", 1.0, "2", 2.0),
    ("--discrimination-weight", 2.0, "1.5", 1.5),
    ("--optimizer", "adam", "rmsprop", "rmsprop"),
    ("--lr", 1e-4, "3e-5", 3e-5),
    ("--lr-scheduler", "", "cosine", "cosine"),
    ("--lr-factor", 0.1, "0.5", 0.5),
    ("--lr-steps", [30, 60, 90], "50", [50]),
    ("--momentum", 0.9, "0.8", 0.8),
    ("--checkpoint-path", None, "checkpoints", "checkpoints"),
    ("--image-output-path", None, "pictures", "pictures"),
    ("--anomaly-score", "residual", "discrimination", "discrimination"),
    ("--log-dir", "logged_metrics", "logs", "logs"),
    ("--log-file", None, "log.txt", "log.txt"),
    ("--log-level", UNSAID, "debug", "debug"),
    ("--wandb", False, "1", True),
    ("--experiment", None, "sweep", "sweep"),
    ("--auto-set-name", False, "1", True),
    ("--seed", None, "41020", 41020),
    ("--demo", False, "1", True),
    ("--cpu", False, "1", True),
    ("--devices", 1, "2", 2),
    ("--num-nodes", 1, "3", 3),
]
# These need another one beside them.
DEPENDENT_OPTIONS = ("--image-output-interval", "--save-maps")
INFERENCE_OPTIONS: list[tuple[str, Any, str, Any]] = [
    ("--anomaly-score-file", None, "scores.csv", "scores.csv"),
    ("--pairs", "best", "all", "all"),
    ("--threshold-quantile", 0.99, "0.5", 0.5),
    ("--threshold-from", None, "metrics.json", "metrics.json"),
    ("--map-smoothing", 1.8, "0", 0.0),
]
NEEDED_OPTIONS = ("--mode", "--dataset", "--dataset-path", "--model-input")

# Those of the above whose help states the default.
STATED_DEFAULTS = {
    "--mode": "train",
    "--model": "crn",
    "--training-steps": "20000",
    "--batch-size": "64",
    "--num-competitive-units": "12",
    "--num-workers": "0",
    "--imsize": "128",
    "--max-network-depth": "8",
    "--improved": "1",
    "--use-dropout": "0",
    "--norm": "batch",
    "--reconstruction-weight": "0.5",
    "--feedback-weight": "1.0",
    "--discrimination-weight": "2.0",
    "--optimizer": "adam",
    "--lr": "0.0001",
    "--lr-factor": "0.1",
    "--lr-steps": "30 60 90",
    "--momentum": "0.9",
    "--anomaly-score": "residual",
    "--pairs": "best",
    "--threshold-quantile": "0.99",
    "--map-smoothing": "1.8",
    "--log-dir": "logged_metrics",
    "--devices": "1",
    "--num-nodes": "1",
}

CHOICES = {
    "--model": ("crn",),
    "--dataset": ("MVTec", "Panorama", "RoadImages"),
    "--norm": ("batch", "instance", "none"),
    "--optimizer": ("adam", "adamw", "radam", "nadam", "rmsprop", "sgd"),
    "--lr-scheduler": ("step", "exponential", "cosine", ""),
    "--anomaly-score": ("reconstruction", "residual", "discrimination"),
}


def parse(*words: str) -> dict[str, Any]:
    """Option name to plain value, for a training with a data set."""
    return parse_options([*DATA, *words]).flat()


def name_of(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Path:
    """A file where a checkpoint should be; parsing does not open it."""
    path = tmp_path / "model.ckpt"
    path.touch()
    return path


@pytest.fixture
def parse_inference(checkpoint_file: Path):
    def parse(*words: str) -> dict[str, Any]:
        needed = ("--mode", "inference", "--model-input", str(checkpoint_file))
        return parse_options([*DATA, *needed, *words]).flat()

    return parse


# --- every option ---


@pytest.mark.parametrize(
    ("flag", "default"),
    [(flag, default) for flag, default, *_ in OPTIONS + INFERENCE_OPTIONS if default is not UNSAID],
)
def test_default(flag: str, default: Any) -> None:
    value = parse()[name_of(flag)]
    assert value == default
    assert type(value) is type(default)


def test_training_is_the_default_mode() -> None:
    assert parse()["mode"] == "train"


@pytest.mark.parametrize(("flag", "_default", "word", "expected"), OPTIONS)
def test_typed_value(
    flag: str, _default: Any, word: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for words in ((flag, word), (f"{flag}={word}",)):
        value = parse(*words)[name_of(flag)]
        assert value == expected
        assert type(value) is type(expected)


@pytest.mark.parametrize(("flag", "_default", "word", "expected"), INFERENCE_OPTIONS)
def test_typed_value_in_inference(
    flag: str, _default: Any, word: str, expected: Any, parse_inference
) -> None:
    assert parse_inference(flag, word)[name_of(flag)] == expected


def test_image_output_interval() -> None:
    values = parse("--image-output-path", "pictures", "--image-output-interval", "25")
    assert values["image_output_interval"] == 25


def test_save_maps(parse_inference) -> None:
    assert parse_inference("--image-output-path", "pictures", "--save-maps")["save_maps"] is True


def test_a_folder_without_labels_is_for_inference(parse_inference) -> None:
    assert parse_inference("--dataset", "Folder")["dataset"] == "Folder"


def test_model_input_is_for_training_too(checkpoint_file: Path) -> None:
    assert parse("--model-input", str(checkpoint_file))["model_input"] == str(checkpoint_file)


@pytest.mark.parametrize(
    ("flag", "choice"), [(flag, choice) for flag, choices in CHOICES.items() for choice in choices]
)
def test_choice(flag: str, choice: str) -> None:
    assert parse(flag, choice)[name_of(flag)] == choice


@pytest.mark.parametrize("flag", CHOICES)
def test_other_choices_are_refused(flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag} .*nonsense"):
        parse(flag, "nonsense")


@pytest.mark.parametrize("score", ["residual", "discrimination"])
def test_scores_and_pairs_in_inference(score: str, parse_inference) -> None:
    values = parse_inference("--anomaly-score", score, "--pairs", "all", "--batch-size", "3")
    assert (values["mode"], values["anomaly_score"], values["pairs"]) == ("inference", score, "all")


# --- how values are typed ---


@pytest.mark.parametrize("flag", ["--improved", "--use-dropout", "--cpu", "--demo"])
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("1", True),
        ("0", False),
        ("true", True),
        ("false", False),
        ("True", True),
        ("False", False),
    ],
)
def test_boolean(flag: str, word: str, expected: bool) -> None:
    assert parse(flag, word)[name_of(flag)] is expected
    assert parse(f"{flag}={word}")[name_of(flag)] is expected


@pytest.mark.parametrize("flag", ["--improved", "--use-dropout", "--cpu", "--demo"])
def test_bare_boolean(flag: str) -> None:
    assert parse(flag)[name_of(flag)] is True
    assert parse(flag, "--lr", "0.5")[name_of(flag)] is True


@pytest.mark.parametrize("word", ["2", "yes", "", "-1"])
def test_other_words_are_no_booleans(word: str) -> None:
    with pytest.raises(UserError, match="--use-dropout"):
        parse(f"--use-dropout={word}")


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


@pytest.mark.parametrize("word", ["--batch", "--training", "--num-c", "--model-in"])
def test_abbreviations_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=word):
        parse(word, "5")


def test_what_was_typed_is_remembered() -> None:
    options = parse_options([*DATA, "--batch-size", "64", "--cpu"])
    assert options.given == {"dataset", "dataset_path", "batch_size", "cpu"}


# --- the demo ---


def test_demo_profile() -> None:
    values = parse("--demo")
    small = {
        "batch_size": 2,
        "imsize": 32,
        "num_competitive_units": 3,
        "max_network_depth": 3,
        "training_steps": 50,
    }
    assert {name: values[name] for name in small} == small
    unlike = {name for name, value in parse().items() if values[name] != value}
    assert unlike == {*small, "demo"}


def test_demo_0_is_no_demo() -> None:
    assert parse("--demo", "0") == parse()


@pytest.mark.parametrize(
    ("flag", "word", "expected"),
    [
        ("--batch-size", "8", 8),
        ("--imsize", "64", 64),
        ("--num-competitive-units", "12", 12),
        ("--training-steps", "20", 20),
        ("--training-steps", "20000", 50),
        ("--max-network-depth", "2", 2),
        ("--max-network-depth", "8", 3),
    ],
)
def test_demo_with_another_flag(flag: str, word: str, expected: int) -> None:
    assert parse("--demo", flag, word)[name_of(flag)] == expected
    assert parse(flag, word, "--demo")[name_of(flag)] == expected


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


def test_the_demo_runs_without_a_data_set(run_main, tmp_path: Path) -> None:
    small = ("--max-network-depth", "1", "--num-competitive-units", "1", "--training-steps", "1")
    result = run_main("--demo", "--cpu", *small)
    assert result.status == 0
    assert len(list(tmp_path.rglob("height_files/*.png"))) == 84
    assert (tmp_path / "logged_metrics/version_0/metrics.csv").is_file()


def test_typed_training_steps_stand_against_the_epochs_of_a_checkpoint(
    run_main, read_only_road_images: Path, tmp_path: Path
) -> None:
    common = ("--demo", "--cpu", "--dataset", "RoadImages", "--dataset-path", read_only_road_images)
    small = ("--max-network-depth", "1", "--num-competitive-units", "2")
    stored = tmp_path / "checkpoints"
    first = run_main(*common, *small, "--epochs", "1", "--checkpoint-path", stored)
    assert "step 2/2" in first.err  # 4 training images make 2 batches of 2
    resumed = run_main(*common, "--model-input", stored / "last.ckpt", "--training-steps", "5")
    assert resumed.status == 0
    assert "step 5/5" in resumed.err


# --- help, and what is imported ---


def imported_modules(import_times: str) -> set[str]:
    """The top-level packages in the output of ``python -X importtime``."""
    names = re.findall(r"^import time:.*\|\s*(\S+)$", import_times, re.MULTILINE)
    return {name.partition(".")[0] for name in names}


def test_help_names_every_flag_with_its_default_and_loads_nothing_heavy(
    run_train, tmp_path: Path
) -> None:
    result = run_train("--help", cwd=tmp_path, COLUMNS="1000", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    entries = dict(re.findall(r"^  (--[a-z-]+)(.*(?:\n {3,}.*)*)", result.stdout, re.MULTILINE))
    promised = [flag for flag, *_ in OPTIONS + INFERENCE_OPTIONS]
    assert {*promised, *DEPENDENT_OPTIONS, *NEEDED_OPTIONS} <= entries.keys()
    stated = {
        flag: match[1]
        for flag, entry in entries.items()
        if (match := re.search(r"\(default: (.*?)\)", entry)) and flag in STATED_DEFAULTS
    }
    assert stated == STATED_DEFAULTS
    modules = imported_modules(result.stderr)
    assert {"argparse", "crn"} <= modules
    assert not {"torch", "pytorch_lightning", "torchvision", "sklearn", "wandb"} & modules
    assert list(tmp_path.iterdir()) == []


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


def options_of(*words: str) -> Options:
    return parse_options([*DATA, "--seed", "5", *words])


@pytest.fixture
def plain_values() -> dict[str, Any]:
    return options_of().model_config().as_plain_values()


def test_model_config_survives_as_plain_values() -> None:
    typed = ("--imsize", "64", "--improved", "0", "--norm", "none", "--lr", "3e-5", "--lr-steps")
    config = options_of(*typed, "10", "20", "--anomaly-score", "discrimination").model_config()
    assert (config.network.imsize, config.seed, config.optimization.lr_steps) == (64, 5, (10, 20))
    values = config.as_plain_values()
    # JSON knows nothing but plain values.
    assert ModelConfig.from_plain_values(json.loads(json.dumps(values))) == config
    other = replace(config, seed=6)
    assert ModelConfig.from_plain_values(other.as_plain_values()) != config


def test_reading_plain_values_does_not_change_them(plain_values: dict[str, Any]) -> None:
    before = json.dumps(plain_values)
    ModelConfig.from_plain_values(plain_values)
    assert json.dumps(plain_values) == before


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
    ],
)
def test_values_out_of_range_are_refused(
    plain_values: dict[str, Any], part: str, name: str, value: Any
) -> None:
    assert name in plain_values[part]
    plain_values[part][name] = value
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} takes "):
        ModelConfig.from_plain_values(plain_values)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", "5"), ("model", "unheard of"), ("anomaly_score", "unheard of")],
)
def test_other_values_out_of_range_are_refused(
    plain_values: dict[str, Any], name: str, value: Any
) -> None:
    assert name in plain_values
    plain_values[name] = value
    with pytest.raises((TypeError, ValueError), match=name.replace("_", "[-_]")):
        ModelConfig.from_plain_values(plain_values)
