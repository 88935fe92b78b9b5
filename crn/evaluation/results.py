"""The results of an inference, which the table of scores, metrics.json and reports show.

metrics.json contains `Metrics`. Every key is always there, and an unknown value is None. Everything
is about test images only, except `DatasetFacts.train` and `Thresholds`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from crn.config import Options
from crn.system.files import set_aside, written_whole

METRICS_FILE = "metrics.json"
# Quantiles of the normal training images whose decisions are reported, whatever the threshold is.
QUANTILES = (0.99, 0.95)
# What is reported instead of an AUROC.
AUROC_UNDEFINED = "AUROC is undefined: all test images are normal"


@dataclass(frozen=True)
class ScoredImage:
    """An image with its scores.

    Attributes:
        key: its unique name, DEFECT/NAME or folder/NAME, as in the table of scores.
        split: "train" or "test".
        kind: "good" if normal, the kind of defect if anomalous, None if unknown.
        label: 1 anomalous, 0 normal, None unknown.
        size: height and width of its file.
        scores: its anomaly score for each of `SCORES`.
        decision: 1 if the score that was asked for is above the threshold, else 0; None without a
            threshold.
    """

    key: str
    split: str
    kind: str | None
    label: int | None
    size: tuple[int, int]
    scores: dict[str, float]
    decision: int | None


@dataclass(frozen=True)
class ModelFacts:
    """The model that scored.

    Attributes:
        method, pairs: the values of ``--model`` and ``--pairs``.
        checkpoint: its path.
        weights: a fingerprint that tells models apart.
        step: its training steps.
        imsize: width and height of the images that its networks see.
        features: the value of ``--features``, if they count.
    """

    method: str
    checkpoint: str
    weights: str
    step: int
    imsize: int
    pairs: str
    features: str | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """The data set: numbers of images in each split and, of test images, by label; and of masks."""

    layout: str
    path: str
    train: int
    test: int
    normal: int
    anomalous: int
    unlabelled: int
    masks: int


@dataclass(frozen=True)
class Thresholds:
    """Images and pixels above these are called anomalous; all are None without thresholds.

    Attributes:
        image: the threshold of image scores.
        pixel: the threshold of the anomaly maps that scored.
        quantile: the share of the normal training images, and of their pixels, that is below.
        source: where they come from, in words.
        image_at: thresholds of image scores at each of `QUANTILES`, by the quantile as text.
    """

    image: float | None = None
    pixel: float | None = None
    quantile: float | None = None
    source: str | None = None
    image_at: dict[str, float] | None = None


@dataclass(frozen=True)
class MapFacts:
    """The anomaly maps that scored.

    Attributes:
        kind, pooling, smoothing: the values of ``--maps``, ``--pooling`` and ``--map-smoothing``.
        sigma: standard deviation of the smoothing in pixels of the model's image size.
        low, high: range of the maps of all images, which is the colour scale of the overlays.
    """

    kind: str
    pooling: str
    smoothing: float
    sigma: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreMetrics:
    """How well one score separates anomalous from normal images; see `crn.evaluation.metrics`."""

    auroc: float
    auroc_95: tuple[float, float]
    average_precision: float
    max_f1: float
    max_f1_threshold: float


@dataclass(frozen=True)
class Decisions:
    """The number of images above the threshold, and how many of them are rightly there.

    All but ``above`` and ``of`` are None without labels, F1 also without anomalous images.
    """

    above: int
    of: int
    true_positives: int | None = None
    false_positives: int | None = None
    true_negatives: int | None = None
    false_negatives: int | None = None
    f1: float | None = None


@dataclass(frozen=True)
class PixelMetrics:
    """How well the maps that scored, resized to the masks, agree with them."""

    auroc: float
    average_precision: float
    aupro: float


@dataclass(frozen=True)
class KindMetrics:
    """One kind of defect against all normal test images, by the score that was asked for.

    Attributes:
        images: the number of its images.
        above: how many of them are above the threshold; None without a threshold.
        auroc, auroc_95, average_precision: as in `ScoreMetrics`.
        pixels: None without masks.
    """

    images: int
    above: int | None
    auroc: float
    auroc_95: tuple[float, float]
    average_precision: float
    pixels: PixelMetrics | None


@dataclass(frozen=True)
class Bootstrap:
    """How the 95 % intervals were drawn."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Metrics:
    """All metrics of a run.

    Attributes:
        anomaly_score: the one of `SCORES` that was asked for: thresholds, decisions, maps and kinds
            of defect are about it.
        scores: metrics of each of `SCORES`; None without labels, or if all test images are normal.
        decisions: None without a threshold.
        decisions_at: decisions by the thresholds at each of `QUANTILES`.
        pixels: None without masks.
        kinds: metrics of each kind of defect; None if ``scores`` is.
    """

    model: ModelFacts
    dataset: DatasetFacts
    anomaly_score: str
    threshold: Thresholds
    maps: MapFacts
    scores: dict[str, ScoreMetrics] | None
    decisions: Decisions | None
    pixels: PixelMetrics | None
    kinds: dict[str, KindMetrics] | None
    bootstrap: Bootstrap
    decisions_at: dict[str, Decisions] | None = None

    def every_kind(self) -> KindMetrics:
        """Metrics of all anomalous test images, as if they were of one kind; there are some."""
        assert self.scores is not None
        asked = self.scores[self.anomaly_score]
        return KindMetrics(
            self.dataset.anomalous,
            None if self.decisions is None else self.decisions.true_positives,
            asked.auroc,
            asked.auroc_95,
            asked.average_precision,
            self.pixels,
        )


@dataclass(frozen=True)
class InferenceResults:
    """The results of one inference.

    Attributes:
        options: options of the run; the image size is the model's.
        images: all images in the order of the data set: the training split first, if any.
        metrics: metrics of the test images.
    """

    options: Options
    images: list[ScoredImage]
    metrics: Metrics


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write metrics.json, whole or not at all; an earlier file is renamed."""
    set_aside(path)
    # Bytes of a path that are not text are escaped as JSON escapes them.
    with written_whole(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(asdict(metrics), file, indent=2, allow_nan=False, ensure_ascii=False)
        file.write("\n")


def read_metrics(path: Path) -> Metrics:
    """Read what `write_metrics` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it contains something else.
    """
    from pydantic import TypeAdapter

    # pydantic's validate_json refuses paths that are not text.
    return TypeAdapter(Metrics).validate_python(json.loads(path.read_text(encoding="utf-8")))
