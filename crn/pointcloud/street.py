"""A synthetic street as a mapping vehicle scans it, undamaged or damaged, with ground truth.

Its `Ground` is scanned in two passes, each with its own scan lines, height error and gain. Parked
cars and posts stand on it; behind a car the ground is hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import laspy
import numpy as np
import pyproj
import shapely
from numpy.random import Generator

from crn.pointcloud.street_ground import (
    HALF_WIDTH,
    NOT_ROAD,
    PAVEMENT,
    SOUND,
    Damage,
    Ground,
    turned,
)
from crn.pointcloud.vectors import write_layer
from crn.system.files import written_whole
from crn.system.interrupts import ctrl_c_waits

CRS = "EPSG:25832"
NOISE = 0.003  # metres, of a single height
_PASSES = ((0.5, -1.75), (-0.7, 0.3))  # angle of the scan lines, and v of the vehicle
_SCANNER = 2.3  # metres above the road
_CAR = (4.4, 1.8, 1.5)  # length, width and height in metres


@dataclass(frozen=True)
class Street:
    """Points of a street, in the order in which they were scanned.

    Attributes:
        xyz: (N, 3) float64, metres.
        intensity: (N,) uint16.
        truth: (N,) uint8: `NOT_ROAD`, `SOUND`, or 2 + the index in `KINDS`.
        seconds: (N,) float64.
        damages: its damages.
        outlines: corners of each damage on the map, (n, 2).
        covers: corners of each manhole and gully on the map, (n, 2).
    """

    xyz: np.ndarray
    intensity: np.ndarray
    truth: np.ndarray
    seconds: np.ndarray
    damages: tuple[Damage, ...]
    outlines: tuple[np.ndarray, ...]
    covers: tuple[np.ndarray, ...] = ()


def make_street(
    length: float,
    damages: list[Damage],
    seed: int = 0,
    density: float = 1250.0,
    angle: float = 33.0,
    place: tuple[float, float, float] = (362_000.0, 5_701_234.0, 60.0),
) -> Street:
    """Scan a street.

    Args:
        length: its length in metres.
        damages: its damages.
        seed: seed of everything random.
        density: points per square metre, of both passes together.
        angle: direction of the street in degrees, counted from east.
        place: easting, northing and height of its beginning, in the middle of the road.
    """
    rng = np.random.default_rng(seed)
    ground = Ground(rng, length, damages)
    cars = _parked(rng, length, damages)
    parts = [_scan(rng, ground, cars, length, density / 2, number) for number in (0, 1)]
    u, v, z, intensity, truth, seconds = (np.concatenate(each) for each in zip(*parts, strict=True))
    forward = turned(np.radians(angle))
    xy = np.stack((u, v), 1) @ forward + place[:2]
    outlines, covers = (
        tuple(shapely.get_coordinates(each.outline)[:-1] @ forward + place[:2] for each in parts)
        for parts in (damages, [each for each in ground.covers if each.u < length])
    )
    xyz = np.column_stack((xy, z + place[2]))
    return Street(xyz, intensity, truth, seconds, tuple(damages), outlines, covers)


def _scan(
    rng: Generator,
    ground: Ground,
    cars: list[tuple[float, float]],
    length: float,
    density: float,
    number: int,
) -> tuple[np.ndarray, ...]:
    """The points of one pass: u, v, z, intensity, truth and time."""
    turn, track = _PASSES[number]
    step = density**-0.5
    wide = HALF_WIDTH + PAVEMENT
    cos, sin = np.cos(turn), np.sin(turn)
    across = length / 2 * cos + wide * abs(sin)
    along = length / 2 * abs(sin) + wide * cos
    lines, beams = np.meshgrid(np.arange(-across, across, step), np.arange(-along, along, step))
    u = lines * cos - beams * sin + length / 2
    v = lines * sin + beams * cos
    inside = (u > 0) & (u < length) & (abs(v) < wide)
    u, v = (each[inside] + rng.normal(0, step / 8, inside.sum()) for each in (u, v))
    order = np.argsort(u, kind="stable")
    u, v = u[order].clip(0, length), v[order]
    seen = ~_hidden(u, v, cars, turn, track)
    u, v = u[seen], v[seen]
    z, intensity, truth = ground.at(u, v)
    long, wide, high = _CAR
    for middle, side in cars:
        under = np.flatnonzero((abs(u - middle) < long / 2) & (abs(v - side) < wide / 2))
        # Roof and bonnet, and the flanks, visible from the sill up.
        top = z[under] + high - 0.5 * (abs(u[under] - middle) > long / 4)
        flank = abs(v[under] - side) > wide / 2 - 0.1
        top[flank] -= rng.uniform(0, high - 0.7, flank.sum())
        z[under], intensity[under], truth[under] = top, 24_000, NOT_ROAD
    for post in np.arange(7, length, 15):
        near = np.flatnonzero((abs(u - post) < 0.08) & (abs(v - HALF_WIDTH - 0.5) < 0.08))
        z[near] += rng.uniform(0, 3, len(near))
    # Loose stones and mixed echoes make damaged spots noisier.
    z += rng.normal(0, NOISE, len(z)) * np.where(truth > SOUND, 1.5, 1)
    z += (-0.001, 0.001)[number] + 0.001 * np.sin(u / 9 + rng.uniform(0, 6))
    intensity = intensity * (1.02, 0.98)[number] + rng.normal(0, 400, len(z))
    return u, v, z, intensity.clip(0, 65535).astype(np.uint16), truth, u / 10 + 3600.0 * number


def _hidden(
    u: np.ndarray, v: np.ndarray, cars: list[tuple[float, float]], turn: float, track: float
) -> np.ndarray:
    """Which places (N,) are behind a car, seen from above the track along the scan lines."""
    long, wide, high = _CAR
    ways = (v - track) * -np.tan(turn), v - track  # from the scanner to each place
    hidden = np.zeros(len(u), bool)
    for middle, side in cars:
        enter, leave = np.zeros(len(u)), np.ones(len(u))  # shares of the way
        borders = (middle - long / 2, middle + long / 2), (side - wide / 2, side + wide / 2)
        for way, start, ends in zip(ways, (u - ways[0], track), borders, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                one, other = ((end - start) / way for end in ends)
            enter = np.fmax(enter, np.fmin(one, other))
            leave = np.fmin(leave, np.fmax(one, other))
        # The beam falls evenly, so it is lowest where it leaves the car.
        hidden |= (enter < leave) & (leave < 1) & (_SCANNER * (1 - leave) < high)
    return hidden


def _parked(rng: Generator, length: float, damages: list[Damage]) -> list[tuple[float, float]]:
    """The middles (u, v) of cars parked at the left kerb, but not on damage."""
    places = [(u, HALF_WIDTH - 1.05) for u in np.arange(4, length - 3, 7.0) if rng.random() < 0.6]
    long, wide, _ = _CAR
    outlines = shapely.union_all([each.outline for each in damages])
    return [
        (u, v)
        for u, v in places
        if not outlines.intersects(
            shapely.box(u - long / 2, v - wide / 2, u + long / 2, v + wide / 2)
        )
    ]


def write_scan(path: Path, street: Street) -> None:
    """Write a street as LAZ, with the truth as an extra dimension.

    Raises:
        UserError: the system refuses to write it.
    """
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.full(3, 0.001), np.floor(street.xyz.min(0))
    header.add_crs(pyproj.CRS(CRS))
    header.add_extra_dim(laspy.ExtraBytesParams("truth", "u1", "0 other, 1 sound, 2-4 damage"))
    points = laspy.ScaleAwarePointRecord.zeros(len(street.xyz), header=header)
    points.x, points.y, points.z = street.xyz.T
    points.intensity, points["truth"] = street.intensity, street.truth
    points.gps_time = street.seconds
    points.return_number = points.number_of_returns = np.ones(len(points), np.uint8)
    points.classification = np.ones(len(points), np.uint8)
    with (
        written_whole(path, "w+b") as file,
        ctrl_c_waits(),
        laspy.open(file, "w", header=header, do_compress=True, closefd=False) as writer,
    ):
        writer.write_points(points)


def write_truth(path: Path, street: Street) -> None:
    """Write the outlines of damages as a GeoPackage.

    Raises:
        UserError: the system refuses to write it.
    """
    columns = {
        "kind": [each.kind for each in street.damages],
        "depth_mm": [round(each.depth * 1000, 1) for each in street.damages],
    }
    shapes = [shapely.Polygon(corners) for corners in street.outlines]
    write_layer(path, "truth", geopandas.GeoDataFrame(columns, geometry=shapes, crs=CRS))


def write_covers(path: Path, streets: Sequence[Street]) -> None:
    """Write the outlines of manholes and gullies as a GeoPackage, as a city's register has them.

    Raises:
        UserError: the system refuses to write it.
    """
    shapes = [shapely.Polygon(corners) for street in streets for corners in street.covers]
    write_layer(path, "covers", geopandas.GeoDataFrame(geometry=shapes, crs=CRS))
