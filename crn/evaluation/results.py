"""What inference finds out, as data: the table of scores, metrics.json and reports are of it.

`Metrics` is what metrics.json holds. Every key is always there, and a value is None where it cannot
be known. All but `DatasetFacts.train` and `Thresholds` is about test images only.
"""

import json
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from crn.config import Options
from crn.system.files import set_aside, written_whole

METRICS_FILE = "metrics.json"
# Whatever the threshold is, what these quantiles of the normal training images give is told.
QUANTILES = (0.99, 0.95)
# What is said in the place of an AUROC.
AUROC_UNDEFINED = "AUROC is undefined: all test images are normal"


@dataclass(frozen=True)
class ScoredImage:
    """One image and what the model makes of it.

    Attributes:
        key: its unique name, DEFECT/NAME or folder/NAME, as in the table of scores.
        split: "train" or "test".
        kind: "good" where normal, the kind of defect where anomalous, None where nobody knows.
        label: 1 anomalous, 0 normal, None where nobody knows.
        size: height and width of its file.
        scores: for each of `SCORES` its anomaly score.
        decision: 1 where the score that was asked for is above the threshold, else 0; None where
            there is no threshold.
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
    """What scored.

    Attributes:
        method: of ``--model``.
        checkpoint: its path.
        weights: a fingerprint that tells models apart.
        step: training steps.
        imsize: width and height of the images that it sees.
        pairs: of ``--pairs``.
        features: of ``--features``, where they count.
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
    """What was scored: numbers of images, and how many of them have a mask."""

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
    """What is above them is called anomalous; None where there are none.

    Attributes:
        image: of image scores.
        pixel: of the anomaly maps that scored.
        quantile: the share of the normal training images, and of their pixels, that is below.
        source: where they come from, in words.
        image_at: those of image scores at each of `QUANTILES`, by the quantile as text.
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
        kind: of ``--maps``.
        pooling: of ``--pooling``.
        smoothing: standard deviation of the Gaussian in percent of the width, as typed.
        sigma: the same in pixels of the model's image size.
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
    """How well one score tells anomalous images from normal ones; see `crn.evaluation.metrics`."""

    auroc: float
    auroc_95: tuple[float, float]
    average_precision: float
    max_f1: float
    max_f1_threshold: float


@dataclass(frozen=True)
class Decisions:
    """What the threshold gives: the images above it, and which of them are rightly there.

    All but ``above`` and ``of`` is None without labels, and F1 without anomalous images as well.
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
    """How well the maps that scored, brought to the size of the masks, agree with them."""

    auroc: float
    average_precision: float
    aupro: float


@dataclass(frozen=True)
class KindMetrics:
    """One kind of defect against all normal test images, by the score that was asked for.

    Attributes:
        images: how many there are.
        above: how many of them are above the threshold; None where there is none.
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
        scores: for each of `SCORES`; None without labels, or where all test images are normal.
        decisions: None without a threshold.
        decisions_at: what the thresholds at each of `QUANTILES` would give.
        pixels: None without masks.
        kinds: for each kind of defect; None where ``scores`` is.
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
        """All anomalous test images together, as if they were of one kind; there are some."""
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
    """What one run of inference has found out.

    Attributes:
        options: of the run; the image size is that of the model.
        images: in the order of the data set: the training split first, where there is one.
        metrics: of the test images.
    """

    options: Options
    images: list[ScoredImage]
    metrics: Metrics


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write metrics.json, whole or not at all; what an earlier run left there is renamed."""
    set_aside(path)
    # What is no text in a path is escaped as JSON escapes it.
    with written_whole(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(asdict(metrics), file, indent=2, allow_nan=False, ensure_ascii=False)
        file.write("\n")


def read_metrics(path: Path) -> Metrics:
    """What `write_metrics` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else.
    """
    from pydantic import TypeAdapter

    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("to read a pipe may never end")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("lists in lists") from error
    # Not its validate_json, which knows no paths that are no text.
    return TypeAdapter(Metrics).validate_python(content)
