"""A synthetic street as a mapping vehicle scans it, undamaged or damaged, with ground truth.

Its axes are u, metres along it, and v, metres to its left. The road is 7 m wide, with a crown,
kerbs, pavements, lane markings, parked cars and posts. It is scanned in two passes, each with its
own scan lines, height error and gain.
"""

from dataclasses import dataclass
from pathlib import Path

import geopandas
import laspy
import numpy as np
import pyproj
import shapely
from numpy.random import Generator

from crn.pointcloud.vectors import write_layer
from crn.system.files import written_whole
from crn.system.interrupts import ctrl_c_waits

CRS = "EPSG:25832"
NOT_ROAD, SOUND = 0, 1  # values of the dimension truth; kinds of damage follow
KINDS = ("pothole", "patch", "crack")
HALF_WIDTH = 3.5
KERB = 0.12
CROWN, SLOPE = 0.025, 0.08
NOISE = 0.003
_PAVEMENT = 2.0
_CAR = (4.4, 1.8, 1.5)  # length, width and height in metres
_GRID = 1024  # side of textures, which repeat after 20 m
_TEXEL = 0.02


@dataclass(frozen=True)
class Damage:
    """A pothole, patch or crack.

    Attributes:
        kind: one of `KINDS`.
        u, v: its middle.
        size: radius of a pothole; half length and half width of a patch; half width of a crack.
        depth: metres from the road down to its bottom; negative for a raised patch.
        line: corners (n, 2) of the middle line of a crack.
    """

    kind: str
    u: float
    v: float
    size: tuple[float, ...]
    depth: float
    line: np.ndarray | None = None

    @property
    def outline(self) -> shapely.Polygon:
        """Its border in u and v."""
        if self.kind == "pothole":
            return shapely.Point(self.u, self.v).buffer(self.size[0])
        if self.kind == "patch":
            long, wide = self.size
            return shapely.box(self.u - long, self.v - wide, self.u + long, self.v + wide)
        return shapely.LineString(self.line).buffer(self.size[0])


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
    """

    xyz: np.ndarray
    intensity: np.ndarray
    truth: np.ndarray
    seconds: np.ndarray
    damages: tuple[Damage, ...]
    outlines: tuple[np.ndarray, ...]


def some_damages(rng: Generator, length: float) -> list[Damage]:
    """Potholes, patches and cracks in turn, one every four metres."""
    damages = []
    for index, u in enumerate(np.arange(3.0, length - 2, 4.0)):
        v = rng.choice((-1, 1)) * rng.uniform(0.6, 1.9)
        kind = KINDS[index % 3]
        if kind == "pothole":
            damages.append(Damage(kind, u, v, (rng.uniform(0.2, 0.45),), rng.uniform(0.02, 0.06)))
        elif kind == "patch":
            size = (rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.5))
            damages.append(Damage(kind, u, v, size, rng.choice((-1, 1)) * rng.uniform(0.005, 0.01)))
        else:
            damages.append(_crack(rng, u, v))
    return damages


def _crack(rng: Generator, u: float, v: float) -> Damage:
    steps = np.linspace(-1.2, 1.2, 17)
    heading = rng.uniform(-0.5, 0.5)
    aside = np.cumsum(rng.normal(0, 0.04, len(steps)))
    aside -= aside.mean()
    line = np.stack((steps, aside), 1) @ _turned(heading) + (u, v)
    return Damage("crack", u, v, (0.03,), 0.012, line)


def _turned(angle: float) -> np.ndarray:
    """The matrix that turns rows of coordinates by an angle, counterclockwise."""
    return np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))


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
    surface = _Surface(rng, damages)
    cars = _parked(rng, length)
    parts = [
        _scan(rng, surface, cars, length, density / 2, number, turn)
        for number, turn in enumerate((0.5, -0.7))
    ]
    u, v, z, intensity, truth, seconds = (np.concatenate(each) for each in zip(*parts, strict=True))
    forward = _turned(np.radians(angle))
    xy = np.stack((u, v), 1) @ forward + place[:2]
    corners = (shapely.get_coordinates(each.outline)[:-1] for each in damages)
    outlines = tuple(each @ forward + place[:2] for each in corners)
    xyz = np.column_stack((xy, z + place[2]))
    return Street(xyz, intensity, truth, seconds, tuple(damages), outlines)


class _Surface:
    """Height and intensity of the ground."""

    def __init__(self, rng: Generator, damages: list[Damage]) -> None:
        self.damages = damages
        self.waves = _texture(rng, 1.8, 60) * 0.0015
        self.grain = _texture(rng, 0.4, 400) * 0.0008
        self.tone = _texture(rng, 0.5, 300) * 900 + _texture(rng, 1.6, 30) * 500

    def at(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Height in metres, intensity, and truth."""
        texel = (u / _TEXEL).astype(int) % _GRID, (v / _TEXEL).astype(int) % _GRID
        beside = abs(v) > HALF_WIDTH
        # The crown is rounded in the middle.
        z = SLOPE * u - CROWN * (np.hypot(np.minimum(abs(v), HALF_WIDTH), 0.6) - 0.6)
        z += np.where(beside, KERB + 0.02 * (abs(v) - HALF_WIDTH), 0)
        z += self.waves[texel] + self.grain[texel]
        intensity = np.where(beside, 15_000.0, 9_000.0) + self.tone[texel]
        line = (abs(v) < 0.06) & (u % 6 < 3) | (abs(abs(v) - 3.2) < 0.06)
        intensity[line] += 16_000
        z[line] += 0.001
        truth = np.where(beside, NOT_ROAD, SOUND).astype(np.uint8)
        for damage in self.damages:
            near = np.flatnonzero(abs(u - damage.u) < 2)
            points = shapely.points(u[near], v[near])
            inside = shapely.contains(damage.outline, points)
            near = near[inside]
            margin = shapely.distance(damage.outline.exterior, points[inside])
            wall = 0.08 if damage.kind == "pothole" else 0.015
            z[near] -= damage.depth * np.minimum(1, margin / wall)
            rough = self.tone[(texel[0][near] + 311) % _GRID, texel[1][near]]
            darker, rougher = {"pothole": (1500, 1.2), "patch": (2600, 0.3), "crack": (4500, 0.5)}[
                damage.kind
            ]
            intensity[near] += rougher * rough - darker
            truth[near] = 2 + KINDS.index(damage.kind)
        return z, intensity, truth


def _scan(
    rng: Generator,
    surface: _Surface,
    cars: list[tuple[float, float]],
    length: float,
    density: float,
    number: int,
    turn: float,
) -> tuple[np.ndarray, ...]:
    """The points of one pass: u, v, z, intensity, truth and time."""
    step = density**-0.5
    wide = HALF_WIDTH + _PAVEMENT
    reach = length + 2 * wide
    lines, beams = np.meshgrid(np.arange(-reach, reach, step), np.arange(-reach, reach, step))
    u = lines * np.cos(turn) - beams * np.sin(turn) + length / 2
    v = lines * np.sin(turn) + beams * np.cos(turn)
    inside = (u > 0) & (u < length) & (abs(v) < wide)
    u, v = (each[inside] + rng.normal(0, step / 8, inside.sum()) for each in (u, v))
    order = np.argsort(u, kind="stable")
    u, v = u[order].clip(0, length), v[order]
    z, intensity, truth = surface.at(u, v)
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
    z += rng.normal(0, NOISE, len(z)) + (-0.0005, 0.0005)[number]
    intensity = intensity * (1.02, 0.98)[number] + rng.normal(0, 400, len(z))
    return u, v, z, intensity.clip(0, 65535).astype(np.uint16), truth, u / 10 + 3600.0 * number


def _parked(rng: Generator, length: float) -> list[tuple[float, float]]:
    """The middles (u, v) of cars parked at the left kerb."""
    return [(u, HALF_WIDTH - 1.05) for u in np.arange(4, length - 3, 7.0) if rng.random() < 0.6]


def _texture(rng: Generator, exponent: float, highest: float) -> np.ndarray:
    """Periodic noise (G, G) of standard deviation 1 whose amplitudes fall with the frequency."""
    spectrum = np.fft.rfft2(rng.standard_normal((_GRID, _GRID)))
    frequency = np.hypot(np.fft.fftfreq(_GRID)[:, None], np.fft.rfftfreq(_GRID)) * _GRID
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-exponent * np.exp(-((frequency / highest) ** 2)))
    return noise / noise.std()


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
