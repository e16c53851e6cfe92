"""Where things stand in a JPEG (ITU T.81), a WebP (RFC 9649), an AVIF (ISO 14496-12, 23008-12) and a PNG (W3C PNG), told without
decoding a pixel."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

JPEG_END = 0xD9
# in a scan FF is followed by 00 or a restart marker; fill bytes may stand before the marker that ends it (T.81, B.1.1.2 and B.1.1.5)
_SCAN_ENDS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MOST_BOXES = 4096
_TEXT_LIMIT = 1 << 20  # bytes of one text of a PNG
_WEBP_HEADERS = {
    b"VP8X": 10,
    b"VP8L": 5,
    b"VP8 ": 10,
}  # bytes that say the size, of the chunk that comes first (RFC 9649, 2.5 to 2.7)
JPEG_EXIF_LIMIT = (
    0xFFFF - 2 - 6
)  # a segment's length counts itself, and the block begins with Exif and two zeros


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each piece behind the first two bytes, marker included; coded pixels have the marker 0. The end of the
    image is the last one; a broken file has none."""
    at = 2
    while at + 1 < len(data) and data[at] == 0xFF:
        start = at
        while at < len(data) and data[at] == 0xFF:
            at += 1
        if at >= len(data):
            return
        marker = data[at]
        at += 1
        if marker == JPEG_END:
            yield marker, start, at
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            return
        at += length
        yield marker, start, at
        if marker == 0xDA:
            found = _SCAN_ENDS.search(data, at)
            end = found.start() if found else len(data)
            yield 0, at, end
            at = end


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the body of each whole chunk; padding is not part of it."""
    yield from riff_chunks(data, 12, min(len(data), 8 + int.from_bytes(data[4:8], "little")))


def riff_chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while at + 8 <= end:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            return
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + length % 2


def exif_block(data: bytes) -> bytes:
    """The EXIF of a JPEG or WebP, without its leading `Exif\\0\\0`; b"" when there is none."""
    if data.startswith(b"\xff\xd8"):
        for marker, start, end in jpeg_segments(data):
            if marker == 0xDA:
                break
            if marker == 0xE1 and data[start:end].lstrip(b"\xff")[3:9] == b"Exif\0\0":
                return data[start:end].lstrip(b"\xff")[9:]
    elif data[:4] == b"RIFF":
        for kind, start, end in webp_chunks(data):
            if kind == b"EXIF":
                return data[start:end].removeprefix(b"Exif\0\0")
    return b""


def with_exif(data: bytes, block: bytes) -> bytes:
    """The JPEG or WebP with this block of EXIF instead of its own; the coded pixels stay as they are.

    Raises ValueError for a block that is longer than a JPEG holds, EOFError for a WebP that ends before its first chunk does.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_with(data, block)
    return _webp_with(data, block)


def _jpeg_with(data: bytes, block: bytes) -> bytes:
    if len(block) > JPEG_EXIF_LIMIT:
        raise ValueError("longer than a JPEG segment")
    head, behind = b"", 2
    for marker, start, end in jpeg_segments(data):
        if marker == 0xE0 and start == 2:  # JFIF wants to be first
            head, behind = data[start:end], end
        elif marker == 0xE1 and data[start:end].lstrip(b"\xff")[3:9] == b"Exif\0\0":
            data = data[:start] + data[end:]
            break
        elif marker == 0xDA:
            break
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    return data[:2] + head + segment + data[behind:]


def _webp_with(data: bytes, block: bytes) -> bytes:
    kept = [(kind, data[start:end]) for kind, start, end in webp_chunks(data) if kind != b"EXIF"]
    if not kept or len(kept[0][1]) < _WEBP_HEADERS.get(kept[0][0], 0):
        raise EOFError("a WebP without its first chunk")
    if kept[0][0] != b"VP8X":
        kept.insert(0, (b"VP8X", _extended(data, *kept[0])))
    flags = kept[0][1]
    kept[0] = (b"VP8X", bytes([flags[0] | 0x08]) + flags[1:])
    at = len(kept) - 1 if kept[-1][0] == b"XMP " else len(kept)
    kept.insert(at, (b"EXIF", block))
    return webp_of(kept)


def webp_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(piece)) + piece + bytes(len(piece) % 2)
        for kind, piece in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _extended(data: bytes, kind: bytes, piece: bytes) -> bytes:
    """The header that a simple WebP does without: flags and size (RFC 9649, 2.7)."""
    if kind == b"VP8L":
        bits = int.from_bytes(piece[1:5], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:
        width, height = (int.from_bytes(piece[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        width, height, alpha = width - 1, height - 1, 0
    return (
        bytes([0x10 * alpha, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")
    )


def avif_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of an AVIF by its largest `ispe` (tiles and thumbnails have one too); None when it is no AVIF."""
    if data[4:8] != b"ftyp":
        return None
    end = int.from_bytes(data[:4], "big")
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(end, len(data), 1024), 4))}
    if not brands & {b"avif", b"avis"}:
        return None
    sizes = [(0, 0)]
    for start, stop in _inside(data, (b"meta", b"iprp", b"ipco", b"ispe"), 0, len(data)):
        if stop - start >= 12:
            sizes.append(struct.unpack_from(">II", data, start + 4))
    return max(sizes, key=lambda size: size[0] * size[1])


def _inside(data: bytes, path: tuple[bytes, ...], at: int, end: int) -> Iterator[tuple[int, int]]:
    """Start and end of the bodies of all boxes at this path."""
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        stop = end if length == 0 else at + length
        if length != 0 and length < head:
            return
        if kind == path[0]:
            start = at + head
            if len(path) == 1:
                if stop <= end:
                    yield start, stop
            else:
                yield from _inside(data, path[1:], start + 4 * (kind == b"meta"), min(stop, end))
        at = stop


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, body) of each whole chunk of a PNG, in order, without checking their sums; nothing is copied."""
    view = memoryview(data)
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], view[at + 8 : at + 8 + length]
        at += 12 + length


def png_text(data: bytes) -> dict[str, str]:
    """The text chunks (tEXt, zTXt, iTXt) before and after the pixels of a PNG; at most 1 MiB of each, broken ones left out."""
    found: dict[str, str] = {}
    if not data.startswith(b"\x89PNG"):
        return found
    for kind, view in png_chunks(data):
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        key, nul, rest = bytes(view).partition(b"\0")
        if not nul:
            continue
        try:
            if kind == b"tEXt":
                text = rest[:_TEXT_LIMIT].decode("latin-1")
            elif kind == b"zTXt":
                text = _inflate(rest[1:]).decode("latin-1")
            else:
                _language, _translated, content = rest[2:].split(b"\0", 2)
                text = (_inflate(content) if rest[0] else content[:_TEXT_LIMIT]).decode(
                    "utf-8", "replace"
                )
        except (zlib.error, ValueError, IndexError):
            continue
        found[key.decode("latin-1")] = text
    return found


def with_text(data: bytes, key: str, text: str) -> bytes:
    """The PNG with one more text chunk (iTXt, so that any language fits) before its pixels."""
    body = key.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
    chunk = (
        struct.pack(">I", len(body))
        + b"iTXt"
        + body
        + struct.pack(">I", zlib.crc32(b"iTXt" + body))
    )
    end = 8 + 12 + 13  # behind the header, which is always first
    return data[:end] + chunk + data[end:]


def without_text(data: bytes, key: str) -> bytes:
    """The PNG without the text chunks of this name."""
    name = key.encode("latin-1") + b"\0"
    at, kept = 8, [data[:8]]
    for kind, body in png_chunks(data):
        end = at + 12 + len(body)
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or body[: len(name)] != name:
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, data[at:]))


def _inflate(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, _TEXT_LIMIT)
