"""Metrics of anomaly maps, against scikit-learn, values by hand and a plain implementation."""

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, roc_auc_score

from crn.evaluation.pixel_metrics import aupro, count_pixels, pixel_metrics
from crn.evaluation.results import PixelMetrics

Pixels = Sequence[tuple[np.ndarray, np.ndarray]]


def counted(pixels: Pixels, low: float = 0, high: float = 1) -> np.ndarray:
    return sum(
        count_pixels(values.astype(np.float32), low, high, mask if mask.any() else None)
        for values, mask in pixels
    )


def metrics_of(*rows: list[tuple[float, bool]]) -> PixelMetrics | None:
    """The metrics of a map of (value, is anomalous)."""
    values, mask = np.moveaxis(np.array(rows), 2, 0)
    return pixel_metrics(counted([(values, mask.astype(bool))]))


def test_ignored_pixels_do_not_count() -> None:
    """They are in no region either: the counts are those without the columns."""
    for values, mask in random_pixels(5):
        ignored = np.zeros(mask.shape, bool)
        ignored[:, 12:] = True
        counts = count_pixels(values, 0, 1, mask & ~ignored, ignored)
        np.testing.assert_array_equal(counts, count_pixels(values[:, :12], 0, 1, mask[:, :12]))


def plain_aupro(pixels: Pixels, limit: float = 0.3) -> float:
    """The definition, threshold by threshold and region by region."""
    regions = []
    for values, mask in pixels:
        labels, count = label(mask, np.ones((3, 3)))  # pixels of a region touch, if at a corner
        regions += [values[labels == number + 1] for number in range(count)]
    normal = np.concatenate([values[~mask] for values, mask in pixels])
    curve = [(0.0, 0.0)]
    for threshold in sorted({v for values, _ in pixels for v in values.flat}, reverse=True):
        overlap = np.mean([(region >= threshold).mean() for region in regions])
        curve.append(((normal >= threshold).mean(), overlap))
    return float(np.interp(np.linspace(0, limit, 100_001), *np.transpose(curve)).mean())


def random_pixels(seed: int, images: int = 4) -> Pixels:
    """Maps that are higher on some blobs, of which most are in the mask, and masks of blobs."""
    generator = np.random.default_rng(seed)
    result = []
    for index in range(images):
        mask = np.zeros((24, 20), bool)
        for _ in range(3 * (index > 0)):  # one image is normal
            y, x = generator.integers(0, 18, 2)
            height, width = generator.integers(1, 8, 2)
            mask[y : y + height, x : x + width] = True
        values = generator.random(mask.shape) * 0.6 + 0.25 * mask
        result.append((values.astype(np.float32), mask))
    return result


@pytest.mark.parametrize("seed", range(4))
def test_metrics_agree_with_scikit_learn_and_a_plain_aupro(seed: int) -> None:
    pixels = random_pixels(seed)
    values = np.concatenate([values.ravel() for values, _ in pixels])
    labels = np.concatenate([mask.ravel() for _, mask in pixels])
    metrics = pixel_metrics(counted(pixels))
    assert metrics.auroc == pytest.approx(roc_auc_score(labels, values), abs=1e-5)
    expected = average_precision_score(labels, values)
    assert metrics.average_precision == pytest.approx(expected, abs=1e-4)
    assert metrics.aupro == pytest.approx(plain_aupro(pixels), abs=1e-4)
    assert 0.2 < metrics.aupro < 0.95
    # The counts of several images add up.
    assert pixel_metrics(counted(pixels[:2]) + counted(pixels[2:])) == metrics


def test_the_error_of_auroc_is_within_its_bound_even_with_outliers() -> None:
    values, mask = random_pixels(1)[1]
    values[0, 0] = 5000  # so that all others share a few bins
    counts = counted([(values, mask)], 0, 5000)
    normal, anomalous, _ = counts
    bound = (normal * anomalous).sum() / (normal.sum() * anomalous.sum()) / 2
    error = abs(pixel_metrics(counts).auroc - roc_auc_score(mask.ravel(), values.ravel()))
    assert 1e-4 < bound < 0.05
    assert 0 < error <= bound


def test_by_hand() -> None:
    metrics = metrics_of(
        [(0.9, True), (0.5, False), (0.2, False)], [(0.3, True), (0.2, False), (0.1, False)]
    )
    # One region: half of it up to a false positive rate of 1/4, then all of it.
    area = (0.25 * 0.5 + 0.05 * 1) / 0.3
    assert astuple(metrics) == pytest.approx(((4 + 3) / 8, (1 + 2 / 3) / 2, area))
    # An anomalous pixel with the lowest value of all counts.
    metrics = metrics_of([(0.9, True), (0.5, False), (0.2, False), (0.0, True)])
    assert astuple(metrics) == pytest.approx((2 / 4, (1 + 2 / 4) / 2, 0.5))


def test_small_regions_count_as_much_as_large_ones() -> None:
    values, mask = np.zeros((8, 8)), np.zeros((8, 8), bool)
    mask[:3, :3] = mask[6, 6] = True
    values[6, 6] = 1
    values[0, 7] = 0.5
    # The small region is found at once, the large one not before all is.
    x = [0, 1 / 54, 0.3]
    y = [0.5, 0.5, 0.5 + 0.5 * (0.3 - 1 / 54) / (1 - 1 / 54)]
    assert aupro(counted([(values, mask)])) == pytest.approx(np.trapezoid(y, x) / 0.3)


def test_a_map_that_knows_everything_and_one_that_knows_nothing() -> None:
    mask = np.eye(6, dtype=bool)
    assert pixel_metrics(counted([(mask.astype(float), mask)])) == PixelMetrics(1, 1, 1)
    constant = [(np.full((6, 6), 0.5), mask)]
    for low, high in ((0, 1), (0.5, 0.5)):
        # The curve is the diagonal: its area up to 0.3 is 0.3 * 0.3 / 2.
        metrics = pixel_metrics(counted(constant, low, high))
        assert astuple(metrics) == pytest.approx((0.5, 1 / 6, 0.15))


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    apart = np.zeros((5, 5), bool)
    apart[0, 0] = apart[0, 2] = apart[4, 4] = True
    for mask, regions in ((np.eye(5, dtype=bool), 1), (apart, 3)):
        assert counted([(np.zeros((5, 5)), mask)])[2].sum() == pytest.approx(regions)


@pytest.mark.parametrize("is_anomalous", [False, True])
def test_there_are_no_metrics_without_both_kinds_of_pixels(is_anomalous: bool) -> None:
    assert metrics_of([(0.5, is_anomalous), (0.1, is_anomalous)]) is None


def test_negative_values_and_those_beyond_the_ends() -> None:
    values = np.array([[-2.0, -1.0, -0.5, 0.0]])
    mask = np.array([[False, False, True, True]])
    assert pixel_metrics(counted([(values, mask)], -2, 0)).auroc == 1
    normal, anomalous, _ = counted([(values, mask)], -1, -0.5)
    assert (normal[0], anomalous[-1]) == (2, 2)
