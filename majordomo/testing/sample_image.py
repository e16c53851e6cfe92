"""An image for tests, made without Pillow."""

from __future__ import annotations

import struct
import zlib

from majordomo.media.image_part import ImagePart


def plain_image(
    width: int = 64, height: int = 48, color: tuple[int, int, int] = (30, 60, 120)
) -> ImagePart:
    """A PNG of one color (red, green, blue, 0 to 255 each); the same arguments give the same bytes."""
    rows = (b"\0" + bytes(color) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return ImagePart(b"\x89PNG\r\n\x1a\n" + chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
