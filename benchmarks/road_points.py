"""``python -m benchmarks.road_points result/``: how well scores tell damage on the road's points.

The folder is what ``pointcloud.py score`` has made of the demo's damaged.laz, whose points carry
the truth. Beside the scores are the heights alone, which no network is needed for: |mm|, and that
of the heights smoothed as anomaly maps are.
"""

import argparse
from pathlib import Path

import laspy
import numpy as np
import rasterio
from scipy.ndimage import gaussian_filter

from crn.evaluation.metrics import auroc
from crn.pointcloud.street import KINDS, SOUND

SMOOTHING = 0.018 * 2.56  # metres: --map-smoothing of a tile


def heights(folder: Path, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres (N,) above the levelled road at places, as measured and smoothed."""
    with rasterio.open(folder / "height_mm.tif") as file:
        picture, transform = file.read(1), file.transform
    column, row = ~transform * (x, y)
    place = tuple(  # a thousandth: points on a border are of the cell above it
        np.floor(each).astype(int).clip(0, side - 1)
        for each, side in zip((row - 1e-3, column + 1e-3), picture.shape, strict=True)
    )
    known = np.isfinite(picture)
    total, weight = (
        gaussian_filter(each, SMOOTHING / transform.a)
        for each in (np.where(known, picture, 0.0), known.astype(float))
    )
    return picture[place], (total / np.maximum(weight, 1e-9))[place]


def main() -> None:
    """Print the AUROC of each kind of damage against the sound road, and of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    print(f"{'AUROC':<32}" + "".join(f"{kind:>9}" for kind in (*KINDS, "all")))
    for folder in parser.parse_args().folders:
        scan = laspy.read(folder / "damaged.laz")
        truth, score = np.array(scan["truth"]), np.array(scan["crn_score"])
        height, smoothed = heights(folder, np.array(scan.x), np.array(scan.y))
        road = np.isfinite(score) & np.isfinite(height) & (truth >= SOUND)
        rows = {"score": score, "|mm|": abs(height), "|mm| smoothed": abs(smoothed)}
        for name, values in rows.items():
            kinds = [truth == SOUND + 1 + number for number in range(len(KINDS))]
            parts = [*(road & (kind | (truth == SOUND)) for kind in kinds), road]
            found = (auroc(values[part], truth[part] > SOUND) for part in parts)
            print(f"{f'{folder} {name}':<32}" + "".join(f"{value:>9.3f}" for value in found))


if __name__ == "__main__":
    main()
