"""Checkpoints of the version before, whose parts have other names, score and are gone on from.

They are made of new ones: what belongs to maps was part of the method, there was room for patches
whatever the maps, nothing was known of images held out, and no features were pretrained.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import data_of
from outputs import assert_same_states, read_table

SMALL = (
    "--recipe", "balanced", "--model", "crn", "--precision", 32, "--imsize", 16,
    "--max-network-depth", 2, "--batch-size", 8, "--num-competitive-units", 2, "--width", 4,
    "--seed", 1, "--training-steps", 2,
)  # fmt: skip
TOO_LOW = "so that thresholds are too low: train again"


def earlier(path: Path) -> Path:
    """What the version before would have written in place of a checkpoint."""
    content = torch.load(path, weights_only=True)
    state: dict[str, torch.Tensor] = {}
    for name, value in content["state_dict"].items():
        name = name.replace("scorer.patches.", "method.patches.")
        if name in ("scorer.mean", "scorer.deviation") and value.shape[1] == 3:
            value = torch.cat([value, torch.full((2, 1, 16, 16), 0.7)], 1)
        state[name.replace("scorer.", "method.map_scorer.")] = value
    # Of plain and centred maps they were there, and had been fitted to nothing.
    state.setdefault("method.patches.count", torch.tensor(0))
    state.setdefault("method.patches.mean", torch.zeros(64, 1, 48))
    state.setdefault("method.patches.whitening", torch.zeros(64, 48, 48))
    del content["hyper_parameters"]["pretrained"]
    content.pop("held_out", None)
    old = path.with_name("old.ckpt")
    torch.save({**content, "state_dict": state, "format": 4}, old)
    return old


@pytest.fixture
def use(run_main, easy_set: Path) -> Callable[..., str]:
    """Run the program on `easy_set`, expect that it succeeds, and return what it logged."""

    def run(*words: object) -> str:
        finished = run_main("--cpu", *data_of("Panorama", easy_set), *words)
        assert finished.status == 0, finished.err
        return finished.err

    return run


@pytest.mark.parametrize("maps", ["plain", "centred", "combined"])
def test_it_scores_as_a_new_one_and_is_gone_on_from(use, tmp_path: Path, maps: str) -> None:
    use(*SMALL, "--maps", maps, "--checkpoint-path", "kept")
    new = tmp_path / "kept/last.ckpt"
    old = earlier(new)

    def scores(checkpoint: Path) -> tuple[list[dict[str, Any]], str]:
        name = f"{checkpoint.stem}.csv"
        words = ("--model-input", checkpoint, "--anomaly-score-file", name)
        said = use("--mode", "inference", *words)
        return read_table(tmp_path / name), said

    (expected, silent), (found, said) = scores(new), scores(old)
    # What the patches were fitted to looks more normal than it is, and thresholds are of that.
    is_too_low = maps == "combined"
    assert TOO_LOW not in silent
    assert (TOO_LOW in said) == is_too_low
    assert [row["file"] for row in found] == [row["file"] for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        for name in ("reconstruction", "residual", "discrimination"):
            if theirs["split"] == "test" or not is_too_low:
                assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-5, abs=1e-6)
    limits = [float(rows[0]["threshold"]) for rows in (found, expected)]
    assert (limits[0] < limits[1]) == is_too_low

    for checkpoint in (new, old):
        words = ("--model-input", checkpoint, "--training-steps", 4)
        assert "resuming" in use(*words, "--checkpoint-path", f"from_{checkpoint.stem}")
    assert_same_states(tmp_path / "from_last/last.ckpt", tmp_path / "from_old/last.ckpt")
    content = torch.load(tmp_path / "from_old/last.ckpt", weights_only=True)
    assert "pretrained" in content["hyper_parameters"]
    assert ("held_out" in content) == is_too_low
