"""Metrics of image scores, against values worked out by hand and a plain bootstrap."""

import numpy as np
import pytest

from crn.evaluation.metrics import auroc, auroc_interval, average_precision, confusion, max_f1
from crn.evaluation.results import Decisions


def scores_of_two_normal_distributions(normal: int, anomalous: int) -> tuple[np.ndarray, list[int]]:
    generator = np.random.default_rng(3)
    scores = np.concatenate([generator.normal(0, 1, normal), generator.normal(1, 1, anomalous)])
    return scores.round(1), [0] * normal + [1] * anomalous  # rounded, so that some are equal


def test_metrics_by_hand_and_never_flipped():
    labels = [0, 0, 1, 1]
    assert auroc([0.1, 0.4, 0.35, 0.8], labels) == pytest.approx(0.75)
    assert auroc([0.9, 0.8, 0.2, 0.1], labels) == 0.0
    assert average_precision([0.1, 0.4, 0.35, 0.8], labels) == pytest.approx((1 + 2 / 3) / 2)


def test_interval_agrees_with_a_plain_bootstrap():
    scores, labels = scores_of_two_normal_distributions(60, 30)
    generator = np.random.default_rng(8)
    aurocs = []
    for _ in range(5000):
        normal = generator.choice(scores[:60], 60)
        anomalous = generator.choice(scores[60:], (30, 1))
        aurocs.append((anomalous > normal).mean() + (anomalous == normal).mean() / 2)
    low, high = auroc_interval(scores, labels)
    assert [low, high] == pytest.approx(list(np.quantile(aurocs, [0.025, 0.975])), abs=0.015)
    assert low < auroc(scores, labels) < high
    assert high - low > 0.1


def test_interval_is_the_same_every_time_and_depends_on_ranks_alone():
    scores, labels = scores_of_two_normal_distributions(20, 20)
    interval = auroc_interval(scores, labels)
    assert auroc_interval(scores, labels) == interval
    assert auroc_interval(np.exp(scores), labels) == interval


@pytest.mark.parametrize(
    ("scores", "labels", "interval"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], (1, 1)),
        ([3, 4, 1, 2], [0, 0, 1, 1], (0, 0)),
        ([5, 5, 5, 5], [0, 0, 1, 1], (0.5, 0.5)),
        ([2, 1, 3], [0, 1, 1], (0, 1)),  # a single normal image
    ],
)
def test_interval_of_scores_that_always_or_never_tell(scores, labels, interval):
    assert auroc_interval(scores, labels) == interval


@pytest.mark.parametrize(
    ("scores", "labels", "threshold"),
    [
        # Above 0.225 there are both anomalous images and one normal one: precision 2/3, recall 1.
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.225),
        ([0.5, 0.125, 0.25], [0, 1, 1], 0.125),  # everything is called anomalous
    ],
)
def test_max_f1_by_hand(scores, labels, threshold):
    assert max_f1(scores, labels) == pytest.approx((0.8, threshold))


def test_the_threshold_of_max_f1_gives_that_f1():
    scores, labels = scores_of_two_normal_distributions(40, 20)
    f1, threshold = max_f1(scores, labels)
    assert confusion(scores > threshold, labels).f1 == pytest.approx(f1)
    for other in np.unique(scores):
        assert confusion(scores > other, labels).f1 <= f1 + 1e-12


def test_confusion_by_hand():
    decisions = confusion([1, 1, 0, 0, 1], [1, 0, 1, 0, 1])
    assert decisions == Decisions(3, 5, 2, 1, 1, 1, pytest.approx(2 / 3))
    assert confusion([0, 0], [0, 1]).f1 == 0
    assert confusion([1, 0, 0], [0, 0, 0]) == Decisions(1, 3, 0, 1, 2, 0, None)
    assert confusion([1, 0], [None, None]) == Decisions(above=1, of=2)
