"""The layers of several scans as one: virtual layers, or cloud-optimised GeoTIFFs."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import rasterio
from rasterio import shutil

from crn.pointcloud.drawing import VALID, draw_layers, drawing, pooled, require_written
from crn.pointcloud.layers import LAYERS, Grid
from crn.pointcloud.mosaic import Mosaic
from crn.pointcloud.partition import Block
from crn.pointcloud.styles import DESCRIPTIONS, STATISTICS, render, write_style

_COG = {
    "driver": "COG",
    "overviews": "force_use_existing",
    "blocksize": 256,
    "compress": "deflate",
    "level": 1,
    "sparse_ok": True,
    "bigtiff": "if_safer",
}


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
                    if VALID in band:
                        cells = file.width * file.height * float(band[VALID]) / 100
                        found.append([cells, *(float(band[key]) for key in STATISTICS)])
            statistics = pooled(found)
            text = render(
                "layer.vrt.jinja",
                shape=grid.shape,
                transform=grid.transform.to_gdal(),
                crs=grid.crs and grid.crs.to_wkt(),
                sources=sources,
                tags=tags,
                # Cells of several scans count several times.
                statistics={**statistics, "STATISTICS_APPROXIMATE": "YES"},
                described=DESCRIPTIONS[name],
            )
            path.write_text(text, encoding="utf-8")
            write_style(path, name, statistics)


def write_cogs(folder: Path, layers: Path, grid: Grid, blocks: Collection[Block]) -> None:
    """Write joined layers as cloud-optimised GeoTIFFs.

    Args:
        folder: where they are written.
        layers: folder of the joined layers.
        grid, blocks: of these.

    Raises:
        UserError: the system refuses to write them, or to read a layer.
    """
    with drawing(folder), TemporaryDirectory(prefix=".", dir=folder) as work, ExitStack() as stack:
        files = [stack.enter_context(rasterio.open(layers / f"{name}.vrt")) for name in LAYERS]
        drawn = (
            (block, Mosaic(*(file.read(1, window=grid.window(block))[::-1] for file in files)))
            for block in blocks
        )
        draw_layers(Path(work), grid, drawn, tags=files[0].tags())
        last = [grid.window(block) for block in blocks if block[1] == grid.bottom]
        for name in LAYERS:
            shutil.copy(Path(work, f"{name}.tif"), folder / f"{name}.tif", **_COG)
            require_written(folder / f"{name}.tif", last)
