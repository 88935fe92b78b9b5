"""The curves of reports."""

import numpy as np
import pytest
from sklearn.metrics import auc

from crn.evaluation.metrics import auroc, average_precision
from crn.report.charts import histogram_chart
from crn.report.curves import precision_recall, roc, running_mean, thin_series


@pytest.mark.parametrize("count", [5, 2000])
def test_the_areas_of_curves_are_the_metrics(count):
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    scores = (generator.normal(size=count) + labels).round(1)  # some are equal
    curve = roc(scores, labels)
    assert (curve[0].tolist(), curve[-1].tolist()) == ([0, 0], [1, 1])
    assert auc(*curve.T) == pytest.approx(auroc(scores, labels))
    recall, precision = precision_recall(scores, labels).T
    assert -np.diff(recall) @ precision[:-1] == pytest.approx(average_precision(scores, labels))
    # It ends with the precision of the highest score, here of a normal image.
    assert precision_recall([3, 2], [0, 1])[-1].tolist() == [0, 0]


def test_thinned_series_keep_their_extremes():
    steps = np.arange(20_000)
    values = np.random.default_rng(0).normal(size=steps.size)
    thin = thin_series(np.stack([steps, values], axis=1))
    assert 400 < len(thin) <= 500
    assert (thin[0, 0], thin[-1, 0]) == (0, 19_999)
    assert (thin[:, 1].min(), thin[:, 1].max()) == (values.min(), values.max())
    assert (np.diff(thin[:, 0]) > 0).all()


@pytest.mark.parametrize("score", [0.5, -2e-6, 0.0])
def test_equal_scores_have_a_histogram(score):
    chart = histogram_chart("", "", {"normal": [score] * 3, "anomalous": [score]}, threshold=0.7)
    for series, height in zip(chart.series, (100, -100), strict=True):
        left, right, _ = series.points[series.points[:, 2] == height][0]
        assert left <= score <= right
    assert chart.x.low < min(score, 0.7) < max(score, 0.7) < chart.x.high


def test_running_mean():
    points = np.array([[0, 1], [10, 2], [20, 6], [30, 4]], float)
    assert running_mean(points, 3)[:, 1].tolist() == [1.5, 3, 4, 5]
    assert running_mean(points, 1).tolist() == points.tolist()
