"""Images for the benchmark: some with a valid header and noise, some that can be decoded."""

import os
import random
import struct
import zlib

TEXT = b"parameters\0a lighthouse at dusk\nSteps: 20, Seed: 7"


def made_up_png(size: int) -> bytes:
    """Return a PNG of `size` bytes that claims 1024 x 1024 pixels of 16-bit RGBA.

    Its pixel data is noise and cannot be decoded.
    """
    header = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", 1024, 1024, 16, 6, 0, 0, 0)
    )
    end = _chunk(b"IEND", b"")
    around = len(header) + 12 + len(end)
    return header + _chunk(b"IDAT", os.urandom(size - around)) + end


def true_png(side: int, seed: int = 1) -> bytes:
    """Return a square RGB image with a text chunk, smooth colors and some grain."""
    noise = (
        random.Random(seed)
        .randbytes(side * side * 3)
        .translate(bytes((byte % 7 - 3) % 256 for byte in range(256)))
    )
    width = side * 3
    rows = b"".join(
        b"\x01\x80\x80\x80" + noise[at + 3 : at + width] for at in range(0, side * width, width)
    )
    header = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    )
    return (
        header
        + _chunk(b"tEXt", TEXT)
        + _chunk(b"IDAT", zlib.compress(rows, 6))
        + _chunk(b"IEND", b"")
    )


def jpeg_side(data: bytes) -> int:
    """Return the width of a JPEG from its first frame header."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return int.from_bytes(data[at + 7 : at + 9], "big")


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))
        + kind
        + payload
        + struct.pack(">I", zlib.crc32(kind + payload))
    )
