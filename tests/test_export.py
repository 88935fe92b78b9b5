"""--mode export: the graph gives, without torch, what inference gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_of, refuse, write_model
from outputs import read_table

from crn.checkpoints.model import load_model
from crn.config import LITE0, SCORES
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_images
from datasets.samples import list_samples

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run_graph(path: Path, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == list(images)
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, images), strict=True))


@pytest.mark.parametrize(
    ("model", "pairs", "more"),
    [
        ("crn", "best", ()),
        ("crn", "all", ("--norm", "instance", "--anomaly-score", "discrimination")),
        ("crn", "best", ("--improved", 0, "--norm", "none", "--num-competitive-units", 1)),
        ("dagan", "best", ("--use-dropout", 1, "--anomaly-score", "reconstruction")),
        ("crn", "all", ("--recipe", "balanced", "--anomaly-score", "residual", "--width", 8)),
        ("autoencoder", "best", ("--maps", "standardised", "--pooling", "top")),
        ("crn", "lowest", ("--recipe", "pretrained", "--features-size", 64, "--width", 8)),
        ("features", "best", ("--features-size", 64)),
    ],
)
def test_the_graph_scores_as_inference_does(
    run_main, read_only_panorama: Path, tmp_path: Path, model: str, pairs: str, more: tuple
) -> None:
    if has_features := "--features-size" in more:
        pytest.importorskip("timm")
    score = more[more.index("--anomaly-score") + 1] if "--anomaly-score" in more else "residual"
    data, use = data_of("Panorama", read_only_panorama), ("--model-input", "kept/last.ckpt")
    how = ("--pairs", pairs, "--anomaly-score", score)
    for words in (
        (
            *data, "--model", model, "--demo", "--imsize", 16, "--max-network-depth", 3, *more,
            "--training-steps", 4, "--seed", 1, "--pairs", pairs, "--checkpoint-path", "kept",
        ),
        ("--mode", "inference", *data, *use, *how, "--image-output-path", "out"),
        ("--mode", "export", *use, *how, "--export-path", "new/model.onnx"),
    ):  # fmt: skip
        finished = run_main("--cpu", *words)
        assert finished.status == 0, finished.err

    graph = tmp_path / "new/model.onnx"
    onnx.checker.check_model(graph, full_check=True)
    sizes = {} if model == "features" else {"image": 16}
    sizes |= {"patch_image": 64} if has_features else {}
    samples = list_samples(LAYOUTS["Panorama"], read_only_panorama)
    images = {
        name: normalize(read_images(samples, size).pixels).numpy() for name, size in sizes.items()
    }
    outputs = run_graph(graph, images)
    assert list(outputs) == [
        "anomaly_map", *([] if model == "features" else ["reconstruction"]),
        "score_reconstruction", "score_residual", "score_discrimination",
    ]  # fmt: skip
    rows = read_table(tmp_path / "out/anomaly_scores.csv")
    # Images that patches were fitted to are scored otherwise by inference.
    new = [index for index, row in enumerate(rows) if row["split"] == "test"]
    for name in SCORES:
        expected = [float(rows[index][name]) for index in new]
        np.testing.assert_allclose(outputs[f"score_{name}"][new], expected, rtol=1e-4, atol=1e-4)
    if not has_features:
        loaded = load_model(tmp_path / "kept/last.ckpt", torch.device("cpu"), pairs=pairs)
        scored = loaded.score(torch.from_numpy(images["image"]))
        np.testing.assert_allclose(outputs["anomaly_map"], scored.maps[score], atol=1e-4)
        np.testing.assert_allclose(outputs["reconstruction"], scored.reconstruction, atol=1e-4)
    # Of a batch of any size.
    for name, values in run_graph(graph, {n: each[:1] for n, each in images.items()}).items():
        np.testing.assert_allclose(values, outputs[name][:1], atol=1e-4)
    metadata = {each.key: each.value for each in onnx.load(graph).metadata_props}
    assert metadata.items() >= {
        "method": model, "step": "0" if model == "features" else "4", "pairs": pairs,
        "anomaly_score": score, "checkpoint": "last.ckpt", "image_range": "-1 to 1",
        **{f"{name}_size": str(size) for name, size in sizes.items()},
        **({"features": LITE0} if has_features else {}),
    }.items()  # fmt: skip
    assert f'"weights": "{metadata["weights"]}"' in (tmp_path / "out/metrics.json").read_text()


def test_what_was_there_is_renamed(run_main, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.ckpt", seed=1)
    (tmp_path / "model.onnx").write_text("something else")
    words = ("--mode", "export", "--model-input", model, "--export-path", "model.onnx")
    assert run_main(*words).status == 0
    assert (tmp_path / "model-v1.onnx").read_text() == "something else"
    onnx.checker.check_model(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        ("--export-path x.onnx", "--mode export needs --model-input"),
        ("--model-input model.ckpt", "--mode export needs --export-path"),
        ("--model-input none.ckpt --export-path x.onnx", "none.ckpt: no such file"),
        ("--model-input data.ckpt --export-path x.onnx", "data.ckpt"),
        ("--model-input model.ckpt --export-path folder", "is a folder"),
        ("--model-input model.ckpt --export-path x.onnx --imsize 64", "contradicts model.ckpt"),
        ("--model-input model.ckpt --export-path x.onnx --dataset MVTec", "--dataset works with"),
        ("--mode train --export-path x.onnx", "--export-path works with --mode export only"),
    ],
)
def test_bad_input(run_main, tmp_path: Path, words: str, mention: str) -> None:
    write_model(tmp_path / "model.ckpt", seed=1)
    (tmp_path / "data.ckpt").write_bytes(b"nothing")
    (tmp_path / "folder").mkdir()
    refuse(run_main("--mode", "export", *words.split()), mention)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package(run_main, tmp_path: Path, monkeypatch, missing: str) -> None:
    model = write_model(tmp_path / "model.ckpt", seed=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else 1)
    finished = run_main("--mode", "export", "--model-input", model, "--export-path", "x.onnx")
    refuse(finished, f"needs the package {missing}: pip install -r requirements-export.txt")
