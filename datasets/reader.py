"""One reader for every image file: from bytes on disk to a tensor of one size.

Values are on the scale of 8-bit images, 0 to 255, whatever the depth of the file, so that splits
of 8-bit files can be kept as uint8 and all splits are normalised by one formula.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from crn.errors import UserError
from datasets.folders import FORMATS
from datasets.samples import Sample

# Decoders for these only: Pillow would also hand PostScript to Ghostscript, which runs it.
_FORMATS = tuple(FORMATS)
# A larger file is refused by its header: decoding it would take gigabytes, also where it has few
# pixels in very many rows. Four bytes for each pixel are the most that 8 bits need.
MAX_PIXELS = 128 * 1024 * 1024
MAX_SIDE = 65_535
MAX_BYTES = 4 * MAX_PIXELS
# Pillow's own guard warns at 89 million pixels; the limit above stands in for it.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Images:
    """The decoded images of some samples.

    Attributes:
        pixels: (N, 3, S, S), uint8 or, where a file has more than 8 bits, float32; 0 to 255.
        sizes: (height, width) of every sample's own file.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]


def read_images(samples: Sequence[Sample], size: int, workers: int = 0) -> Images:
    """Decode and resize the images of all samples.

    Args:
        samples: at least one.
        size: width and height of the result in pixels.
        workers: threads that decode; the calling thread does it where 0.

    Raises:
        UserError: a file is no image, damaged, or of a kind that cannot be read.
    """
    try:
        pixels = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    except RuntimeError as error:
        raise UserError(
            f"--imsize {size}: {len(samples)} images of that size do not fit into the memory; "
            "give a smaller size"
        ) from error
    sizes = []

    def read(sample: Sample) -> tuple[Tensor, tuple[int, int]]:
        return read_sample(sample, size)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = pool.map(read, samples) if workers else map(read, samples)
        try:
            for index, (image, own_size) in enumerate(decoded):
                if image.dtype != pixels.dtype:
                    pixels, image = pixels.float(), image.float()
                pixels[index] = image
                sizes.append(own_size)
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
    return Images(pixels, sizes)


def read_sample(sample: Sample, size: int) -> tuple[Tensor, tuple[int, int]]:
    """The image of one sample and the size of its file.

    A height and an intensity image are stacked as (height, intensity, intensity).

    Returns:
        pixels (3, S, S), uint8 or float32, and the (height, width) of the first file.

    Raises:
        UserError: see `read_images`.
    """
    layers = _read_layers(sample)
    return _stack([resize(layer, (size, size)) for layer in layers]), tuple(layers[0].shape[1:])


def read_own_size(sample: Sample) -> Tensor:
    """As `read_sample`, (3, H, W), in the size of the sample's first file."""
    layers = _read_layers(sample)
    size = tuple(layers[0].shape[1:])
    return _stack([la if la.shape[1:] == size else resize(la, size) for la in layers])


def read_mask(sample: Sample, size: tuple[int, int]) -> np.ndarray | None:
    """The mask of one sample (H, W) bool, true where its image is anomalous; None without a mask.

    Args:
        size: (height, width) of the sample's image.

    Raises:
        UserError: the file cannot be read, or has another size than the image.
    """
    if sample.mask is None:
        return None
    mask = read_file(sample.mask, channels=1)[0].numpy() > 0
    if mask.shape != size:
        raise UserError(
            f"{sample.mask}: has {mask.shape[1]}x{mask.shape[0]} pixels, but {sample.files[0]} has "
            f"{size[1]}x{size[0]}; give both one size"
        )
    return mask


def _read_layers(sample: Sample) -> list[Tensor]:
    """A colour image (3, H, W), or the height and the intensity (1, H, W) of a road tile."""
    if len(sample.files) == 1:
        return [read_file(sample.files[0], channels=3)]
    return [read_file(file, channels=1) for file in sample.files]


def _stack(layers: list[Tensor]) -> Tensor:
    """One image (3, H, W) of `_read_layers` of one size."""
    if len(layers) == 1:
        return layers[0]
    height, intensity = layers
    if height.dtype != intensity.dtype:
        height, intensity = height.float(), intensity.float()
    return torch.cat([height, intensity, intensity])


def read_file(path: Path, channels: int) -> Tensor:
    """Decode one file, the first of its frames, turned upright as its EXIF orientation says.

    Args:
        path: an image of 8 bits (colour, gray, palette; transparency is dropped) or of 16 bits
            (gray).
        channels: 3 for colour, 1 for luminance.

    Returns:
        (channels, H, W): uint8 for 8-bit files, float32 for 16-bit files; 0 to 255.

    Raises:
        UserError: the file is no image, damaged, too large, or of a kind that cannot be read.
    """
    try:
        array = _decode(path, "RGB" if channels == 3 else "L")
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path}: not an image that can be read ({', '.join(_FORMATS)}); move it out of the "
            "data set"
        ) from error
    except Exception as error:
        # Decoders raise whatever a damaged file makes them stumble over.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); replace or remove it") from error
    if array.dtype != np.uint8:
        return _from_16_bits(path, array).expand(channels, -1, -1)
    return torch.from_numpy(array).view(*array.shape[:2], channels).permute(2, 0, 1)


def _decode(path: Path, mode: str) -> np.ndarray:
    """The pixels (H, W) or (H, W, 3) in Pillow's mode, or gray in more than 8 bits.

    Raises:
        UserError: the file is too large, or of floating point numbers.
        Exception: whatever Pillow raises.
    """
    # From an open file: Pillow would map an uncompressed TIFF into memory and turn it wrongly.
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise UserError(
                f"{path}: {size:,} bytes are too many (at most {MAX_BYTES:,} are read); make the "
                "image smaller"
            )
        with Image.open(file, formats=_known_formats()) as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels are too many (at most "
                    f"{MAX_PIXELS:,} are read, and {MAX_SIDE:,} on a side); make the image smaller"
                )
            image.load()
            # EXIF data that cannot be read say nothing about the pixels, which are whole; what
            # cannot be written anew is only found after they have been turned in place.
            with suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "F":
                raise UserError(
                    f"{path}: floating point images have no fixed range; save it with 8 or 16 bits"
                )
            if image.mode.startswith("I"):
                return np.array(image)
            # It is dropped; where palette images have it, Pillow would warn.
            image.info.pop("transparency", None)
            return np.array(image.convert(mode))


@cache
def _known_formats() -> list[str]:
    """Those of `_FORMATS` that this Pillow has."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _from_16_bits(path: Path, array: np.ndarray) -> Tensor:
    if array.min() < 0 or array.max() > 65535:
        raise UserError(f"{path}: has more than 16 bits; save it with 8 or 16 bits")
    return torch.from_numpy(array.astype(np.float32) / 257)[None]


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) to (C, *size), bilinear and antialiased; the dtype stays."""
    return interpolate(image[None], size, mode="bilinear", antialias=True)[0]
