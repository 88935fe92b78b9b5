"""Scores on the map: overlapping tiles are scored, and their maps averaged in every cell."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from crn.pointcloud.partition import BLOCK, Block
from crn.pointcloud.roadway import Roadway
from crn.pointcloud.tiles import MARGIN, STRIDE, TileSet, cut, images_of, raster_of
from crn.pointcloud.vectors import Areas

# Least known share of a scored tile. It is lower than in training, so that the edge of the road has
# scores, too; where fuller tiles overlap, emptier ones hardly count.
FILL = 0.25
_FILL_POWER = 8


class Scorer(Protocol):
    """Scores tiles."""

    @property
    def name(self) -> str:
        """Its name for people."""
        ...

    @property
    def tags(self) -> dict[str, str]:
        """What decides its scores, by names."""
        ...

    def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:
        """Score tiles.

        Args:
            height: (N, S, S) uint16, as in height files.
            intensity: (N, S, S) uint8, as in intensity files.

        Returns:
            Anomaly maps (N, S, S) float32, higher where something is wrong.
        """
        ...


@dataclass(frozen=True)
class Mosaic:
    """The cells of a block, each array (S, S) float32; row 0 is in the south.

    Attributes:
        score: NaN outside the road, and where no tile is full enough.
        height_mm: millimetres above the levelled surface, NaN likewise.
        intensity: NaN if there is no point nearby.
    """

    score: np.ndarray
    height_mm: np.ndarray
    intensity: np.ndarray


def score_block(
    roadway: Roadway,
    block: Block,
    tiles: TileSet,
    scorer: Scorer,
    ignored: Areas | None = None,
) -> Mosaic:
    """Score all tiles that overlap a block, except in areas to be ignored."""
    raster = raster_of(roadway.points, block, tiles, ignored)
    side, reach = tiles.pixels, STRIDE // tiles.cell
    wide = BLOCK // tiles.cell + 2 * reach
    total, score, height = (np.zeros((wide, wide), np.float32) for _ in range(3))
    hann = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    hann = np.outer(hann, hann).astype(np.float32)
    for part in cut(raster, tiles, FILL, -STRIDE):
        maps = scorer(*images_of(part, tiles))[:, ::-1]
        known = part.known
        heights = np.nan_to_num(part.height, nan=0.0)
        for index, (east, north) in enumerate(part.corners // tiles.cell + reach):
            window = slice(north, north + side), slice(east, east + side)
            weight = hann * (known[index] * np.float32(part.fill[index] ** _FILL_POWER))
            total[window] += weight
            score[window] += weight * maps[index]
            height[window] += weight * heights[index]
    inner = slice(reach, -reach)
    total[total == 0] = np.nan
    edge = slice(MARGIN // tiles.cell, -(MARGIN // tiles.cell))
    return Mosaic(
        (score / total)[inner, inner],
        (height / total)[inner, inner],
        raster.intensity[edge, edge],
    )
