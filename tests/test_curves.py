"""The curves of reports."""

import numpy as np
import pytest
from sklearn.metrics import auc

from crn.evaluation.metrics import auroc, average_precision
from crn.report.curves import (
    MOST_POINTS,
    histogram,
    precision_recall,
    roc,
    running_mean,
    thin_series,
)


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
        edges, counts = histogram({"images": [score] * 3})
        assert counts["images"].sum() == 3
        low, high = edges[[0, -1]]
        assert low < score < high
        assert high - low == pytest.approx(abs(score) * 0.2 or 2)


def test_running_mean():
    points = np.array([[0, 1], [10, 2], [20, 6], [30, 4]], float)
    assert running_mean(points, 3)[:, 1].tolist() == [1.5, 3, 4, 5]
    assert running_mean(points, 1).tolist() == points.tolist()
