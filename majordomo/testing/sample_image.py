"""A sample image for tests, created without Pillow."""

from __future__ import annotations

import struct
import zlib

from majordomo.media.image_part import ImagePart


def plain_image(
    width: int = 64, height: int = 48, color: tuple[int, int, int] = (30, 60, 120)
) -> ImagePart:
    """Return a PNG of one color. Equal arguments give equal bytes.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        color: Red, green and blue, 0 to 255 each.
    """
    rows = (b"\0" + bytes(color) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return ImagePart(b"\x89PNG\r\n\x1a\n" + chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
