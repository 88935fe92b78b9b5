"""Pictures of images, reconstructions and anomaly maps."""

import io
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crn.system.files import writing, written_whole


def to_bytes(pixels: Tensor) -> Tensor:
    """From [-1, 1] to uint8, of any shape."""
    return ((pixels.detach().float() + 1) * 127.5).round().clamp(0, 255).byte()


def to_image(pixels: Tensor) -> Image.Image:
    """An RGB picture of one image.

    Args:
        pixels: (3, H, W), uint8 or in [-1, 1].
    """
    if pixels.dtype != torch.uint8:
        pixels = to_bytes(pixels)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def heat_map(anomaly_map: Tensor | np.ndarray, low: float, high: float) -> Image.Image:
    """An RGB picture of one anomaly map: dark where normal, bright where anomalous.

    Args:
        anomaly_map: (H, W).
        low, high: values that get the first and the last colour; the same for all maps that are
            to compare.
    """
    values = np.asarray(anomaly_map, dtype=np.float32)
    share = (values - low) / max(high - low, np.finfo(np.float32).tiny)
    index = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(heat_colours().take(index, axis=0))


@cache
def heat_colours() -> np.ndarray:
    """256 colours (256, 3) uint8 from black over violet and orange to pale yellow.

    Lightness rises evenly in the OKLab space (Ottosson 2020), so that equal steps of the anomaly
    map look equal, and the scale also reads in gray.
    """
    t = np.linspace(0, 1, 256)
    lightness = 0.12 + 0.86 * t
    chroma = 0.17 * np.sin(math.pi * np.clip(t * 0.93 + 0.05, 0, 1)) ** 0.8
    hue = np.radians(-70 + 175 * t)
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=1,
    ).clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(srgb * 255).astype(np.uint8)


def side_by_side(
    *pictures: Image.Image, gap: int = 2, colour: str | tuple[int, int, int] = "white"
) -> Image.Image:
    """Pictures of one height in a row, with gaps of a colour."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, pictures[0].height), colour)
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def picture_grid(images: Tensor, reconstructions: Tensor, maps: Tensor) -> Image.Image:
    """A row for every image: the image, its reconstruction and its anomaly map.

    Args:
        images, reconstructions: (B, 3, H, W) in [-1, 1].
        maps: (B, H, W), coloured on one scale.
    """
    from torchvision.utils import make_grid

    maps = maps.float().cpu()
    low, high = float(maps.min()), float(maps.max())
    cells = []
    for image, reconstruction, anomaly_map in zip(images, reconstructions, maps, strict=True):
        row = (to_image(image), to_image(reconstruction), heat_map(anomaly_map, low, high))
        cells += [torch.from_numpy(np.array(cell)).permute(2, 0, 1) for cell in row]
    grid = make_grid(torch.stack(cells), nrow=3, padding=2, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy())


def write_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture in the format of its ending, and its folder where there is none.

    Args:
        options: for Pillow's writer.

    Raises:
        UserError: the system refuses to write it; there is no half of it then.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # To a file Pillow writes past Python, and does not see that only a part has found room.
    encoded = io.BytesIO()
    picture.save(encoded, Image.registered_extensions()[path.suffix], **options)
    # They can be made again, and waiting for the disk thousands of times takes long.
    with written_whole(path, sync=False) as file:
        file.write(encoded.getbuffer())
