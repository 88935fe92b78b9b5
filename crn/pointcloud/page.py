"""The HTML page: the road from above with its scores, in zoom levels, and the worst places."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from crn.pointcloud.layers import GDAL, LAYERS, Grid, layer_path, read
from crn.pointcloud.partition import Block
from crn.report import pages
from crn.report.overlays import ColourScale, legend, overlay
from crn.report.pictures import share_of_range

_FINEST = 4  # centimetres of a pixel
_STEPS = (1, 4, 16, 64)  # cells on a side of a pixel of a zoom level, as in overviews
_MOST_PICTURES = 400  # in the finest zoom level; with more, it is coarser
_CARDS, _ROWS, _PINS = 48, 200, 2000  # places with pictures, in the table, and on the map
_PLACE = 3.84  # metres on a side of the pictures of places
_SHOWN_MM = 40.0  # heights of -40 and 40 mm are black and white there
_SMOOTHED_MM = 60.0
_STEEPEST_SHADE = 0.06  # slopes that are black or white on the map
_EDGE = 8  # pixels around a picture that smoothing sees


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
        scale = _scale(opened["score"].tags(1), facts)
        windows = [grid.window(block) for block in blocks]
        levels = _zoom_levels(opened, grid, windows, scale)
        ends = _ends(opened["score"], windows)
        rows = places.drop(columns="geometry").to_dict("records")
        cards = [{**row, **_pictures(opened, grid, row, scale)} for row in rows[:_CARDS]]
    marked = places[["number", "kind", "geometry"]].head(_CARDS)
    marked = marked if grid.crs is None else marked.to_crs("EPSG:4326")
    made = {"model": facts["model"], "scans": facts["scans"], "cells": f"{facts['cell_m']:g} m"}
    pages.write_page(
        folder / pages.REPORT_FILE,
        "road.html",
        {"how it was made": {name: (value, False) for name, value in made.items()}},
        data={
            "ends": ends,
            "metres": grid.cell / 100,
            "outlines": marked.to_geo_dict()["features"],
        },
        script="road.js",
        facts=facts,
        crs=grid.crs,
        places=len(places),
        area=places["area_m2"].sum(),
        severe=places["severity"].value_counts().to_dict(),
        levels=levels,
        pins=[(row["number"], *_position(grid, row)) for row in rows[:_PINS]],
        legend=legend(scale, masks=False),
        cards=cards,
        rows=rows[:_ROWS],
        columns=[name for name in places.columns if name != "geometry"],
        place_metres=_PLACE,
        shown_mm=_SHOWN_MM,
    )


def _scale(tags: Mapping[str, str], facts: Mapping[str, Any]) -> ColourScale:
    """The colours of scores; the threshold is in the first half, which is never empty."""
    mean, deviation = (float(tags[f"STATISTICS_{each}"]) for each in ("MEAN", "STDDEV"))
    threshold = facts["threshold"]
    low = min(mean, threshold)
    high = max(mean + 6 * deviation, 2 * threshold - low)
    return ColourScale(low, high, threshold if facts["decided"] else None)


def _position(grid: Grid, row: Mapping[str, Any]) -> tuple[int, int]:
    """The column and row of the cell at the middle of a place."""
    column, line = ~grid.transform @ (row["east"], row["north"])
    return round(column), round(line)


def _zoom_levels(
    opened: Mapping[str, Any], grid: Grid, windows: Sequence[Window], scale: ColourScale
) -> list[dict[str, Any]]:
    """The zoom levels of the map, the finest first.

    A level has the width of a pixel and the side of a picture, in cells, and each picture with its
    row and column.
    """
    levels = []
    steps = _STEPS if grid.cell >= _FINEST else _STEPS[1:]
    for cells in steps:
        side = grid.side * cells // steps[0]
        corners = sorted({(each.row_off // side, each.col_off // side) for each in windows})
        if len(corners) > _MOST_PICTURES and cells < _STEPS[-1]:
            continue
        pictures = []
        for row, column in corners:
            window = Window(column * side, row * side, side, side)
            picture = _from_above(opened, grid, window, cells, scale)
            pictures.append((row, column, _uri(picture, "JPEG")))
        levels.append({"cells": cells, "side": side, "pictures": pictures})
        if len(pictures) == 1:
            break
    return levels


def _ends(scores: Any, windows: Sequence[Window]) -> list[int]:
    """The first column and row with scores, and the last ones, in cells."""
    step, places = _STEPS[-1], []
    for window in windows:
        known = np.argwhere(np.isfinite(read(scores, window, step))) * step
        places.append(known + np.array((window.row_off, window.col_off)))
    (top, left), (bottom, right) = (end(np.concatenate(places), 0) for end in (np.min, np.max))
    return [int(each) for each in (left, top, right + step, bottom + step)]


def _from_above(
    opened: Mapping[str, Any], grid: Grid, window: Window, cells: int, scale: ColourScale
) -> Image.Image:
    """The picture of a window, relief under scores, whose pixels are so many cells wide."""
    left, top, side, _ = window.flatten()
    edge = _EDGE * cells
    window = Window(left - edge, top - edge, side + 2 * edge, side + 2 * edge)
    score, height = (read(opened[name], window, cells) for name in ("score", "height_mm"))
    step = cells * grid.cell * 10  # millimetres
    known = np.isfinite(height)
    # Smoothed over a few centimetres; otherwise only the noise of single points shows.
    width = max(0.5, _SMOOTHED_MM / step)
    weight = gaussian_filter(known.astype(np.float32), width)
    height = gaussian_filter(np.where(known, height, 0), width) / np.maximum(weight, 1e-6)
    north, east = np.gradient(height, np.float32(step))
    light = 150 + (east - north) * np.float32(60 / _STEEPEST_SHADE)
    light = np.where(known, light.clip(20, 255), np.float32(235))
    inner = slice(_EDGE, -_EDGE), slice(_EDGE, -_EDGE)
    return _over(light[inner], score[inner], scale)


def _pictures(
    opened: Mapping[str, Any], grid: Grid, row: Mapping[str, Any], scale: ColourScale
) -> dict[str, str]:
    """The pictures of a place: its height, its intensity, and the score over the intensity."""
    column, line = _position(grid, row)
    side = round(_PLACE * 100 / grid.cell)
    window = Window(column - side // 2, line - side // 2, side, side)
    score, height, intensity = (read(opened[name], window) for name in LAYERS)
    known = intensity[np.isfinite(intensity)]
    low, high = np.quantile(known, (0.02, 0.98)) if len(known) else (0.0, 1.0)
    gray = _gray(intensity, low, max(low + 1, high))
    return {
        "height": _uri(Image.fromarray(_gray(height, -_SHOWN_MM, _SHOWN_MM)), "PNG"),
        "intensity": _uri(Image.fromarray(gray), "PNG"),
        "score": _uri(_over(gray, score, scale), "PNG"),
    }


def _gray(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Values (H, W) from black to white, uint8; what is unknown is white."""
    share = share_of_range(np.nan_to_num(values, nan=white), black, white)
    return np.rint(share * 255).astype(np.uint8)


def _over(gray: np.ndarray, score: np.ndarray, scale: ColourScale) -> Image.Image:
    """Scores (H, W) over a picture (H, W) of 0 to 255."""
    picture = Image.fromarray(gray.astype(np.uint8))
    return overlay(picture, np.nan_to_num(score, nan=scale.low), scale)


def _uri(picture: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
