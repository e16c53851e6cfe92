"""Files without anything but their images: chunks are left out, pixels are neither decoded nor touched. Bytes in, bytes out.

What stays is listed, not what goes: a chunk that nobody here knows is left out.
"""

from __future__ import annotations

import struct
import zlib

from majordomo.errors import InvalidRequestError
from majordomo.media.exif import write_exif
from majordomo.media.image_containers import (
    JPEG_END,
    jpeg_segments,
    riff_chunks,
    webp_chunks,
    build_webp,
)

# PNG: what the pixels are, what their colors mean, and the frames of an APNG (W3C PNG, third edition)
_PNG_KEPT = {
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"cICP",
    b"mDCV",
    b"cLLI",
    b"acTL",
    b"fcTL",
    b"fdAT",
}
# JPEG: frames, tables, scans, restart intervals, lines (T.81, table B.1); the scans themselves are 0
_JPEG_KEPT = {0, *range(0xC0, 0xD0), *range(0xDA, 0xE0), JPEG_END}
_WEBP_KEPT = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
_ICC, _EXIF, _XMP = 0x20, 0x08, 0x04  # flags of VP8X (RFC 9649, 2.7)


def strip_metadata(data: bytes, *, icc: bool = True, orientation: int = 1) -> bytes:
    """The PNG, JPEG, WebP or GIF without metadata and without bytes behind its end; with an EXIF that holds nothing but `orientation` where
    that is not 1 (upright).

    Raises InvalidRequestError (field `image`, code BAD_IMAGE) for a file that is cut off or broken.
    """
    block = write_exif(orientation)
    if data.startswith(b"\x89PNG"):
        return _png(data, icc, block)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, icc, block)
    if data.startswith(b"RIFF"):
        return _webp(data, icc, block)
    return _gif(data)


def _broken(kind: str) -> InvalidRequestError:
    return InvalidRequestError(f"the {kind} is cut off or broken", field="image", code="BAD_IMAGE")


def _png(data: bytes, icc: bool, block: bytes) -> bytes:
    pieces, at, ended = [data[:8]], 8, False
    while not ended:
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if len(kind) < 4 or end > len(data):
            raise _broken("PNG")
        if kind in _PNG_KEPT or (icc and kind == b"iCCP"):
            pieces.append(data[at:end])
        if block and kind == b"IHDR":
            pieces.append(
                struct.pack(">I", len(block))
                + b"eXIf"
                + block
                + struct.pack(">I", zlib.crc32(b"eXIf" + block))
            )
        at, ended = end, kind == b"IEND"
    return b"".join(pieces)


def _jpeg(data: bytes, icc: bool, block: bytes) -> bytes:
    head, pieces, marker = b"", [], 0
    for marker, start, end in jpeg_segments(data):
        piece = data[start:end]
        body = piece.lstrip(b"\xff")[3:] if 0xE0 <= marker <= 0xEF else b""
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            head = _jfif(body)
        elif (
            marker in _JPEG_KEPT
            or (marker == 0xEE and body.startswith(b"Adobe"))
            or (icc and marker == 0xE2 and _is_profile(body))
        ):
            pieces.append(piece)
    if marker != JPEG_END:
        raise _broken("JPEG")
    turned = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block if block else b""
    return b"".join((b"\xff\xd8", head, turned, *pieces))


def _jfif(body: bytes) -> bytes:
    """The JFIF header, which says how colors are coded, without a thumbnail; of the density what is the shape of a pixel."""
    shape = body[7:12] if body[7] == 0 else b"\0\0\1\0\1"
    return b"\xff\xe0\0\x10" + body[:7] + shape + b"\0\0"


def _is_profile(body: bytes) -> bool:
    return body.startswith(b"ICC_PROFILE\0")


def _webp(data: bytes, icc: bool, block: bytes) -> bytes:
    end = 8 + int.from_bytes(data[4:8], "little")
    whole = list(webp_chunks(data))
    if end > len(data) or not whole or whole[-1][2] + whole[-1][2] % 2 < end - 1:
        raise _broken("WebP")
    kept = [
        (kind, _frame(data, kind, start, stop))
        for kind, start, stop in whole
        if kind in _WEBP_KEPT or (icc and kind == b"ICCP")
    ]
    if not {kind for kind, _ in kept} & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise _broken("WebP")
    if kept[0][0] == b"VP8X":
        if len(kept[0][1]) < 10:
            raise _broken("WebP")
        flags = kept[0][1][0] & ~(_EXIF | _XMP | (0 if icc else _ICC)) | (_EXIF if block else 0)
        kept[0] = (b"VP8X", bytes([flags]) + kept[0][1][1:10])
    # only an extended file can be turned by an EXIF that counts, so that it has a VP8X
    return build_webp([*kept, (b"EXIF", block)] if block else kept)


def _frame(data: bytes, kind: bytes, start: int, stop: int) -> bytes:
    """A chunk; of a frame of an animation, which has chunks in it, those that are pixels."""
    if kind != b"ANMF":
        return data[start:stop]
    inner = [
        data[a - 8 : b + b % 2 - a % 2]
        for name, a, b in riff_chunks(data, start + 16, stop)
        if name in (b"ALPH", b"VP8 ", b"VP8L")
    ]
    return data[start : start + 16] + b"".join(inner)


def _gif(data: bytes) -> bytes:
    """Frames, their timing and how often they are shown (GIF89a; the looping block of Netscape); comments and everything else go."""
    at = 13 + _table(data[10:11])
    pieces = [data[:at]]
    while True:
        start, mark = at, data[at : at + 1]
        if mark == b"\x3b":
            return b"".join((*pieces, mark))
        if mark == b"\x21":
            at = _blocks_end(data, at + 2)
            label, name = data[start + 1 : start + 2], data[start + 3 : start + 14]
            if label == b"\xf9" or (label == b"\xff" and name in (b"NETSCAPE2.0", b"ANIMEXTS1.0")):
                pieces.append(data[start:at])
        elif mark == b"\x2c":
            at = _blocks_end(data, at + 10 + _table(data[at + 9 : at + 10]) + 1)
            pieces.append(data[start:at])
        else:
            raise _broken("GIF")


def _table(flags: bytes) -> int:
    """Bytes of the color table that these flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    """Behind the empty one that ends a row of sub-blocks."""
    while at < len(data):
        length = data[at]
        at += 1 + length
        if length == 0:
            return at
    raise _broken("GIF")
