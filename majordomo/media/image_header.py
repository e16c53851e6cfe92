"""Read type, size, text and orientation of an image from its bytes, without decoding pixels.

Type and size come from the bytes: PNG (W3C PNG, IHDR), JPEG (ITU T.81, SOFn), WebP (RFC 9649,
VP8/VP8L/VP8X), GIF (GIF89a logical screen) and AVIF (ISO 23008-12, ispe). A media type claimed by
a caller or a backend is ignored.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from majordomo.errors import InvalidRequestError
from majordomo.media.exif import read_exif, write_exif
from majordomo.media.image_containers import (
    avif_size,
    exif_block,
    png_chunks,
    png_text,
    with_exif,
    with_text,
    without_text,
)

SENDABLE = ("image/png", "image/jpeg", "image/webp")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The type and the size that the first bytes of an image state."""

    mime: str
    """Media type, for example `"image/png"`."""
    width: int
    """Width in pixels, at least 1, as stored: orientation is not applied."""
    height: int
    """Height in pixels, at least 1, as stored: orientation is not applied."""


def read_header(data: bytes) -> ImageHeader | None:
    """Return type and size of an image, or None if it is not of one of the five types."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _read_png(data)
        elif data.startswith(b"\xff\xd8\xff"):
            header = _read_jpeg(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            header = ImageHeader("image/gif", *struct.unpack_from("<HH", data, 6))
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _read_webp(data)
        elif data[4:8] == b"ftyp":
            size = avif_size(data)
            header = ImageHeader("image/avif", *size) if size is not None else None
        else:
            return None
    except (struct.error, IndexError):
        return None
    return header if header is not None and header.width > 0 and header.height > 0 else None


def _read_png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR":
        return None
    return ImageHeader("image/png", *struct.unpack_from(">II", data, 16))


def _read_jpeg(data: bytes) -> ImageHeader | None:
    position = 2
    while position < len(data):
        if data[position] != 0xFF:
            return None
        # Any number of fill bytes may precede a marker (T.81, B.1.1.2).
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        length = int(struct.unpack_from(">H", data, position)[0])
        # Of SOF0 to SOF15, C4 (tables), C8 (reserved) and CC (arithmetic conditioning) are not
        # frames.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            return ImageHeader("image/jpeg", width, height)
        if marker in (0xD9, 0xDA) or length < 2:
            return None
        position += length
    return None


def _read_webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return ImageHeader("image/webp", width, height) if len(data) >= 30 else None
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int(struct.unpack_from("<I", data, 21)[0])
        return ImageHeader("image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("image/webp", width & 0x3FFF, height & 0x3FFF)
    return None


def read_texts(data: bytes) -> dict[str, str]:
    """Return the texts in an image by the names of PNG text chunks.

    Of a JPEG or WebP, the EXIF UserComment is returned as "parameters": A1111 and other programs
    write there what they write into the PNG chunk of that name.
    """
    if data.startswith(b"\x89PNG"):
        return png_text(data)
    comment = read_exif(exif_block(data)).comment
    return {"parameters": comment} if comment else {}


def read_orientation(data: bytes) -> int:
    """Return the EXIF orientation: 1 (upright or not stated) to 8, as in TIFF 6.0."""
    if data.startswith(b"\x89PNG"):
        block = next((bytes(body) for kind, body in png_chunks(data) if kind == b"eXIf"), b"")
    else:
        block = exif_block(data)
    return read_exif(block).orientation


def with_metadata(data: bytes, text: str) -> bytes:
    """Return the PNG, JPEG or WebP with its "parameters" text replaced; pixels do not change.

    Raises:
        InvalidRequestError: Field `metadata`: the file has another type, the text is longer than a
            JPEG can hold (code TEXT_TOO_LONG), or the WebP is cut off before the position of the
            text (code BAD_IMAGE).
    """
    header = read_header(data)
    if header is None or header.mime not in SENDABLE:
        kind = header.mime if header is not None else "a file of an unknown type"
        raise InvalidRequestError(
            f"metadata can be written to PNG, JPEG and WebP files only; got {kind}",
            field="metadata",
        )
    if header.mime == "image/png":
        return with_text(without_text(data, "parameters"), "parameters", text)
    try:
        return with_exif(data, write_exif(read_exif(exif_block(data)).orientation, text))
    except ValueError:
        raise InvalidRequestError(
            "the text is longer than a JPEG can hold", field="metadata", code="TEXT_TOO_LONG"
        ) from None
    except EOFError:
        raise InvalidRequestError(
            "the WebP is cut off or broken", field="metadata", code="BAD_IMAGE"
        ) from None
