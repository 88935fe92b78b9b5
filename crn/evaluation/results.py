"""What inference finds out, as data: tables, metrics, pictures and reports are made from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from crn.config import Options

# The longer side of a panel, in pixels, is at most so long.
PANEL_SIZE = 512


@dataclass(frozen=True)
class ScoredImage:
    """One image and what the model makes of it.

    Attributes:
        key: its unique name, DEFECT/NAME or folder/NAME, as in the table of scores.
        split: "train" or "test".
        kind: "good" where normal, the kind of defect where anomalous, None where nobody knows.
        label: 1 anomalous, 0 normal, None where nobody knows.
        scores: for each of `SCORES` its anomaly score.
        decision: 1 where the score that was asked for is above the threshold, else 0; None where
            there is no threshold.
    """

    key: str
    split: str
    kind: str | None
    label: int | None
    scores: dict[str, float]
    decision: int | None


@dataclass(frozen=True)
class InferenceResults:
    """What one run of inference has found out.

    Attributes:
        options: of the run; the image size is that of the model.
        score: the one of `SCORES` that was asked for; thresholds, decisions and maps are its.
        threshold: images are called anomalous above it; None where there is none.
        images: in the order of the data set: the training split first, where there is one.
        metrics: exactly what metrics.json holds; `crn.evaluation.evaluate.evaluate` describes it.
        panels: index of an image to its pictures, RGB, of one size: the image's own, made smaller
            where a side is longer than `PANEL_SIZE`. They are "input", "reconstruction",
            "overlay" (the anomaly map over the image, with contours) and, where the data set has
            one, "mask". Decodes the image's file anew; may be called from several threads.
        colour_bar: a width to all colours of the overlays, from the lowest to the highest value of
            ``metrics["maps"]``, RGB, two pixels high: the upper row over light gray, the lower one
            over dark gray.
        threads: how many of them may call ``panels`` at a time.
    """

    options: Options
    score: str
    threshold: float | None
    images: list[ScoredImage]
    metrics: dict[str, Any]
    panels: Callable[[int], dict[str, Image.Image]] = field(repr=False, compare=False)
    colour_bar: Callable[[int], Image.Image] = field(repr=False, compare=False)
    threads: int = field(default=1, repr=False, compare=False)
