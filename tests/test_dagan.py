"""The baseline DAGAN: its equations, written naively, and all that it shares with CRN."""

import json
from pathlib import Path

import pytest
import torch
from conftest import data_of, model_config, refuse
from outputs import assert_same_states, read_table

from crn.config import Adversarial, Network
from crn.methods import make_method

WEIGHTS = Adversarial(2.0, 30.0, 3.0)
SMALL = ("--model", "dagan", "--demo", "--cpu", "--max-network-depth", 2, "--seed", 3)


def mean_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - b) ** 2).mean()


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_one_pass_has_the_gradients_of_one_for_each_network(norm: str) -> None:
    torch.manual_seed(0)
    network = Network(imsize=16, norm=norm)
    config = model_config("dagan", network=network, adversarial=WEIGHTS)
    method = make_method(config).double()
    generator, discriminator = method.generator, method.discriminator
    x = torch.rand(4, 3, 16, 16, dtype=torch.double) * 2 - 1

    # Each network in turn, by losses that are written as in the paper.
    r = generator(x)
    l_con, l_adv = mean_square(x, r), mean_square(r, discriminator(r))
    l_g = 2.0 * l_adv + 30.0 * l_con
    expected = list(torch.autograd.grad(l_g, tuple(generator.parameters())))
    fake = r.detach()
    l_real, l_fake = mean_square(x, discriminator(x)), mean_square(fake, discriminator(fake))
    l_d = 3.0 * l_real - 2.0 * l_fake
    expected += torch.autograd.grad(l_d, tuple(discriminator.parameters()))

    total, losses = method.training_losses(x, method.trained_in(1, 0))
    total.backward()
    assert any(gradient.abs().max() > 1e-3 for gradient in expected)
    for parameter, naive in zip(method.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, naive, rtol=1e-9, atol=1e-12)
    expected = {
        "generator": l_g, "discriminator": l_d, "reconstruction": l_con, "feedback": l_adv,
        "discriminator_reconstruction": l_real,
    }  # fmt: skip
    logged = {name: value.item() for name, value in method.logged(losses).items()}
    assert logged == pytest.approx({f"losses/{n}": loss.item() for n, loss in expected.items()})


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_discriminator_has_no_way_around_its_code(depth: int) -> None:
    """What is made of the innermost level alone is all that it makes of an image."""
    torch.manual_seed(0)
    network = Network(imsize=32, max_network_depth=depth)
    method = make_method(model_config("dagan", network=network)).eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    for each, has_skips in ((method.discriminator, False), (method.generator, depth > 1)):
        # An image of which the code knows nothing.
        each.down[-1].register_forward_hook(lambda _, __, code: torch.zeros_like(code))
        y = each(x)
        assert y.shape == x.shape
        assert torch.equal(y[0], y[1]) is not has_skips


def test_scores_by_hand() -> None:
    x = torch.zeros(1, 3, 1, 2)
    r = torch.tensor([[[[0.3, 0.0]], [[0.0, 0.0]], [[0.0, 0.6]]]])
    given = []

    def discriminator(images: torch.Tensor) -> torch.Tensor:
        given.append(images)
        return torch.full_like(images, -0.4)

    method = make_method(model_config("dagan", network=Network(imsize=8)))
    del method.generator, method.discriminator
    method.generator, method.discriminator = lambda _: r, discriminator
    ((reconstruction, maps),) = method.anomaly_maps(x, method.pairs("best"))
    assert reconstruction is r
    assert given == [x]  # D is judged by real images, not by the generator's
    torch.testing.assert_close(maps["reconstruction"], torch.tensor([[[0.1, 0.2]]]))
    torch.testing.assert_close(maps["discrimination"], torch.tensor([[[0.4, 0.4]]]))
    torch.testing.assert_close(maps["residual"], torch.tensor([[[0.25, 0.3]]]))


@pytest.fixture
def train(run_main, read_only_mvtec_category: Path):
    """Train on a miniature category."""
    return lambda *words: run_main(*SMALL, *data_of("MVTec", read_only_mvtec_category), *words)


def test_from_training_to_the_report_and_back(
    train, run_main, read_only_mvtec_category: Path, tmp_path: Path
) -> None:
    more = ("--use-dropout", 1, "--validation-interval", 4, "--max-network-depth", 3)
    whole = train(*more, "--auto-set-name", "--training-steps", 12, "--checkpoint-path", "whole")
    assert whole.status == 0, whole.err
    assert "run: dagan-MVTec-widget-3" in whole.err
    assert "adversarial_loss_weight=1.0" in whole.err
    assert "num_competitive_units" not in whole.err
    rows = read_table(tmp_path / "logged_metrics/version_0/metrics.csv")
    losses = next(row for row in rows if row["losses/generator"])
    assert float(losses["losses/generator"]) == pytest.approx(
        40 * float(losses["losses/reconstruction"]) + float(losses["losses/feedback"]), rel=1e-5
    )
    assert not any(name.startswith("units/") for name in rows[0])
    report = (tmp_path / "logged_metrics/version_0/report.html").read_text()
    assert "--contextual-loss-weight" in report
    assert "--feedback-weight" not in report

    # Stopped and resumed, without the name of the model.
    assert train(*more, "--training-steps", 5, "--checkpoint-path", "parts").status == 0
    use = ("--cpu", *data_of("MVTec", read_only_mvtec_category), "--model-input", "parts/last.ckpt")
    length = ("--validation-interval", 4, "--training-steps", 12)
    resumed = run_main(*use, *length, "--checkpoint-path", "parts")
    assert resumed.status == 0, resumed.err
    assert_same_states(tmp_path / "whole/last.ckpt", tmp_path / "parts/last.ckpt")

    tables = []
    for pairs in ("best", "all"):
        words = ("--mode", "inference", "--image-output-path", pairs, "--pairs", pairs)
        scored = run_main(*use, *words)
        assert scored.status == 0, scored.err
        tables.append(read_table(tmp_path / pairs / "anomaly_scores.csv"))
    assert tables[0] == tables[1]  # there is only one pair
    for row in tables[0]:
        mean = (float(row["reconstruction"]) + float(row["discrimination"])) / 2
        assert float(row["residual"]) == pytest.approx(mean, rel=1e-5)
    metrics = json.loads((tmp_path / "best/metrics.json").read_text())
    assert metrics["model"]["method"] == "dagan"
    assert metrics["scores"]["residual"]["auroc"] == pytest.approx(
        float(rows[-1]["metrics/roc_auc"]), abs=1e-6
    )


@pytest.mark.parametrize(
    ("flag", "model", "typed"),
    [
        ("--num-competitive-units", "crn", "dagan"),
        ("--feedback-weight", "crn", "dagan"),
        ("--contextual-loss-weight", "dagan", "crn"),
    ],
)
def test_flags_of_the_other_model_are_refused(train, flag: str, model: str, typed: str) -> None:
    refuse(train("--model", typed, flag, 2), f"{flag} works with --model {model} only")


def test_a_checkpoint_says_which_model_it_is(train, run_main, read_only_mvtec_category) -> None:
    assert train("--training-steps", 1, "--checkpoint-path", "kept").status == 0
    data = data_of("MVTec", read_only_mvtec_category)
    common = ("--cpu", *data, "--model-input", "kept/last.ckpt")
    for words, mention in (
        (("--mode", "inference", "--model", "crn"), "--model crn contradicts kept/last.ckpt"),
        (("--model", "crn"), "--model crn contradicts kept/last.ckpt"),
        (("--reconstruction-weight", 1), "--reconstruction-weight works with --model crn only"),
        (("--mode", "inference", "--lr", 0.5), "--lr 0.5 contradicts kept/last.ckpt"),
    ):
        refuse(run_main(*common, *words), mention)
    more = run_main(*common, "--training-steps", 2, "--adversarial-loss-weight", 0.5)
    assert more.status == 0
    assert "adversarial_loss_weight=0.5" in more.err


def test_a_divergence_names_the_networks(train) -> None:
    finished = train("--lr", 1e30, "--norm", "none", "--training-steps", 20)
    refuse(finished, "generator and discriminator are not finite")
