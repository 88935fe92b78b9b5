"""Smoothed anomaly maps, and pictures of them: where colours and lines are."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from crn.evaluation.pixel_metrics import at_size
from crn.methods.smoothing import smoothed, smoothing_matrix
from crn.report.overlays import ColourScale, legend, line_width, outline, overlay
from crn.report.pictures import heat_colours

WHITE, BLACK, CYAN = (255, 255, 255), (0, 0, 0), (0, 230, 255)


def pixels_of(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has a colour, (H, W) bool."""
    return (np.asarray(picture) == colour).all(2)


def block(size: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    region = np.zeros((size, size), bool)
    region[top:bottom, left:right] = True
    return region


def drawn(values: np.ndarray, threshold: float | None, *mask: np.ndarray) -> Image.Image:
    """An overlay over a gray image."""
    gray = Image.new("RGB", values.shape[::-1], "gray")
    return overlay(gray, values, ColourScale(0, 1, threshold), *mask)


@pytest.mark.parametrize(("size", "percent"), [(32, 1.8), (8, 25)])
def test_smoothing_is_a_gaussian(size: int, percent: float) -> None:
    maps = torch.rand(3, size, size, generator=torch.Generator().manual_seed(1))
    result = smoothed(maps, smoothing_matrix(percent, size))
    sigma = percent / 100 * size
    expected = gaussian_filter(maps.numpy(), (0, sigma, sigma), mode="reflect")
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("percent", [0, 1e-300, 0.7, 1.8, 25])
def test_smoothing_keeps_the_mean_of_every_map(percent: float) -> None:
    maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    result = smoothed(maps, smoothing_matrix(percent, 16))
    torch.testing.assert_close(result.mean((1, 2)), maps.mean((1, 2)))
    if percent <= 0.7:  # an eighth of a pixel
        assert torch.equal(result, maps)
    else:
        assert (result.std((1, 2)) < maps.std((1, 2))).all()


def test_a_map_at_another_size() -> None:
    ramp = torch.arange(4.0).expand(4, 4)
    result = at_size(ramp, (2, 8))
    np.testing.assert_allclose(result, [[0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]] * 2)


def test_the_contour_runs_around_what_is_above_the_threshold() -> None:
    inside = block(40, 10, 20, 5, 30)
    picture = drawn(np.where(inside, 0.8, 0.2), 0.5)
    assert (pixels_of(picture, WHITE) == (inside & ~block(40, 11, 19, 6, 29))).all()
    around = block(40, 9, 21, 5, 30) | block(40, 10, 20, 4, 31)  # no corners
    assert (pixels_of(picture, BLACK) == (around & ~inside)).all()


@pytest.mark.parametrize("threshold", [None, 0.8, 1.0])
def test_there_is_no_contour_where_nothing_is_above_the_threshold(threshold: float | None) -> None:
    picture = drawn(np.where(block(40, 10, 20, 5, 30), 0.8, 0.2), threshold)
    assert not pixels_of(picture, WHITE).any()
    assert not pixels_of(picture, BLACK).any()


def test_the_outline_of_the_mask() -> None:
    mask = block(30, 5, 15, 8, 12)
    expected = mask & ~block(30, 6, 14, 9, 11)
    assert (pixels_of(drawn(np.zeros((30, 30)), 0.5, mask), CYAN) == expected).all()


def test_colours_cover_the_image_the_more_the_hotter() -> None:
    values = np.array([[0.0, 0.5, 1.0, 7.0, -7.0]])
    picture = np.asarray(
        overlay(Image.new("RGB", (5, 1), (200, 100, 0)), values, ColourScale(0, 1, None))
    )[0].astype(float)
    gray = np.full(3, round(0.299 * 200 + 0.587 * 100))
    warm, hot = heat_colours()[[128, 255]].astype(float)
    expected = [gray, gray + 0.375 * (warm - gray), gray + 0.75 * (hot - gray)]
    np.testing.assert_allclose(picture, [*expected, expected[2], expected[0]], atol=2)


def test_lines_get_wider_with_the_picture_and_do_not_follow_its_border() -> None:
    assert [line_width(8, 24), line_width(256, 400), line_width(1024, 768)] == [1, 1, 3]
    assert outline(block(30, 5, 25, 5, 25), 3).sum() == 400 - 14 * 14
    assert (outline(block(20, 0, 20, 0, 10), 1) == block(20, 0, 20, 9, 10)).all()


def texts_of(svg: str) -> list[str]:
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def test_the_legend_says_what_overlays_have() -> None:
    assert texts_of(legend(ColourScale(-1, 3, None), masks=False)) == ["-1", "3"]
    assert texts_of(legend(ColourScale(-1, 3, 0.5), masks=True))[2:] == [
        "pixel threshold 0.5",
        "contour: the anomaly map is above 0.5",
        "outline of the mask: what the data set calls anomalous",
    ]


@pytest.mark.parametrize(("threshold", "place"), [(2.0, 296), (-5.0, 8), (5.0, 392)])
def test_the_threshold_is_marked_on_the_colours_or_at_their_end(threshold, place) -> None:
    assert f'd="M{place}.0 20V50"' in legend(ColourScale(-1, 3, threshold), masks=False)


def test_the_colours_of_the_legend_are_those_of_overlays() -> None:
    svg = legend(ColourScale(-1, 3, 2.0), masks=False)
    data = base64.b64decode(re.search('base64,([^"]+)', svg)[1])
    bar = np.asarray(Image.open(io.BytesIO(data)))
    # Over light and dark gray: transparent at first, hot at last.
    assert (bar[:, 0] == [[200] * 3, [60] * 3]).all()
    assert bar[:, -1].min() > 180
