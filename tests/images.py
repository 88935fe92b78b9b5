"""Image files as bytes, to be changed or broken."""

import io
import struct
import zlib

from conftest import texture
from PIL import Image

COLOUR = Image.fromarray(texture(1, 20, 30, 3))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    )


def encoded(kind: str, image: Image.Image = COLOUR) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def at(content: bytes, place: int, instead: bytes) -> bytes:
    return content[:place] + instead + content[place + len(instead) :]
