"""The balanced recipe: the control of the game, local contrast, statistics of normal images."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_of, inference, model_config, refuse, smooth_images
from outputs import read_table
from scipy.ndimage import gaussian_filter

from crn.checkpoints.model import load_model
from crn.checkpoints.reading import read_checkpoint
from crn.command_line import parse_options
from crn.config import SCORES, Competition, Network
from crn.methods import make_method
from crn.methods.contrast import LocalContrast
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_images
from datasets.samples import TRAIN, list_samples

SMALL = (
    "--model", "crn", "--precision", 32, "--imsize", 16, "--max-network-depth", 3,
    "--batch-size", 8, "--num-competitive-units", 2, "--width", 16, "--seed", 1,
)  # fmt: skip


config = partial(model_config, network=Network(imsize=8, max_network_depth=2))


def test_k_follows_the_game_and_stays_in_range():
    method = make_method(config(competition=Competition(3, balance=0.5)))
    losses = {"reconstruction": torch.tensor([0.8, 0.6]), "feedback": torch.tensor([0.1, 0.3])}
    method.remember((2, 0), losses)
    # Unit 2 has distorted the reconstruction of unit 0 by 0.3, unit 0 that of unit 2 by 0.1; half
    # of what they err themselves is 0.4 and 0.3, and k takes a hundredth of what is missing.
    assert method.k.tolist() == pytest.approx([0.002, 0, 0.001])
    method.remember((2, 0), {**losses, "feedback": torch.tensor([1.9, 1.9])})
    assert method.k.tolist() == [0, 0, 0]
    method.k.fill_(0.9999)
    method.remember((2, 0), losses)
    assert method.k.tolist() == pytest.approx([1, 0.9999, 1])
    assert method.logged(losses)["balance/k"].item() == pytest.approx(0.99997, abs=1e-5)


def test_k_is_the_weight_of_the_discriminator():
    torch.manual_seed(0)
    weights = Competition(3, reconstruction_weight=0, feedback_weight=0, balance=1.0)
    method = make_method(config(competition=weights))
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    assert method.training_losses(x, (0, 1))[0] == 0
    method.k.copy_(torch.tensor([0.5, 0.25, 0.9]))
    total, losses = method.training_losses(x, (0, 1))
    # Unit 1 has distorted what unit 0 made, and the other way round.
    minimised = -0.25 * losses["feedback"][0].item() - 0.5 * losses["feedback"][1].item()
    assert total.item() == pytest.approx(minimised)
    # What is logged of a step is what it minimised, though k has moved on since.
    method.remember((0, 1), losses)
    assert method.k[0] != 0.5
    assert method.logged(losses)["losses/discriminator"].item() == pytest.approx(minimised / 2)


def test_local_contrast_by_hand() -> None:
    contrast = LocalContrast(Network(imsize=32, local_contrast=10))
    x = smooth_images(2, 32, seed=3)
    z = contrast(x)
    mean = gaussian_filter(x.numpy(), (0, 0, 3.2, 3.2), mode="reflect")
    np.testing.assert_allclose(z, np.clip(2 * (x.numpy() - mean), -1, 1), atol=1e-5)
    # Another light makes no difference, and the networks' images come back as they were.
    torch.testing.assert_close(contrast(x + 0.3), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(contrast.as_images(z, x), x, atol=1e-5, rtol=0)
    plain = LocalContrast(Network(imsize=32))
    assert plain(x) is x
    assert plain.as_images(z, x) is z


def test_a_recipe_is_a_set_of_defaults_and_what_is_typed_wins() -> None:
    data = (*data_of("MVTec", "somewhere"), "--demo")
    published = parse_options(data).values()
    typed = parse_options([*data, "--pooling", "mean", "--recipe", "balanced"]).values()
    assert {typed["pooling"], published["pooling"], published["maps"]} == {"mean", "plain"}
    assert (typed["model"], typed["maps"], typed["imsize"]) == ("autoencoder", "combined", 32)
    crn = parse_options([*data, "--model", "crn", "--recipe", "balanced"]).values()
    assert (crn["model"], crn["maps"]) == ("crn", "combined")


def test_a_balanced_game_begins_without_discrimination_and_with_little_feedback() -> None:
    words = (*data_of("MVTec", "somewhere"), "--recipe", "balanced", "--seed", "1")
    small = ("--imsize", "8", "--width", "2", "--model", "crn")
    method = make_method(parse_options([*words, *small]).model_config())
    torch.manual_seed(0)
    total, losses = method.training_losses(torch.rand(2, 3, 8, 8) * 2 - 1, (3, 5))
    reconstruction, feedback = (losses[n].sum().item() for n in ("reconstruction", "feedback"))
    assert feedback > 0.1
    assert total.item() == pytest.approx(reconstruction + 0.3 * feedback)


@pytest.fixture
def trained(use, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A balanced training, and the last row of its metrics."""
    use(
        *SMALL, "--recipe", "balanced", "--training-steps", 60, "--lr", 1e-3,
        "--validation-interval", 30, "--checkpoint-path", "kept",
    )  # fmt: skip
    rows = read_table(tmp_path / "logged_metrics/version_0/metrics.csv")
    assert all(0 <= float(row["balance/k"]) <= 1 for row in rows if row["balance/k"])
    errors = [float(row[name]) for row in rows if row[(name := "losses/reconstruction")]]
    assert errors[-1] < 0.6 * errors[0]  # it learns
    return tmp_path / "kept/last.ckpt", rows[-1]


def test_the_recipe_detects_and_travels_with_the_checkpoint(
    use, trained, easy_set: Path, tmp_path: Path
) -> None:
    checkpoint, last = trained
    assert float(last["metrics/roc_auc"]) > 0.9
    score = ("--mode", "inference", "--model-input", checkpoint)
    use(*score, "--image-output-path", "out", "--save-maps")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (metrics["maps"]["kind"], metrics["maps"]["pooling"]) == ("combined", "top")
    assert metrics["model"]["pairs"] == "lowest"
    for name in SCORES:
        assert metrics["scores"][name]["auroc"] == pytest.approx(
            float(last[f"metrics/roc_auc_{name}"]), abs=1e-6
        )
    # Without the training images the same scores, by the statistics in the checkpoint.
    given = ("--threshold-from", "out/metrics.json", "--anomaly-score-file", "bad.csv")
    use(*score, *given, data=data_of("Folder", easy_set / "bad_ones"))
    whole = {
        row["file"].rpartition("/")[2]: row
        for row in read_table(tmp_path / "out/anomaly_scores.csv")
        if row["label"] == "1"
    }
    for row in read_table(tmp_path / "bad.csv"):
        expected, name = whole[row["file"].rpartition("/")[2]], "reconstruction"
        assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-5)
        assert row["decision"] == expected["decision"]


def test_going_on_keeps_the_recipe_and_measures_the_images_at_hand(
    use, run_main, trained, panorama, easy_set: Path, tmp_path: Path
) -> None:
    going_on = ("--model-input", trained[0], "--training-steps", 62)
    finished = run_main(*data_of("Panorama", easy_set), *going_on, "--recipe", "published")
    refuse(finished, "--recipe published contradicts")
    use(*going_on, "--checkpoint-path", "same")
    use(*going_on, "--checkpoint-path", "other", data=data_of("Panorama", panorama))
    before, same, other = (
        read_checkpoint(path)
        for path in (trained[0], tmp_path / "same/last.ckpt", tmp_path / "other/last.ckpt")
    )
    assert same.config.recipe == "balanced"
    assert same.content["state_dict"]["scorer.step"] == 62
    for name in ("scorer.patches.mean", "scorer.patches.whitening", "scorer.mean"):
        theirs, mine = (each.content["state_dict"][name] for each in (before, other))
        assert not torch.allclose(mine, theirs, rtol=0.01)


def test_statistics_are_of_all_pairs_and_of_images_held_out(trained, easy_set: Path) -> None:
    """By hand from the networks and the distances in the checkpoint."""
    model = load_model(trained[0], torch.device("cpu"))
    samples = [s for s in list_samples(LAYOUTS["Panorama"], easy_set) if s.split == TRAIN]
    x = normalize(read_images(samples, 16).pixels)
    sigma = model.config.scoring.map_smoothing / 100 * 16

    def smooth(maps: torch.Tensor) -> np.ndarray:
        return gaussian_filter(maps.double().numpy(), (0, sigma, sigma), mode="reflect")

    method, scorer = model.method, model.scorer
    with torch.no_grad():
        pairs = [m for _, m in method.anomaly_maps(method.contrast(x), [(0, 1), (1, 0)])]
    assert scorer.patches is not None
    assert model.held_out is not None
    known = [model.held_out.find(sample.identity()) for sample in samples]
    large = torch.nn.functional.interpolate(
        torch.stack([each for each in known if each is not None])[:, None], 16, mode="bilinear"
    )
    expected = [np.min([smooth(maps[name]) for maps in pairs], axis=0) for name in SCORES]
    for mean, each in zip(scorer.mean[0], [*expected, smooth(large[:, 0])], strict=True):
        np.testing.assert_allclose(mean, each.mean(0), rtol=1e-3, atol=1e-4)
    # To the fit itself they look far more normal.
    assert scorer.mean[0, 3].mean() > 1.1 * scorer.patches(x).mean()


def test_a_checkpoint_before_the_first_validation_scores_plain_maps_only(
    use, run_main, trained, easy_set: Path
) -> None:
    checkpoint, _ = trained
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["scorer.step"].fill_(-1)
    torch.save(content, checkpoint)
    words = ("--mode", "inference", "--model-input", checkpoint)
    finished = run_main(*data_of("Panorama", easy_set), *words)
    refuse(finished, f"{checkpoint}: is from before the first validation", "or give --maps plain")
    use(*words, "--maps", "plain")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pairs", "best"), "--pairs best: the statistics of normal images in"),
        (("--map-smoothing", 3), "--map-smoothing 3.0: the statistics of normal images in"),
        (("--pairs", "best", "--maps", "plain"), None),
        (("--maps", "centred"), None),
        (("--pooling", "top"), None),
    ],
)
def test_statistics_are_of_the_maps_that_they_were_made_with(
    run_main, use, trained, easy_set: Path, words: tuple, message: str | None
) -> None:
    score = ("--mode", "inference", "--model-input", trained[0], *words)
    if message:
        refuse(run_main(*data_of("Panorama", easy_set), *score), message)
    else:
        use(*score)


def test_standardised_maps_need_a_training_with_them(
    run_main, trained_models: dict[str, Path], read_only_panorama: Path
) -> None:
    words = inference(trained_models["crn"], "Panorama", read_only_panorama)
    finished = run_main(*words, "--maps", "standardised")
    refuse(finished, "statistics for that; train with --maps standardised")
