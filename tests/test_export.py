"""--mode export: the graph gives, without torch, what inference gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_of, refuse
from test_inference import write_model
from test_runs import read_table

from crn.checkpoints.model import load_model
from crn.config import SCORES
from datasets.layouts import LAYOUTS
from datasets.reader import normalize, read_images
from datasets.samples import list_samples

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

OUTPUTS = ["anomaly_map", "reconstruction", *(f"score_{name}" for name in SCORES)]


def run_graph(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["image"]
    assert [each.name for each in session.get_outputs()] == OUTPUTS
    return dict(zip(OUTPUTS, session.run(None, {"image": images}), strict=True))


def facts(path: Path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(path).metadata_props}


@pytest.mark.parametrize(
    ("model", "pairs", "more"),
    [
        ("crn", "best", ()),
        ("crn", "all", ("--norm", "instance", "--anomaly-score", "discrimination")),
        ("crn", "best", ("--improved", 0, "--norm", "none", "--num-competitive-units", 1)),
        ("dagan", "best", ("--use-dropout", 1, "--anomaly-score", "reconstruction")),
        ("crn", "all", ("--recipe", "balanced", "--anomaly-score", "residual", "--width", 8)),
        ("autoencoder", "best", ("--maps", "standardised", "--pooling", "top")),
    ],
)
def test_the_graph_scores_as_inference_does(
    run_main, read_only_panorama: Path, tmp_path: Path, model: str, pairs: str, more: tuple
) -> None:
    data = data_of("Panorama", read_only_panorama)
    trained = run_main(
        *data, "--model", model, "--demo", "--cpu", "--imsize", 16, "--max-network-depth", 3,
        "--training-steps", 4, "--seed", 1, "--pairs", pairs, "--checkpoint-path", "kept", *more,
    )  # fmt: skip
    assert trained.status == 0, trained.err
    score = more[more.index("--anomaly-score") + 1] if "--anomaly-score" in more else "residual"
    use = (
        "--model-input", "kept/last.ckpt", "--cpu", "--pairs", pairs, "--anomaly-score", score,
    )  # fmt: skip
    scored = run_main("--mode", "inference", *data, *use, "--image-output-path", "out")
    assert scored.status == 0, scored.err
    exported = run_main("--mode", "export", *use, "--export-path", "new/model.onnx")
    assert exported.status == 0, exported.err

    graph = tmp_path / "new/model.onnx"
    onnx.checker.check_model(graph, full_check=True)
    samples = list_samples(LAYOUTS["Panorama"], read_only_panorama)
    images = normalize(read_images(samples, 16).pixels)
    outputs = run_graph(graph, images.numpy())
    rows = read_table(tmp_path / "out/anomaly_scores.csv")
    # Images that patches were fitted to are scored otherwise by inference.
    new = [index for index, row in enumerate(rows) if row["split"] == "test"]
    for name in SCORES:
        expected = [float(rows[index][name]) for index in new]
        np.testing.assert_allclose(outputs[f"score_{name}"][new], expected, rtol=1e-4, atol=1e-4)
    loaded = load_model(tmp_path / "kept/last.ckpt", torch.device("cpu"), pairs=pairs)
    scored = loaded.score(images)
    np.testing.assert_allclose(outputs["anomaly_map"], scored.maps[score], atol=1e-4)
    np.testing.assert_allclose(outputs["reconstruction"], scored.reconstruction, atol=1e-4)
    # Of a batch of any size.
    for name, values in run_graph(graph, images[:1].numpy()).items():
        np.testing.assert_allclose(values, outputs[name][:1], atol=1e-4)
    metadata = facts(graph)
    assert metadata.items() >= {
        "method": model, "step": "4", "pairs": pairs, "anomaly_score": score, "image_size": "16",
        "checkpoint": "last.ckpt", "image_range": "-1 to 1",
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
        (("--export-path", "x.onnx"), "--mode export needs --model-input"),
        (("--model-input", "model.ckpt"), "--mode export needs --export-path"),
        (("--model-input", "none.ckpt", "--export-path", "x.onnx"), "none.ckpt: no such file"),
        (("--model-input", "data.ckpt", "--export-path", "x.onnx"), "data.ckpt"),
        (("--model-input", "model.ckpt", "--export-path", "folder"), "is a folder"),
        (
            ("--model-input", "model.ckpt", "--export-path", "x.onnx", "--imsize", "64"),
            "--imsize 64 contradicts model.ckpt",
        ),
        (
            ("--model-input", "model.ckpt", "--export-path", "x.onnx", "--dataset", "MVTec"),
            "--dataset works with --mode train or inference only",
        ),
    ],
)
def test_bad_input(run_main, tmp_path: Path, words: tuple[str, ...], mention: str) -> None:
    write_model(tmp_path / "model.ckpt", seed=1)
    (tmp_path / "data.ckpt").write_bytes(b"nothing")
    (tmp_path / "folder").mkdir()
    refuse(run_main("--mode", "export", *words), mention)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package(run_main, tmp_path: Path, monkeypatch, missing: str) -> None:
    model = write_model(tmp_path / "model.ckpt", seed=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else 1)
    finished = run_main("--mode", "export", "--model-input", model, "--export-path", "x.onnx")
    refuse(finished, f"needs the package {missing}: pip install -r requirements-export.txt")


def test_export_path_is_of_export_only(run_main, read_only_panorama: Path) -> None:
    finished = run_main(*data_of("Panorama", read_only_panorama), "--export-path", "x.onnx")
    refuse(finished, "--export-path works with --mode export only")
