"""``python -m benchmarks.pointcloud``: point clouds, beside what reading and copying them takes.

It makes a street of ``--points``, and times plain reading by laspy, the tiles, a plain copy by
laspy, and the painting of all points; each in a process of its own, whose peak memory the table
gives, too. The painting is that of scores that are there: no network is asked.
"""

import argparse
import json
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

from crn.pointcloud import command
from crn.pointcloud.las import CHUNK, check_scans
from crn.pointcloud.paint import paint
from crn.pointcloud.partition import BlockArrays
from crn.pointcloud.roadway import find_road
from crn.pointcloud.street import CRS, SLOPE, make_street

PIECE = 64.0  # metres of street, which is repeated
ANGLE = 33.0
PARTS = ("read", "tiles", "copy", "paint")


def write_street(path: Path, count: int) -> None:
    """A street of so many points as LAZ, format 6, 1,250 points in a square metre."""
    street = make_street(PIECE, [], seed=1, angle=ANGLE)
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.full(3, 0.001), np.floor(street.xyz.min(0))
    header.add_crs(pyproj.CRS(CRS))
    step = PIECE * np.array((np.cos(np.radians(ANGLE)), np.sin(np.radians(ANGLE)), SLOPE))
    with laspy.open(path, "w", header=header) as writer:
        done = 0
        for number in range(count):
            points = ScaleAwarePointRecord.zeros(len(street.xyz), header=header)
            points.x, points.y, points.z = (street.xyz + number * step).T
            points.intensity, points.gps_time = street.intensity, street.seconds + 10 * number
            points.return_number[:] = points.number_of_returns[:] = 1
            writer.write_points(points[: count - done])
            done += len(points)
            if done >= count:
                break


def measure(part: str, path: Path, folder: Path) -> dict[str, float]:
    """Do one thing in this process: its seconds, wall and processor, and its peak memory in GB."""
    seconds: dict[str, float] = {}
    if part == "paint":
        paint_seconds(path, folder, seconds)
    else:
        start = time.perf_counter(), time.process_time()
        if part == "read":
            with laspy.open(path) as reader:
                for points in reader.chunk_iterator(CHUNK):
                    assert len(points)
        elif part == "tiles":
            command.run_pointcloud(["tiles", str(path), "--out", str(folder / "tiles")])
        else:
            with (
                laspy.open(path) as reader,
                laspy.open(folder / "copy.laz", "w", header=reader.header) as writer,
            ):
                for points in reader.chunk_iterator(CHUNK):
                    writer.write_points(points)
        seconds["wall"] = time.perf_counter() - start[0]
        seconds["cpu"] = time.process_time() - start[1]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**seconds, "GB": most / (1e9 if sys.platform == "darwin" else 1e6)}


def paint_seconds(path: Path, folder: Path, seconds: dict[str, float]) -> None:
    """Time the painting alone, with scores for every cell of the road."""
    scans = check_scans([path], None)
    work = folder / "work"
    work.mkdir()
    roadway = find_road(scans, None, work)
    scores = BlockArrays(work / "scores")
    chance = np.random.default_rng(0).random((640, 640), np.float32)
    for block in roadway.points.blocks:
        scores.keep(block, chance)
    start = time.perf_counter(), time.process_time()
    scored = paint(scans[0], folder / "painted.laz", roadway, scores, 4, 0.5)
    seconds["wall"] = time.perf_counter() - start[0]
    seconds["cpu"] = time.process_time() - start[1]
    assert scored > scans[0].points / 2


def ran(part: str, count: int, path: Path) -> dict[str, float]:
    """As `measure`, in a process of its own: peak memory is that of a whole process."""
    words = ["--measure", part, path, "--points", str(count)]
    command_line = [sys.executable, "-m", "benchmarks.pointcloud", *words]
    run = subprocess.run(command_line, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[5_000_000, 20_000_000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        part, path = options.measure
        if part == "write":
            write_street(Path(path), options.points[0])
            print("{}")
            return
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
            print(json.dumps(measure(part, Path(path), Path(folder))))
        return
    print(
        f"{'points':>12} {'part':<6} {'wall s':>7} {'CPU s':>7} {'M/s':>6} {'ratio':>6} {'GB':>5}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for count in options.points:
            path = Path(folder) / "street.laz"
            ran("write", count, path)
            plain: dict[str, float] = {}
            for part in PARTS:
                result = ran(part, count, path)
                # Tiles are beside plain reading, painting beside a plain copy.
                plain = result if part in ("read", "copy") else plain
                print(
                    f"{count:>12,} {part:<6} {result['wall']:>7.1f} {result['cpu']:>7.1f} "
                    f"{count / result['cpu'] / 1e6:>6.2f} {plain['cpu'] / result['cpu']:>6.2f} "
                    f"{result['GB']:>5.2f}"
                )


if __name__ == "__main__":
    main()
