"""Inference in this process, with networks too small to know anything: what is written and how."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from codecs import BOM_UTF8
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    REPOSITORY,
    data_of,
    inference,
    refuse,
    texture,
    write_image,
    write_model,
)
from outputs import read_table
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from crn.checkpoints.model import load_model
from crn.command_line import parse_options
from crn.config import SCORES
from crn.evaluation.results import Thresholds, read_metrics
from crn.evaluation.thresholds import most_above, thresholds_from_training
from crn.infer import find_results
from crn.report import result_pictures
from crn.report.result_pictures import unique_names
from datasets.layouts import LAYOUTS
from datasets.reader import Images
from datasets.samples import list_samples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.ckpt", seed=1)


@pytest.fixture
def score(run_main, model: Path):
    """Run inference, expect that it succeeds, and return the table of scores and the metrics."""

    def run(layout: str, root: Path, *more: object, folder: str = "out"):
        words = inference(model, layout, root, "--image-output-path", folder, *more)
        finished = run_main(*words)
        assert finished.status == 0, finished.err
        table = read_table(Path(folder, "anomaly_scores.csv"))
        return table, json.loads(Path(folder, "metrics.json").read_text())

    return run


def read_map(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        assert (file.format, file.mode) == ("TIFF", "F")
        return np.array(file)


def test_metrics_of_images(score, read_only_mvtec_category: Path, model: Path) -> None:
    table, metrics = score("MVTec", read_only_mvtec_category, "--threshold-quantile", 0.5)
    test = [row for row in table if row["split"] == "test"]
    labels = np.array([int(row["label"]) for row in test])
    assert metrics["dataset"] == {
        "layout": "MVTec",
        "path": str(read_only_mvtec_category),
        **{"train": 6, "test": 9, "normal": 3, "anomalous": 6, "unlabelled": 0, "masks": 6},
    }
    assert metrics["anomaly_score"] == "residual"
    assert metrics["model"]["checkpoint"] == str(model)
    assert (metrics["model"]["step"], metrics["model"]["imsize"]) == (7, 8)
    for name in SCORES:
        scores = np.array([float(row[name]) for row in test])
        assert metrics["scores"][name]["auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert metrics["scores"][name]["average_precision"] == pytest.approx(
            average_precision_score(labels, scores)
        )
        low, high = metrics["scores"][name]["auroc_95"]
        assert 0 <= low <= metrics["scores"][name]["auroc"] <= high <= 1
    scores = np.array([float(row["residual"]) for row in test])
    kinds = np.array([row["file"].partition("/")[0] for row in test])
    assert metrics["kinds"].keys() == {"crack", "hole"}
    for kind, row in metrics["kinds"].items():
        mine = (kinds == kind) | (labels == 0)
        assert row["auroc"] == pytest.approx(roc_auc_score(labels[mine], scores[mine]))
        assert row["images"] == 3
        assert row["above"] == sum(int(r["decision"]) for r in test if r["file"].startswith(kind))
    assert metrics["bootstrap"] == {"resamples": 1000, "seed": 0}


@pytest.mark.parametrize("quantile", [0.5, 1])
def test_thresholds_and_decisions(score, read_only_mvtec_category: Path, quantile: float) -> None:
    """From the table of scores, by hand; and what two quantiles would give, whatever is asked."""
    table, metrics = score("MVTec", read_only_mvtec_category, "--threshold-quantile", quantile)
    trained = sorted(float(row["residual"]) for row in table if row["split"] == "train")
    test = [(float(r["residual"]), r["label"]) for r in table if r["split"] == "test"]
    threshold = metrics["threshold"]
    assert threshold["image"] == pytest.approx(np.quantile(trained, quantile), rel=1e-7)
    assert (threshold["quantile"], threshold["source"]) == (quantile, "6 normal training images")
    # Six images have five gaps: 0.99 is 4.95 of them up, 0.95 is 4.75.
    last = trained[5] - trained[4]
    limits = {"0.99": trained[4] + 0.95 * last, "0.95": trained[4] + 0.75 * last}
    assert threshold["image_at"] == pytest.approx(limits, rel=1e-7)
    found_at = [(metrics["decisions_at"][name], limit) for name, limit in limits.items()]
    for decisions, limit in [(metrics["decisions"], threshold["image"]), *found_at]:
        found, false = (sum(s > limit and y == x for s, y in test) for x in ("1", "0"))
        assert {name: count for name, count in decisions.items() if name != "f1"} == {
            **{"above": found + false, "of": 9, "true_positives": found, "false_positives": false},
            **{"false_negatives": 6 - found, "true_negatives": 3 - false},
        }
    decisions = [int(row["decision"]) for row in table]
    if quantile == 1:  # the highest training image is not above the threshold that it is
        assert not any(decisions[:6])
    else:
        assert decisions == [float(row["residual"]) > threshold["image"] for row in table]


def test_the_table_is_shown_right_by_spreadsheets(run_main, model: Path, tmp_path: Path) -> None:
    """They take a file without a byte order mark to be in another encoding."""
    write_image(tmp_path / "new/größe 5 µm.png", texture(1, 9, 9, 3))
    words = inference(model, "Folder", tmp_path / "new", "--anomaly-score-file", "elsewhere.csv")
    assert run_main(*words).status == 0
    content = Path("elsewhere.csv").read_bytes()
    assert content.startswith(BOM_UTF8 + b"file,split,")
    assert "\ngröße 5 µm.png,test" in content.decode()


@pytest.mark.parametrize("edge", [0, 255])
def test_pixel_metrics_are_those_of_the_stored_maps(score, mvtec_category: Path, edge: int) -> None:
    """Without the edges that are to be ignored, around some of the defects."""
    for path in (mvtec_category / "ground_truth/hole").iterdir():
        mask = np.zeros((32, 24), np.uint8)
        mask[6:18, 6:18] = edge
        mask[8:16, 8:16] = 1
        write_image(path, mask)
    table, metrics = score("MVTec", mvtec_category, "--save-maps")
    values, labels, kinds = [], [], []
    for row in table:
        if row["split"] == "test":
            anomaly_map = read_map(Path("out/maps", row["file"]).with_suffix(".tiff"))
            kinds.append(row["file"].partition("/")[0])
            mask = np.zeros(anomaly_map.shape, np.uint8)
            if row["label"] == "1":
                name = Path(row["file"]).with_suffix("")
                path = mvtec_category / "ground_truth" / f"{name}_mask.png"
                mask = np.asarray(Image.open(path))
            counts = (mask != 255) if kinds[-1] == "hole" else np.ones(mask.shape, bool)
            values.append(anomaly_map[counts])
            labels.append(mask[counts] > 0)
    for kind, pixels in [
        (None, metrics["pixels"]),
        *((kind, row["pixels"]) for kind, row in metrics["kinds"].items()),
    ]:
        mine = [i for i, other in enumerate(kinds) if kind in (None, other) or other == "good"]
        v, y = (np.concatenate([part[i] for i in mine]) for part in (values, labels))
        assert pixels["auroc"] == pytest.approx(roc_auc_score(y, v), abs=1e-5)
        assert pixels["average_precision"] == pytest.approx(average_precision_score(y, v), abs=1e-4)
        assert 0 <= pixels["aupro"] <= 1


def test_masks_of_photographs_that_are_turned(score, mvtec_category: Path) -> None:
    """Their pixel metrics are those of the same photographs and masks, saved upright."""
    _, upright = score("MVTec", mvtec_category)
    turned = Image.Exif()
    turned[0x0112] = 6
    for place, exif in (("test/hole", turned), ("ground_truth/hole", None)):
        for path in (mvtec_category / place).iterdir():
            with Image.open(path) as image:
                stored = image.transpose(Image.Transpose.ROTATE_90)
            stored.save(path, exif=exif)
    _, metrics = score("MVTec", mvtec_category, folder="turned")
    assert metrics["pixels"] == upright["pixels"]


def test_masks_that_show_nothing_leave_no_pixel_metrics(score, mvtec_category: Path) -> None:
    for path in mvtec_category.glob("ground_truth/*/*"):
        write_image(path, np.zeros((32, 24), np.uint8))
    assert score("MVTec", mvtec_category)[1]["pixels"] is None


def test_thresholds_are_quantiles_of_the_training_images_and_their_pixels() -> None:
    smooth = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(3))
    scores = np.array([0.1, 0.2, 0.3, 0.4, 5, 6])
    trained = np.array([True, True, True, True, False, False])
    thresholds = thresholds_from_training(scores, smooth, trained, 0.9)
    assert thresholds.image == pytest.approx(0.37)
    assert thresholds.pixel == pytest.approx(np.quantile(smooth[:4], 0.9), abs=0.02)
    assert (smooth[:4] > thresholds.pixel).float().mean() == pytest.approx(0.1, abs=0.005)
    assert (thresholds.quantile, thresholds.source) == (0.9, "4 normal training images")
    none = thresholds_from_training(scores, smooth, trained & False, 0.9)
    assert none == Thresholds()


@pytest.mark.parametrize(
    ("count", "quantile", "percent"),
    # Above the highest of n is, but for one in twenty times, at most 1 - 0.05^(1/n).
    [(1, 1, "95 %"), (19, 1, "15 %"), (99, 1, "3 %"), (100, 1, None), (300, 1, None)],
)
def test_how_rough_a_threshold_from_few_images_is(
    caplog: pytest.LogCaptureFixture, count: int, quantile: float, percent: str | None
) -> None:
    maps = torch.zeros(count, 2, 2)
    thresholds_from_training(np.arange(count), maps, np.ones(count, bool), quantile)
    expected = (
        f"a threshold from {count} normal training images is rough: up to {percent} of new normal "
        "images may be above it, and more if maps are measured against these few"
    )
    assert caplog.messages == ([] if percent is None else [expected])


@pytest.mark.parametrize(("count", "quantile"), [(41, 0.95), (101, 0.99), (21, 0.5)])
def test_how_many_may_be_above_a_threshold_against_a_simulation(
    count: int, quantile: float
) -> None:
    """Of scores from 0 to 1, all alike, as many are above a threshold as it is below 1."""
    scores = np.random.default_rng(5).random((20_000, count))
    above = 1 - np.quantile(scores, quantile, axis=1)
    assert (above <= most_above(count, quantile)).mean() == pytest.approx(0.95, abs=0.006)


def test_smoothing_changes_pixels_and_not_scores(score, read_only_mvtec_category: Path) -> None:
    (rough, soft), (rough_metrics, soft_metrics) = zip(
        *(
            score("MVTec", read_only_mvtec_category, *words, folder=folder)
            for words, folder in (
                (("--save-maps", "--map-smoothing", 0), "rough"),
                (("--save-maps", "--map-smoothing", 20), "soft"),
            )
        ),
        strict=True,
    )
    for one, other in zip(rough, soft, strict=True):  # a Gaussian keeps the mean
        assert float(one["residual"]) == pytest.approx(float(other["residual"]), rel=1e-5)
    assert rough_metrics["pixels"] != soft_metrics["pixels"]
    assert soft_metrics["maps"]["sigma"] == pytest.approx(1.6)
    maps = [read_map(Path(folder, "maps/crack/000.tiff")) for folder in ("rough", "soft")]
    assert maps[1].std() < maps[0].std() / 2
    # The score is the mean of the plain map, at the model's size.
    (row,) = [row for row in rough if row["file"] == "crack/000.png"]
    assert maps[0].mean() == pytest.approx(float(row["residual"]), rel=0.02)


def test_a_data_set_without_masks_or_kinds(score, run_main, read_only_road_images: Path) -> None:
    _, metrics = score("RoadImages", read_only_road_images)
    assert metrics["pixels"] is None
    assert metrics["dataset"]["masks"] == 0
    (kind,) = metrics["kinds"]
    assert kind == "bad_ones"
    assert metrics["kinds"][kind]["pixels"] is None
    assert metrics["kinds"][kind]["auroc"] == metrics["scores"]["residual"]["auroc"]


def test_what_is_printed(run_main, model: Path, mvtec_category: Path) -> None:
    """A right-to-left override would reverse a line; "all" is also the name of a row."""
    for folder in ("test", "ground_truth"):
        (mvtec_category / folder / "crack").rename(mvtec_category / folder / "a\u202eb")
        (mvtec_category / folder / "hole").rename(mvtec_category / folder / "all")
    lines = run_main(*inference(model, "MVTec", mvtec_category)).out.splitlines()
    metrics = json.loads(Path("metrics.json").read_text())
    assert lines[0] == "9 test images, 6 of them anomalous"
    rows = [line.split() for line in lines]
    for name, row in zip(SCORES, rows[2:5], strict=True):
        assert row[:2] == [name, f"{metrics['scores'][name]['auroc']:.3f}"]
    assert [row[0] for row in rows[6:10]] == ["all", "a\\u202eb", "all", "threshold"]
    kinds = list(metrics["kinds"].values())
    assert rows[7][1] == f"{kinds[1]['auroc']:.3f}"
    assert rows[8][-1] == f"{metrics['pixels']['aupro']:.3f}"
    assert rows[9][1] == f"{metrics['threshold']['image']:.6g}"
    assert max(map(len, lines)) < 100


@pytest.mark.parametrize(("redirection", "status"), [("2>&1 | true", 0), (">/dev/full", 2)])
def test_nobody_reads_what_is_printed(
    model: Path, photographs: Path, tmp_path: Path, redirection: str, status: int
) -> None:
    words = [sys.executable, str(REPOSITORY / "train.py"), *inference(model, "Folder", photographs)]
    script = f"{shlex.join(words)} {redirection}; exit ${{PIPESTATUS[0]}}"
    finished = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == status, finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr
    assert ("error: standard output: cannot be written" in finished.stderr) == (status == 2)
    assert (tmp_path / "metrics.json").is_file()


def test_a_path_that_is_no_text(score, read_only_mvtec_category: Path, tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"\xff")
    try:
        shutil.copytree(read_only_mvtec_category, root)
    except OSError:
        pytest.skip("this file system has no such names")
    _, metrics = score("MVTec", root)
    assert metrics["dataset"]["path"] == str(root)
    assert read_metrics(Path("out/metrics.json")).dataset.path == str(root)


def test_pictures_have_the_size_of_their_image(score, read_only_mvtec_category: Path) -> None:
    table, _ = score("MVTec", read_only_mvtec_category, "--save-maps")
    for row in table:
        # Those with a defect are upright, the others are not.
        size = (24, 32) if row["label"] == "1" else (32, 24)
        for path in (
            Path("out/overlay", row["file"]),
            Path("out/diff", row["file"]),
            Path("out/maps", row["file"]).with_suffix(".tiff"),
        ):
            with Image.open(path) as picture:
                assert picture.size == size
    assert Path("out/colour_scale.svg").is_file()


def test_overlays_share_one_scale_and_show_masks(score, read_only_mvtec_category: Path) -> None:
    score("MVTec", read_only_mvtec_category, "--save-maps", "--threshold-quantile", 0.9)
    metrics = json.loads(Path("out/metrics.json").read_text())
    maps = {path: read_map(path) for path in Path("out/maps").rglob("*.tiff")}
    # Upsampling does not reach beyond the colours, and comes near to them.
    values = np.concatenate([anomaly_map.ravel() for anomaly_map in maps.values()])
    assert metrics["maps"]["low"] <= values.min() < values.max() <= metrics["maps"]["high"]
    for path, anomaly_map in maps.items():
        key = path.relative_to("out/maps").with_suffix(".png")
        with Image.open(Path("out/overlay") / key) as file:
            picture = np.asarray(file)
        white = (picture == 255).all(2)
        above = anomaly_map > metrics["threshold"]["pixel"]
        assert not (white & ~above).any()
        assert white.any() == (above.any() and not above.all())
        cyan = (picture == (0, 230, 255)).all(2)
        assert cyan.any() == (key.parts[0] in ("crack", "hole"))
        assert not cyan[:, :8].any()  # the mask is from 8 to 16
        assert not cyan[:8].any()


def test_panels_are_small(model: Path, mvtec_category: Path) -> None:
    wide, mask = texture(5, 300, 1100, 3), np.zeros((300, 1100), np.uint8)
    mask[100:200, 200:800] = 255
    write_image(mvtec_category / "test/hole/000.png", wide)
    write_image(mvtec_category / "ground_truth/hole/000_mask.png", mask)
    options = parse_options(inference(model, "MVTec", mvtec_category))
    results, pictures = find_results(options, list_samples(LAYOUTS["MVTec"], mvtec_category))
    by_key = {image.key: index for index, image in enumerate(results.images)}
    panels = pictures.panels(by_key["hole/000.png"], Image.fromarray(wide))
    assert panels.keys() == {"input", "reconstruction", "overlay", "mask"}
    assert {(panel.mode, panel.size) for panel in panels.values()} == {("RGB", (512, 140))}
    assert np.asarray(panels["mask"]).mean() == pytest.approx(255 * (mask > 0).mean(), rel=0.03)
    with Image.open(mvtec_category / "test/good/000.png") as file:
        panels = pictures.panels(by_key["good/000.png"], file.copy())
        assert (np.asarray(panels["input"]) == np.asarray(file)).all()
    assert {panel.size for panel in panels.values()} == {(32, 24)}


@pytest.mark.parametrize(
    ("sides", "threads"), [((10, 20), 16), ((6000, 4000), 5), ((11_000, 12_000), 1)]
)
def test_large_images_are_drawn_by_fewer_threads(monkeypatch, sides, threads: int) -> None:
    monkeypatch.setattr(result_pictures, "cpu_count", lambda: 16)
    images = Images(torch.zeros(2, 3, 8, 8), [(1, 1), sides])
    pictures = result_pictures.ResultPictures([], images, None, None, [], None)
    assert pictures.threads == threads


def test_names_of_pictures_and_maps_do_not_collide() -> None:
    keys = ["a/0.png", "a/0.jpg", "a/0.jpg.png", "b.png", "b.png/c.png", "a/x.tar.bmp"]
    names = unique_names(keys, lambda key: key.name.removesuffix(".png"), ".png")
    assert [str(name) for name in names] == [
        *("a/0.png", "a/0.jpg.png", "a/0.jpg_.png", "b_.png", "b.png/c.png", "a/x.tar.bmp.png")
    ]
    names = unique_names(["a/0.png", "a/0.jpg", "a/x.tar.bmp"], lambda key: key.stem, ".tiff")
    assert [str(name) for name in names] == ["a/0.tiff", "a/0_.tiff", "a/x.tar.tiff"]


def test_scores_that_are_not_finite(run_main, tmp_path: Path, read_only_road_images: Path) -> None:
    path = write_model(tmp_path / "large.ckpt", 1)
    content = torch.load(path, weights_only=True)
    for name, tensor in content["state_dict"].items():
        if name.endswith(("weight", "kernel")):
            content["state_dict"][name] = torch.full_like(tensor, 3e38)
    torch.save(content, path)
    finished = run_main(*inference(path, "RoadImages", read_only_road_images))
    refuse(finished, f"{path}: gives scores that are not finite")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("Straße/日本.jpg", "Straße/é 1.png", "x.png"):
        write_image(tmp_path / "photographs" / name, texture(len(name), 20, 30, 3))
    return tmp_path / "photographs"


def test_a_folder_without_labels(score, run_main, model: Path, photographs: Path) -> None:
    table, metrics = score("Folder", photographs, "--save-maps")
    assert [row["file"] for row in table] == ["Straße/é 1.png", "Straße/日本.jpg", "x.png"]
    for row in table:
        assert [row[name] for name in ("split", "label", "threshold", "decision")] == [
            *("test", "", "", "")
        ]
        assert float(row["residual"]) > 0
    assert metrics["dataset"]["unlabelled"] == metrics["dataset"]["test"] == 3
    for name in ("scores", "decisions", "decisions_at", "pixels", "kinds"):
        assert metrics[name] is None
    assert set(metrics["threshold"].values()) == {None}
    for name in ("overlay/Straße/日本.jpg.png", "inference/x.png", "maps/Straße/é 1.tiff"):
        assert Path("out", name).is_file()
    out = run_main(*inference(model, "Folder", photographs)).out
    assert out.startswith(
        "3 images without labels\nno threshold, so no decisions: --threshold-from"
    )
    assert "anomalous)" not in out


def test_unlabelled_scores_are_those_of_the_labelled_images(
    score, read_only_mvtec_category: Path
) -> None:
    labelled, metrics = score("MVTec", read_only_mvtec_category, "--threshold-quantile", 0.6)
    table, unlabelled = score(
        "Folder", read_only_mvtec_category / "test", "--threshold-from", "out/metrics.json",
        folder="again",
    )  # fmt: skip
    expected = {row["file"]: row for row in labelled if row["split"] == "test"}
    assert {row["file"] for row in table} == expected.keys()
    for row in table:
        assert row == expected[row["file"]] | {"label": ""}
    assert {row["decision"] for row in table} == {"0", "1"}
    assert unlabelled["threshold"] == metrics["threshold"] | {"source": "out/metrics.json"}
    above = metrics["decisions"]["above"]
    assert (unlabelled["decisions"]["above"], unlabelled["decisions"]["of"]) == (above, 9)
    assert unlabelled["decisions"]["f1"] is None
    # An inference that has taken its threshold from another one can hand it on.
    score("Folder", read_only_mvtec_category, "--threshold-from", "again/metrics.json")


def test_a_given_threshold_stands_against_that_of_the_training_images(
    score, read_only_mvtec_category: Path, read_only_panorama: Path
) -> None:
    _, first = score("MVTec", read_only_mvtec_category)
    _, other = score("Panorama", read_only_panorama, "--threshold-from", "out/metrics.json")
    assert other["threshold"]["image"] == first["threshold"]["image"]
    assert Path("out/metrics-v1.json").is_file()
    # A version that knew no other quantiles wrote a file without them.
    del first["threshold"]["image_at"], first["decisions_at"]
    Path("earlier.json").write_text(json.dumps(first))
    given = ("--threshold-from", "earlier.json")
    _, again = score("MVTec", read_only_mvtec_category, *given, folder="again")
    assert again["decisions"] == first["decisions"]
    assert again["threshold"]["image_at"] is again["decisions_at"] is None
    assert "two quantiles" not in Path("again/report.html").read_text()


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda m: m.update(anomaly_score="reconstruction"), "--anomaly-score reconstruction"),
        (lambda m: m["model"].update(pairs="all"), "--pairs all, not best"),
        (lambda m: m["maps"].update(smoothing=3.0), "--map-smoothing 3.0, not 1.8"),
        (lambda m: m["model"].update(weights="0" * 16), "made with another model"),
        (lambda m: m["threshold"].update(image=None), "contains no threshold"),
        (lambda m: m["threshold"].update(pixel="high"), "not a metrics.json"),
        (lambda m: m.pop("maps"), "not a metrics.json"),
    ],
)
def test_a_threshold_that_does_not_fit(
    score, run_main, model: Path, photographs: Path, read_only_road_images: Path, change, mention
) -> None:
    _, metrics = score("RoadImages", read_only_road_images)
    change(metrics)
    path = Path("changed.json")
    path.write_text(json.dumps(metrics))
    finished = run_main(*inference(model, "Folder", photographs, "--threshold-from", path))
    refuse(finished, f"--threshold-from {path}: ", mention)
    assert not Path("anomaly_scores.csv").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[1]", b"{"])
def test_a_threshold_from_something_else(run_main, model: Path, photographs: Path, content) -> None:
    if content is not None:
        Path("thing.json").write_bytes(content)
    finished = run_main(*inference(model, "Folder", photographs, "--threshold-from", "thing.json"))
    refuse(finished, "--threshold-from thing.json: ")


def test_models_are_told_apart(model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.ckpt", seed=2)
    same = shutil.copy(model, tmp_path / "same.ckpt")
    one, equal, *others = (
        load_model(path, torch.device("cpu"), pairs=pairs).fingerprint
        for path, pairs in ((model, "best"), (same, "best"), (other, "best"), (model, "all"))
    )
    assert one == equal
    assert len({one, *others}) == 3


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        ("--save-maps", "--image-output-path"),
        ("--threshold-quantile 0.9", "--threshold-from"),
        ("--threshold-quantile 0.9 --threshold-from x", "--threshold-quantile"),
        ("--map-smoothing -1", "--map-smoothing takes"),
        ("--map-smoothing 26", "--map-smoothing takes"),
        ("--image-output-path photographs/sub/results", "lies in --dataset-path"),
    ],
)
def test_refused_flags(run_main, model: Path, photographs: Path, words: str, mention: str) -> None:
    refuse(run_main(*inference(model, "Folder", photographs, *words.split())), mention)
    assert not (photographs / "sub").exists()


def test_a_folder_without_labels_cannot_be_trained_on(run_main, photographs: Path) -> None:
    why = "has no labels, so it works with --mode inference only: train on one of MVTec, Panorama"
    refuse(run_main("--mode", "train", *data_of("Folder", photographs)), why)
