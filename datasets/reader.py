"""The reader of all image files: from bytes on disk to tensors of one size.

Values have the scale of 8-bit images, 0 to 255, whatever the depth of the file, so that 8-bit
images can be kept as uint8 and one formula normalises all. The scale is fixed for each kind of
file: it depends neither on the image nor on the data set.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL import TiffImagePlugin as tiff
from PIL.ExifTags import Base
from torch import Tensor
from torch.nn.functional import interpolate

from crn.errors import UserError
from datasets.folders import FORMATS
from datasets.samples import Sample

log = logging.getLogger(__name__)

# Larger files are refused by their headers, since decoding them takes gigabytes. This limit
# replaces Pillow's own, which warns at 89 million pixels.
MAX_PIXELS = 128 * 1024 * 1024
Image.MAX_IMAGE_PIXELS = None
# Photoshop writes more metadata than the megabyte that Pillow allows in a piece.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Decoded images that are needed again in their own size are kept up to this many bytes.
_KEPT_BYTES = 512 * 1024 * 1024
# A warning follows if the 16-bit images of a data set use less than this share of their range.
_LITTLE_RANGE = 0.25
# Values of the tags of TIFF files.
_UNCOMPRESSED, _WHITE_IS_ZERO, _SIGNED, _SEPARATE = 1, 0, 2, 2
_ONE_SCALE = "scale all images of the data set alike and save them with 16 bits (docs/datasets.md)"


@dataclass(frozen=True)
class Images:
    """The decoded images of some samples.

    Attributes:
        pixels: (N, 3, S, S), 0 to 255; uint8, or float32 if a file has more than 8 bits.
        sizes: (height, width) of the first file of every sample.
        samples: the samples of the images.
        kept: images kept in their own size, by index.
        orientations: EXIF orientation of the first file of every sample, None without one.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    samples: Sequence[Sample] = ()
    kept: dict[int, Tensor] = field(default_factory=dict)
    orientations: Sequence[int | None] = ()

    def own(self, index: int) -> Tensor:
        """An image in the size of its file, (3, H, W) uint8; decoded again if it was not kept."""
        if index in self.kept:
            return self.kept[index]
        return _at_own_size(_read_layers(self.samples[index])[0])


class FileFacts(NamedTuple):
    """What is known of a file beside its pixels."""

    path: Path
    size: tuple[int, int]  # (height, width), upright
    orientation: int | None  # of EXIF data, 1 to 8
    used: tuple[int, int] | None = None  # lowest and highest number, if it has 16 bits
    is_signed: bool = False


def normalize(pixels: Tensor) -> Tensor:
    """From 0..255 to [-1, 1] in float32, the range that tanh can reach."""
    return pixels.float() / 127.5 - 1.0


def read_images(
    samples: Sequence[Sample], size: int, workers: int = 0, keep: bool = False
) -> Images:
    """Decode and resize the images of all samples.

    A height and an intensity image are stacked as (height, intensity, intensity).

    Args:
        samples: at least one.
        size: width and height of the result in pixels.
        workers: threads that decode; 0: the calling thread decodes.
        keep: whether `Images.own` will be called.

    Raises:
        UserError: a file is not an image, damaged, or of a kind that cannot be read.
    """
    pixels = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    facts: list[list[FileFacts]] = []
    kept: dict[int, Tensor] = {}
    room = _KEPT_BYTES

    def read(sample: Sample) -> tuple[Tensor, Tensor | None, list[FileFacts]]:
        layers, files = _read_layers(sample)
        return _stacked(layers, (size, size)), _at_own_size(layers) if keep else None, files

    pool = ThreadPoolExecutor(workers or 1)
    try:
        images = pool.map(read, samples) if workers else map(read, samples)
        for index, (image, own, files) in enumerate(images):
            if image.dtype != pixels.dtype:
                pixels, image = pixels.float(), image.float()
            pixels[index] = image
            facts.append(files)
            if own is not None and own.nbytes <= room:
                kept[index] = own
                room -= own.nbytes
    finally:
        pool.shutdown(cancel_futures=True)  # an error ends all threads
    for layer in (0, 1):
        _check_ranges([files[layer] for files in facts if layer < len(files)])
    first = [files[0] for files in facts]
    orientations = [file.orientation for file in first]
    return Images(pixels, [file.size for file in first], samples, kept, orientations)


def image_batches(
    samples: Sequence[Sample], size: int, workers: int = 0, batch: int = 8
) -> Iterator[Tensor]:
    """Decode and resize images batch by batch, so that memory does not grow with their number.

    Arguments are as for `read_images`, and the size of a batch; smaller images are enlarged.

    Yields:
        (B, 3, size, size) float32, 0 to 255.

    Raises:
        UserError: a file cannot be read.
    """

    def read(sample: Sample) -> Tensor:
        return _stacked(_read_layers(sample)[0], (size, size)).float()

    with ThreadPoolExecutor(workers or 1) as pool:
        for start in range(0, len(samples), batch):
            some = samples[start : start + batch]
            yield torch.stack(list(pool.map(read, some) if workers else map(read, some)))


def _check_ranges(files: Sequence[FileFacts]) -> None:
    """Warn if the 16-bit files of one layer of a data set use little of their range.

    Raises:
        UserError: some images are signed and others unsigned, so that they have two scales.
    """
    used = {file.path: file.used for file in files if file.used}
    if not used:
        return
    signed = {file.path for file in files if file.is_signed}
    if signed and signed != used.keys():
        raise UserError(
            f"{min(signed)}: has signed numbers of 16 bits, and {min(used.keys() - signed)} "
            "unsigned ones: save all of them alike"
        )
    low, high = min(low for low, _ in used.values()), max(high for _, high in used.values())
    share = (high - low) / 65_535
    if share < _LITTLE_RANGE:
        log.warning(
            "16-bit images such as %s use %.2g %% of the range (%d to %d), so that "
            "differences are small: %s",
            *(min(used), 100 * share, low, high, _ONE_SCALE),
        )


def _read_layers(sample: Sample) -> tuple[list[Tensor], list[FileFacts]]:
    """A colour image (3, H, W), or the height and the intensity (1, H, W) of a road tile."""
    channels = 3 if len(sample.files) == 1 else 1
    layers, facts = zip(*(read_file(file, channels) for file in sample.files), strict=True)
    return list(layers), list(facts)


def _at_own_size(layers: Sequence[Tensor]) -> Tensor:
    """The image (3, H, W) uint8 in the size of its first file."""
    _, height, width = layers[0].shape
    return _stacked(layers, (height, width)).round().byte()


def _stacked(layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The image (3, *size) from the layers of `_read_layers`."""
    resized = [resize(layer, size) for layer in layers]
    if len(resized) == 1:
        return resized[0]
    height, intensity = resized
    if height.dtype != intensity.dtype:
        height, intensity = height.float(), intensity.float()
    return torch.cat([height, intensity, intensity])


def read_file(path: Path, channels: int) -> tuple[Tensor, FileFacts]:
    """Decode one file, its first frame only, turned upright by its EXIF orientation.

    Args:
        path: an image with 8 bits (colour, gray, palette; transparency is dropped) or 16 bits
            (gray): unsigned 0 to 65,535, or signed -32,768 to 32,767, become 0 to 255.
        channels: 3 for colour, 1 for luminance.

    Returns:
        (channels, H, W), 0 to 255: uint8 for 8-bit files, float32 for 16-bit files; and facts.

    Raises:
        UserError: the file is not an image, damaged, too large, or of a kind that cannot be read.
    """
    image, orientation = decoded(path)
    facts = FileFacts(path, (image.height, image.width), orientation)
    if image.mode == "F":
        raise UserError(f"{path}: floating point images have no fixed range; {_ONE_SCALE}")
    if not image.mode.startswith("I"):
        # Dropped, since Pillow would warn about it in palette images.
        image.info.pop("transparency", None)
        array = np.array(image.convert("RGB" if channels == 3 else "L"))
        return torch.from_numpy(array).view(*facts.size, channels).permute(2, 0, 1), facts
    values = np.array(image)
    used = int(values.min()), int(values.max())
    tags: Any = getattr(image, "tag_v2", {})
    is_signed = (tags.get(tiff.BITSPERSAMPLE), tags.get(tiff.SAMPLEFORMAT)) == ((16,), (_SIGNED,))
    if not is_signed and (used[0] < 0 or used[1] > 65_535):
        raise UserError(f"{path}: has more than 16 bits; {_ONE_SCALE}")
    values = values.astype(np.float32)
    if is_signed:
        values += 32_768
    elif tags.get(tiff.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        # Pillow inverts 8-bit images only.
        values = 65_535 - values
    gray = torch.from_numpy(values / 257)[None].expand(channels, -1, -1)
    return gray, facts._replace(used=used, is_signed=is_signed)


def decoded(path: Path) -> tuple[Image.Image, int | None]:
    """Decode an image and turn it upright.

    Returns:
        The first frame, and the EXIF orientation, 1 to 8, of the file; None without one.

    Raises:
        UserError: see `read_file`.
    """
    if not os.path.isfile(path):  # reading from a pipe would never end
        raise UserError(f"{path}: a broken link, or not a file; repair or remove it")
    try:
        # From an open file, since Pillow would map an uncompressed TIFF into memory and turn it
        # wrongly. Only known formats, since Pillow would let Ghostscript run PostScript.
        with path.open("rb") as file, Image.open(file, formats=list(FORMATS)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels are too many (at most "
                    f"{MAX_PIXELS:,} are read); make the image smaller"
                )
            _refuse_what_is_misread(path, image)
            tags: Any = getattr(image, "tag_v2", {})
            orientation = tags.get(Base.Orientation)  # Pillow turns TIFF files when it loads them
            image.load()
            # Unreadable EXIF data say nothing about the pixels, which are intact.
            with suppress(Exception):
                orientation = image.getexif().get(Base.Orientation, orientation)
                ImageOps.exif_transpose(image, in_place=True)
            return image, orientation if orientation in range(1, 9) else None
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path}: damaged, or not an image that can be read; replace it, move it out of the "
            f"data set, or save it as gray or RGB with 8 or 16 bits ({', '.join(FORMATS)} are read)"
        ) from error
    except Exception as error:
        # A damaged file can make a decoder raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); replace or remove it") from error


def _refuse_what_is_misread(path: Path, image: Image.Image) -> None:
    """Refuse TIFF files whose numbers Pillow 13 silently gets wrong."""
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(tiff.COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED:
        is_separate = tags.get(tiff.PLANAR_CONFIGURATION) == _SEPARATE
        is_misread = is_separate and 16 in tags.get(tiff.BITSPERSAMPLE, ())
    else:
        is_misread = image.mode == "I" and tags.prefix == b"MM"
    if is_misread:
        raise UserError(
            f"{path}: would be misread, as 16 bits in separate planes and compressed big-endian "
            "numbers are; save it as PNG, or as little-endian TIFF with interleaved channels"
        )


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) to (C, *size), bilinear and antialiased; the dtype stays."""
    if image.shape[1:] == size:
        return image
    return interpolate(image[None], size, mode="bilinear", antialias=True)[0]
