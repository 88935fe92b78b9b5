"""The ground of a synthetic street: its shape, what is built into it, and its damages.

Its axes are u, metres along the street, and v, metres to its left. The road is 7 m wide, with a
crown, kerbs, pavements and lane markings. Where it is sound it is not even, either: it has wheel
ruts, joints between the pieces in which it was paved, manhole covers and gully grates.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.random import Generator

NOT_ROAD, SOUND = 0, 1  # values of the truth; kinds of damage follow
KINDS = ("pothole", "patch", "crack")
HALF_WIDTH = 3.5
PAVEMENT = 2.0
KERB = 0.12
CROWN, SLOPE = 0.025, 0.08
_TRACKS = (-2.5, -1.0, 1.0, 2.5)  # v of the middle of each rut
_RUT = 0.25  # standard deviation of a rut's profile
_MIDDLE_JOINT = 0.12  # v of the joint between the lanes
_SEAL = 0.012  # half the width of the sealant in a joint
_LID, _FRAME = 0.30, 0.37  # radii of a manhole's lid and of the frame around it
_GRATE = (0.25, 0.15)  # half the length and half the width of a gully
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
class Cover:
    """A manhole cover or a gully grate, which belong to a sound road.

    Attributes:
        kind: "manhole" or "gully".
        u, v: its middle.
        proud: metres from the road up to it; negative if it is sunk.
    """

    kind: str
    u: float
    v: float
    proud: float

    @property
    def outline(self) -> shapely.Polygon:
        """Its border in u and v."""
        if self.kind == "manhole":
            return shapely.Point(self.u, self.v).buffer(_FRAME)
        long, wide = _GRATE
        return shapely.box(self.u - long, self.v - wide, self.u + long, self.v + wide)


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
    line = np.stack((steps, aside), 1) @ turned(heading) + (u, v)
    return Damage("crack", u, v, (0.03,), 0.012, line)


def _some_covers(rng: Generator, length: float, damages: list[Damage]) -> list[Cover]:
    """Manholes in both lanes, clear of the damages, and gullies at both kerbs."""
    covers = []
    for u in np.cumsum(rng.uniform(8, 16, int(length / 8))):
        v, proud = rng.choice((-1, 1)) * rng.uniform(0.6, 1.9), rng.uniform(-0.008, 0.004)
        for side in (v, -v):
            if all(np.hypot(u - each.u, side - each.v) > 1.6 for each in damages):
                covers.append(Cover("manhole", u, side, proud))
                break
    for kerb in (-HALF_WIDTH, HALF_WIDTH):
        v = kerb * (1 - (_GRATE[1] + 0.05) / HALF_WIDTH)
        for u in np.cumsum(rng.uniform(15, 25, int(length / 15))):
            covers.append(Cover("gully", u, v, rng.uniform(-0.008, -0.002)))
    return covers


class Ground:
    """Height, intensity and truth of the ground."""

    def __init__(self, rng: Generator, length: float, damages: list[Damage]) -> None:
        """Make a street of a length in metres."""
        self.damages = damages
        self.waves = _texture(rng, 1.8, 60) * 0.0015
        self.grain = _texture(rng, 0.4, 400) * 0.0008
        self.tone = _texture(rng, 0.5, 300) * 900 + _texture(rng, 1.6, 30) * 500
        self.covers = _some_covers(rng, length, damages)
        # Of the right and the left lane: u of the joints, height and tone of the pieces before.
        pieces = 2, int(length / 6) + 2
        self.joints = np.cumsum(rng.uniform(6, 14, pieces), 1)
        steps = rng.choice((-1, 1), pieces) * rng.uniform(0.001, 0.002, pieces)
        self.levels = np.cumsum(steps, 1)
        self.tones = rng.normal(0, 700, pieces)

    def at(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Height in metres, intensity, and truth."""
        texel = (u / _TEXEL).astype(int) % _GRID, (v / _TEXEL).astype(int) % _GRID
        beside = abs(v) > HALF_WIDTH
        paved, shade = self._paved(u, v)
        # The crown is rounded in the middle.
        z = SLOPE * u - CROWN * (np.hypot(np.minimum(abs(v), HALF_WIDTH), 0.6) - 0.6)
        z += np.where(beside, KERB + 0.02 * (abs(v) - HALF_WIDTH), paved)
        z += self.waves[texel] + self.grain[texel]
        intensity = np.where(beside, 15_000.0, 9_000.0 + shade) + self.tone[texel]
        line = (abs(v) < 0.06) & (u % 6 < 3) | (abs(abs(v) - 3.2) < 0.06)
        intensity[line] += 16_000
        z[line] += 0.001
        truth = np.where(beside, NOT_ROAD, SOUND).astype(np.uint8)
        for cover in self.covers:
            _cover(cover, u, v, z, intensity)
        for damage in self.damages:
            near = np.flatnonzero(abs(u - damage.u) < 2)
            points = shapely.points(u[near], v[near])
            inside = shapely.contains(damage.outline, points)
            near = near[inside]
            margin = shapely.distance(damage.outline.exterior, points[inside])
            wall = 0.08 if damage.kind == "pothole" else 0.015
            z[near] -= damage.depth * np.minimum(1, margin / wall)
            other = (texel[0][near] + 311) % _GRID, texel[1][near]
            z[near] += 2 * self.grain[other]
            darker, rougher = {"pothole": (1500, 1.2), "patch": (2600, 0.3), "crack": (4500, 0.5)}[
                damage.kind
            ]
            intensity[near] += rougher * self.tone[other] - darker
            truth[near] = 2 + KINDS.index(damage.kind)
        return z, intensity, truth

    def _paved(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What ruts and joints add to height and intensity."""
        height, shade = np.zeros(len(u)), np.zeros(len(u))
        row = (u / _TEXEL).astype(int) % _GRID
        for number, track in enumerate(_TRACKS):
            depth = (0.005 + 2 * self.waves[row, number * 200]).clip(0.002, 0.01)
            profile = np.exp(-(((v - track) / _RUT) ** 2) / 2)
            height -= depth * profile
            shade -= 600 * profile
        for lane, of_lane in enumerate((v < _MIDDLE_JOINT, v >= _MIDDLE_JOINT)):
            along, joints = u[of_lane], self.joints[lane]
            piece = np.searchsorted(joints, along)
            height[of_lane] += self.levels[lane][piece]
            apart = np.minimum(abs(joints[piece] - along), abs(joints[piece - 1] - along))
            sealed = np.minimum(apart, abs(v[of_lane] - _MIDDLE_JOINT)) < _SEAL
            shade[of_lane] += np.where(sealed, -4000, self.tones[lane][piece])
        return height, shade


def _cover(
    cover: Cover, u: np.ndarray, v: np.ndarray, z: np.ndarray, intensity: np.ndarray
) -> None:
    """Build a cover into heights z and intensities at places (N,)."""
    near = np.flatnonzero((abs(u - cover.u) < 0.5) & (abs(v - cover.v) < 0.5))
    east, north = u[near] - cover.u, v[near] - cover.v
    if cover.kind == "manhole":
        away = np.hypot(east, north)
        inside, gap, depth = away < _FRAME, abs(away - _LID) < 0.012, 0.01
    else:
        inside = (abs(east) < _GRATE[0]) & (abs(north) < _GRATE[1])
        gap, depth = inside & (east % 0.06 < 0.03), 0.02  # silted slots
    intensity[near[inside]] = 18_000
    z[near[inside]] += cover.proud
    intensity[near[gap]] = 5_000
    z[near[gap]] -= depth


def turned(angle: float) -> np.ndarray:
    """The matrix that turns rows of coordinates by an angle, counterclockwise."""
    return np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))


def _texture(rng: Generator, exponent: float, highest: float) -> np.ndarray:
    """Periodic noise (G, G) of standard deviation 1 whose amplitudes fall with the frequency."""
    spectrum = np.fft.rfft2(rng.standard_normal((_GRID, _GRID)))
    frequency = np.hypot(np.fft.fftfreq(_GRID)[:, None], np.fft.rfftfreq(_GRID)) * _GRID
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-exponent * np.exp(-((frequency / highest) ** 2)))
    return noise / noise.std()
