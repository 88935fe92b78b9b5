"""The gallery of a report, in a browser: opened from a file, without a network."""

import base64
import re
import time

import pytest
from reports import DESKTOP, HOSTILE, NAMES, PHONE, results_of, write_report

from crn.evaluation.results import InferenceResults


def expected(results: InferenceResults, split: str = "test") -> list[str]:
    """Names in the order in which the gallery starts."""
    images = [image for image in results.images if image.split == split]
    return [image.key for image in sorted(images, key=lambda image: -image.scores["residual"])]


def test_names_do_no_harm(show, report):
    page = show(report)
    shown = page.texts(".card .name")
    assert {f"bent <b>wire</b>/{name}" for name in HOSTILE} <= set(shown)
    for place in (place for place, name in enumerate(shown) if name.endswith(HOSTILE)):
        page.run("document.querySelectorAll('.card')[arguments[0]].click()", place)
        assert page.texts("#dialog-name") == [shown[place]]
        page.until("return [...document.querySelectorAll('#dialog img')]"
                   ".every((i) => i.naturalWidth > 0)")  # fmt: skip
        page.press("ESCAPE")
    assert page.texts("h1") == ["Inference on wid<b>get"]
    assert page.run("return document.scripts.length") == 2
    assert page.find("[onerror], b, img[src=x]") == []
    files = {path.name for path in report.parent.rglob("*") if path.is_file()}
    assert all(re.fullmatch(r"report\.html|\d+(-\w+)?\.jpg", f) for f in files)


def test_sorting(show, report, results):
    page, order = show(report), expected(results)
    page.click("#direction")
    assert page.texts(".card .name") == order[::-1]
    page.choose("sort", "name")
    names = page.texts(".card .name")
    plain = [name for name in names if not name.startswith("bent")]
    assert plain == sorted(plain)
    page.click("#direction")
    assert page.texts(".card .name") == names[::-1]


def test_filters(show, report, results):
    page = show(report)
    test = {image.key: image for image in results.images if image.split == "test"}
    for verdict, labels in (("alarm", (0, 1)), ("miss", (1, 0)), ("found", (1, 1))):
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
        name, ring, offset, top, controls = page.run(
            """
            const card = document.activeElement, style = getComputedStyle(card);
            return [card.className, style.outlineStyle, style.outlineOffset,
                    card.getBoundingClientRect().top,
                    document.getElementById("controls").getBoundingClientRect().bottom];"""
        )
        assert (name, ring, offset) == ("card", "solid", "-3px")
        assert top > controls > 0


def test_thousands_of_images_stay_usable(show, tmp_path):
    names = [f"{index:04d}.png" for index in range(1500)]
    results = results_of({"good": names, "crack": names})
    path = write_report(tmp_path, results, size=(8, 8), names=("input",))
    page = show(path)
    assert len(page.texts(".card")) == 48
    assert page.run("return document.getElementsByTagName('*').length") < 1500
    assert path.stat().st_size < 1e6
    page.click("#more")
    assert len(page.texts(".card")) == 96
    page.run("document.getElementById('more').scrollIntoView()")
    page.until("return document.querySelectorAll('.card').length > 96")
    page.resize(DESKTOP, 9000)  # taller than a chunk: more than one has to come
    page.until("return document.getElementById('more').getBoundingClientRect().top > 9000")
    assert len(page.texts(".card")) < 500
    page.resize(DESKTOP)
    page.choose("search", "crack/1499")
    assert page.texts(".card .name") == ["crack/1499.png"]
    page.choose("search", "")
    page.click(".card")
    page.press("END")
    assert page.texts("#dialog-place") == ["3,000 of 3,000"]
    assert page.texts("#dialog-name") == ["good/0000.png"]
    page.press("ESCAPE")  # the page goes to where that image is
    page.until("return document.activeElement.dataset.place === '2999'")
    assert len(page.texts(".card")) == 3000
    # What is out of sight is not loaded, and not laid out.
    pictures = "[...document.querySelectorAll('.card img')]"
    page.until(f"return {pictures}.at(-1).naturalWidth > 0")
    assert page.run(f"return {pictures}.filter((i) => i.naturalWidth).length") < 800
    assert set(page.run("return [...document.querySelectorAll('#gallery ol')].map("
                        "(e) => getComputedStyle(e).contentVisibility)")) == {"auto"}  # fmt: skip


def test_all_images_are_printed(show, tmp_path):
    names = [f"{index:02d}.png" for index in range(90)]
    path = write_report(tmp_path, results_of({"good": names, "crack": names[:30]}))
    for seconds in (1, 2, 4, 8, 16):
        page = show(path)
        page.choose("kind", "good")
        time.sleep(seconds)  # until all pictures were fetched
        printed = base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
        assert page.texts("#count") == ["90 of 120 images."]
        assert len(page.texts(".card")) == 90
        if printed.count(b"/Subtype /Image") == 90 + 1:  # the bar of all colours, too
            return
    pytest.fail("not all pictures were printed")


@pytest.mark.parametrize("size", [(512, 20), (20, 512), (1, 1), (5, 3)])
def test_images_of_any_shape(show, tmp_path, size):
    page = show(write_report(tmp_path, results_of({"good": ["0.png"], "crack": ["0.png"]}), size))
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
