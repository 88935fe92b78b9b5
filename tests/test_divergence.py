"""Losses, weights or scores that are not finite: the training stops, and its last good state stays.

They are made so at a known step, so that there is a training to compare with.
"""

import pytest
import torch
from conftest import model_config
from outputs import assert_same_states, read_table, states, step_of

from crn.config import Competition, Network
from crn.errors import Diverged, UserError
from crn.methods.competition import CompetitiveReconstructionNetworks
from crn.system.hardware import is_finite
from crn.training import callbacks, reporting
from crn.training.module import TrainingModule

BROKEN = 5

WORDS = (
    "--cpu", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
    "--batch-size", 2, "--seed", 1, "--validation-interval", 3, "--training-steps", 9,
    "--dataset", "RoadImages",
)  # fmt: skip


@pytest.fixture
def train(run_main, read_only_road_images):
    """Train nine steps into a folder, with a validation at every third."""
    return lambda folder, *more: run_main(
        *WORDS, "--dataset-path", read_only_road_images, "--checkpoint-path", folder, *more
    )


@pytest.fixture
def every_step(monkeypatch) -> None:
    """Write last.ckpt at every step."""
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_CHECKPOINTS", 0)


def assert_diverged(finished, step: int, what: str) -> None:
    assert finished.status == 2
    *_, last = finished.err.splitlines()
    assert last == (
        f"train.py: error: step {step}: {what} are not finite: the training has diverged; train "
        "with a smaller --lr than 0.0001"
    )


def break_losses(monkeypatch) -> None:
    real = CompetitiveReconstructionNetworks.training_losses
    calls = []

    def broken(self, *arguments):
        total, losses = real(self, *arguments)
        calls.append(total)
        return (total * torch.nan if len(calls) == BROKEN + 1 else total), losses

    monkeypatch.setattr(CompetitiveReconstructionNetworks, "training_losses", broken)


def test_losses(train, monkeypatch, tmp_path):
    # At 64 pixels a network is deep enough for levels that have dropout.
    shape = ("--imsize", 64, "--max-network-depth", 8, "--width", 2, "--use-dropout", 1)
    assert train("whole", *shape).status == 0
    break_losses(monkeypatch)
    assert_diverged(train("kept", *shape), BROKEN + 1, "the losses of units 0 and 1")
    assert step_of(tmp_path / "kept/last.ckpt") == BROKEN
    assert all(tensor.isfinite().all() for tensor in states(tmp_path / "kept/last.ckpt").values())
    assert step_of(tmp_path / "kept/best.ckpt") == 3
    # Where what broken them is gone, the training goes on from there as if it had never been.
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    going_on = (*shape, "--model-input", "kept/last.ckpt")
    assert train("kept", *going_on).status == 0
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_states(tmp_path / "kept" / name, tmp_path / "whole" / name)
    assert train("kept", *going_on, "--lr", 1e-6, "--training-steps", 12).status == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 77, -1])
def test_one_number_that_is_not_finite(value, place):
    numbers = torch.randn(5, 1000)
    assert is_finite(numbers)
    numbers.view(-1)[place] = value
    assert not is_finite(numbers)
    assert is_finite(torch.tensor(7))


def test_losses_with_an_earlier_checkpoint_and_a_report_that_cannot_be_written(
    train, every_step, monkeypatch, tmp_path
):
    def refuse(*_) -> None:
        raise UserError("report.html: cannot be written")

    break_losses(monkeypatch)
    monkeypatch.setattr(reporting, "write_training_report", refuse)
    finished = train("kept")
    assert_diverged(finished, BROKEN + 1, "the losses of units 0 and 1")
    assert "report.html: cannot be written\n" in finished.err
    assert {path.name: step_of(path) for path in (tmp_path / "kept").iterdir()} == {
        "best.ckpt": 3, "last.ckpt": BROKEN, "last-v1.ckpt": BROKEN,
    }  # fmt: skip


def moments(model: TrainingModule) -> dict[str, torch.Tensor]:
    return next(iter(model.trainer.optimizers[0].state.values()))


@pytest.mark.parametrize(
    "breaks",
    [
        # The losses of the step are finite, its gradients are not.
        lambda model: next(model.method.units[1].parameters()).data[0, 0, 0, 0].fill_(torch.nan),
        # The square of a large gradient is not finite, though the weight that it moves is.
        lambda model: moments(model)["exp_avg_sq"].fill_(torch.inf),
    ],
)
def test_weights_and_moments(train, every_step, monkeypatch, tmp_path, breaks):
    training_step = TrainingModule.training_step

    def broken(self, *arguments):
        training_step(self, *arguments)
        if self.step == BROKEN:
            breaks(self)

    monkeypatch.setattr(TrainingModule, "training_step", broken)
    assert_diverged(train("kept"), BROKEN, "the weights")
    assert step_of(tmp_path / "kept/last.ckpt") == BROKEN - 1
    assert step_of(tmp_path / "kept/best.ckpt") == 3


def test_scores(train, every_step, monkeypatch, tmp_path):
    """A state whose scores are not finite is not saved, even if its weights are finite."""
    validation_step = TrainingModule.validation_step

    def broken(self, *arguments):
        validation_step(self, *arguments)
        if self.step == 6:
            self._scored[-1][0]["residual"][0] = torch.nan

    monkeypatch.setattr(TrainingModule, "validation_step", broken)
    assert_diverged(train("kept"), 6, "the anomaly scores")
    # That of step 6 would have been written before step 7.
    steps = {path.name: step_of(path) for path in (tmp_path / "kept").iterdir()}
    assert steps == {"best.ckpt": 3, "last.ckpt": 5}
    (table,) = tmp_path.glob("logged_metrics/*/metrics.csv")
    assert [row["step"] for row in read_table(table)] == ["3"]
    monkeypatch.setattr(TrainingModule, "validation_step", validation_step)
    assert train("kept", "--model-input", "kept/last.ckpt").status == 0


def test_a_real_divergence_leaves_no_bad_checkpoint(train, tmp_path):
    finished = train("kept", "--lr", 1e30, "--validation-interval", 1)
    assert finished.status == 2
    assert "train with a smaller --lr than 1e+30" in finished.err.splitlines()[-1]
    for path in (tmp_path / "kept").iterdir():
        assert all(tensor.isfinite().all() for tensor in states(path).values())


def test_the_units_that_diverged_are_named():
    """On a GPU it is seen some steps later, when other units play."""
    model = TrainingModule(model_config(network=Network(imsize=8), competition=Competition(4)))
    model.method.reconstruction_loss[2] = torch.nan
    with pytest.raises(Diverged, match="the losses of units 2 are not finite"):
        model._refuse_divergence(torch.tensor(torch.inf), (0, 1), lambda: None)
