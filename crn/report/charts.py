"""Charts of lines and bars, drawn by templates/chart.html in the colours of style.css."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_TICKS = 5
_BINS = 30
_GLYPH = 7.8  # largest width of a character, so that labels stay inside


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: what it measures, with its unit.
        low, high: the values at its ends.
        whole: whether its ticks are whole numbers.
        mirrored: whether ticks are positive on both sides of zero.
    """

    label: str
    low: float
    high: float
    whole: bool = False
    mirrored: bool = False

    def share(self, value: float) -> float:
        """The relative position of a value between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values between the ends, with their texts."""
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        if self.whole:
            step = max(1, round(step))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        form = ".2g" if digits > 4 or self.high >= 1e7 else f",.{digits}f"
        values = [number * step for number in range(first, last + 1)]
        # Adding 0 turns -0 into 0.
        texts = (format(abs(v) if self.mirrored else v + 0.0, form) for v in values)
        return [(v, text.replace("-", "−")) for v, text in zip(values, texts, strict=True)]


@dataclass(frozen=True)
class Series:
    """A line, bars, or marks without a line.

    Attributes:
        name: for the legend.
        points: (P, 2); for bars (P, 3): left end, right end and height.
        look: number of its colour and dashes, 0 to 3; 0 is the accent.
        kind: "line"; "steps": a value holds until the next point; "dots"; "bars"; "reference": a
            thin line to compare with; "mark": a single highlighted point; or "raw": a faint line
            that is not in the legend.
    """

    name: str
    points: np.ndarray
    look: int = 0
    kind: str = "line"

    @property
    def style(self) -> str:
        """The names of its classes in style.css."""
        if self.kind == "reference":
            return "reference"
        return f"{self.kind if self.kind in ('bars', 'raw') else 'series'} look-{self.look}"


@dataclass(frozen=True)
class Chart:
    """A chart with its title and legend.

    Attributes:
        description: its text alternative.
        x, y: the axes.
        series: drawn with the first on top, except that marks are above all others.
        threshold: a value of x that a line marks; None for none.
    """

    title: str
    description: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    threshold: float | None = None

    # In units of the view box, about CSS pixels; small, so that text is readable on a phone.
    width, height = 400, 300
    left, right, top, bottom = 48, 388, 14, 254

    @property
    def layers(self) -> list[Series]:
        """The series from the bottom to the top."""
        return sorted(self.series, key=lambda series: series.kind != "mark")[::-1]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The coordinates of a point in the view box."""
        across = self.left + self.x.share(x) * (self.right - self.left)
        return round(across, 1), round(self.bottom - self.y.share(y) * (self.bottom - self.top), 1)

    def places(self, series: Series) -> list[tuple[float, float]]:
        """The points of a series in the view box."""
        return [self.at(x, y) for x, y in series.points]

    def path(self, series: Series) -> str:
        """A series as the data of an SVG path."""
        if series.kind == "bars":
            return "".join(self._bar(*bar) for bar in series.points if bar[2])
        (x, y), *rest = self.places(series)
        joint = "H{}V{}" if series.kind == "steps" else "L{} {}"
        # A single point is a line of length 0, which its round ends make visible.
        return f"M{x} {y}" + ("".join(joint.format(*place) for place in rest) or "h0")

    def _bar(self, left: float, right: float, value: float) -> str:
        (x1, zero), (x2, y) = self.at(left, 0), self.at(right, value)
        return f"M{x1} {zero}V{y}H{max(x2 - 1, x1 + 0.5):g}V{zero}Z"

    @property
    def x_labels(self) -> list[tuple[float, float, str]]:
        """Position, centre of the text and text of every tick; texts stay in the view box."""
        labels = []
        for value, text in self.x.ticks():
            x, half = self.at(value, self.y.low)[0], len(text) * _GLYPH / 2
            labels.append((x, min(max(x, half), self.width - half), text))
        return labels

    @property
    def y_labels(self) -> list[tuple[float, str]]:
        """Position and text of every tick."""
        return [(self.at(self.x.low, value)[1], text) for value, text in self.y.ticks()]


def axis_around(label: str, values: np.ndarray) -> Axis:
    """An axis that covers all values."""
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return Axis(label, low - margin, high + margin)


def histogram_chart(
    title: str, label: str, groups: Mapping[str, Sequence[float]], threshold: float | None
) -> Chart:
    """Bars upwards for the first group and downwards for a second one.

    Heights are percentages of each group, so that a small group is visible beside a large one.

    Args:
        title, threshold: as in `Chart`.
        label: label of the values.
        groups: one or two groups of values by name; none is empty.
    """
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), _BINS)
    two = len(groups) > 1
    sides = [(", upwards", 1, 1), (", downwards", -1, 0)] if two else [("", 1, 1)]
    series = []
    for (name, values), (side, sign, look) in zip(groups.items(), sides, strict=True):
        heights = np.histogram(values, edges)[0] / len(values) * (100 * sign)
        bars = np.stack([edges[:-1], edges[1:], heights], axis=1)
        series.append(Series(name + side, bars, look, "bars"))
    top = 1.08 * max(float(np.abs(each.points[:, 2]).max()) for each in series)
    description, ends = "Histogram of the scores of " + " and ".join(groups), edges
    if threshold is not None:
        description += f"; threshold {threshold:.4g}"
        ends = np.append(ends, threshold)
    words = "percent of each group" if two else "percent of the images"
    y = Axis(words, -top if two else 0, top, mirrored=True)
    return Chart(title, description, axis_around(label, ends), y, series, threshold)
