"""Run the commands of docs/reading-results.md, and put what they write into it and the README.

In the root of the repository: ``python docs/reading-results/remake.py``. Needs the packages of
tests/requirements.txt, Chromium and chromedriver.
"""

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

HERE = Path(__file__).parent
PAGE = HERE.with_suffix(".md")
RESULTS, REPORT = Path("inference_images"), "inference_images/report.html"
TILES = (
    "good_ones/tile_053", "good_ones/tile_055", "bad_ones/pothole_009",
    "bad_ones/patch_006", "bad_ones/alligator_003", "bad_ones/crack_008",
)  # fmt: skip
OPEN_POTHOLES = (
    "const search = document.getElementById('search'); search.value = 'pothole';"
    "search.dispatchEvent(new Event('input', {bubbles: true}));"
    "document.querySelector('.card').click()"
)
GALLERY = "document.getElementById('images').scrollIntoView(); window.scrollBy(0, -16)"


def example() -> Image.Image:
    """The same tiles with their reconstructions and anomaly maps: two undamaged, then a crack."""
    columns = [[TILES[0], TILES[1], TILES[5]], TILES[2:5]]
    rows = [Image.open(RESULTS / f"inference/{tile}.png") for column in columns for tile in column]
    width, height, gap = 392, 128, 8
    picture = Image.new("RGB", (2 * width + 2 * gap, 3 * (height + gap) - gap), "white")
    for index, row in enumerate(rows):
        place = (index // 3 * (width + 2 * gap), index % 3 * (height + gap))
        picture.paste(row.resize((width, height), Image.Resampling.NEAREST), place)
    return picture


def overlays(driver) -> Image.Image:
    """Some overlays above the colour scale of them all."""
    scale = page(driver, f"{RESULTS}/colour_scale.svg", 640, 90, "light").crop((0, 0, 400, 64))
    size, gap = 192, 6
    width, height = 3 * (size + gap) - gap, 2 * (size + gap)
    scale = scale.resize((width, round(scale.height * width / scale.width)))
    picture = Image.new("RGB", (width, height + scale.height), "white")
    picture.paste(scale, (0, height))
    for index, tile in enumerate(TILES):
        overlay = Image.open(RESULTS / f"overlay/{tile}.png").resize((size, size))
        picture.paste(overlay, (index % 3 * (size + gap), index // 3 * (size + gap)))
    return picture


def page(driver, path: str, width: int, height: int, scheme: str, script: str = "") -> Image.Image:
    """A page in a window of so many pixels, after a script has run in it."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.get(Path(path).resolve().as_uri())
    driver.execute_script(script)
    time.sleep(1)  # until pictures are there
    png = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")


def printed(page: str) -> dict[str, str]:
    """What the commands of a page print, by the names of the blocks that show it."""
    outputs = []
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[1] == "train.py":
                words[0] = sys.executable
                run = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                outputs.append(run.stdout)
    _, _, inference, folder = outputs
    rows = (RESULTS / "anomaly_scores.csv").read_text(encoding="utf-8-sig").splitlines()
    decisions = json.loads((RESULTS / "metrics.json").read_text())["decisions"]
    return {
        "inference": inference,
        "csv": "\n".join(rows[:3]) + "\n",
        "json": (
            ">>> import json\n"
            f'>>> metrics = json.load(open("{RESULTS}/metrics.json"))\n'
            f'>>> metrics["decisions"]\n{decisions}\n'
        ),
        "folder": folder,
    }


def write_blocks() -> None:
    """Run the commands of the page, and put what they print into its blocks."""
    text = PAGE.read_text(encoding="utf-8")
    for name, content in printed(text).items():
        start = text.index("\n", text.index("```", text.index(f"<!-- {name} -->"))) + 1
        text = text[:start] + content + text[text.index("```", start) :]
    PAGE.write_text(text, encoding="utf-8")


def write_pictures() -> None:
    """Write the pictures of the page and of the README."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    phones = Image.new("RGB", (3 * 400 + 2 * 20, 800), "white")
    for index, (scheme, script) in enumerate(
        (("light", ""), ("light", GALLERY), ("dark", OPEN_POTHOLES))
    ):
        phones.paste(page(driver, REPORT, 400, 800, scheme, script), (index * 420, 0))
    training = max(
        Path("logged_metrics").glob("*/report.html"), key=lambda path: path.stat().st_mtime
    )
    pictures = {
        "overlays": overlays(driver),
        "report": page(driver, REPORT, 1280, 1900, "light"),
        "enlarged": page(driver, REPORT, 1280, 800, "dark", OPEN_POTHOLES),
        "phone": phones,
        "training": page(driver, str(training), 1280, 1340, "dark"),
    }
    driver.quit()
    example().save(HERE.parent / "example.png", optimize=True)
    for name, picture in pictures.items():
        picture.save(HERE / f"{name}.jpg", quality=80, subsampling=0, optimize=True)


if __name__ == "__main__":
    write_blocks()
    write_pictures()
