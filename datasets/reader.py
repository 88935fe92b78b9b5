"""The reader of all image files: from bytes on disk to tensors of one size.

Values have the scale of 8-bit images, 0 to 255, whatever the depth of the file, so that 8-bit
images can be kept as uint8 and one formula normalises all. The scale is fixed for each kind of
file: it depends neither on the image nor on the data set.
"""

import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from crn.errors import UserError
from crn.system.text import counted
from datasets.folders import FORMATS
from datasets.samples import Sample

log = logging.getLogger(__name__)

# Larger files are refused by their headers: decoding takes gigabytes, even for few pixels in very
# many rows.
MAX_PIXELS = 128 * 1024 * 1024
MAX_SIDE = 65_535
# The limit above replaces Pillow's own, which warns at 89 million pixels.
Image.MAX_IMAGE_PIXELS = None
# Pillow knows 16-bit gray TIFF files whose white is zero in one of the two byte orders only.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
# Decoded images that are needed again in their own size are kept up to this many bytes, except very
# large ones, since these decide how much memory a run takes.
_KEPT_BYTES = 512 * 1024 * 1024
_LARGEST_KEPT = _KEPT_BYTES // 8
# A warning follows if the 16-bit images of a data set use less than this share of their range.
_LITTLE_RANGE = 0.25
# Tags of TIFF files, and some of their values.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_COMPRESSION, _UNCOMPRESSED = 259, 1
_BITS, _BANDS, _SAMPLE_FORMAT, _SIGNED, _FLOAT = 258, 277, 339, 2, 3
_PLANES, _SEPARATE = 284, 2
_ORIENTATION = 274  # of EXIF data, too
# The first bytes of files that may be called .jpg nevertheless.
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1")  # after "ftyp"
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_ONE_SCALE = "scale all images of the data set alike and save them with 16 bits (docs/datasets.md)"


class _PngStream(PngImagePlugin.PngStream):
    """Skips text and profiles that are damaged or too large, since the pixels are intact."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        if not _is_ancillary(cid):
            return super().call(cid, pos, length)
        assert self.fp is not None
        data = ImageFile._safe_read(self.fp, length)
        is_sound = self.fp.read(4) == zlib.crc32(cid + data).to_bytes(4, "big")
        self.fp.seek(pos)
        if is_sound and self.text_memory <= PngImagePlugin.MAX_TEXT_MEMORY:
            with suppress(ValueError, SyntaxError, IndexError):
                return super().call(cid, pos, length)
        self.fp.seek(pos + length)
        return data

    def crc(self, cid: bytes, data: bytes) -> None:
        (self.crc_skip if _is_ancillary(cid) else super().crc)(cid, data)


def _is_ancillary(cid: bytes) -> bool:
    return cid[:1].islower()


PngImagePlugin.PngStream = _PngStream  # type: ignore[misc]


@dataclass(frozen=True)
class Images:
    """The decoded images of some samples.

    Attributes:
        pixels: (N, 3, S, S), 0 to 255; uint8, or float32 if a file has more than 8 bits.
        sizes: (height, width) of the file of every sample.
        samples: the samples of the images.
        kept: images kept in their own size, by index.
        orientations: EXIF orientations, 1 to 8, of the files that have one.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    samples: Sequence[Sample] = ()
    kept: dict[int, Tensor] = field(default_factory=dict)
    orientations: dict[Path, int] = field(default_factory=dict)

    def own(self, index: int) -> Tensor:
        """An image in the size of its file, (3, H, W) uint8; decoded again if it was not kept."""
        if index in self.kept:
            return self.kept[index]
        return _at_own_size(_read_layers(self.samples[index]))


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
    try:
        pixels = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    except RuntimeError as error:
        raise UserError(
            f"--imsize {size}: {len(samples)} images of that size do not fit into the memory; "
            "give a smaller size"
        ) from error
    sizes: list[tuple[int, int]] = []
    kept: dict[int, Tensor] = {}
    room = _KEPT_BYTES if keep else 0
    ranges: tuple[list[_Range], list[_Range]] = ([], [])
    orientations: dict[Path, int] = {}

    def read(sample: Sample) -> tuple[Tensor, tuple[int, int], Tensor | None]:
        layers = _read_layers(sample, ranges, orientations)
        _, height, width = layers[0].shape
        is_kept = 3 * height * width <= min(room, _LARGEST_KEPT)
        own = _at_own_size(layers) if is_kept else None
        return _stacked(layers, (size, size)), (height, width), own

    pool = ThreadPoolExecutor(workers or 1)
    try:
        images = pool.map(read, samples) if workers else map(read, samples)
        for index, (image, own_size, own) in enumerate(images):
            if image.dtype != pixels.dtype:
                pixels, image = pixels.float(), image.float()
            pixels[index] = image
            sizes.append(own_size)
            if own is not None and own.nbytes <= room:
                kept[index] = own
                room -= own.nbytes
    finally:
        pool.shutdown(cancel_futures=True)  # an error ends all threads
    for found in ranges:
        _check_ranges(found)
    return Images(pixels, sizes, samples, kept, orientations)


def image_batches(
    samples: Sequence[Sample], size: int, workers: int = 0, batch: int = 8
) -> Iterator[Tensor]:
    """Decode and resize images batch by batch, so that memory does not grow with their number.

    Args:
        samples: what to read.
        size: width and height of the result in pixels; smaller images are enlarged.
        workers: threads that decode; 0: the calling thread decodes.
        batch: images in a batch.

    Yields:
        (B, 3, size, size), 0 to 255, as from `read_images`.

    Raises:
        UserError: a file cannot be read.
    """

    def read(sample: Sample) -> Tensor:
        return _stacked(_read_layers(sample), (size, size)).float()

    with ThreadPoolExecutor(workers or 1) as pool:
        for start in range(0, len(samples), batch):
            some = samples[start : start + batch]
            yield torch.stack(list(pool.map(read, some) if workers else map(read, some)))


def say_how_many_are_small(sizes: Sequence[tuple[int, int]], size: int) -> None:
    """Log how many images, by (height, width), are smaller than the size for the features."""
    small = sum(max(each) < size for each in sizes)
    if small:
        log.info(
            "%d of %d images are smaller than the %d pixels of the features: they are enlarged",
            *(small, len(sizes), size),
        )


class _Range(NamedTuple):
    """The range that a 16-bit file uses, and whether its numbers are signed."""

    path: Path
    is_signed: bool
    low: int
    high: int


def _check_ranges(ranges: Sequence[_Range]) -> None:
    """Warn if the 16-bit files of one layer of a data set use little of their range.

    Raises:
        UserError: some images are signed and others unsigned, so that they have two scales.
    """
    if not ranges:
        return
    signed, unsigned = ([r.path for r in ranges if r.is_signed is sign] for sign in (True, False))
    if signed and unsigned:
        raise UserError(
            f"{min(signed)}: has signed numbers of 16 bits, and {min(unsigned)} unsigned ones: "
            "save all of them alike"
        )
    low, high = min(r.low for r in ranges), max(r.high for r in ranges)
    share = (high - low) / 65_535
    if share < _LITTLE_RANGE:
        log.warning(
            "16-bit images such as %s use %.2g %% of the range (%d to %d), so that "
            "differences are small: %s",
            *(min(signed + unsigned), 100 * share, low, high, _ONE_SCALE),
        )


def _read_layers(
    sample: Sample,
    ranges: Sequence[list[_Range] | None] = (None, None),
    orientations: dict[Path, int] | None = None,
) -> list[Tensor]:
    """A colour image (3, H, W), or the height and the intensity (1, H, W) of a road tile."""
    channels = 3 if len(sample.files) == 1 else 1
    return [
        read_file(file, channels, found, orientations)
        for file, found in zip(sample.files, ranges, strict=False)
    ]


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


def read_file(
    path: Path,
    channels: int,
    ranges: list[_Range] | None = None,
    orientations: dict[Path, int] | None = None,
) -> Tensor:
    """Decode one file, its first frame only, turned upright by its EXIF orientation.

    Args:
        path: an image with 8 bits (colour, gray, palette; transparency is dropped) or 16 bits
            (gray): unsigned 0 to 65,535, or signed -32,768 to 32,767, become 0 to 255.
        channels: 3 for colour, 1 for luminance.
        ranges: the range of a 16-bit file is appended to it.
        orientations: as in `decoded`.

    Returns:
        (channels, H, W): uint8 for 8-bit files, float32 for 16-bit files; 0 to 255.

    Raises:
        UserError: the file is not an image, damaged, too large, or of a kind that cannot be read.
    """
    array = decoded(path, partial(_pixels, path, "RGB" if channels == 3 else "L"), orientations)
    if array.dtype == np.uint8:
        return torch.from_numpy(array).view(*array.shape[:2], channels).permute(2, 0, 1)
    is_signed = array.dtype == np.int16
    if ranges is not None:
        ranges.append(_Range(path, is_signed, int(array.min()), int(array.max())))
    values = array.astype(np.float32)
    if is_signed:
        values += 32_768
    return torch.from_numpy(values / 257)[None].expand(channels, -1, -1)


def decoded(
    path: Path,
    take: Callable[[Image.Image], np.ndarray],
    orientations: dict[Path, int] | None = None,
) -> np.ndarray:
    """Decode an image, turn it upright, and return the array that ``take`` makes of it.

    Args:
        path: the image file.
        take: converts the decoded image.
        orientations: receives the EXIF orientation of the file, 1 to 8, if it has one.

    Raises:
        UserError: see `read_file`.
    """
    try:
        # From an open file, since Pillow would map an uncompressed TIFF into memory and turn it
        # wrongly. Only known formats, since Pillow would let Ghostscript run PostScript.
        with path.open("rb") as file, Image.open(file, formats=_known_formats()) as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels are too many (at most "
                    f"{MAX_PIXELS:,} are read, and {MAX_SIDE:,} on a side); make the image smaller"
                )
            _refuse_what_is_misread(path, image)
            tags: Any = getattr(image, "tag_v2", {})
            orientation = tags.get(_ORIENTATION)  # Pillow turns TIFF files when it loads them
            image.load()
            # Unreadable EXIF data say nothing about the pixels, which are intact. Data that cannot
            # be written again raise an error only after the image has been turned.
            with suppress(Exception):
                orientation = image.getexif().get(_ORIENTATION, orientation)
                ImageOps.exif_transpose(image, in_place=True)
            if orientations is not None and orientation in range(1, 9):
                orientations[path] = orientation
            return take(image)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: {_what_it_is(path)}") from error
    except Exception as error:
        # A damaged file can make a decoder raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); replace or remove it") from error


@cache
def _known_formats() -> list[str]:
    """The `FORMATS` that this Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _refuse_what_is_misread(path: Path, image: Image.Image) -> None:
    """Refuse TIFF files whose numbers Pillow 13 silently gets wrong."""
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
        if image.mode == "I" and tags.prefix == b"MM":
            raise UserError(
                f"{path}: has numbers with a sign or of 32 bits, compressed and big-endian; "
                "save it uncompressed"
            )
    elif tags.get(_PLANES) == _SEPARATE and (
        16 in tags.get(_BITS, ()) or tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    ):
        raise UserError(
            f"{path}: has its channels in separate planes, uncompressed; save it compressed, or "
            "with interleaved channels"
        )


def _what_it_is(path: Path) -> str:
    """Describe a file that no decoder accepts."""
    with path.open("rb") as file:
        start = file.read(16)
    kind = "JPEG XL" if start.startswith(_JPEG_XL) else ""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        kind = "HEIC"
    if kind:
        return f"{kind} images cannot be read; convert it to PNG or JPEG, or move it out"
    for name in _known_formats():
        accepts = Image.OPEN[name][1]
        if accepts and accepts(start):
            kind = _tiff_kind(path) if name == "TIFF" else ""
            return (
                f"damaged, or {name} of a kind that cannot be read{kind}; replace it, or save it "
                "as gray or RGB with 8 or 16 bits"
            )
    return f"not an image that can be read ({', '.join(FORMATS)}); move it out of the data set"


def _tiff_kind(path: Path) -> str:
    """The kind of numbers in a TIFF file, in brackets; empty if unknown."""
    with suppress(Exception), path.open("rb") as file:
        header = file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(header + file.read(8 * (header[2] == 43)))
        file.seek(tags.next)
        tags.load(file)
        bands, bits = tags.get(_BANDS, 1), max(tags.get(_BITS, (1,)))
        number = {_SIGNED: " with a sign", _FLOAT: ", floating point"}
        more = number.get(max(tags.get(_SAMPLE_FORMAT, (1,))), "")
        more += ", in separate planes" if tags.get(_PLANES) == _SEPARATE and bands > 1 else ""
        return f" ({counted(bands, 'band')} of {counted(bits, 'bit')}{more})"
    return ""


def _pixels(path: Path, mode: str, image: Image.Image) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 in Pillow's mode, or gray as uint16 or int16."""
    if image.mode == "F":
        raise UserError(f"{path}: floating point images have no fixed range; {_ONE_SCALE}")
    if image.mode.startswith("I"):
        return _of_16_bits(path, image)
    # Dropped, since Pillow would warn about it in palette images.
    image.info.pop("transparency", None)
    return np.array(image.convert(mode))


def _of_16_bits(path: Path, image: Image.Image) -> np.ndarray:
    """Gray as uint16, or int16 if a TIFF file says that its 16 bits are signed."""
    array = np.array(image)
    tags: Any = getattr(image, "tag_v2", {})
    if (tags.get(_BITS), tags.get(_SAMPLE_FORMAT)) == ((16,), (_SIGNED,)):
        return array.astype(np.int16)
    if array.min() < 0 or array.max() > 65_535:
        raise UserError(f"{path}: has more than 16 bits; {_ONE_SCALE}")
    array = array.astype(np.uint16)
    # Pillow inverts 8-bit images only.
    return 65_535 - array if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else array


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) to (C, *size), bilinear and antialiased; the dtype stays."""
    if image.shape[1:] == size:
        return image
    return interpolate(image[None], size, mode="bilinear", antialias=True)[0]
