"""The HTML page: the road from above with its scores, in zoom levels, and the worst places."""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
from PIL import Image, ImageColor
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from crn.pointcloud.layers import GDAL, LAYERS, SCORE_COLOURS, Grid, layer_path, read, render
from crn.pointcloud.partition import Block
from crn.system.files import written_whole

PAGE_FILE = "report.html"

_TILE = 512  # pixels on a side
_FINEST = 4  # centimetres of a pixel
_MOST_TILES = 400  # in the finest zoom level; with more, it is coarser
_CARDS, _ROWS, _PINS = 48, 200, 2000  # places with pictures, in the table, and on the map
_PLACE = 3.84  # metres on a side of the pictures of places
_SHOWN_MM = 40.0  # heights of -40 and 40 mm are black and white there
_SMOOTHED_MM = 60.0
_STEEPEST_SHADE = 0.06  # slopes that are black or white on the map
_EDGE = 8  # pixels around a tile that smoothing sees
# For 256 steps of the score: its opacity (256, 1), and its colour times that (256, 3).
_STEPS = np.linspace(0, 1, 256, dtype=np.float32)
_OPACITY = np.minimum(1, _STEPS * 1.6)[:, None] * np.float32(0.85)
_COLOURS = np.array([ImageColor.getrgb(each) for each in SCORE_COLOURS], np.float32).T
_PAINT = _OPACITY * np.stack(
    [np.interp(_STEPS, np.linspace(0, 1, len(SCORE_COLOURS)), each) for each in _COLOURS], 1
).astype(np.float32)


@dataclass(frozen=True)
class _Scale:
    """The range of scores, from transparent to the last colour."""

    low: float
    high: float

    def over(self, gray: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Draw scores (H, W) over a picture (H, W) of 0 to 255; returns (H, W, 3) uint8."""
        picture = np.repeat(gray.astype(np.uint8)[..., None], 3, -1)
        known = np.isfinite(score)
        share = (score[known] - self.low) / (self.high - self.low) * 255
        step = share.clip(0, 255).astype(np.uint8)
        picture[known] = picture[known] * (1 - _OPACITY[step]) + _PAINT[step]
        return picture


def write_page(
    folder: Path,
    layers: Path,
    grid: Grid,
    blocks: Iterable[Block],
    places: geopandas.GeoDataFrame,
    facts: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        folder: where it is written.
        layers: folder of the layers.
        grid: covers all blocks.
        blocks: the blocks with scores.
        places: the worst first.
        facts: further facts to show.

    Raises:
        UserError: the system refuses to write it.
    """
    with rasterio.Env(**GDAL), ExitStack() as files:
        opened = {
            name: files.enter_context(rasterio.open(layer_path(layers, name))) for name in LAYERS
        }
        tags = opened["score"].tags(1)
        mean, deviation = (float(tags[f"STATISTICS_{each}"]) for each in ("MEAN", "STDDEV"))
        threshold = facts["threshold"]
        # The threshold is in the first half of the scale, which is never empty.
        low = min(mean, threshold)
        high = max(mean + 6 * deviation, 2 * threshold - low)
        scale = _Scale(low, high if high > low else low + 1)
        levels = _zoom_levels(opened, grid, blocks, scale)
        rows = places.drop(columns="geometry").to_dict("records")
        cards = [{**row, **_pictures(opened, grid, row, scale)} for row in rows[:_CARDS]]
    ramp = np.linspace(scale.low, scale.high, 256)[None]
    marked = places[["number", "kind", "geometry"]].head(_CARDS)
    marked = marked if grid.crs is None else marked.to_crs("EPSG:4326")
    text = render(
        "page.html.jinja",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        facts=facts,
        system="unknown" if grid.crs is None else " ".join((grid.crs.name, *_code(grid))),
        places=len(places),
        area=places["area_m2"].sum(),
        severe={
            each: int((places["severity"] == each).sum()) for each in ("high", "medium", "low")
        },
        levels=levels,
        pins=[_pin(grid, row) for row in rows[:_PINS]],
        ramp=_uri(scale.over(np.full(ramp.shape, 150.0), ramp), "PNG"),
        low=scale.low,
        high=scale.high,
        threshold_share=100 * (threshold - scale.low) / (scale.high - scale.low),
        cards=cards,
        rows=rows[:_ROWS],
        columns=[name for name in places.columns if name != "geometry"],
        place_metres=_PLACE,
        shown_mm=_SHOWN_MM,
        tile=_TILE,
        outlines=json.loads(marked.to_json())["features"],
    )
    path = folder / PAGE_FILE
    with written_whole(path, "w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(text)


def _code(grid: Grid) -> list[str]:
    code = None if grid.crs is None else grid.crs.to_epsg()
    return [] if code is None else [f"(EPSG:{code})"]


def _pin(grid: Grid, row: Mapping[str, Any]) -> tuple[int, float, float]:
    """The number of a place, and its position in metres from the upper left corner."""
    column, line = ~grid.transform @ (row["east"], row["north"])
    size = grid.cell / 100
    return row["number"], round(column * size, 2), round(line * size, 2)


def _zoom_levels(
    opened: Mapping[str, Any], grid: Grid, blocks: Iterable[Block], scale: _Scale
) -> list[dict[str, Any]]:
    """The zoom levels of the map, the finest first: metres in a tile, its pictures and bounds."""
    windows = [grid.window(block) for block in blocks]

    def tiles(factor: int) -> list[tuple[int, int]]:
        """Rows and columns of the tiles with blocks."""
        size = _TILE * factor
        found = set()
        for each in windows:
            bottom, right = each.row_off + each.height - 1, each.col_off + each.width - 1
            found |= {
                (row, column)
                for row in range(each.row_off // size, bottom // size + 1)
                for column in range(each.col_off // size, right // size + 1)
            }
        return sorted(found)

    factor = 1 if grid.cell >= _FINEST else 4
    while len(tiles(factor)) > _MOST_TILES:
        factor *= 4
    levels: list[dict[str, Any]] = []
    while not levels or len(levels[-1]["tiles"]) > 2:
        size = factor * grid.cell / 100
        pictures, corners = {}, []
        for row, column in tiles(factor):
            picture, known = _from_above(opened, grid, row, column, factor, scale)
            if known.any():
                pictures[f"{row},{column}"] = _uri(picture, "JPEG")
                down, across = (np.flatnonzero(known.any(axis))[[0, -1]] for axis in (1, 0))
                corners.append((across + column * _TILE, down + row * _TILE))
        (left, top), (right, bottom) = np.min(corners, 0)[:, 0], np.max(corners, 0)[:, 1] + 1
        bounds = [float(each * size) for each in (left, top, right, bottom)]
        levels.append({"metres": _TILE * size, "tiles": pictures, "bounds": bounds})
        factor *= 4
    return levels


def _from_above(
    opened: Mapping[str, Any], grid: Grid, row: int, column: int, factor: int, scale: _Scale
) -> tuple[np.ndarray, np.ndarray]:
    """The picture (S, S, 3) of a tile, relief under scores, and its known pixels (S, S)."""
    side = _TILE + 2 * _EDGE
    corner = column * _TILE - _EDGE, row * _TILE - _EDGE
    window = Window(*(each * factor for each in (*corner, side, side)))
    score, height = (read(opened[name], window, factor) for name in ("score", "height_mm"))
    step = factor * grid.cell * 10  # millimetres
    known = np.isfinite(height)
    # Smoothed over a few centimetres; otherwise only the noise of single points shows.
    width = max(0.5, _SMOOTHED_MM / step)
    weight = gaussian_filter(known.astype(np.float32), width)
    height = gaussian_filter(np.where(known, height, 0), width) / np.maximum(weight, 1e-6)
    north, east = np.gradient(height, np.float32(step))
    light = 150 + (east - north) * np.float32(60 / _STEEPEST_SHADE)
    light = np.where(known, light.clip(20, 255), np.float32(235))
    inner = slice(_EDGE, -_EDGE)
    return scale.over(light, score)[inner, inner], known[inner, inner]


def _pictures(
    opened: Mapping[str, Any], grid: Grid, row: Mapping[str, Any], scale: _Scale
) -> dict[str, str]:
    """The pictures of a place: its height, its intensity, and the score over the intensity."""
    column, line = ~grid.transform @ (row["east"], row["north"])
    side = round(_PLACE * 100 / grid.cell)
    window = Window(round(column) - side // 2, round(line) - side // 2, side, side)
    score, height, intensity = (read(opened[name], window) for name in LAYERS)
    heights = np.nan_to_num((height + _SHOWN_MM) / (2 * _SHOWN_MM), nan=1).clip(0, 1) * 255
    known = intensity[np.isfinite(intensity)]
    low, high = np.quantile(known, (0.02, 0.98)) if len(known) else (0.0, 1.0)
    gray = np.nan_to_num((intensity - low) / max(1.0, high - low), nan=1).clip(0, 1) * 255
    return {
        "height": _uri(np.rint(heights).astype(np.uint8), "PNG"),
        "intensity": _uri(np.rint(gray).astype(np.uint8), "PNG"),
        "score": _uri(scale.over(gray, score), "PNG"),
    }


def _uri(pixels: np.ndarray, kind: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
