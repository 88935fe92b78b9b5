"""Scores on the map: tiles that overlap are scored, and their maps averaged for every cell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from crn.pointcloud.partition import BLOCK, Block
from crn.pointcloud.roadway import Roadway
from crn.pointcloud.tiles import MARGIN, STRIDE, TileSet, cut, images_of, raster_of
from crn.system.files import writing

# Tiles are scored that are less full than those of a training, so that the edge of the road has
# scores, too; where fuller ones are, they hardly count.
FILL = 0.25
_FILL_POWER = 8


class Scorer(Protocol):
    """What scores tiles."""

    @property
    def name(self) -> str:
        """What it is, in words."""
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
    """What is known of the cells of a block, each (S, S) float32; row 0 is in the south.

    Attributes:
        score: NaN outside the road, and where no tile is full enough.
        height_mm: above the levelled surface, alike.
        intensity: NaN where there is no point nearby.
    """

    score: np.ndarray
    height_mm: np.ndarray
    intensity: np.ndarray


def score_block(
    roadway: Roadway,
    block: Block,
    tiles: TileSet,
    intensity_range: tuple[float, float],
    scorer: Scorer,
) -> Mosaic:
    """Score all tiles that have a part in a block."""
    raster = raster_of(roadway.points, block, tiles)
    side, reach = tiles.pixels, STRIDE // tiles.cell
    wide = BLOCK // tiles.cell + 2 * reach
    total, score, height = (np.zeros((wide, wide), np.float32) for _ in range(3))
    hann = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    hann = np.outer(hann, hann).astype(np.float32)
    for part in cut(raster, tiles, FILL, -STRIDE):
        maps = scorer(*images_of(part, tiles, intensity_range))[:, ::-1]
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


class Scores:
    """The scores of all blocks in a folder, for the points to be looked up."""

    def __init__(self, folder: Path) -> None:
        """Use an empty folder."""
        self._folder = folder
        self._open: dict[Block, np.ndarray | None] = {}

    def keep(self, block: Block, mosaic: Mosaic) -> None:
        """Write the scores of a block.

        Raises:
            UserError: the system refuses to.
        """
        path = self._path(block)
        with writing(path):
            np.save(path, mosaic.score)

    def of(self, block: Block) -> np.ndarray | None:
        """The scores of a block; None where there are none."""
        if block not in self._open:
            if len(self._open) >= 12:
                self._open.pop(next(iter(self._open)))
            path = self._path(block)
            self._open[block] = np.load(path, mmap_mode="r") if path.exists() else None
        return self._open[block]

    def _path(self, block: Block) -> Path:
        return self._folder / f"{block[0]}_{block[1]}.npy"


def some_scores(mosaic: Mosaic) -> np.ndarray:
    """Every sixteenth score of a block, for quantiles of all."""
    scores = mosaic.score[np.isfinite(mosaic.score)]
    return scores[::16]
