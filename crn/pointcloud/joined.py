"""The layers of several scans as one, by virtual layers that join them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

from crn.pointcloud.drawing import VALID, drawing
from crn.pointcloud.layers import LAYERS, Grid
from crn.pointcloud.styles import STATISTICS, render, write_style


def join_layers(folder: Path, layers: Path, grid: Grid, stems: Sequence[str]) -> None:
    """Write VRTs that join the layers of several scans, with their styles.

    Args:
        folder: where they are written, to be moved to ``layers``.
        layers: folder of the layers.
        grid: covers all of them.
        stems: what the names of each scan's layers begin with.

    Raises:
        UserError: the system refuses to write them, or to read a layer.
    """
    for name in LAYERS:
        sources, found, path = [], [], folder / f"{name}.vrt"
        with drawing(folder):
            for stem in stems:
                with rasterio.open(layers / f"{stem}{name}.tif") as file:
                    left, top = ~grid.transform @ (file.transform.c, file.transform.f)
                    place = round(left), round(top), file.width, file.height
                    sources.append((f"{stem}{name}.tif", *place))
                    tags, band = file.tags(), file.tags(1)
                    described = {"description": file.descriptions[0], "unit": file.units[0] or ""}
                    if VALID in band:
                        cells = file.width * file.height * float(band[VALID]) / 100
                        found.append([cells, *(float(band[key]) for key in STATISTICS)])
            cells, low, high, means, deviations = np.transpose(found)
            mean = np.average(means, weights=cells)
            variance = np.average(deviations**2 + (means - mean) ** 2, weights=cells)
            values = low.min(), high.max(), mean, math.sqrt(variance)
            statistics = dict(zip(STATISTICS, values, strict=True))
            text = render(
                "layer.vrt.jinja",
                shape=grid.shape,
                transform=grid.transform.to_gdal(),
                crs=grid.wkt,
                sources=sources,
                tags=tags,
                # Cells of several scans count several times.
                statistics={**statistics, "STATISTICS_APPROXIMATE": "YES"},
                **described,
            )
            path.write_text(text, encoding="utf-8")
            write_style(path, name, statistics)
