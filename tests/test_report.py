"""Reports, as a browser shows them: opened from a file, without a network."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from outputs import assert_report_is_whole
from reports import NAMES, PHONE, options, results_of, scored_images, write_report

from crn.report.inference_page import write_inference_report
from crn.report.tables import metrics_table
from crn.report.training_page import read_series, write_training_report


@pytest.fixture(scope="module")
def training_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on 3,000 rows of losses and two validations."""
    folder = tmp_path_factory.mktemp("version_0")
    lines = ["step,losses/generator,losses/discriminator,metrics/roc_auc,metrics/max_roc_auc,"
             "metrics/roc_auc_residual,metrics/training_time,units/best_generator"]  # fmt: skip
    lines += [f"{step},{1 + step % 7},-1,,,,," for step in range(10, 30001, 10)]
    lines += ["15000,,,0.875,0.875,0.875,60,3", "30000,,,0.625,0.875,0.625,125,5"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    write_training_report(folder, options(mode="train", model_input=None, training_steps=30000))
    return folder / "report.html"


def test_the_page_shows_metrics_and_pictures(show, report, results):
    page = show(report)
    text, metrics = page.text(), results.metrics
    assert f"{metrics.scores['residual'].auroc:.3f}" in text
    low, high = metrics.kinds["crack"].auroc_95
    assert f"{low:.3f}–{high:.3f}" in text
    assert "bent <b>wire</b>" in text
    assert page.texts("figure.chart figcaption") == [
        "ROC curve", "Precision and recall", "Test scores",
    ]  # fmt: skip
    assert page.texts("tbody tr td[data-column=found]")[-1] == str(metrics.decisions.true_positives)
    assert "--anomaly-score" in text
    anomalous, test = metrics.dataset.anomalous, metrics.dataset.test
    assert f"by chance: {anomalous / test:.3f}" in text
    page.run("document.querySelector('#gallery').scrollIntoView()")
    page.until("return document.querySelector('.card img').naturalWidth > 0")
    assert page.run(
        "return [...document.images].every((i) => i.alt && i.getAttribute('width') > 0)"
    )
    assert page.run("return [...document.querySelectorAll('.card img')].every("
                    "(i) => i.loading === 'lazy' && i.decoding === 'async')")  # fmt: skip


def test_what_thresholds_at_two_quantiles_give_is_shown_and_printed(tmp_path: Path) -> None:
    """An image whose score is the threshold is not above it."""
    names = {kind: [str(n) for n in range(count)] for kind, count in (("good", 4), ("crack", 3))}
    scores = {image.key: image.scores["residual"] for image in scored_images(names)}
    # About 0.18, 0.33, 0.48 and 0.63 of normal images; 0.45, 0.65 and 0.85 of anomalous ones.
    image_at = {"0.99": scores["crack/1"], "0.95": scores["good/2"]}
    results = results_of(names, threshold=scores["crack/1"], image_at=image_at)
    page = write_report(tmp_path, results).read_text()
    _, _, table = page.partition("Decisions at two quantiles of the normal training images")
    cells = re.findall(r"<t[hd] [^>]*>(.*?)</t", table.partition("</table>")[0])
    assert cells == [
        "quantile", "threshold", "found", "false alarms", "F1",
        "0.99", "0.65", "1 of 3", "0 of 4", "0.500",
        "0.95", "0.475", "2 of 3", "1 of 4", "0.667",
    ]  # fmt: skip
    printed = metrics_table(results).splitlines()
    above = printed.index("above it are 1 of 3 anomalous and 0 of 4 normal test images; F1 0.500")
    # That of the threshold itself is not said twice.
    assert printed[above + 1 :][:2] == [
        "at the 0.95 quantile: 2 of 3 anomalous and 1 of 4 normal",
        "most anomalous:",
    ]


def test_the_colour_scale_is_beside_the_images_and_in_the_dialog(show, report):
    page = show(report)
    for scale in ("section > .scale", "#dialog .scale"):
        assert page.texts(f"{scale} text") == [
            "0", "1", "pixel threshold 0.6", "contour: the anomaly map is above 0.6",
        ]  # fmt: skip
    page.click(".card")
    bar = page.run("return document.querySelector('#dialog image').getBoundingClientRect().width")
    assert bar > 200


def test_no_other_script_runs(show, report, tmp_path):
    """Were a name ever written as markup, the content security policy would still stop it."""
    shutil.copytree(report.parent, tmp_path / "copy")
    path = tmp_path / "copy/report.html"
    injected = "<script>document.title = 'taken'</script><img src='x' onerror='document.title=1'>"
    path.write_text(path.read_text().replace("<h1>", injected + "<h1>"))
    page = show(path)
    page.until("return document.querySelector('img[src=x]').complete")
    assert page.run("return document.title") == "Inference on wid<b>get"
    complaints = page.driver.get_log("browser")
    assert any("Content Security Policy" in entry["message"] for entry in complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_readable(show, report, scheme):
    page = show(report)
    page.scheme(scheme)
    colours = page.run(
        """
        const of = (selector, key = "color") =>
          getComputedStyle(document.querySelector(selector))[key].match(/\\d+/g).map(Number);
        return {paper: of("body", "backgroundColor"), raised: of(".card", "backgroundColor"),
                texts: ["body", ".note", ".metrics dd", ".card .line", "#count"].map((s) => of(s)),
                chip: [of(":checked + .chip", "backgroundColor"), of(":checked + .chip")]};"""
    )
    assert (luminance(colours["paper"]) > 0.5) == (scheme == "light")
    for ground in (colours["paper"], colours["raised"]):
        for text in colours["texts"]:
            assert contrast(ground, text) >= 4.5
    assert contrast(*colours["chip"]) >= 4.5


def luminance(colour: list[int]) -> float:
    """Relative luminance of WCAG 2."""
    shares = [c / 255 for c in colour[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: list[int], other: list[int]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_phone_shows_it_without_scrolling_sideways(show, report, training_report):
    page = show(report, PHONE)
    assert page.overflow() == []
    for _ in range(3):
        page.click(".card")
        assert page.overflow() == []
        page.press("ARROW_RIGHT")
        assert page.overflow() == []
        page.press("ESCAPE")
    assert show(training_report, PHONE).overflow() == []


def test_without_labels_the_page_leaves_out_what_needs_them(show, tmp_path):
    unknown = results_of({"crack": NAMES["crack"]}, labels=False, dataset="Folder")
    page = show(write_report(tmp_path, unknown))
    assert page.texts("figure.chart figcaption") == ["Test scores"]
    assert not re.search(r"AUROC|[Ff]alse alarm|missed|Kinds", page.text())
    above = [image.key for image in unknown.images if image.decision]
    assert page.texts("fieldset .number") == ["9", str(len(above)), str(9 - len(above))]
    page.click("input[value=above]")
    assert page.texts(".card .name") == above[::-1]


def test_one_image_and_a_single_kind(show, tmp_path):
    page = show(write_report(tmp_path, results_of({"crack": ["0.png"]}, labels=False)))
    assert page.text().count("1 image without labels") == 1
    assert page.texts(".metrics .remark") == ["of 1 image"]
    assert page.texts(".chart:not(.scale) .legend span") == ["1 image"]
    assert page.texts("#count") == ["1 of 1 image."]
    page = show(write_report(tmp_path, results_of({"good": ["0.png"], "crack": ["0.png"]})))
    assert page.texts("h2") == ["Result", "Scores", "Images", "Settings"]  # no table of kinds


def test_without_threshold_the_page_leaves_out_decisions(show, tmp_path):
    page = show(write_report(tmp_path, results_of(NAMES, threshold=None)))
    assert "AUROC" in page.text()
    assert page.texts(".metrics dt") == ["AUROC", "Average precision"]
    assert page.find("[data-column=found], .mark, .threshold, .alarm, .miss, .found") == []
    assert "--threshold-from takes one from an earlier inference" in page.text()
    assert page.run("return document.getElementById('verdicts').hidden")
    assert set(page.texts(".verdict")) == {"normal", "anomalous"}


def test_earlier_reports_keep_their_pictures(show, tmp_path, results):
    for _ in range(2):
        write_report(tmp_path, results)
    for name, version in (("report.html", "version_1"), ("report-v1.html", "version_0")):
        page = show(tmp_path / name)
        page.click(".card")
        page.until("return document.querySelector('#dialog img').naturalWidth > 0")
        assert version in page.run("return document.querySelector('#dialog img').src")


@pytest.mark.parametrize("is_written", [True, False])
def test_pictures_stay_if_ctrl_c_comes_after_the_page(tmp_path, monkeypatch, results, is_written):
    def interrupted(*args):
        if is_written:
            write_inference_report(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr("reports.write_inference_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, results)
    if is_written:
        assert_report_is_whole(tmp_path / "report.html")
    else:
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_training_report_says_that_best_is_no_result(show, training_report):
    page = show(training_report)
    assert page.texts(".metrics dt") == ["Last AUROC", "Best AUROC", "Time"]
    values = page.run("return [...document.querySelectorAll('.metrics dd')]"
                      ".map((e) => e.firstChild.textContent)")  # fmt: skip
    assert values == ["0.625", "0.875", "2 min 5 s"]
    assert "chosen by the labels of the test images, so it is not a result" in page.text()
    assert page.texts("figure.chart figcaption") == [
        "AUROC of the validations", "What the roles minimise", "Best units",
    ]  # fmt: skip
    assert training_report.stat().st_size < 150_000
    assert "residual, last 0.625" in page.texts(".legend span")
    # One axis of steps for all, from the first losses, long before the first validation.
    steps = page.run("return [...document.querySelectorAll('.chart > svg')].map((svg) => "
                     "[...svg.querySelectorAll('text')].map((e) => e.textContent)"
                     ".filter((text) => /,000$/.test(text)).join())")  # fmt: skip
    assert set(steps) == {"10,000,20,000,30,000"}


def test_a_training_that_logged_nothing_has_a_report(show, tmp_path):
    write_training_report(tmp_path, options(mode="train"))
    assert "ended before it logged" in show(tmp_path / "report.html").text()


def test_training_and_inference_write_reports(show, run_main, mvtec_category, tmp_path):
    shared = ("--dataset", "MVTec", "--dataset-path", mvtec_category, "--cpu")
    score = ("--mode", "inference", *shared, "--model-input", "kept/last.ckpt")
    for words in (
        (*shared, "--demo", "--imsize", 8, "--training-steps", 2, "--checkpoint-path", "kept"),
        score,
        (*score, "--image-output-path", "out"),
    ):
        assert run_main(*words).status == 0
    assert (tmp_path / "anomaly_scores.csv").exists()
    assert not (tmp_path / "report.html").exists()  # without a folder for pictures
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    page = show(tmp_path / "out/report.html")
    assert page.text().count(f"{metrics['pixels']['aupro']:.3f}") >= 2
    assert len(page.texts(".card")) == 9
    page.choose("kind", "hole")
    page.click(".card")
    assert page.texts("#dialog figcaption")[-1] == "mask"
    page.until("return [...document.querySelectorAll('#dialog img')]"
               ".every((i) => i.naturalWidth === 24)")  # fmt: skip
    page = show(tmp_path / "logged_metrics/version_0/report.html")
    *_, last = read_series(tmp_path / "logged_metrics/version_0/metrics.csv")["metrics/roc_auc"]
    assert f"{last[1]:.3f}" in page.texts(".metrics dd")[0]
