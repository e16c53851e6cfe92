"""Pictures made up for the benchmark: a true header, then bytes nobody can compress."""

import os
import struct
import zlib


def made_up_png(size: int) -> bytes:
    """A PNG of `size` bytes that says it is 1024 x 1024, 16 bits RGBA. Its pixels are noise and cannot be decoded."""
    header = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1024, 1024, 16, 6, 0, 0, 0))
    end = _chunk(b"IEND", b"")
    around = len(header) + 12 + len(end)
    return header + _chunk(b"IDAT", os.urandom(size - around)) + end


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
