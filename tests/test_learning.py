"""That the networks learn what they are trained to, and are scored as they were trained."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_of, model_config, smooth_images
from torch.nn.functional import l1_loss

from benchmarks.naive import NaiveStep
from benchmarks.step import make_model, train_steps
from crn.checkpoints.reading import read_checkpoint
from crn.config import Competition, Network, Optimization
from crn.methods import make_method
from crn.methods.encoder_decoder import IMAGES, RECONSTRUCTIONS
from crn.training.optimizers import learning_rate, make_optimizer

STEPS = 10


@pytest.mark.parametrize(("imsize", "batch_size"), [(8, 4), (16, 1)])
def test_a_training_is_that_of_the_plain_step(imsize, batch_size):
    # In float64: Adam divides gradients by their size, and so makes rounding grow from step to
    # step; in float32 it reaches a few thousandths here, whatever computes the same function.
    model = make_model(imsize, batch_size, units=2).double()
    naive = NaiveStep(model.config, model.method.units)
    torch.manual_seed(1)
    batches = torch.rand(STEPS, batch_size, 3, imsize, imsize, dtype=torch.double) * 2 - 1
    for step, (x, mine) in enumerate(zip(batches, train_steps(model, batches), strict=True)):
        plain = naive(x, *model.method.trained_in(model.config.seed, step))
        for name in ("reconstruction", "feedback"):
            assert mine[name] == pytest.approx(plain[name], rel=1e-6)


def test_bfloat16_reaches_the_same_losses():
    model = make_model(8, 4, units=2)
    naive = NaiveStep(model.config, model.method.units)
    torch.manual_seed(1)
    batches = torch.rand(STEPS, 4, 3, 8, 8) * 2 - 1
    mine = [losses["feedback"] for losses in train_steps(model, batches, bf16=True)]
    plain = [naive(x, 0, 1)["feedback"] for x in batches]
    assert np.mean(mine) == pytest.approx(np.mean(plain), rel=0.02)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("crn", ("step", "--lr-factor", 0.5, "--lr-steps", 25, 75)),
        ("dagan", ("exponential", "--lr-factor", 0.2)),
        ("autoencoder", ("cosine",)),
    ],
)
def test_optimizers_use_the_learning_rate_of_the_scheduler(
    run_main, read_only_panorama: Path, tmp_path: Path, model: str, words: tuple
) -> None:
    finished = run_main(
        "--cpu", "--imsize", 8, "--max-network-depth", 1, "--batch-size", 2, "--model", model,
        "--training-steps", 8, "--lr", 0.01, "--lr-scheduler", *words,
        *data_of("Panorama", read_only_panorama), "--checkpoint-path", "kept",
        *(("--num-competitive-units", 2) if model == "crn" else ()),
    )  # fmt: skip
    assert finished.status == 0, finished.err
    checkpoint = read_checkpoint(tmp_path / "kept/last.ckpt")
    last = learning_rate(checkpoint.config.optimization, 7)  # of eight steps, counted from 0
    assert last != 0.01
    for state in checkpoint.content["optimizer_states"]:
        assert [group["lr"] for group in state["param_groups"]] == [pytest.approx(last)]


@pytest.mark.parametrize(
    ("optimizer", "first", "second"),
    [
        # The means of gradients and of their squares are 0.5 and 0.25: both steps are lr long.
        ("adam", 0.9, 0.8),
        # Before each, 1 % of lr decays: 0.999 - 0.1, and 0.999 * 0.899 - 0.1.
        ("adamw", 0.899, 0.798101),
        # Nesterov's steps: lr (1 + 0.0565), and lr (0.6896 + 0.0941); see Dozat 2016.
        ("nadam", 0.894355, 0.815987),
        # For so few gradients the variance does not count: lr times their mean.
        ("radam", 0.95, 0.9),
        # lr / 0.1, then 0.9 of it and lr / sqrt(0.0199).
        ("rmsprop", 0.0, -1.60888),
        # lr times 0.5, then times 0.9 * 0.5 + 0.5.
        ("sgd", 0.95, 0.855),
    ],
)
def test_two_steps_of_each_optimizer_by_hand(optimizer: str, first: float, second: float) -> None:
    """From 1 with gradients of 0.5, a learning rate of 0.1 and, where there is one, a momentum."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    made = make_optimizer(Optimization(optimizer=optimizer, lr=0.1), [weight])
    for expected in (first, second):
        weight.grad = torch.tensor([0.5])
        made.step()
        assert weight.item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("model", ["crn", "dagan"])
def test_evaluation_agrees_with_training_in_both_roles(model: str, norm: str) -> None:
    torch.manual_seed(0)
    network = Network(imsize=16, max_network_depth=3, norm=norm)
    # Two units, so that each has been trained in every step.
    competition = Competition(2, discrimination_weight=0.2)
    method = make_method(model_config(model, network=network, competition=competition))
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-4)
    images = smooth_images(16, 16, seed=0)
    for step in range(90):
        # Statistics follow the weights: in the end these rest.
        for group in optimizer.param_groups:
            group["lr"] = 2e-4 if step < 40 else 0.0
        optimizer.zero_grad()
        method.training_losses(images, method.trained_in(1, step))[0].backward()
        optimizer.step()

    generator, discriminator = (
        (method.units[0], method.units[1])
        if model == "crn"
        else (method.generator, method.discriminator)
    )
    as_trained = copy.deepcopy((generator, discriminator))
    method.eval()
    with torch.no_grad():
        r = generator(images)
        played = [(0, images, IMAGES), (1, r, RECONSTRUCTIONS)]
        for index, x, given in [*played, *([(1, images, IMAGES)] if model == "dagan" else [])]:
            mine, expected = (
                l1_loss(networks[index](x, given), x).item()
                for networks in ((generator, discriminator), as_trained)
            )
            assert mine == pytest.approx(expected, rel=0.03)
        if norm == "batch":
            # The two kinds of input do differ: one set of statistics would fit neither.
            assert l1_loss(discriminator(r), discriminator(r, RECONSTRUCTIONS)).item() > 0.005
