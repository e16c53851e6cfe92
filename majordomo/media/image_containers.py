"""Parse and edit image container formats without decoding pixels.

JPEG (ITU T.81), WebP (RFC 9649), AVIF (ISO 14496-12, 23008-12) and PNG (W3C PNG).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

JPEG_END = 0xD9
# In a scan, FF is followed by 00 or a restart marker. Fill bytes may precede the marker that ends
# the scan (T.81, B.1.1.2 and B.1.1.5).
_SCAN_ENDS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_BOXES = 4096
# Size of one text chunk of a PNG.
_MAX_TEXT_BYTES = 1 << 20
# Bytes that the first chunk needs to contain the size (RFC 9649, 2.5 to 2.7).
_WEBP_HEADER_BYTES = {b"VP8X": 10, b"VP8L": 5, b"VP8 ": 10}
# The length of a segment includes its own two bytes, and the block starts with Exif and two zeros.
MAX_JPEG_EXIF_BYTES = 0xFFFF - 2 - 6


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment after the first two bytes, marker included.

    Entropy-coded data has the marker 0. The last segment is the end of the image; a broken file has
    no such segment.
    """
    position = 2
    while position + 1 < len(data) and data[position] == 0xFF:
        start = position
        while position < len(data) and data[position] == 0xFF:
            position += 1
        if position >= len(data):
            return
        marker = data[position]
        position += 1
        if marker == JPEG_END:
            yield marker, start, position
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2 or position + length > len(data):
            return
        position += length
        yield marker, start, position
        if marker == 0xDA:
            match = _SCAN_ENDS.search(data, position)
            end = match.start() if match else len(data)
            yield 0, position, end
            position = end


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the body of each complete chunk, without padding."""
    yield from riff_chunks(data, 12, min(len(data), 8 + int.from_bytes(data[4:8], "little")))


def riff_chunks(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the body of each complete RIFF chunk from `start` to `end`."""
    position = start
    while position + 8 <= end:
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + length > end:
            return
        yield data[position : position + 4], position + 8, position + 8 + length
        position += 8 + length + length % 2


def exif_block(data: bytes) -> bytes:
    r"""Return the EXIF of a JPEG or WebP without its leading `Exif\0\0`; empty if none."""
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
    """Return the JPEG or WebP with its EXIF replaced; the coded pixels do not change.

    Raises:
        ValueError: The block is longer than a JPEG segment allows.
        EOFError: The WebP ends before its first chunk does.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_with_exif(data, block)
    return _webp_with_exif(data, block)


def jpeg_exif_segment(block: bytes) -> bytes:
    """Return the APP1 segment that holds an EXIF block."""
    return b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block


def _jpeg_with_exif(data: bytes, block: bytes) -> bytes:
    if len(block) > MAX_JPEG_EXIF_BYTES:
        raise ValueError("longer than a JPEG segment")
    jfif, rest = b"", 2
    for marker, start, end in jpeg_segments(data):
        # A JFIF segment must be the first one.
        if marker == 0xE0 and start == 2:
            jfif, rest = data[start:end], end
        elif marker == 0xE1 and data[start:end].lstrip(b"\xff")[3:9] == b"Exif\0\0":
            data = data[:start] + data[end:]
            break
        elif marker == 0xDA:
            break
    return data[:2] + jfif + jpeg_exif_segment(block) + data[rest:]


def _webp_with_exif(data: bytes, block: bytes) -> bytes:
    chunks = [(kind, data[start:end]) for kind, start, end in webp_chunks(data) if kind != b"EXIF"]
    if not chunks or len(chunks[0][1]) < _WEBP_HEADER_BYTES.get(chunks[0][0], 0):
        raise EOFError("a WebP without its first chunk")
    if chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _extended_header(*chunks[0])))
    header = chunks[0][1]
    chunks[0] = (b"VP8X", bytes([header[0] | 0x08]) + header[1:])
    index = len(chunks) - 1 if chunks[-1][0] == b"XMP " else len(chunks)
    chunks.insert(index, (b"EXIF", block))
    return build_webp(chunks)


def build_webp(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a WebP file with these (kind, body) chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2)
        for kind, chunk in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _extended_header(kind: bytes, chunk: bytes) -> bytes:
    """Return the VP8X body for a simple WebP, which has none: flags and size (RFC 9649, 2.7)."""
    if kind == b"VP8L":
        bits = int.from_bytes(chunk[1:5], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:
        width, height = (
            int.from_bytes(chunk[start : start + 2], "little") & 0x3FFF for start in (6, 8)
        )
        width, height, alpha = width - 1, height - 1, 0
    return (
        bytes([0x10 * alpha, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")
    )


def avif_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an AVIF in pixels, or None if the file is not an AVIF.

    Tiles and thumbnails have an `ispe` box too; the largest one is the image's.
    """
    if data[4:8] != b"ftyp":
        return None
    end = int.from_bytes(data[:4], "big")
    brands = {
        data[8:12],
        *(data[start : start + 4] for start in range(16, min(end, len(data), 1024), 4)),
    }
    if not brands & {b"avif", b"avis"}:
        return None
    sizes = [(0, 0)]
    for start, stop in _find_boxes(data, (b"meta", b"iprp", b"ipco", b"ispe"), 0, len(data)):
        if stop - start >= 12:
            sizes.append(struct.unpack_from(">II", data, start + 4))
    return max(sizes, key=lambda size: size[0] * size[1])


def _find_boxes(
    data: bytes, path: tuple[bytes, ...], position: int, end: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of the bodies of all boxes at this path."""
    for _ in range(_MAX_BOXES):
        if position + 8 > end:
            return
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        header_bytes = 8
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
            header_bytes = 16
        stop = end if length == 0 else position + length
        if length != 0 and length < header_bytes:
            return
        if kind == path[0]:
            start = position + header_bytes
            if len(path) == 1:
                if stop <= end:
                    yield start, stop
            else:
                # The "meta" box starts with four bytes of version and flags.
                inner = start + 4 * (kind == b"meta")
                yield from _find_boxes(data, path[1:], inner, min(stop, end))
        position = stop


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (kind, body) of each complete chunk of a PNG in order.

    Checksums are not verified and nothing is copied.
    """
    view = memoryview(data)
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if position + 12 + length > len(data):
            return
        yield data[position + 4 : position + 8], view[position + 8 : position + 8 + length]
        position += 12 + length


def build_png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_text(data: bytes) -> dict[str, str]:
    """Return the text chunks (tEXt, zTXt, iTXt) before and after the pixels of a PNG.

    At most 1 MiB of each chunk is returned; broken chunks are skipped.
    """
    texts: dict[str, str] = {}
    if not data.startswith(b"\x89PNG"):
        return texts
    for kind, view in png_chunks(data):
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        key, nul, rest = bytes(view).partition(b"\0")
        if not nul:
            continue
        try:
            if kind == b"tEXt":
                text = rest[:_MAX_TEXT_BYTES].decode("latin-1")
            elif kind == b"zTXt":
                text = _inflate(rest[1:]).decode("latin-1")
            else:
                _language, _translated, content = rest[2:].split(b"\0", 2)
                text = (_inflate(content) if rest[0] else content[:_MAX_TEXT_BYTES]).decode(
                    "utf-8", "replace"
                )
        except (zlib.error, ValueError, IndexError):
            continue
        texts[key.decode("latin-1")] = text
    return texts


def with_text(data: bytes, key: str, text: str) -> bytes:
    """Return the PNG with a text chunk added before its pixels.

    The chunk is an iTXt, which can hold text of any language.
    """
    body = key.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
    # The header chunk (13 bytes) is always the first one.
    header_end = 8 + 12 + 13
    return data[:header_end] + build_png_chunk(b"iTXt", body) + data[header_end:]


def without_text(data: bytes, key: str) -> bytes:
    """Return the PNG without the text chunks of this name."""
    name = key.encode("latin-1") + b"\0"
    position, remaining = 8, [data[:8]]
    for kind, body in png_chunks(data):
        end = position + 12 + len(body)
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or body[: len(name)] != name:
            remaining.append(data[position:end])
        position = end
    return b"".join((*remaining, data[position:]))


def _inflate(compressed: bytes) -> bytes:
    return zlib.decompressobj().decompress(compressed, _MAX_TEXT_BYTES)
