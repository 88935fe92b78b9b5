"""``python -m benchmarks.pointcloud``: what tiles and scores take, without a network.

For each of ``--points`` it makes a street, and times plain reading by laspy, the tiles, a plain
copy by laspy, and the scoring with all its outputs; each in a process of its own, whose peak memory
the table gives, too. Instead of a network, the height is the score. ``--survey N`` scores N scans
of ``--points`` along one street as a campaign, by one job with one thread, by one job as it is, and
by two jobs, in turn. It gives the least times of each: by the clock, of the processor in the first
process, and in its workers. On idle cores, a campaign takes the time of the first process, and that
of the workers divided by their number.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import laspy
import numpy as np
import pyproj
from laspy.point.record import ScaleAwarePointRecord

from crn.pointcloud.campaign import Workers
from crn.pointcloud.las import CHUNK
from crn.pointcloud.score import score_scans
from crn.pointcloud.street import CRS, make_street
from crn.pointcloud.street_ground import SLOPE
from crn.pointcloud.tiles import TileSet
from crn.pointcloud.training_tiles import make_tiles

PIECE = 64.0  # metres of street, which is repeated
ANGLE = 33.0
PARTS = ("read", "tiles", "copy", "score")
ONE_THREAD = {"RAYON_NUM_THREADS": "1"}  # of the library that packs and unpacks LAZ
TURNS = 2
TILES = TileSet(4, intensity_range=(5000.0, 26_000.0))


class Heights:
    """Stands in for a model: a score is a height."""

    name, tags = "heights", {"model": "heights"}

    def __call__(self, height: np.ndarray, intensity: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Scores of tiles."""
        return height.astype(np.float32)


def write_street(path: Path, count: int, part: int) -> None:
    """One of several parts of a street as LAZ, format 6, 1,250 points in a square metre.

    Args:
        path: the file.
        count: least number of points.
        part: number of the part; each begins where the one before ends.
    """
    street = make_street(PIECE, [], seed=1, angle=ANGLE)
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.full(3, 0.001), np.floor(street.xyz.min(0))
    header.add_crs(pyproj.CRS(CRS))
    step = PIECE * np.array((np.cos(np.radians(ANGLE)), np.sin(np.radians(ANGLE)), SLOPE))
    with laspy.open(path, "w", header=header) as writer:
        pieces = -(-count // len(street.xyz))
        for number in range(part * pieces, (part + 1) * pieces):
            points = ScaleAwarePointRecord.zeros(len(street.xyz), header=header)
            points.x, points.y, points.z = (street.xyz + number * step).T
            points.intensity, points.gps_time = street.intensity, street.seconds + 10 * number
            points.return_number[:] = points.number_of_returns[:] = 1
            writer.write_points(points)


def measure(part: str, path: Path, count: int, folder: Path) -> dict[str, float]:
    """Do one thing in this process: its seconds, wall and processor, and its peak memory in GB.

    Workers' seconds of the processor are apart.
    """
    start = time.perf_counter(), time.process_time()
    if part.startswith("write"):
        write_street(path, count, int(part.removeprefix("write")))
    elif part == "read":
        with laspy.open(path) as reader:
            for points in reader.chunk_iterator(CHUNK):
                assert len(points)
    elif part == "copy":
        with (
            laspy.open(path) as reader,
            laspy.open(folder / "copy.laz", "w", header=reader.header) as writer,
        ):
            for points in reader.chunk_iterator(CHUNK):
                writer.write_points(points)
    elif part == "tiles":
        make_tiles([path], folder / "tiles")
    else:
        jobs = int(part.removeprefix("score") or 1)
        out = folder / "scored"
        score_scans([path], out, TILES, Heights(), threshold=1e9, workers=Workers(jobs))
    seconds = {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}
    seconds["workers"] = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**seconds, "GB": most / (1e9 if sys.platform == "darwin" else 1e6)}


def ran(part: str, count: int, path: Path, **more: str) -> dict[str, float]:
    """As `measure`, in a process of its own: peak memory is that of a whole process.

    Args:
        part, count, path: as for `measure`.
        more: further variables of its environment.
    """
    words = ["--measure", part, path, "--points", str(count)]
    command_line = [sys.executable, "-m", "benchmarks.pointcloud", *map(str, words)]
    environment = os.environ | more
    run = subprocess.run(command_line, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout.splitlines()[-1])


def survey(folder: Path, scans: int, count: int) -> None:
    """Time a campaign of some scans along one street, by one job and by two."""
    days = folder / "days"
    days.mkdir()
    for number in range(scans):
        ran(f"write{number}", count, days / f"{number:02d}.laz")
    kinds: dict[str, tuple[int, dict[str, str]]] = {
        "1 job with 1 thread": (1, ONE_THREAD),
        "1 job": (1, {}),
        "2 jobs": (2, {}),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(TURNS):
        for name, (jobs, more) in kinds.items():
            runs[name].append(ran(f"score{jobs}", count, days, **more))
    print(f"{scans} scans of {count:,} points{'wall s':>14} {'CPU s':>7} {'workers':>8}")
    for name, each in runs.items():
        wall, cpu, workers = (min(run[key] for run in each) for key in ("wall", "cpu", "workers"))
        print(f"{name:<29} {wall:>13.1f} {cpu:>7.1f} {workers:>8.1f}")


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[5_000_000, 20_000_000])
    parser.add_argument("--survey", type=int, metavar="N", help="score N scans as a campaign")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        part, path = options.measure
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
            print(json.dumps(measure(part, Path(path), options.points[0], Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.survey:
            survey(Path(folder), options.survey, options.points[0])
            return
        print(f"{'points':>12} {'part':<6} {'wall s':>7} {'CPU s':>7} {'M/s':>6} {'GB':>5}")
        for count in options.points:
            path = Path(folder) / "street.laz"
            ran("write0", count, path)
            with laspy.open(path) as reader:
                count = reader.header.point_count
            for part in PARTS:
                result = ran(part, count, path)
                print(
                    f"{count:>12,} {part:<6} {result['wall']:>7.1f} {result['cpu']:>7.1f} "
                    f"{count / result['cpu'] / 1e6:>6.2f} {result['GB']:>5.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
