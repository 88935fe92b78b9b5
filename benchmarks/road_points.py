"""``python -m benchmarks.road_points demo_road/ results/*``: how well scores tell damage on a road.

Each folder of results has what ``pointcloud.py score`` has made of the demo's damaged.laz and
sound_3.laz, in subfolders of these names, with a threshold from sound_2.laz. Folders whose names
differ in a number at the end only (NAME-1, NAME-2) are one row: the mean, and the range.
``--heights`` first makes the last of the folders, without a model: scores are smoothed heights.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import geopandas
import laspy
import numpy as np
from scipy.ndimage import gaussian_filter

from crn.evaluation.metrics import auroc
from crn.pointcloud.demo import LENGTH
from crn.pointcloud.places import LEAST_AREA, sound_threshold
from crn.pointcloud.score import score_scans
from crn.pointcloud.street_ground import KINDS, SOUND
from crn.pointcloud.tiles import TileSet
from crn.pointcloud.vectors import PLACES_FILE

SMOOTHING = 0.018  # of a tile's width, as --map-smoothing
FALSE_PLACES = 1.0  # per 100 m of sound_2.laz


class Heights:
    """Stands in for a model: a score is how far the smoothed height is from the levelled road."""

    name, tags = "smoothed heights", {"model": "heights"}

    def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Millimetres (N, S, S) above or below the levelled road."""
        low, high = TileSet.height_range_mm
        mm = low + height.astype(np.float32) / 65535 * (high - low)
        deviation = SMOOTHING * height.shape[1]
        return abs(gaussian_filter(mm, (0, deviation, deviation)))


def score_heights(demo: Path, folder: Path, ignore: Path | None) -> None:
    """Score the demo's scans by their heights, as the program does it by a model."""
    tiles, threshold = TileSet(4, intensity=False), None
    for name in ("sound_2", "sound_3", "damaged"):
        out = folder / name
        scan = demo / f"{name}.laz"
        score_scans([scan], out, tiles, Heights(), threshold=threshold, ignore=ignore)
        if threshold is None:
            threshold, _ = sound_threshold(out, Heights.tags, FALSE_PLACES, LEAST_AREA)


def aurocs(folder: Path) -> list[float]:
    """The AUROC over the road's points of each kind of damage, and of all, against sound road."""
    scan = laspy.read(folder / "damaged/damaged.laz")
    truth, score = np.array(scan["truth"]), np.array(scan["crn_score"])
    road = np.isfinite(score) & (truth >= SOUND)
    kinds = [truth == SOUND + 1 + number for number in range(len(KINDS))]
    parts = [*(road & (kind | (truth == SOUND)) for kind in kinds), road]
    return [auroc(score[part], truth[part] > SOUND) for part in parts]


def decisions(folder: Path, truth: geopandas.GeoDataFrame) -> list[float]:
    """How many damages of each kind a place overlaps, and false places per 100 m of sound road."""
    places, false = (
        geopandas.read_file(folder / name / PLACES_FILE, layer="places")
        for name in ("damaged", "sound_3")
    )
    found = truth.intersects(places.union_all())
    counts = [int(found[truth["kind"] == kind].sum()) for kind in KINDS]
    return [*counts, len(false) / LENGTH * 100]


def print_table(titles: list[str], rows: dict[str, np.ndarray], digits: int) -> None:
    """Print rows of values (seeds, columns) as Markdown: the mean, and the range if they differ."""
    lines = [["scored by", *titles], ["---", *("---" for _ in titles)]]
    for name, values in rows.items():
        cells = [name]
        for low, mean, high in zip(values.min(0), values.mean(0), values.max(0), strict=True):
            ends = f" ({low:.{digits}f} to {high:.{digits}f})" if low < high else ""
            cells.append(f"{mean:.{digits}f}{ends}")
        lines.append(cells)
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def main() -> None:
    """Print two tables: AUROC, and what is found at the threshold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="what pointcloud.py demo has written")
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--heights", action="store_true", help="first make the last of RESULTS")
    parser.add_argument("--ignore", type=Path, help="with --heights: as in pointcloud.py")
    options = parser.parse_args()
    if options.heights:
        score_heights(options.demo, options.results[-1], options.ignore)
    truth = geopandas.read_file(options.demo / PLACES_FILE)
    groups: dict[str, list[Path]] = {}
    for folder in options.results:
        groups.setdefault(re.sub(r"-\d+$", "", folder.name), []).append(folder)

    def rows(measure: Callable[[Path], list[float]]) -> dict[str, np.ndarray]:
        return {name: np.array([*map(measure, folders)]) for name, folders in groups.items()}

    print_table([*KINDS, "all"], rows(aurocs), 3)
    print()
    found = [f"{kind}, of {(truth['kind'] == kind).sum()}" for kind in KINDS]
    print_table(
        [*found, "false places per 100 m"], rows(lambda folder: decisions(folder, truth)), 1
    )


if __name__ == "__main__":
    main()
