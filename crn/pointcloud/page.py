"""The HTML page: the road from above with its scores, and the worst places."""

import base64
import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import Resampling
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from crn.pointcloud.layers import LAYERS, Grid
from crn.system.files import written_whole

PAGE_FILE = "report.html"

_OVERVIEW = 2400  # pixels on its longer side
_WORST = 24
_ROWS = 200
_PLACE = 3.84  # metres on a side of the pictures of places
_SHOWN_MM = 40.0  # heights of -40 and 40 mm are black and white there
_SMOOTHED_MM = 60.0
_STEEPEST_SHADE = 0.06  # slopes that are black or white in the overview
# Colours of scores, from low to high; each can be seen on gray.
_COLOURS = np.array([(60, 20, 110), (150, 30, 110), (220, 70, 50), (250, 150, 20), (255, 240, 120)])


@dataclass(frozen=True)
class _Scale:
    """The range of scores, from transparent to the last colour."""

    low: float
    high: float

    def over(self, gray: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Draw scores (H, W) over a picture (H, W) of 0 to 255; returns (H, W, 3) uint8."""
        share = np.nan_to_num((score - self.low) / (self.high - self.low)).clip(0, 1)
        steps = np.linspace(0, 1, len(_COLOURS))
        colour = np.stack([np.interp(share, steps, each) for each in _COLOURS.T], -1)
        opacity = np.minimum(1, share * 1.6)[..., None] * 0.85
        return np.rint(gray[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)


def write_page(
    folder: Path, grid: Grid, features: Sequence[dict[str, Any]], facts: dict[str, Any], to: Path
) -> None:
    """Write the page about the layers in a folder.

    Args:
        folder: folder of the layers.
        grid: grid of the layers.
        features: damages, the worst first.
        facts: further facts to show.

    Raises:
        UserError: the system refuses to write it.
    """
    properties = [each["properties"] for each in features]
    with rasterio.Env(GDAL_CACHEMAX=64), ExitStack() as files:
        opened = {
            name: files.enter_context(rasterio.open(folder / f"{name}.tif")) for name in LAYERS
        }
        window, score, shade = _seen_from_above(opened)
        scale = _scale(score, facts["threshold"])
        worst = [_place(opened, grid, window, each, scale) for each in properties[:_WORST]]
    ramp = np.linspace(scale.low, scale.high, 256)[None]
    template = jinja2.Template(
        Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = template.render(
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        facts=facts,
        places=len(features),
        area=sum(each["area_m2"] for each in properties),
        deepest=max((each["depth_mm"] for each in properties), default=None),
        overview=_uri(scale.over(shade, score), "JPEG"),
        overview_width=score.shape[1],
        overview_height=score.shape[0],
        metres=window.width * grid.cell / 100,
        ramp=_uri(scale.over(np.full(ramp.shape, 150.0), ramp), "PNG"),
        low=scale.low,
        high=scale.high,
        threshold_share=100 * (facts["threshold"] - scale.low) / (scale.high - scale.low),
        worst=worst,
        rows=properties[:_ROWS],
        place_metres=_PLACE,
        shown_mm=_SHOWN_MM,
    )
    with written_whole(to / PAGE_FILE, "w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(text)


def _seen_from_above(opened: dict[str, Any]) -> tuple[Window, np.ndarray, np.ndarray]:
    """The window of the layers that has scores, its scores and its hillshade (H, W)."""
    file = opened["score"]
    small = file.read(
        1, out_shape=_size(file.height, file.width, 1024), resampling=Resampling.average
    )
    rows, columns = (np.nonzero(np.isfinite(small).any(axis))[0] for axis in (1, 0))
    down, across = file.height / small.shape[0], file.width / small.shape[1]
    top, left = int(max(0, rows[0] - 1) * down), int(max(0, columns[0] - 1) * across)
    window = Window(
        left,
        top,
        min(file.width, int((columns[-1] + 2) * across)) - left,
        min(file.height, int((rows[-1] + 2) * down)) - top,
    )
    size = _size(window.height, window.width, _OVERVIEW)
    score, height = (
        opened[name].read(1, window=window, out_shape=size, resampling=Resampling.average)
        for name in ("score", "height_mm")
    )
    step = window.width / size[1] * file.res[0] * 1000
    known = np.isfinite(score)
    # Smoothed over a few centimetres; otherwise only the noise of single points shows.
    width = max(0.5, _SMOOTHED_MM / step)
    weight = gaussian_filter(known.astype(np.float32), width)
    height = gaussian_filter(np.where(known, height, 0), width) / np.maximum(weight, 1e-6)
    north, east = np.gradient(height, step)
    light = 150 + (east - north) / _STEEPEST_SHADE * 60
    light = np.where(known, np.nan_to_num(light, nan=150.0).clip(20, 255), 235.0)
    return window, score, light


def _size(high: int, wide: int, longest: int) -> tuple[int, int]:
    share = min(1, longest / max(high, wide))
    return max(1, round(high * share)), max(1, round(wide * share))


def _scale(score: np.ndarray, threshold: float) -> _Scale:
    known = score[np.isfinite(score)]
    low, high = (float(each) for each in np.quantile(known, (0.5, 0.9995)))
    # The scale always includes the threshold and is never empty.
    low, high = min(low, threshold), max(high, threshold)
    return _Scale(low, high if high > low else low + 1)


def _place(
    opened: dict[str, Any], grid: Grid, overview: Window, properties: dict[str, Any], scale: _Scale
) -> dict[str, Any]:
    """The properties of a damage, its position in the overview and its pictures.

    The position is in percent from the left and the top. The pictures show the height, the
    intensity, and the score over the intensity.
    """
    column, row = ~grid.transform @ (properties["east"], properties["north"])
    side = round(_PLACE * 100 / grid.cell)
    window = Window(round(column) - side // 2, round(row) - side // 2, side, side)
    score, height, intensity = (
        opened[name].read(1, window=window, boundless=True, fill_value=np.nan) for name in LAYERS
    )
    heights = np.nan_to_num((height + _SHOWN_MM) / (2 * _SHOWN_MM), nan=1).clip(0, 1) * 255
    known = intensity[np.isfinite(intensity)]
    low, high = np.quantile(known, (0.02, 0.98)) if len(known) else (0.0, 1.0)
    gray = np.nan_to_num((intensity - low) / max(1.0, high - low), nan=1).clip(0, 1) * 255
    return {
        **properties,
        "left": 100 * (column - overview.col_off) / overview.width,
        "top": 100 * (row - overview.row_off) / overview.height,
        "height_picture": _uri(np.rint(heights).astype(np.uint8), "PNG"),
        "intensity_picture": _uri(np.rint(gray).astype(np.uint8), "PNG"),
        "score_picture": _uri(scale.over(gray, score), "PNG"),
    }


def _uri(pixels: np.ndarray, kind: str) -> str:
    file = io.BytesIO()
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
