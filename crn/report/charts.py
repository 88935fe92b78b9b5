"""Charts as inline SVG; their colours and dashes are those of style.css."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from crn.report.curves import Histogram
from crn.report.overlays import BORDER, CONTOUR, ColourScale, line_meanings

# In units of the view box, about CSS pixels; small, so that text stays readable on a phone.
_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 388, 14, 254
_TICKS = 5
_GLYPH = 7.8  # width of a character, at most, so that labels keep inside


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: what it measures, with its unit.
        low, high: the values at its ends.
        whole: whether only whole numbers make sense.
    """

    label: str
    low: float
    high: float
    whole: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        if self.whole:
            step = max(1, round(step))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class Series:
    """A line, or marks without a line.

    Attributes:
        name: for the legend.
        points: (P, 2).
        look: number of its colour and dashes, 0 to 3; 0 is the accent.
        kind: "line"; "steps", where a value holds until the next point; "dots"; or "raw", a faint
            line that the legend leaves out.
    """

    name: str
    points: np.ndarray
    look: int
    kind: str = "line"


@dataclass(frozen=True)
class Mark:
    """A single point, such as what a threshold gives."""

    name: str
    x: float
    y: float


def axis_around(label: str, values: np.ndarray, *, whole: bool = False) -> Axis:
    """An axis on which all values have room."""
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return Axis(label, low - margin, high + margin, whole)


def line_chart(
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    reference: tuple[str, tuple[float, float], tuple[float, float]] | None = None,
    mark: Mark | None = None,
) -> str:
    """A chart of lines with its title and legend, as a figure.

    Args:
        title, description: what it shows; the second is read instead of the picture.
        x, y: the axes.
        series: drawn in this order reversed, so that the first is on top.
        reference: name and ends of a straight line to compare with.
        mark: a point to look at.
    """
    place = _Place(x, y)
    parts = [_axes(place)]
    legend = [(each.kind, each.look, each.name) for each in series if each.kind != "raw"]
    if reference is not None:
        name, start, end = reference
        (x1, y1), (x2, y2) = place.at(*start), place.at(*end)
        parts.append(f'<path class="reference" d="M{x1} {y1}L{x2} {y2}"/>')
        legend.append(("line", "reference", name))
    parts += [_series(each, place) for each in reversed(series)]
    if mark is not None:
        cx, cy = place.at(mark.x, mark.y)
        parts.append(f'<circle class="mark" cx="{cx}" cy="{cy}" r="5"/>')
        legend.append(("mark", "mark", mark.name))
    return _figure(title, description, "".join(parts), legend)


def histogram_chart(
    title: str, description: str, label: str, data: Histogram, threshold: float | None
) -> str:
    """Bars upwards for the first group and, where there are two, downwards for the second.

    Each group is in percent of its own, so that a small one is seen beside a large one.

    Args:
        title, description: as `line_chart`.
        label: of the values.
        data: one or two groups.
        threshold: marked by a line.
    """
    shares = {name: counts / counts.sum() * 100 for name, counts in data.counts.items()}
    ends = data.edges[[0, -1]] if threshold is None else np.append(data.edges[[0, -1]], threshold)
    top = max(float(share.max()) for share in shares.values()) * 1.08
    two = len(shares) > 1
    y = Axis("percent of each group" if two else "percent of the images", -top if two else 0, top)
    place = _Place(axis_around(label, ends), y)
    parts = [_axes(place, mirrored=True)]
    _, zero = place.at(0, 0)
    for look, share in enumerate(shares.values()):
        bars = []
        for left, right, value in zip(data.edges, data.edges[1:], share, strict=False):
            if value:
                (x1, y1), (x2, _) = (
                    place.at(left, value if look == 0 else -value),
                    place.at(right, 0),
                )
                bars.append(f"M{x1} {zero}V{y1}H{max(x2 - 1, x1 + 0.5):g}V{zero}Z")
        parts.append(f'<path class="bars look-{1 - look}" d="{"".join(bars)}"/>')
    parts.append(f'<path class="axis" d="M{_LEFT} {zero}H{_RIGHT}"/>')
    if threshold is not None:
        x, _ = place.at(threshold, 0)
        anchor = "start" if x < (_LEFT + _RIGHT) / 2 else "end"
        shift = 5 if anchor == "start" else -5
        parts.append(
            f'<path class="threshold" d="M{x} {_TOP}V{_BOTTOM}"/>'
            f'<text class="label" x="{x + shift:g}" y="{_TOP + 10}" text-anchor="{anchor}">'
            f"threshold {threshold:.4g}</text>"
        )
    sides = ("upwards", "downwards") if two else ("",)
    legend = [
        ("bars", 1 - look, f"{name}{', ' + side if side else ''}")
        for look, (name, side) in enumerate(zip(shares, sides, strict=True))
    ]
    return _figure(title, description, "".join(parts), legend)


def colour_chart(description: str, bar: Image.Image, scale: ColourScale, masks: bool) -> str:
    """What the colours and lines of overlays mean.

    Args:
        description: is read instead of the picture.
        bar: `crn.report.overlays.colour_bar`, of any width.
        scale: its values, and the threshold to mark on it.
        masks: whether overlays have the outlines of masks.
    """
    left, right, top, bottom = 4, _WIDTH - 4, 20, 42
    file = io.BytesIO()
    bar.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    parts = [
        f'<image href="data:image/png;base64,{data}" x="{left}" y="{top}" width="{right - left}" '
        f'height="{bottom - top}" preserveAspectRatio="none"/>'
        f'<text x="{left}" y="{bottom + 15}">{scale.low:.4g}</text>'
        f'<text x="{right}" y="{bottom + 15}" text-anchor="end">{scale.high:.4g}</text>'
    ]
    if scale.threshold is not None:
        x = left + float(scale.share(np.float32(scale.threshold))) * (right - left)
        text = f"pixel threshold {scale.threshold:.4g}"
        half = len(text) * _GLYPH / 2
        center = min(max(x, half), _WIDTH - half)
        parts.append(
            _bordered(f"M{x:.1f} {top - 4}V{bottom + 4}", CONTOUR)
            + f'<text x="{center:.1f}" y="{top - 8}" text-anchor="middle">{text}</text>'
        )
    lines = "".join(
        f"<li>{_swatch_picture(_bordered('M2 7H26', colour))}<span>{words}</span></li>"
        for colour, words in line_meanings(scale.threshold, masks)
    )
    return (
        f'<figure class="chart scale"><svg viewBox="0 0 {_WIDTH} {bottom + 20}" role="img" '
        f'aria-label="{escape(description)}">{"".join(parts)}</svg>'
        f'<ul class="legend">{lines}</ul></figure>'
    )


def interval_mark(value: float, low: float, high: float) -> str:
    """A figure from 0 to 1 and its interval on a line from 0 to 1, for a cell of a table."""
    x, left, right = (f"{4 + 92 * figure:.1f}" for figure in (value, low, high))
    return (
        '<svg class="interval" viewBox="0 0 100 16" width="100" height="16" aria-hidden="true">'
        '<path class="grid" d="M4 8H96M4 4V12M50 4V12M96 4V12"/>'
        f'<path class="reach" d="M{left} 8H{right}"/><circle class="dot" cx="{x}" cy="8" r="4"/>'
        "</svg>"
    )


@dataclass(frozen=True)
class _Place:
    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates in the view box."""
        across = _LEFT + self.x.share(x) * (_RIGHT - _LEFT)
        return round(across, 1), round(_BOTTOM - self.y.share(y) * (_BOTTOM - _TOP), 1)


def _axes(place: _Place, *, mirrored: bool = False) -> str:
    """Grid, figures and labels; mirrored figures count upwards on both sides of zero."""
    grid, texts = [], []
    for value, text in _labels(place.x):
        x, _ = place.at(value, place.y.low)
        grid.append(f"M{x} {_BOTTOM}v4")
        half = len(text) * _GLYPH / 2
        center = min(max(x, half), _WIDTH - half)
        texts.append(f'<text x="{center:g}" y="{_BOTTOM + 18}" text-anchor="middle">{text}</text>')
    for value, text in _labels(place.y):
        _, y = place.at(place.x.low, value)
        grid.append(f"M{_LEFT} {y}H{_RIGHT}")
        shown = text.lstrip("−") if mirrored else text
        texts.append(f'<text x="{_LEFT - 7}" y="{y + 4:g}" text-anchor="end">{shown}</text>')
    middle = (_LEFT + _RIGHT) / 2
    return (
        f'<path class="grid" d="{"".join(grid)}"/>{"".join(texts)}'
        f'<text class="label" x="{middle:g}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(place.x.label)}</text>"
        f'<text class="label" transform="translate(11 {(_TOP + _BOTTOM) / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(place.y.label)}</text>'
    )


def _labels(axis: Axis) -> list[tuple[float, str]]:
    ticks = axis.ticks()
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 4 or axis.high >= 1e7:
        return [(value, f"{value:.2g}".replace("-", "−")) for value in ticks]
    return [(value, f"{value + 0:,.{digits}f}".replace("-", "−")) for value in ticks]


def _series(series: Series, place: _Place) -> str:
    points = [place.at(x, y) for x, y in series.points]
    if series.kind == "dots":
        return "".join(_dot(x, y, series.look) for x, y in points)
    joints = (
        (f"H{x}V{y}" for x, y in points[1:])
        if series.kind == "steps"
        else (f"L{x} {y}" for x, y in points[1:])
    )
    x, y = points[0]
    # A lone point is a line of no length, which round ends make visible.
    path = f"M{x} {y}" + ("".join(joints) or "h0")
    name = "raw" if series.kind == "raw" else "series"
    return f'<path class="{name} look-{series.look}" d="{path}"/>'


def _dot(x: float, y: float, look: int) -> str:
    """A filled circle or an open square, so that both are seen where they meet."""
    if look == 0:
        return f'<circle class="dot" cx="{x}" cy="{y}" r="3.2"/>'
    return f'<rect class="open" x="{x - 4:g}" y="{y - 4:g}" width="8" height="8"/>'


def _bordered(path: str, colour: tuple[int, int, int]) -> str:
    """A line as overlays have them, seen on every colour."""
    lines = ((BORDER, 4), (colour, 2))
    return "".join(
        f'<path d="{path}" fill="none" stroke="rgb{each}" stroke-width="{width}"/>'
        for each, width in lines
    )


def _figure(
    title: str, description: str, content: str, legend: list[tuple[str, int | str, str]]
) -> str:
    items = "".join(
        f"<li>{_swatch(kind, look)}<span>{escape(name)}</span></li>" for kind, look, name in legend
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
        f'{content}</svg><ul class="legend">{items}</ul></figure>'
    )


def _swatch(kind: str, look: int | str) -> str:
    drawn = {
        "bars": f'<path class="bars look-{look}" d="M4 2H24V12H4Z"/>',
        "dots": _dot(14, 7, look if isinstance(look, int) else 0),
        "mark": '<circle class="mark" cx="14" cy="7" r="5"/>',
    }
    line = "reference" if look == "reference" else f"series look-{look}"
    return _swatch_picture(drawn.get(kind, f'<path class="{line}" d="M1 7H27"/>'))


def _swatch_picture(content: str) -> str:
    return f'<svg viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">{content}</svg>'
