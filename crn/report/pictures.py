"""Pictures of images, reconstructions and anomaly maps."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from crn.system.files import writing, written_whole

# Lightness rises evenly in OKLab (Ottosson 2020). matplotlib has similar colours, but takes 75 MB.
_HEAT = (
    *((6, 3, 19), (43, 7, 60), (93, 10, 83), (147, 25, 87), (193, 59, 75)),
    *((224, 105, 64), (238, 158, 85), (240, 209, 149), (250, 249, 235)),
)


def to_bytes(pixels: Tensor) -> Tensor:
    """Convert a tensor in [-1, 1], of any shape, to uint8."""
    return ((pixels.detach().float() + 1) * 127.5).round().clamp(0, 255).byte()


def to_image(pixels: Tensor) -> Image.Image:
    """An RGB picture of one image (3, H, W), uint8 or in [-1, 1]."""
    if pixels.dtype != torch.uint8:
        pixels = to_bytes(pixels)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def heat_map(anomaly_map: Tensor | np.ndarray, low: float, high: float) -> Image.Image:
    """An RGB picture of one anomaly map: dark where normal, bright where anomalous.

    Args:
        anomaly_map: (H, W).
        low, high: values of the first and the last colour; the same for all maps to be compared.
    """
    index = np.rint(share_of_range(anomaly_map, low, high) * 255).astype(np.uint8)
    return Image.fromarray(heat_colours().take(index, axis=0))


def share_of_range(values: ArrayLike, low: float, high: float) -> np.ndarray:
    """The relative position of values in a range, 0 to 1, float32."""
    span = max(high - low, float(np.finfo(np.float32).tiny))
    return ((np.asarray(values, np.float32) - low) / span).clip(0, 1)


@cache
def heat_colours() -> np.ndarray:
    """256 colours (256, 3) uint8 from black over violet and orange to pale yellow.

    Equal steps of the anomaly map look equal, also in gray.
    """
    places = np.linspace(0, 255, len(_HEAT))
    columns = [np.interp(np.arange(256), places, column) for column in np.transpose(_HEAT)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


def side_by_side(
    *pictures: Image.Image, gap: int = 2, colour: str | tuple[int, int, int] = "white"
) -> Image.Image:
    """Join pictures of one height in a row, with coloured gaps."""
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
        maps: (B, H, W), all on one colour scale.
    """
    from torchvision.utils import make_grid

    maps = maps.float().cpu()
    low, high = float(maps.min()), float(maps.max())
    cells = [
        torch.from_numpy(np.array(cell)).permute(2, 0, 1)
        for image, reconstruction, each in zip(images, reconstructions, maps, strict=True)
        for cell in (to_image(image), to_image(reconstruction), heat_map(each, low, high))
    ]
    return to_image(make_grid(cells, nrow=3, pad_value=255))


def has_same_picture(path: Path, picture: Image.Image) -> bool:
    """Whether a file exists and shows the same picture."""
    if not path.is_file():
        return False
    with Image.open(path) as earlier:
        return np.array_equal(np.asarray(earlier), np.asarray(picture))


def write_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture in the format of its ending, whole or not at all, and make its folder.

    The options are those of Pillow's writer.

    Raises:
        UserError: the system refuses to write it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Into memory first: Pillow does not notice a full disk.
    encoded = io.BytesIO()
    picture.save(encoded, Image.registered_extensions()[path.suffix], **options)
    # Pictures can be made again, and waiting for the disk thousands of times is slow.
    with written_whole(path, sync=False) as file:
        file.write(encoded.getbuffer())
