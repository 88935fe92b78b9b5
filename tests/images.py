"""Image files as bytes, to be changed or broken."""

import io
import struct
import zlib

from conftest import texture
from PIL import Image

COLOUR = Image.fromarray(texture(1, 20, 30, 3))


def encoded(kind: str, image: Image.Image = COLOUR) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, bits: int, colours: int, rows: bytes) -> bytes:
    """A PNG file; Pillow writes few kinds."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_chunks(new: bytes, is_in_front: bool = True) -> bytes:
    """The PNG file of `COLOUR` with more parts in front of its pixels or behind them."""
    content = encoded("PNG")
    place = 8 + 12 + 13 if is_in_front else len(content) - 12
    return content[:place] + new + content[place:]
