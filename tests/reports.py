"""Results of inference that a test makes up, and reports on them in a browser."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from crn.config import GROUPS, Options
from crn.evaluation.metrics import evaluate
from crn.evaluation.results import InferenceResults, ModelFacts, ScoredImage, Thresholds
from crn.report.gallery import files_folder, write_panels
from crn.report.inference_page import write_inference_report
from crn.report.overlays import ColourScale

HOSTILE = (
    "<script>alert(1)</script>.png",
    '" onerror="alert(2)".png',
    "</script><img src=x onerror=alert(3)>.png",
    "%2e%2e#?&amp;'.png",
)
PHONE, DESKTOP = 400, 1280
PANEL_SHADES = {"input": 60, "reconstruction": 120, "overlay": 180, "mask": 255}


def options(**changes: Any) -> Options:
    groups = {name: group() for name, group in GROUPS.items()}
    plain = {
        "mode": "inference", "model_input": Path("model.ckpt"), "seed": 1, "dataset": "MVTec",
        "dataset_path": Path("data/wid<b>get"), "image_output_path": Path("out"),
    }  # fmt: skip
    return Options(**groups, given=frozenset({"seed", "dataset"})).replace(**{**plain, **changes})


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
                    (16, 24),
                    {"reconstruction": score / 2, "residual": score, "discrimination": -score},
                    None if threshold is None else int(score > threshold),
                )
            )
    return images


def results_of(
    names: dict[str, list[str]],
    *,
    labels: bool = True,
    threshold: float | None = 0.6,
    image_at: dict[str, float] | None = None,
    **changes: Any,
) -> InferenceResults:
    """Results of a run that scored `scored_images`, without masks."""
    images = scored_images(names, labels=labels, threshold=threshold)
    chosen, source = options(**changes), "6 normal training images"
    thresholds = Thresholds(threshold, threshold, 0.99, source, image_at)
    model = ModelFacts("crn", str(chosen.run.model_input), "0123456789abcdef", 20000, 128, "best")
    maps = torch.linspace(0, 1, len(images)).view(-1, 1, 1)  # the range of the colours
    none = [None] * len(images)
    metrics = evaluate(chosen, model, thresholds, images, maps, none, none)
    return InferenceResults(chosen, images, metrics)


def write_report(
    folder: Path,
    results: InferenceResults,
    size: tuple[int, int] = (24, 16),
    names: tuple[str, ...] = tuple(PANEL_SHADES),
) -> Path:
    """Write a report whose panels are of one shade each, which tells images apart.

    Args:
        size: width and height of the panels.
        names: those there are; a mask only where the image is anomalous.
    """
    with files_folder(folder) as files:
        shown = []
        for index, image in enumerate(results.images):
            panels = {
                name: Image.new("RGB", size, (PANEL_SHADES[name], index * 16 % 256, index % 256))
                for name in names
                if image.label or name != "mask"
            }
            shown.append(write_panels(panels, files, index))
        scale = ColourScale(0, 1, results.metrics.threshold.pixel)
        write_inference_report(folder, files, results, shown, scale)
    return folder / "report.html"


NAMES = {
    "train": [f"{index:03d}.png" for index in range(6)],
    "good": [f"{index:03d}.png" for index in range(12)],
    "crack": [f"{index:03d}.png" for index in range(9)],
    "bent <b>wire</b>": [*HOSTILE, "a" * 200 + ".png"],
}


class Page:
    """A report in the browser; an alert or an error on the console fails the test at its end."""

    def __init__(self, driver: Any, path: Path, width: int = DESKTOP) -> None:
        self.driver = driver
        self.resize(width)
        self.scheme("light")
        driver.get(path.as_uri())

    def resize(self, width: int, height: int = 800) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE},
        )

    def scheme(self, value: str) -> None:
        """Show it as people see it who have chosen "light" or "dark" pages."""
        feature = {"name": "prefers-color-scheme", "value": value}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

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
            "e.dispatchEvent(new Event('input', {bubbles: true}))",
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
