"""Reports, as a browser shows them: opened from a file, without a network."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc

from crn.config import (
    SCORES,
    Adversarial,
    Competition,
    Data,
    Network,
    Optimization,
    Options,
    Output,
    Run,
    Scoring,
)
from crn.evaluation.metrics import auroc, auroc_interval, average_precision, confusion, max_f1
from crn.evaluation.results import InferenceResults, ScoredImage
from crn.report.curves import (
    MOST_POINTS,
    histogram,
    precision_recall,
    roc,
    running_mean,
    thin_series,
)
from crn.report.inference_page import write_inference_report
from crn.report.page import island
from crn.report.training_page import read_series, write_training_report

HOSTILE = (
    "<script>alert(1)</script>.png",
    '" onerror="alert(2)".png',
    "</script><img src=x onerror=alert(3)>.png",
    "%2e%2e#?&amp;'.png",
)
PHONE, DESKTOP = 400, 1280
PANEL_SHADES = {"input": 60, "reconstruction": 120, "overlay": 180}


def options(**changes: Any) -> Options:
    plain = Options(
        Run(mode="inference", model_input=Path("model.ckpt"), seed=1),
        Data(dataset="MVTec", dataset_path=Path("data/widget")),
        Network(),
        Competition(),
        Adversarial(),
        Optimization(),
        Scoring(),
        Output(image_output_path=Path("out")),
        frozenset({"seed", "dataset"}),
    )
    return plain.replace(**changes)


def scored_images(
    names: dict[str, list[str]], *, labels: bool = True, threshold: float | None = 0.6
) -> list[ScoredImage]:
    """Images whose scores rise with their number; "train" and "good" are the normal ones.

    No score comes twice.
    """
    images = []
    for place, (kind, group) in enumerate(names.items()):
        normal = kind in ("train", "good")
        for index, name in enumerate(group):
            score = round(0.1 + 0.6 * (index + 0.5) / len(group) + (0 if normal else 0.25), 6)
            score += place * 1e-5
            images.append(
                ScoredImage(
                    f"{kind}/{name}",
                    "train" if kind == "train" else "test",
                    ("good" if normal else kind) if labels else None,
                    int(not normal) if labels else None,
                    {"reconstruction": score / 2, "residual": score, "discrimination": -score},
                    None if threshold is None else int(score > threshold),
                )
            )
    return images


def metrics_of(
    options: Options, images: list[ScoredImage], threshold: float | None
) -> dict[str, Any]:
    """What metrics.json would hold, without pixels."""
    test = [image for image in images if image.split == "test"]
    labels = [image.label for image in test]
    labelled = None not in labels

    def ranking(name: str, some: list[ScoredImage]) -> dict[str, Any]:
        arguments = [i.scores[name] for i in some], [i.label for i in some]
        return {
            "auroc": auroc(*arguments),
            "auroc_95": list(auroc_interval(*arguments)),
            "average_precision": average_precision(*arguments),
            "max_f1": max_f1(*arguments)[0],
            "max_f1_threshold": max_f1(*arguments)[1],
        }

    decisions = kinds = None
    if threshold is not None:
        decided = [image.decision for image in test]
        unknown = dict.fromkeys(
            ("true_positives", "false_positives", "true_negatives", "false_negatives", "f1")
        )
        counts = confusion(decided, labels) if labelled else unknown
        decisions = {"above": sum(decided), "of": len(test), **counts}
    if labelled:
        kinds = {}
        normal = [image for image in test if not image.label]
        for kind in sorted({image.kind for image in test if image.label}):
            mine = [image for image in test if image.kind == kind]
            above = None if threshold is None else sum(image.decision for image in mine)
            kinds[kind] = {"images": len(mine), "above": above, "pixels": None} | ranking(
                "residual", normal + mine
            )
    return {
        "model": {
            "method": "crn",
            "checkpoint": str(options.run.model_input),
            "weights": "0123456789abcdef",
            "step": 20000,
            "imsize": 128,
            "pairs": "best",
        },
        "dataset": {
            "layout": options.data.dataset,
            "path": str(options.data.dataset_path),
            "train": len(images) - len(test),
            "test": len(test),
            "normal": labels.count(0),
            "anomalous": labels.count(1),
            "unlabelled": labels.count(None),
            "masks": 0,
        },
        "anomaly_score": "residual",
        "threshold": {
            "image": threshold,
            "pixel": threshold,
            "quantile": None if threshold is None else 0.99,
            "source": None if threshold is None else "6 normal training images",
        },
        "maps": {"smoothing": 1.8, "sigma": 2.3, "low": 0.0, "high": 1.0},
        "scores": {name: ranking(name, test) for name in SCORES} if labelled else None,
        "decisions": decisions,
        "pixels": None,
        "kinds": kinds,
        "bootstrap": {"resamples": 1000, "seed": 0},
    }


def results_of(
    names: dict[str, list[str]],
    *,
    labels: bool = True,
    threshold: float | None = 0.6,
    size: tuple[int, int] = (24, 16),
    shades: dict[str, int] = PANEL_SHADES,
    **changes: Any,
) -> InferenceResults:
    images = scored_images(names, labels=labels, threshold=threshold)
    chosen = options(**changes)

    def panels(index: int) -> dict[str, Image.Image]:
        shown = shades | ({"mask": 255} if images[index].label and "overlay" in shades else {})
        return {
            name: Image.new("RGB", size, (shade, index % 256, 0)) for name, shade in shown.items()
        }

    return InferenceResults(
        chosen, "residual", threshold, images, metrics_of(chosen, images, threshold), panels,
        lambda width: Image.new("RGB", (width, 2), "white"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium for all tests of this file."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = programs["chromium"]
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        chosen.add_argument(argument)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(chosen, Service(programs["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """A report in the browser; an alert or an error on the console fails the test at its end."""

    def __init__(self, driver: Any, path: Path, width: int = DESKTOP) -> None:
        self.driver = driver
        self.resize(width)
        driver.get(path.as_uri())

    def resize(self, width: int, height: int = 800) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE},
        )

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        return self.run(script, selector)

    def text(self) -> str:
        return self.run("return document.body.innerText")

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def choose(self, name: str, value: str) -> None:
        self.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(e.type === 'search' ? 'input' : 'change'))",
            name,
            value,
        )

    def press(self, key: str) -> None:
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver).send_keys(getattr(Keys, key)).perform()

    def until(self, script: str) -> None:
        """Wait until a script returns true: pictures load when they like."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20).until(lambda _: self.run(script))

    def overflow(self) -> list[str]:
        """What reaches beyond the right edge, and the page itself where it scrolls sideways."""
        return self.run(
            """
            const root = document.documentElement, wide = [];
            if (root.scrollWidth > root.clientWidth) wide.push("page");
            for (const e of document.querySelectorAll("body *")) {
              const box = e.getBoundingClientRect();
              if (box.right > root.clientWidth + 0.5 && !e.closest("svg, thead")) {
                wide.push(e.outerHTML.slice(0, 80));
              }
            }
            return wide;"""
        )


@pytest.fixture
def show(browser) -> Iterator[Any]:
    """Open a report: ``show(path)``, ``show(path, PHONE)``."""
    yield lambda path, width=DESKTOP: Page(browser, path, width)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


NAMES = {
    "train": [f"{index:03d}.png" for index in range(6)],
    "good": [f"{index:03d}.png" for index in range(12)],
    "crack": [f"{index:03d}.png" for index in range(9)],
    "bent <b>wire</b>": [*HOSTILE, "a" * 200 + ".png"],
}


@pytest.fixture(scope="module")
def results() -> InferenceResults:
    return results_of(NAMES)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, results: InferenceResults) -> Path:
    """A report on normal images and two kinds of defect, with names made to do harm."""
    folder = tmp_path_factory.mktemp("a folder, 100% #1")
    write_inference_report(folder, results)
    return folder / "report.html"


def expected(results: InferenceResults, split: str = "test") -> list[str]:
    """Names in the order in which the gallery starts."""
    images = [image for image in results.images if image.split == split]
    return [image.key for image in sorted(images, key=lambda image: -image.scores["residual"])]


def test_the_page_shows_metrics_and_pictures(show, report, results):
    page = show(report)
    text, metrics = page.text(), results.metrics
    assert f"{metrics['scores']['residual']['auroc']:.3f}" in text
    low, high = metrics["kinds"]["crack"]["auroc_95"]
    assert f"{low:.3f}–{high:.3f}" in text
    assert "bent <b>wire</b>" in text
    assert page.texts("figure.chart figcaption") == [
        "ROC curve", "Precision and recall", "Test scores",
    ]  # fmt: skip
    assert page.texts("tbody tr td[data-column=found]")[-1] == str(
        metrics["decisions"]["true_positives"]
    )
    assert "--anomaly-score" in text
    assert page.texts(".card .name") == expected(results)
    anomalous, test = metrics["dataset"]["anomalous"], metrics["dataset"]["test"]
    assert f"by chance: {anomalous / test:.3f}" in text
    page.run("document.querySelector('#gallery').scrollIntoView()")
    page.until("return document.querySelector('.card img').naturalWidth > 0")
    assert page.run(
        "return [...document.images].every((i) => i.alt && i.getAttribute('width') > 0)"
    )
    assert page.run("return [...document.querySelectorAll('.card img')].every("
                    "(i) => i.loading === 'lazy' && i.decoding === 'async')")  # fmt: skip


def test_the_colour_scale_is_beside_the_images_and_in_the_dialog(show, report):
    page = show(report)
    for scale in ("section > .scale", "#dialog .scale"):
        assert sorted(page.texts(f"{scale} text")) == ["0", "1", "pixel threshold 0.6"]
        assert page.texts(f"{scale} li") == ["contour: the anomaly map is above 0.6"]
    page.click(".card")
    bar = page.run("return document.querySelector('#dialog image').getBoundingClientRect().width")
    assert bar > 200


def test_names_do_no_harm(show, report):
    page = show(report)
    shown = page.texts(".card .name")
    assert {f"bent <b>wire</b>/{name}" for name in HOSTILE} <= set(shown)
    for place, name in enumerate(shown):
        if any(hostile in name for hostile in HOSTILE):
            page.run("document.querySelectorAll('.card')[arguments[0]].click()", place)
            assert page.texts("#dialog-name") == [name]
            page.until("return [...document.querySelectorAll('#dialog img')]"
                       ".every((i) => i.naturalWidth > 0)")  # fmt: skip
            page.press("ESCAPE")
    assert page.run("return document.scripts.length") == 2
    assert page.find("[onerror], b, img[src=x]") == []
    files = {path.name for path in report.parent.rglob("*") if path.is_file()}
    assert all(re.fullmatch(r"report\.html|\d+(-\w+)?\.jpg", f) for f in files)


def test_no_other_script_runs(show, report, tmp_path):
    """Were a name ever written as markup, the content security policy would still stop it."""
    shutil.copytree(report.parent, tmp_path / "copy")
    path = tmp_path / "copy/report.html"
    injected = "<script>document.title = 'taken'</script><img src='x' onerror='document.title=1'>"
    path.write_text(path.read_text().replace("<h1>", injected + "<h1>"))
    page = show(path)
    page.until("return document.querySelector('img[src=x]').complete")
    assert page.run("return document.title") == "Inference on widget"
    complaints = page.driver.get_log("browser")
    assert any("Content Security Policy" in entry["message"] for entry in complaints)


def test_sorting(show, report, results):
    page, order = show(report), expected(results)
    page.click("#direction")
    assert page.texts(".card .name") == order[::-1]
    page.choose("sort", "name")
    names = page.texts(".card .name")
    assert [name for name in names if not name.startswith("bent")] == sorted(
        name for name in order if not name.startswith("bent")
    )
    page.click("#direction")
    assert page.texts(".card .name") == names[::-1]


def test_filters(show, report, results):
    page = show(report)
    test = {image.key: image for image in results.images if image.split == "test"}
    verdicts = {"alarm": (0, 1), "miss": (1, 0), "found": (1, 1)}
    for verdict, labels in verdicts.items():
        page.click(f"input[value={verdict}]")
        wanted = {key for key, image in test.items() if (image.label, image.decision) == labels}
        assert wanted
        assert set(page.texts(".card .name")) == wanted
        assert page.texts(f"#count-{verdict}") == [str(len(wanted))]
    page.choose("kind", "crack")
    assert set(page.texts(".card .name")) == {k for k in wanted if k.startswith("crack/")}
    page.choose("kind", "good")
    assert page.texts(".card .name") == []
    assert page.texts("#count") == ["No image is like that."]
    page.click("input[value=all]")
    page.choose("split", "train")
    assert page.texts(".card .name") == expected(results, "train")
    page.choose("split", "")
    assert len(page.texts(".card .name")) == len(NAMES["train"]) + len(NAMES["good"])
    page.choose("search", "TRAIN/003")
    assert page.texts(".card .name") == ["train/003.png"]


def test_enlarging_and_keys(show, report, results):
    page, order = show(report), expected(results)
    page.choose("kind", "crack")
    cracks = [key for key in order if key.startswith("crack/")]
    page.click(".card")
    for key, name in (
        ("ARROW_RIGHT", cracks[1]), ("ARROW_RIGHT", cracks[2]), ("ARROW_LEFT", cracks[1]),
        ("END", cracks[-1]), ("ARROW_RIGHT", cracks[-1]), ("HOME", cracks[0]),
        ("ARROW_LEFT", cracks[0]),
    ):  # fmt: skip
        page.press(key)
        assert page.texts("#dialog-name") == [name]
    assert page.texts("#dialog-place") == ["1 of 9"]
    assert page.texts("#dialog figcaption") == ["input", "reconstruction", "anomaly map", "mask"]
    assert "● found" in page.texts("#dialog dd")
    for _ in cracks:
        page.click("#next")
    page.press("ARROW_LEFT")  # the button is disabled now, and the keys still work
    assert page.texts("#dialog-name") == [cracks[-2]]
    page.press("ESCAPE")
    assert not page.run("return document.getElementById('dialog').open")
    page.until("return document.activeElement.className === 'card'")  # after the closing
    name = page.run("return document.activeElement.querySelector('.name').textContent")
    assert name == cracks[-2]
    page.press("ENTER")
    assert page.run("return document.getElementById('dialog').open")


def test_the_focus_is_never_out_of_sight(show, report):
    """Not under the controls, which stay on top, and its ring is not cut off."""
    page = show(report)
    page.run("[...document.querySelectorAll('.card')].at(-1).focus()")
    for _ in range(12):
        page.driver.execute_cdp_cmd(
            "Input.dispatchKeyEvent", {"type": "keyDown", "key": "Tab", "modifiers": 8}
        )
        focus = page.run(
            """
            const card = document.activeElement, style = getComputedStyle(card);
            return {
              name: card.className, ring: style.outlineStyle, offset: style.outlineOffset,
              top: card.getBoundingClientRect().top,
              controls: document.getElementById("controls").getBoundingClientRect().bottom};"""
        )
        assert (focus["name"], focus["ring"], focus["offset"]) == ("card", "solid", "-3px")
        assert focus["top"] > focus["controls"] > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_readable(show, report, scheme):
    page = show(report)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    colours = page.run(
        """
        const of = (selector, key = "color") =>
          getComputedStyle(document.querySelector(selector))[key].match(/\\d+/g).map(Number);
        return {paper: of("body", "backgroundColor"), raised: of(".card", "backgroundColor"),
                texts: ["body", ".note", ".figures dd", ".card .line", "#count"].map((s) => of(s)),
                chip: [of(":checked + .chip", "backgroundColor"), of(":checked + .chip")]};"""
    )
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
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


def test_thousands_of_images_stay_usable(show, tmp_path):
    names = [f"{index:04d}.png" for index in range(2500)]
    many = results_of({"good": names, "crack": names}, size=(8, 8), shades={"input": 60})
    write_inference_report(tmp_path, many)
    page = show(tmp_path / "report.html")
    assert len(page.texts(".card")) == 48
    assert page.run("return document.getElementsByTagName('*').length") < 1500
    assert (tmp_path / "report.html").stat().st_size < 1e6
    page.click("#more")
    assert len(page.texts(".card")) == 96
    page.run("document.getElementById('more').scrollIntoView()")
    page.until("return document.querySelectorAll('.card').length > 96")
    page.resize(DESKTOP, 9000)  # taller than a chunk: more than one has to come
    page.until("return document.getElementById('more').getBoundingClientRect().top > 9000")
    assert len(page.texts(".card")) < 500
    page.resize(DESKTOP)
    page.choose("search", "crack/2499")
    assert page.texts(".card .name") == ["crack/2499.png"]
    page.choose("search", "")
    page.click(".card")
    page.press("END")
    assert page.texts("#dialog-place") == ["5,000 of 5,000"]
    assert page.texts("#dialog-name") == ["good/0000.png"]
    page.press("ESCAPE")  # the page goes to where that image is
    page.until("return document.activeElement.dataset.place === '4999'")
    assert len(page.texts(".card")) == 5000


def test_what_is_out_of_sight_costs_nothing(show, tmp_path):
    names = [f"{index:04d}.png" for index in range(1000)]
    many = results_of({"good": names, "crack": names}, size=(8, 8), shades={"input": 60})
    write_inference_report(tmp_path, many)
    page = show(tmp_path / "report.html")
    page.click(".card")
    page.press("END")
    page.press("ESCAPE")
    pictures = "[...document.querySelectorAll('.card img')]"
    page.until(f"return {pictures}.at(-1).naturalWidth > 0")
    assert page.run(f"return {pictures}.filter((i) => i.naturalWidth).length") < 300
    assert page.run("return document.querySelectorAll('#gallery ol').length") == 42
    assert set(page.run("return [...document.querySelectorAll('#gallery ol')].map("
                        "(e) => getComputedStyle(e).contentVisibility)")) == {"auto"}  # fmt: skip


@pytest.mark.parametrize("size", [(512, 20), (20, 512), (1, 1), (5, 3)])
def test_images_of_any_shape(show, tmp_path, size):
    write_inference_report(tmp_path, results_of({"good": ["0.png"], "crack": ["0.png"]}, size=size))
    page = show(tmp_path / "report.html")
    for width in (DESKTOP, PHONE):
        page.resize(width)
        high = page.run("return document.querySelector('.card img').getBoundingClientRect().height")
        assert 2 < high <= 320
        page.click(".card")
        captions = page.run("return [...document.querySelectorAll('#dialog figcaption')]"
                            ".map((e) => e.getBoundingClientRect().height)")  # fmt: skip
        assert len(captions) == 4
        assert max(captions) < 30  # one line
        assert page.overflow() == []
        page.press("ESCAPE")


def test_without_labels_the_page_leaves_out_what_needs_them(show, tmp_path):
    unknown = results_of({"crack": NAMES["crack"]}, labels=False, dataset="Folder")
    write_inference_report(tmp_path, unknown)
    page = show(tmp_path / "report.html")
    assert page.texts("figure.chart figcaption") == ["Test scores"]
    assert not re.search(r"AUROC|[Ff]alse alarm|missed|Kinds", page.text())
    above = [image.key for image in unknown.images if image.decision]
    assert page.texts("fieldset .number") == ["9", str(len(above)), str(9 - len(above))]
    page.click("input[value=above]")
    assert page.texts(".card .name") == above[::-1]


def test_one_image(show, tmp_path):
    write_inference_report(tmp_path, results_of({"crack": ["0.png"]}, labels=False))
    page = show(tmp_path / "report.html")
    assert page.text().count("1 image without labels") == 1
    assert page.texts(".figures .remark") == ["of 1 image"]
    assert page.texts(".chart:not(.scale) .legend span") == ["1 image"]
    assert page.texts("#count") == ["1 of 1 image."]


def test_a_single_kind_is_no_table(show, tmp_path):
    write_inference_report(tmp_path, results_of({"good": ["0.png"], "crack": ["0.png"]}))
    assert show(tmp_path / "report.html").texts("h2") == ["Result", "Scores", "Images", "Settings"]


def test_without_threshold_the_page_leaves_out_decisions(show, tmp_path):
    write_inference_report(tmp_path, results_of(NAMES, threshold=None))
    page = show(tmp_path / "report.html")
    assert "AUROC" in page.text()
    assert page.texts(".figures dt") == ["AUROC", "Average precision"]
    assert page.find("[data-column=found], .mark, .threshold, .alarm, .miss, .found") == []
    assert "--threshold-from takes that of an earlier inference" in page.text()
    assert page.run("return document.getElementById('verdicts').hidden")
    assert set(page.texts(".verdict")) == {"normal", "anomalous"}


def test_earlier_reports_keep_their_pictures(show, tmp_path, results):
    for _ in range(2):
        write_inference_report(tmp_path, results)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html", "report-v1.html", "report_files",
    }  # fmt: skip
    pages = [show(tmp_path / name) for name in ("report.html", "report-v1.html")]
    sources = []
    for page in pages:
        page.driver.get((tmp_path / f"report{'-v1' if sources else ''}.html").as_uri())
        page.click(".card")
        page.until("return document.querySelector('#dialog img').naturalWidth > 0")
        sources.append(page.run("return document.querySelector('#dialog img').src"))
    assert [re.search(r"version_\d", source)[0] for source in sources] == ["version_1", "version_0"]


def test_a_report_that_fails_leaves_nothing(tmp_path, results):
    def panels(index: int) -> dict[str, Image.Image]:
        if index == 3:
            raise OSError("the file is gone")
        return results.panels(index)

    broken = InferenceResults(
        results.options, results.score, results.threshold, results.images, results.metrics, panels,
        results.colour_bar,
    )  # fmt: skip
    with pytest.raises(OSError, match="gone"):
        write_inference_report(tmp_path, broken)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


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


def test_training_report_says_that_best_is_no_result(show, training_report):
    page = show(training_report)
    assert page.texts(".figures dt") == ["Last AUROC", "Best AUROC", "Time"]
    values = page.run("return [...document.querySelectorAll('.figures dd')]"
                      ".map((e) => e.firstChild.textContent)")  # fmt: skip
    assert values == ["0.625", "0.875", "2 min 5 s"]
    assert "chosen by the labels of the test images and is no result" in page.text()
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
    trained = run_main(
        *shared, "--demo", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
        "--training-steps", 2, "--checkpoint-path", "kept", "--seed", 1,
    )  # fmt: skip
    scored = run_main(
        "--mode", "inference", *shared, "--model-input", "kept/last.ckpt",
        "--image-output-path", "out",
    )  # fmt: skip
    assert (trained.status, scored.status) == (0, 0)
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
    assert f"{last[1]:.3f}" in page.texts(".figures dd")[0]


def test_names_do_no_harm_in_reports_of_real_runs(show, run_main, mvtec_category, tmp_path):
    names = ["<img src=x onerror=alert(1)>", '" onerror="alert(2)"', "<script>alert(3)<", "&lt;b>"]
    for folder in ("test", "ground_truth"):
        (mvtec_category / folder / "hole").rename(mvtec_category / folder / names[0])
        for index, name in enumerate(names[1:]):
            ending = "_mask.png" if folder == "ground_truth" else ".png"
            file = mvtec_category / folder / names[0] / f"{index:03d}{ending}"
            file.rename(file.with_name(name + ending))
    root = mvtec_category.rename(mvtec_category.with_name(names[0]))
    shared = ("--dataset", "MVTec", "--dataset-path", root, "--cpu")
    trained = run_main(
        *shared, "--demo", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
        "--training-steps", 2, "--checkpoint-path", names[2], "--seed", 1,
    )  # fmt: skip
    scored = run_main(
        "--mode", "inference", *shared, "--model-input", f"{names[2]}/last.ckpt",
        "--image-output-path", names[3],
    )  # fmt: skip
    assert (trained.status, scored.status) == (0, 0)
    page = show(tmp_path / "logged_metrics/version_0/report.html")
    assert page.texts("h1") == [f"Training on {names[0]}"]
    assert page.find("[onerror], b, main img, [src=x]") == []
    page = show(tmp_path / names[3] / "report.html")
    assert page.texts("h1") == [f"Inference on {names[0]}"]
    assert f"by {names[2]}/last.ckpt of step 2." in page.text()
    page.choose("kind", names[0])
    assert set(page.texts(".card .name")) == {f"{names[0]}/{name}.png" for name in names[1:]}
    page.click(".card")
    page.until("return [...document.querySelectorAll('#dialog img')]"
               ".every((i) => i.naturalWidth === 24)")  # fmt: skip
    assert page.run("return document.scripts.length") == 2
    assert page.find("[onerror], b, [src=x]") == []


def test_no_report_without_a_folder_for_pictures(run_main, mvtec_category, tmp_path):
    shared = ("--dataset", "MVTec", "--dataset-path", mvtec_category, "--cpu")
    run_main(
        *shared, "--demo", "--imsize", 8, "--max-network-depth", 2, "--num-competitive-units", 2,
        "--training-steps", 1, "--checkpoint-path", "kept",
    )  # fmt: skip
    run_main("--mode", "inference", *shared, "--model-input", "kept/last.ckpt")
    assert (tmp_path / "anomaly_scores.csv").exists()
    assert not (tmp_path / "report.html").exists()


def test_thinned_curves_keep_their_shape():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 20_000)
    scores = generator.normal(size=labels.size) + labels
    curve = roc(scores, labels)
    assert len(curve) <= MOST_POINTS
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    assert auc(*curve.T) == pytest.approx(auroc(scores, labels), abs=1e-3)
    recall, precision = precision_recall(scores, labels).T
    assert len(recall) <= MOST_POINTS
    area = float(-np.diff(recall) @ precision[:-1])
    assert area == pytest.approx(average_precision(scores, labels), abs=2e-3)


def test_thinned_series_keep_their_extremes():
    steps = np.arange(20_000)
    values = np.random.default_rng(0).normal(size=steps.size)
    thin = thin_series(np.stack([steps, values], axis=1))
    assert len(thin) <= MOST_POINTS
    assert (thin[0, 0], thin[-1, 0]) == (0, 19_999)
    assert (thin[:, 1].min(), thin[:, 1].max()) == (values.min(), values.max())
    assert (np.diff(thin[:, 0]) > 0).all()


def test_equal_scores_are_a_narrow_histogram():
    for score in (0.5, -2e-6, 0.0):
        bars = histogram({"images": [score] * 3})
        assert bars.counts["images"].sum() == 3
        low, high = bars.edges[[0, -1]]
        assert low < score < high
        assert high - low == pytest.approx(abs(score) * 0.2 or 2)


def test_running_mean():
    points = np.array([[0, 1], [10, 2], [20, 6], [30, 4]], float)
    assert running_mean(points, 3)[:, 1].tolist() == [1.5, 3, 4, 5]
    assert running_mean(points, 1).tolist() == points.tolist()


def test_data_in_a_page_is_no_markup():
    data = {"name": "</script><!--\u2028 & \U0001f600 \udc80"}
    text = island(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data
