"""The report of a run of inference: how well it found what is anomalous, and every image."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crn.config import SCORES
from crn.evaluation.results import InferenceResults, ScoredImage
from crn.report.charts import Axis, Mark, Series, histogram_chart, interval_mark, line_chart
from crn.report.curves import histogram, precision_recall, roc
from crn.report.gallery import files_folder, gallery, gallery_data, write_pictures
from crn.report.page import (
    REPORT_FILE,
    decimal,
    figures,
    note,
    section,
    settings,
    table,
    write_page,
)
from crn.system.text import counted
from datasets.samples import TEST

log = logging.getLogger(__name__)


def write_inference_report(folder: Path, results: InferenceResults) -> None:
    """Write report.html and the pictures it shows; an earlier report is renamed and stays whole.

    Args:
        folder: exists; the pictures come to report_files/version_N/ in it.
        results: of the run.
    """
    with files_folder(folder) as files:
        pictures = write_pictures(results, files)
        sections = [
            *_sections(results),
            section("Images", gallery(results), name="images"),
            section("Settings", _settings(results), name="settings"),
        ]
        path = folder / REPORT_FILE
        data = gallery_data(results, pictures, files, folder)
        write_page(path, _title(results), _subtitle(results), sections, data)
    log.info("wrote %s", path)


def _title(results: InferenceResults) -> str:
    name = Path(results.metrics["dataset"]["path"]).name
    return f"Inference on {name or results.metrics['dataset']['layout']}"


def _subtitle(results: InferenceResults) -> str:
    dataset, model = results.metrics["dataset"], results.metrics["model"]
    if dataset["unlabelled"]:
        images = f"{counted(dataset['test'], 'image')} without labels"
    else:
        test, train = (
            counted(dataset["test"], "test image"),
            counted(dataset["train"], "training image"),
        )
        images = f"{test}, {dataset['anomalous']:,} of them anomalous; {train}"
    return f"{images}. Score: {results.score}, by {model['checkpoint']} of step {model['step']:,}."


def _sections(results: InferenceResults) -> Iterator[str]:
    """What stands above the gallery, as far as labels and threshold allow."""
    test = [image for image in results.images if image.split == TEST]
    shown = list(_key_figures(results))
    yield section(
        "Result", figures(shown) if shown else "", *_threshold_note(results), name="result"
    )
    charts = [*_curves(results, test), _histogram(results, test)]
    yield section("Scores", f'<div class="charts">{"".join(charts)}</div>', *_table(results),
                  name="scores")  # fmt: skip
    # A row for a single kind would only repeat what stands above.
    kinds = results.metrics["kinds"] or {}
    if len(kinds) > 1 or (kinds and results.metrics["pixels"] is not None):
        yield section("Kinds of defect", *_kinds(results), name="kinds")


def _key_figures(results: InferenceResults) -> Iterator[tuple[str, str, str]]:
    metrics = results.metrics
    if metrics["scores"] is not None:
        asked = metrics["scores"][results.score]
        yield "AUROC", decimal(asked["auroc"]), f"95 %: {_interval(asked['auroc_95'])}"
        share = metrics["dataset"]["anomalous"] / metrics["dataset"]["test"]
        chance = f"by chance: {decimal(share)}"
        yield "Average precision", decimal(asked["average_precision"]), chance
    decisions = metrics["decisions"]
    if decisions is not None and decisions["f1"] is not None:
        found, missed = decisions["true_positives"], decisions["false_negatives"]
        wrong, right = decisions["false_positives"], decisions["true_negatives"]
        yield "Found", f"{found:,}", f"of {found + missed:,} anomalous; {missed:,} missed"
        yield "False alarms", f"{wrong:,}", f"of {wrong + right:,} normal"
        yield "F1", decimal(decisions["f1"]), "at the threshold"
    elif decisions is not None:
        images = counted(decisions["of"], "image")
        yield "Above the threshold", f"{decisions['above']:,}", f"of {images}"
    pixels = metrics["pixels"]
    if pixels is not None:
        yield "AUPRO", decimal(pixels["aupro"]), f"pixel AUROC {decimal(pixels['auroc'])}"


def _threshold_note(results: InferenceResults) -> Iterator[str]:
    threshold = results.metrics["threshold"]
    if threshold["image"] is None:
        yield note(
            "There is no threshold, so no image is called anomalous: --threshold-from takes that "
            "of an earlier inference."
        )
    else:
        yield note(
            f"Images are called anomalous above {threshold['image']:.4g}, the "
            f"{threshold['quantile']:g} quantile; the threshold comes from {threshold['source']}."
        )


def _curves(results: InferenceResults, test: list[ScoredImage]) -> Iterator[str]:
    metrics = results.metrics["scores"]
    if metrics is None:
        return
    labels = np.array([image.label for image in test])
    values = {name: np.array([image.scores[name] for image in test]) for name in SCORES}
    names = [results.score, *(name for name in SCORES if name != results.score)]
    share = float(labels.mean())
    mark = _operating_points(results)
    yield line_chart(
        "ROC curve",
        "ROC curves. AUROC: " + _in_words(metrics, "auroc"),
        Axis("normal images above (false alarms)", 0, 1),
        Axis("anomalous images above (found)", 0, 1),
        [
            Series(f"{name} {decimal(metrics[name]['auroc'])}", roc(values[name], labels), look)
            for look, name in enumerate(names)
        ],
        reference=("by chance", (0, 0), (1, 1)),
        mark=mark and mark[0],
    )
    yield line_chart(
        "Precision and recall",
        "Precision-recall curves. Average precision: " + _in_words(metrics, "average_precision"),
        Axis("recall (anomalous images found)", 0, 1),
        Axis("precision (alarms that are right)", 0, 1),
        [
            Series(
                f"{name} {decimal(metrics[name]['average_precision'])}",
                precision_recall(values[name], labels),
                look,
                "steps",
            )
            for look, name in enumerate(names)
        ],
        reference=("by chance", (0, share), (1, share)),
        mark=mark and mark[1],
    )


def _in_words(metrics: dict, figure: str) -> str:
    return ", ".join(f"{name} {decimal(row[figure])}" for name, row in metrics.items())


def _operating_points(results: InferenceResults) -> tuple[Mark, Mark | None] | None:
    """What the threshold gives, on the ROC and on the precision-recall curve."""
    counts = results.metrics["decisions"]
    if counts is None:
        return None
    true, false = counts["true_positives"], counts["false_positives"]
    recall = true / (true + counts["false_negatives"])
    alarms = false / (false + counts["true_negatives"])
    name = "at the threshold"
    precision = Mark(name, recall, true / (true + false)) if true + false else None
    return Mark(name, alarms, recall), precision


def _histogram(results: InferenceResults, test: list[ScoredImage]) -> str:
    scores = {
        label: [image.scores[results.score] for image in test if image.label == label]
        for label in (0, 1, None)
    }
    names = {
        0: f"{len(scores[0]):,} normal",
        1: f"{len(scores[1]):,} anomalous",
        None: counted(len(scores[None]), "image"),
    }
    groups = {names[label]: values for label, values in scores.items() if values}
    description = "Histogram of the scores of " + " and ".join(groups)
    if results.threshold is not None:
        description += f"; threshold {results.threshold:.4g}"
    data = histogram(groups)
    return histogram_chart(
        "Test scores", description, f"{results.score} score", data, results.threshold
    )


def _table(results: InferenceResults) -> Iterator[str]:
    metrics = results.metrics["scores"]
    if metrics is None:
        return
    rows = [
        [
            name + (" (asked for)" if name == results.score else ""),
            decimal(row["auroc"]),
            _interval(row["auroc_95"]),
            decimal(row["average_precision"]),
            decimal(row["max_f1"]),
        ]
        for name, row in metrics.items()
    ]
    columns = ("score", "AUROC", "95 %", "AP", "max F1")
    yield table("All scores on the test images", columns, rows)
    resamples = results.metrics["bootstrap"]["resamples"]
    yield note(
        f"95 %: bootstrap over the test images, {resamples:,} resamples; it knows nothing of the "
        "chance in training. AP: average precision. Max F1 chooses its threshold by the test "
        "labels: an upper bound, no result."
    )


def _kinds(results: InferenceResults) -> Iterator[str]:
    metrics = results.metrics
    kinds = metrics["kinds"]
    decided, masks = metrics["decisions"] is not None, metrics["pixels"] is not None
    every = metrics["scores"][results.score] | {
        "images": metrics["dataset"]["anomalous"],
        "above": metrics["decisions"]["true_positives"] if decided else None,
        "pixels": metrics["pixels"],
    }
    rows = []
    for kind, row in [*kinds.items(), ("all", every)] if len(kinds) > 1 else kinds.items():
        cells = [kind, f"{row['images']:,}"]
        if decided:
            cells.append(f"{row['above']:,}")
        low, high = row["auroc_95"]
        cells += [decimal(row["auroc"]), interval_mark(row["auroc"], low, high)]
        cells += [_interval((low, high)), decimal(row["average_precision"])]
        if masks:
            pixels = row["pixels"] or {}
            names = ("auroc", "average_precision", "aupro")
            cells += [decimal(pixels.get(name)) for name in names]
        rows.append(cells)
    columns = ["kind", "images", *(["found"] if decided else [])]
    columns += ["AUROC", "0 to 1", "95 %", "AP"]
    columns += ["pixel AUROC", "pixel AP", "AUPRO"] if masks else []
    yield table("Each kind against all normal test images", columns, rows)
    if masks:
        yield note(
            "Pixel metrics and AUPRO compare the smoothed maps with the masks. AUPRO: the share of "
            "an anomalous region that is found, averaged over the regions and over false positive "
            "rates up to 0.3."
        )


def _interval(ends: tuple[float, float]) -> str:
    return f"{decimal(ends[0])}–{decimal(ends[1])}"


def _settings(results: InferenceResults) -> str:
    names = {
        "method": "method",
        "checkpoint": "checkpoint",
        "weights": "fingerprint",
        "step": "training steps",
        "imsize": "image size",
        "pairs": "pairs",
    }
    model = {words: results.metrics["model"][name] for name, words in names.items()}
    groups = ("run", "data", "scoring", "output")
    return settings(results.options, groups, model)
