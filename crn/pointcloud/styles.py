"""What layers tell a GIS about themselves: description, unit and, for QGIS, colours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

# Description and unit of each layer.
DESCRIPTIONS = {
    "score": ("anomaly score", ""),
    "height_mm": ("height above the levelled road", "mm"),
    "intensity": ("intensity", ""),
    "difference_mm": ("height above that of the earlier survey", "mm"),
}
STATISTICS = tuple(f"STATISTICS_{n}" for n in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV"))
# Colours from low to high; those of scores can be seen on gray.
_SCORE_COLOURS: tuple[str, ...] = ("#3c146e", "#961e6e", "#dc4632", "#fa9614", "#fff078")
_HEIGHT_COLOURS = ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b")
_GRAYS = ("#000000", "#ffffff")
_SHOWN_MM = 40.0  # heights of -40 and 40 mm have the first and last colour


def write_style(path: Path, name: str, statistics: Mapping[str, float]) -> None:
    """Write the style that QGIS takes for a layer: a QML file of its name."""
    mean, deviation = statistics["STATISTICS_MEAN"], statistics["STATISTICS_STDDEV"]
    low, high, colours = {
        "score": (mean, mean + 6 * deviation, _SCORE_COLOURS),
        "intensity": (mean - 2 * deviation, mean + 2 * deviation, _GRAYS),
    }.get(name, (-_SHOWN_MM, _SHOWN_MM, _HEIGHT_COLOURS))
    fades, unit = name == "score", DESCRIPTIONS[name][1]
    text = render("layer.qml.jinja", low=low, high=high, colours=colours, fades=fades, unit=unit)
    path.with_suffix(".qml").write_text(text, encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """The text of a template beside this file."""
    return jinja2.Template(
        Path(__file__).with_name(template).read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).render(values)
