"""A small synthetic RoadImages set: LiDAR height and intensity tiles of roads from above.

Every tile is a square of about 2.5 m of asphalt. Heights are millimetres relative to the levelled
road surface, intensities lie in 0..1, and both are float arrays of shape (size, size) until they
are written. Lengths are in tile widths, so that a tile looks the same at every size.
"""

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

DAMAGE_KINDS = ("crack", "pothole", "patch", "alligator")
HEIGHT_RANGE_MM = (-26.0, 12.0)  # the same for all tiles, so that heights are comparable


@dataclass
class Tile:
    """Height in mm, intensity in 0..1, and the road's own axes in tile widths, 0 in the centre."""

    size: int
    height: np.ndarray
    intensity: np.ndarray
    along: np.ndarray
    across: np.ndarray


def write_road_sample(
    folder: Path, good: int = 60, bad: int = 24, size: int = 128, seed: int = 0
) -> None:
    """Write `good` whole and `bad` damaged road tiles of size x size pixels as a RoadImages set.

    The set appears in `folder` only once it is complete.

    Raises:
        OSError: `folder` exists and is not an empty folder, or cannot be written.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One level down, because the temporary folder itself is private to its owner.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / folder.name
        for index in range(good):
            tile = make_tile("good", index, size, seed)
            write_tile(tile, whole / "good_ones", f"tile_{index:03d}")
        for index in range(bad):
            kind = DAMAGE_KINDS[index % len(DAMAGE_KINDS)]
            tile = make_tile(kind, index, size, seed)
            write_tile(tile, whole / "bad_ones", f"{kind}_{index:03d}")
        whole.rename(folder)


def write_tile(tile: Tile, folder: Path, stem: str) -> None:
    """Write a tile as 16-bit height and 8-bit intensity PNG below `folder`."""
    lowest, highest = HEIGHT_RANGE_MM
    height = np.clip((tile.height - lowest) / (highest - lowest), 0, 1)
    images = {
        "height_files": np.rint(height * 65535).astype(np.uint16),
        "intensity_files": np.rint(np.clip(tile.intensity, 0, 1) * 255).astype(np.uint8),
    }
    for name, pixels in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{stem}.png", compress_level=1)


def make_tile(kind: str, index: int, size: int, seed: int, damaged: bool = True) -> Tile:
    """Make one tile; `kind` is "good" or one of DAMAGE_KINDS.

    With damaged=False a bad tile shows the same stretch of road before it was damaged.
    """
    rng = np.random.default_rng([seed, ("good", *DAMAGE_KINDS).index(kind), index])
    tile = _make_road(rng, size)
    # The road is drawn before its damage, so that it is the same with and without damage.
    if kind != "good" and damaged:
        add = {"crack": _crack, "pothole": _pothole, "patch": _patch, "alligator": _alligator}
        add[kind](rng, tile)
    return tile


@lru_cache(maxsize=64)
def _spectrum(size: int, exponent: float, low: float, high: float) -> np.ndarray:
    """Amplitudes frequency**-exponent with soft limits (in cycles per tile), for np.fft.rfft2."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    frequency[0, 0] = 1  # any number: the constant part is dropped below
    band = np.exp(-((frequency / high) ** 2)) * (1 - np.exp(-((frequency / low) ** 2)))
    band[0, 0] = 0
    return band * frequency**-exponent


def _noise(rng: Generator, size: int, exponent: float, low: float, high: float) -> np.ndarray:
    """Band-limited Gaussian noise (size, size) of mean 0 and standard deviation 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    spectrum *= _spectrum(size, exponent, low, high)
    noise = np.fft.irfft2(spectrum, s=(size, size))
    noise /= noise.std()
    return noise


def _inside(margin: np.ndarray, softness: float) -> np.ndarray:
    """Convert a distance to an edge, positive inside, to coverage 0..1 with a soft edge."""
    ramp = np.clip(margin / softness + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _rotate(u: np.ndarray, v: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the points (u, v) on axes turned by `angle`."""
    return u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)


def _asphalt(rng: Generator, size: int, grain: float, finest: float) -> np.ndarray:
    """Asphalt texture (size, size) of mean 0: mostly dark binder, with fewer bright stones."""
    stones = np.exp(0.6 * _noise(rng, size, 0.3, 6, finest))
    return grain * (stones - 1.2 + 0.5 * rng.standard_normal((size, size)))


def _make_road(rng: Generator, size: int) -> Tile:
    """Make an undamaged tile with everything that varies between stretches of road."""
    steps = (np.arange(size) + 0.5) / size - 0.5
    along, across = _rotate(*np.meshgrid(steps, steps), rng.uniform(0, 2 * np.pi))
    lane = rng.uniform(-0.5, 0.5)
    tracks = np.exp(-(((np.abs(across - lane) - 0.31) / 0.13) ** 2))
    slope, camber, grade = rng.uniform((-6, -4, -2), (6, 0, 2))
    height = slope * across + camber * across**2 + grade * along - rng.uniform(0.8, 3) * tracks
    height += rng.uniform(0.3, 0.8) * _noise(rng, size, 1.5, 1, 20)
    height += rng.uniform(0.25, 0.5) * _noise(rng, size, 0.5, 4, 60)
    intensity = rng.uniform(0.36, 0.5) - rng.uniform(0.02, 0.07) * tracks
    intensity += rng.uniform(0.01, 0.025) * _noise(rng, size, 1.5, 1, 8)
    intensity += _asphalt(rng, size, rng.uniform(0.03, 0.05), rng.choice((30, 40, 55)))
    tile = Tile(size, height, intensity, along, across)
    lane_edge = lane - np.copysign(0.65, lane)  # the nearer one
    if rng.random() < 0.4:
        _pave_seam(rng, tile, lane_edge + rng.uniform(0.05, 0.12))
    if rng.random() < 0.2:
        _drip_oil(rng, tile, lane)
    if rng.random() < 0.5:
        _paint_line(rng, tile, lane_edge)
    _scan(rng, tile)
    return tile


def _pave_seam(rng: Generator, tile: Tile, position: float) -> None:
    """Pave the strip beyond `position` in another tone, with a dark joint, in intensity only."""
    distance = tile.across - position + 0.003 * _noise(rng, tile.size, 1, 2, 20)
    tile.intensity += rng.uniform(-0.05, 0.05) * _inside(distance, 2 / tile.size)
    tile.intensity -= rng.uniform(0.04, 0.1) * np.exp(-((distance / 0.008) ** 2))


def _drip_oil(rng: Generator, tile: Tile, lane: float) -> None:
    """Darken a stain of dripped oil near the middle of the lane, in intensity only."""
    distance = np.hypot((tile.along - rng.uniform(-0.3, 0.3)) / 1.6, tile.across - lane)
    distance += 0.03 * _noise(rng, tile.size, 1.2, 3, 30)
    tile.intensity *= 1 - rng.uniform(0.15, 0.35) * _inside(rng.uniform(0.05, 0.1) - distance, 0.08)


def _paint_line(rng: Generator, tile: Tile, position: float) -> None:
    """Paint a worn lane line along the road, solid or dashed; the paint is 1 to 2 mm thick."""
    edge = 0.003 * _noise(rng, tile.size, 0.5, 8, 60)
    paint = _inside(0.025 - np.abs(tile.across - position) + edge, 2 / tile.size)
    if rng.random() < 0.5:
        period = rng.uniform(0.7, 1.4)
        phase = np.mod(tile.along + rng.uniform(0, period), period)
        paint *= _inside(0.25 * period - np.abs(phase - period / 2) + edge, 2 / tile.size)
    paint *= np.clip(rng.uniform(0.6, 1.3) + 0.35 * _noise(rng, tile.size, 0.8, 3, 50), 0, 1)
    bright = rng.uniform(0.75, 0.9) + 0.3 * (tile.intensity - tile.intensity.mean())
    tile.height += rng.uniform(1, 2) * paint
    tile.intensity += paint * (bright - tile.intensity)


def _scan(rng: Generator, tile: Tile) -> None:
    """Add the errors of the scanner: oblique lines, each with its own error, and noise."""
    position, _ = _rotate(tile.along, tile.across, rng.choice((-1, 1)) * rng.uniform(0.6, 1.2))
    lines = np.linspace(-0.75, 0.75, tile.size // 2)
    tile.intensity *= 1 + np.interp(position, lines, rng.normal(0, 0.04, len(lines)))
    tile.intensity += rng.normal(0, 0.012, position.shape)
    tile.height += np.interp(position, lines, rng.normal(0, 0.15, len(lines)))
    tile.height += rng.normal(0, 0.2, position.shape)


def _crack(rng: Generator, tile: Tile) -> None:
    """Draw a long crack, lengthwise, crosswise or oblique, with thinner branches."""
    heading = rng.choice((0, np.pi / 2, np.pi / 4)) + rng.normal(0, 0.2)
    width = rng.uniform(0.009, 0.012)
    middle = rng.uniform(-0.2, 0.2, 2)
    start = middle - 0.75 * np.array((np.cos(heading), np.sin(heading)))
    margin, trunk = _crack_line(rng, tile, start, heading, 1.5, width)
    for part in rng.uniform(0.25, 0.7, rng.integers(2, 5)):
        turn = rng.choice((-1, 1)) * rng.uniform(0.4, 1.1)
        root, length = trunk[int(part * len(trunk))], rng.uniform(0.2, 0.45)
        branch, _ = _crack_line(rng, tile, root, heading + turn, length, 0.8 * width)
        margin = np.maximum(margin, branch)
    _open_cracks(rng, tile, margin)


def _crack_line(
    rng: Generator, tile: Tile, start: np.ndarray, heading: float, length: float, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a crooked line from `start`, with half width `width` there and thinner towards its end.

    Returns the distance (size, size) to its edge, positive inside, and its corners (n, 2).
    """
    ahead = np.linspace(0, length, max(5, round(25 * length)))
    aside = np.cumsum(rng.normal(0, 0.6 * ahead[1], len(ahead)))
    aside -= aside[0]
    u, v = _rotate(tile.along - start[0], tile.across - start[1], heading)
    half_width = width * (1 - 0.5 * np.clip(u / length, 0, 1))
    margin = half_width - np.abs(v - np.interp(u, ahead, aside))
    corners = start + np.stack(_rotate(ahead, aside, -heading), axis=1)
    return np.minimum(margin, np.minimum(u, length - u)), corners


def _alligator(rng: Generator, tile: Tile) -> None:
    """Shatter an area along the road into small blocks and let it settle."""
    u = tile.along - rng.uniform(-0.15, 0.15) + 0.012 * _noise(rng, tile.size, 1, 3, 20)
    v = tile.across - rng.uniform(-0.2, 0.2) + 0.012 * _noise(rng, tile.size, 1, 3, 20)
    block = rng.uniform(0.1, 0.125)
    nearest, second = np.full_like(u, np.inf), np.full_like(u, np.inf)
    for cell in np.ndindex(9, 7):
        a, b = block * (cell - np.array((4, 3)) + rng.uniform(-0.4, 0.4, 2))
        distance = np.hypot(u - a, v - b)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    reach = rng.uniform(0.8, 1) + 0.15 * _noise(rng, tile.size, 1.2, 1, 6)
    area = reach - np.hypot(u / 0.33, v / 0.2)
    tile.height -= rng.uniform(0.8, 2) * _inside(area - 0.3, 0.6)
    # Cracks close up towards the border of the area, so that it does not look cut out.
    width = 0.008 * np.clip(2 * area + 0.2, -3, 1)
    _open_cracks(rng, tile, width - (second - nearest) / 2)


def _open_cracks(rng: Generator, tile: Tile, margin: np.ndarray) -> None:
    """Break the surface open where `margin`, the distance to a crack's edge, is positive."""
    ragged = margin + 0.003 * _noise(rng, tile.size, 0.5, 6, 50)
    opening = _inside(ragged, 0.016)
    opening *= np.clip(0.9 + 0.25 * _noise(rng, tile.size, 1, 2, 20), 0.4, 1)
    crumbled = _inside(ragged + 0.008, 0.02)  # the lips break away and collect dirt
    tile.height -= rng.uniform(6, 10) * opening + 0.5 * crumbled
    tile.intensity *= (1 - 0.15 * crumbled) * (1 - rng.uniform(0.55, 0.7) * opening)


def _pothole(rng: Generator, tile: Tile) -> None:
    """Break out a hole with a ragged rim and a rough floor, dark and wet or bright and dusty."""
    u, v = tile.along - rng.uniform(-0.22, 0.22), tile.across - rng.uniform(-0.22, 0.22)
    stretch = rng.uniform(0.7, 1)
    ragged = 0.03 * _noise(rng, tile.size, 1.4, 2, 40)
    margin = rng.uniform(0.14, 0.2) - np.hypot(u * stretch, v / stretch) + ragged
    hole = _inside(margin, 3 / tile.size)
    bowl = hole * (0.4 + 0.6 * _inside(margin - 0.05, 0.12))
    floor = rng.uniform(1, 1.8) * _noise(rng, tile.size, 0.6, 4, 40)
    tone = tile.intensity.mean() + rng.choice((-0.12, 0.1)) + _asphalt(rng, tile.size, 0.08, 25)
    tile.height += floor * hole - rng.uniform(9, 17) * bowl
    tile.intensity += hole * (tone - tile.intensity)
    tile.intensity *= 1 - 0.4 * np.exp(-(((margin - 0.005) / 0.014) ** 2))  # the rim in shadow


def _patch(rng: Generator, tile: Tile) -> None:
    """Lay a rectangle of other asphalt, a little high or low, its edge sealed with bitumen."""
    along, across = tile.along - rng.uniform(-0.2, 0.2), tile.across - rng.uniform(-0.2, 0.2)
    u, v = _rotate(along, across, rng.normal(0, 0.06))
    outside = np.maximum(np.abs(u) - rng.uniform(0.15, 0.24), np.abs(v) - rng.uniform(0.11, 0.18))
    margin = 0.003 * _noise(rng, tile.size, 1.2, 2, 20) - outside
    inside = _inside(margin, 2 / tile.size)
    seal = _inside(rng.uniform(0.008, 0.015) - np.abs(margin), 2 / tile.size)
    seal *= np.clip(0.8 + 0.35 * _noise(rng, tile.size, 1, 3, 40), 0, 1)  # worn here and there
    step = rng.choice((-1, 1)) * rng.uniform(2.5, 5) + 0.4 * _noise(rng, tile.size, 1, 2, 50)
    tone = tile.intensity.mean() + rng.choice((-0.1, 0.08)) + _asphalt(rng, tile.size, 0.025, 60)
    tile.height += step * inside + 0.8 * seal
    tile.intensity += inside * (tone - tile.intensity)
    tile.intensity *= 1 - rng.uniform(0.45, 0.65) * seal
