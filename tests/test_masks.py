"""Masks as people save them: what is taken for anomalous, and what is said or refused."""

from pathlib import Path

import numpy as np
import pytest
from conftest import texture
from PIL import Image, ImageFilter

from crn.errors import UserError
from datasets.masks import Masks
from datasets.samples import ANOMALOUS, TEST, Sample

SHAPE = (40, 60)
DEFECT = np.zeros(SHAPE, bool)
DEFECT[10:20, 30:45] = True


def gray(normal: int, anomalous: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(DEFECT, anomalous, normal).astype(dtype))


def colour(normal: tuple, anomalous: tuple) -> Image.Image:
    return Image.fromarray(np.where(DEFECT[..., None], anomalous, normal).astype(np.uint8))


def read(folder: Path, *images: Image.Image, **how) -> Masks:
    samples = []
    for index, image in enumerate(images):
        path = folder / f"{index}_mask.png"
        image.save(path, **how)
        samples.append(Sample(str(index), (folder / f"{index}.png",), TEST, ANOMALOUS, path))
    return Masks(samples, [SHAPE] * len(images))


PALETTE = gray(0, 1).convert("P")
PALETTE.putpalette([0, 0, 0, 255, 0, 0])


@pytest.mark.parametrize(
    "image",
    [
        *(gray(0, 255), gray(0, 1), gray(0, 255).convert("1"), PALETTE),
        *(gray(0, 65_535, np.uint16), gray(0, 1, np.uint16), colour((0, 0, 0), (0, 0, 200))),
        colour((0, 0, 0, 255), (255, 255, 255, 255)),
        colour((0, 0, 0, 0), (255, 255, 255, 0)),
    ],
)
def test_two_values_without_a_word(tmp_path: Path, caplog, image: Image.Image) -> None:
    masks = read(tmp_path, image)
    assert len(masks) == 1
    assert masks[0].dtype == bool
    np.testing.assert_array_equal(masks[0], DEFECT)
    assert caplog.messages == []


CLASSES = np.where(DEFECT, 2, 0).astype(np.uint8)
CLASSES[15:20, 30:45] = 3
MANY_COLOURS = np.zeros((*SHAPE, 4), np.uint8)
MANY_COLOURS[DEFECT] = (255, 0, 0, 255)
MANY_COLOURS[15:20, 30:45] = (0, 90, 250, 255)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (gray(16, 235), "brighter of two values"),
        (Image.fromarray(CLASSES), "numbers of classes"),
        (colour((0, 0, 0, 0), (0, 0, 0, 255)), "opaque"),
        (colour((255, 255, 255, 0), (0, 0, 0, 255)), "opaque"),
        (colour((0, 0, 0, 0), (255, 0, 0, 200)), "opaque"),
        (Image.fromarray(MANY_COLOURS), "shades of gray"),
    ],
)
def test_others_are_interpreted_and_named(
    tmp_path: Path, caplog, image: Image.Image, words: str
) -> None:
    masks = read(tmp_path, image, image)
    np.testing.assert_array_equal(masks[1], DEFECT)
    (message,) = caplog.messages
    assert message.startswith(f"2 masks such as {tmp_path / '0_mask.png'}: ")
    assert words in message


SOFT = gray(0, 255).filter(ImageFilter.GaussianBlur(1))


@pytest.mark.parametrize(
    ("image", "how"),
    [(SOFT, {}), *((gray(0, 255), {"format": "JPEG", "quality": q}) for q in (30, 75, 95))],
)
def test_gray_edges_end_in_the_middle(tmp_path: Path, caplog, image, how: dict) -> None:
    masks = read(tmp_path, image, **how)
    assert (masks[0] != DEFECT).mean() < 0.01
    assert "shades of gray" in caplog.text


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(texture(0, *SHAPE)),
        Image.linear_gradient("L").resize(SHAPE[::-1]),
        Image.fromarray(np.where(DEFECT, 120, 0).astype(np.uint8) + CLASSES * 9),
    ],
)
def test_a_picture_is_no_mask(tmp_path: Path, image: Image.Image) -> None:
    with pytest.raises(UserError, match=r"0_mask\.png: is gray, not a mask; save it with anomal"):
        read(tmp_path, image)


def test_inverted_masks_are_refused_or_named(tmp_path: Path, caplog) -> None:
    with pytest.raises(UserError, match=r"0_mask\.png: white for .*2 of 3 masks; .*: invert them"):
        read(tmp_path, gray(255, 0), gray(255, 0), gray(0, 255))
    masks = read(tmp_path, gray(255, 0), gray(0, 255), gray(0, 255))
    np.testing.assert_array_equal(masks[0], ~DEFECT)
    assert "as 1 of 3 masks; white has to mark what is anomalous" in caplog.text


@pytest.mark.parametrize("value", [0, 1, 255])
def test_nothing_or_everything_is_anomalous(tmp_path: Path, caplog, value: int) -> None:
    assert read(tmp_path, gray(value, value))[0].all() == (value > 0)
    assert caplog.messages == []


def test_samples_without_masks_have_none() -> None:
    masks = Masks([Sample("a", (Path("a.png"),), TEST, ANOMALOUS)], [SHAPE])
    assert list(masks) == [None]


def test_masks_take_little_memory(tmp_path: Path) -> None:
    sample = Sample("a", (Path("a.png"),), TEST, ANOMALOUS, tmp_path / "large.png")
    large = np.zeros((2000, 3000), np.uint8)
    large[500:900, 500:900] = 255
    Image.fromarray(large).save(sample.mask)
    masks = Masks([sample], [large.shape])
    np.testing.assert_array_equal(masks[0], large > 0)
    assert len(masks._packed[0]) < large.size / 500
