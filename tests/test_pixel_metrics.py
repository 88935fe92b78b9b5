"""Metrics of anomaly maps, against scikit-learn, values by hand and a plain implementation."""

from collections.abc import Sequence
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, roc_auc_score

from crn.evaluation.pixel_metrics import BINS, PixelCounts
from crn.evaluation.results import PixelMetrics

Pixels = Sequence[tuple[np.ndarray, np.ndarray]]


def counted(pixels: Pixels, low: float = 0, high: float = 1) -> PixelCounts:
    counts = PixelCounts(low, high)
    for values, mask in pixels:
        counts.add(values.astype(np.float32), mask if mask.any() else None)
    return counts


def test_ignored_pixels_do_not_count() -> None:
    """They are in no region either: the counts are those without the columns."""
    for values, mask in random_pixels(5):
        ignored = np.zeros(mask.shape, bool)
        ignored[:, 12:] = True
        counts, fewer = PixelCounts(0, 1), PixelCounts(0, 1)
        counts.add(values, mask & ~ignored, ignored)
        fewer.add(values[:, :12], mask[:, :12])
        for mine, theirs in zip(vars(counts).values(), vars(fewer).values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def regions_of(mask: np.ndarray) -> list[np.ndarray]:
    """The masks of regions whose pixels touch at a side or a corner."""
    regions, count = label(mask, np.ones((3, 3)))
    return [regions == number + 1 for number in range(count)]


def plain_aupro(pixels: Pixels, limit: float = 0.3) -> float:
    """The definition, threshold by threshold and region by region."""
    regions = [values[region] for values, mask in pixels for region in regions_of(mask)]
    normal = np.concatenate([values[~mask] for values, mask in pixels])
    curve = [(0.0, 0.0)]
    for threshold in sorted({v for values, _ in pixels for v in values.flat}, reverse=True):
        overlap = np.mean([(region >= threshold).mean() for region in regions])
        curve.append(((normal >= threshold).mean(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + y1) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


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


@pytest.mark.parametrize("seed", range(2))
def test_aupro_agrees_with_its_definition(seed: int) -> None:
    pixels = random_pixels(seed)
    assert counted(pixels).aupro() == pytest.approx(plain_aupro(pixels), abs=1e-4)
    assert counted(pixels).aupro(0.05) == pytest.approx(plain_aupro(pixels, 0.05), abs=1e-3)
    assert 0.2 < counted(pixels).aupro() < 0.95


@pytest.mark.parametrize("seed", range(4))
def test_auroc_and_average_precision_agree_with_scikit_learn(seed: int) -> None:
    pixels = random_pixels(seed)
    values = np.concatenate([values.ravel() for values, _ in pixels])
    labels = np.concatenate([mask.ravel() for _, mask in pixels])
    metrics = counted(pixels).metrics()
    assert metrics.auroc == pytest.approx(roc_auc_score(labels, values), abs=1e-5)
    assert metrics.average_precision == pytest.approx(
        average_precision_score(labels, values), abs=1e-4
    )


def test_the_error_of_auroc_is_within_its_bound_even_with_outliers() -> None:
    values, mask = random_pixels(1)[1]
    values[0, 0] = 5000  # so that all others share a few bins
    counts = counted([(values, mask)], 0, 5000)
    pairs = counts.normal.sum() * counts.anomalous.sum()
    bound = (counts.normal * counts.anomalous).sum() / pairs / 2
    error = abs(counts.auroc() - roc_auc_score(mask.ravel(), values.ravel()))
    assert 1e-4 < bound < 0.05
    assert 0 < error <= bound


def test_by_hand() -> None:
    # Anomalous pixels are at 0.9 and 0.3, normal ones at 0.5, 0.2, 0.2 and 0.1.
    values = np.array([[0.9, 0.5, 0.2], [0.3, 0.2, 0.1]])
    mask = np.array([[True, False, False], [True, False, False]])
    metrics = counted([(values, mask)]).metrics()
    assert metrics.auroc == pytest.approx((4 + 3) / 8)
    assert metrics.average_precision == pytest.approx((1 + 2 / 3) / 2)
    # One region: half of it up to a false positive rate of 1/4, then all of it.
    assert metrics.aupro == pytest.approx((0.25 * 0.5 + 0.05 * 1) / 0.3)


def test_an_anomalous_pixel_with_the_lowest_value_of_all_counts() -> None:
    values = np.array([[0.9, 0.5, 0.2, 0.0]])
    mask = np.array([[True, False, False, True]])
    metrics = counted([(values, mask)]).metrics()
    assert metrics.auroc == pytest.approx(2 / 4)
    assert metrics.average_precision == pytest.approx((1 + 2 / 4) / 2)
    assert metrics.aupro == pytest.approx(0.5)


def test_small_regions_count_as_much_as_large_ones() -> None:
    values, mask = np.zeros((8, 8)), np.zeros((8, 8), bool)
    mask[:3, :3] = mask[6, 6] = True
    values[6, 6] = 1
    values[0, 7] = 0.5
    # The small region is found at once, the large one not before all is.
    x = [0, 1 / 54, 0.3]
    y = [0.5, 0.5, 0.5 + 0.5 * (0.3 - 1 / 54) / (1 - 1 / 54)]
    assert counted([(values, mask)]).aupro() == pytest.approx(np.trapezoid(y, x) / 0.3)


def test_a_map_that_knows_everything_and_one_that_knows_nothing() -> None:
    mask = np.eye(6, dtype=bool)
    perfect = counted([(mask.astype(float), mask)]).metrics()
    assert perfect == PixelMetrics(1, 1, 1)
    constant = counted([(np.full((6, 6), 0.5), mask)]).metrics()
    # The curve is the diagonal: its area up to 0.3 is 0.3 * 0.3 / 2.
    assert astuple(constant) == pytest.approx((0.5, 1 / 6, 0.15))


def test_a_single_value_in_the_whole_run() -> None:
    mask = np.eye(3, dtype=bool)
    assert counted([(np.full((3, 3), 0.25), mask)], 0.25, 0.25).metrics().auroc == 0.5


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    apart = np.zeros((5, 5), bool)
    apart[0, 0] = apart[0, 2] = apart[4, 4] = True
    for mask, regions in ((np.eye(5, dtype=bool), 1), (apart, 3)):
        assert counted([(np.zeros((5, 5)), mask)]).overlap.sum() == pytest.approx(regions)


def test_counts_add_up() -> None:
    pixels = random_pixels(2)
    assert (counted(pixels[:2]) + counted(pixels[2:])).metrics() == counted(pixels).metrics()


def test_there_are_no_metrics_without_both_kinds_of_pixels() -> None:
    assert counted([(np.zeros((3, 3)), np.zeros((3, 3), bool))]).metrics() is None
    assert counted([(np.zeros((3, 3)), np.ones((3, 3), bool))]).metrics() is None
    assert PixelCounts(0, 1).metrics() is None


def test_negative_values_and_those_at_the_ends() -> None:
    values = np.array([[-2.0, -1.0, -0.5, 0.0]])
    mask = np.array([[False, False, True, True]])
    assert counted([(values, mask)], -2, 0).metrics().auroc == 1
    counts = counted([(values, mask)], -1, -0.5)
    assert (counts.normal[0], counts.anomalous[BINS - 1]) == (2, 2)
