"""Remove everything but the image from a file. Bytes in, bytes out; pixels are not decoded.

The chunks to keep are listed, so that unknown chunks are removed.
"""

from __future__ import annotations

from majordomo.errors import InvalidRequestError
from majordomo.media.exif import write_exif
from majordomo.media.image_containers import (
    JPEG_END,
    build_png_chunk,
    build_webp,
    jpeg_exif_segment,
    jpeg_segments,
    riff_chunks,
    webp_chunks,
)

# PNG: the pixels, the meaning of their colors, and the frames of an APNG (W3C PNG, third edition).
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
# JPEG: frames, tables, scans, restart intervals, lines (T.81, table B.1). `jpeg_segments` gives
# entropy-coded data the marker 0.
_JPEG_KEPT = {0, *range(0xC0, 0xD0), *range(0xDA, 0xE0), JPEG_END}
_WEBP_KEPT = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
# Flags of VP8X (RFC 9649, 2.7).
_ICC, _EXIF, _XMP = 0x20, 0x08, 0x04


def strip_metadata(data: bytes, *, icc: bool = True, orientation: int = 1) -> bytes:
    """Return the PNG, JPEG, WebP or GIF without metadata and without bytes after its end.

    Args:
        data: The file.
        icc: Keep the color profile.
        orientation: If this is not 1 (upright), the file gets an EXIF block with this orientation
            only.

    Raises:
        InvalidRequestError: Field `image`: the file is cut off or broken (code BAD_IMAGE).
    """
    exif = write_exif(orientation)
    if data.startswith(b"\x89PNG"):
        return _strip_png(data, icc, exif)
    if data.startswith(b"\xff\xd8"):
        return _strip_jpeg(data, icc, exif)
    if data.startswith(b"RIFF"):
        return _strip_webp(data, icc, exif)
    return _strip_gif(data)


def _broken(kind: str) -> InvalidRequestError:
    return InvalidRequestError(f"the {kind} is cut off or broken", field="image", code="BAD_IMAGE")


def _strip_png(data: bytes, icc: bool, exif: bytes) -> bytes:
    chunks, position, ended = [data[:8]], 8, False
    while not ended:
        length = int.from_bytes(data[position : position + 4], "big")
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if len(kind) < 4 or end > len(data):
            raise _broken("PNG")
        if kind in _PNG_KEPT or (icc and kind == b"iCCP"):
            chunks.append(data[position:end])
        if exif and kind == b"IHDR":
            chunks.append(build_png_chunk(b"eXIf", exif))
        position, ended = end, kind == b"IEND"
    return b"".join(chunks)


def _strip_jpeg(data: bytes, icc: bool, exif: bytes) -> bytes:
    jfif, segments, marker = b"", [], 0
    for marker, start, end in jpeg_segments(data):
        segment = data[start:end]
        body = segment.lstrip(b"\xff")[3:] if 0xE0 <= marker <= 0xEF else b""
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            jfif = _jfif_segment(body)
        elif (
            marker in _JPEG_KEPT
            or (marker == 0xEE and body.startswith(b"Adobe"))
            or (icc and marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"))
        ):
            segments.append(segment)
    if marker != JPEG_END:
        raise _broken("JPEG")
    return b"".join((b"\xff\xd8", jfif, jpeg_exif_segment(exif) if exif else b"", *segments))


def _jfif_segment(body: bytes) -> bytes:
    """Return the JFIF header, which states the color encoding, without its thumbnail.

    Of the density, only the aspect ratio of a pixel is kept.
    """
    pixel_ratio = body[7:12] if body[7] == 0 else b"\0\0\1\0\1"
    return b"\xff\xe0\0\x10" + body[:7] + pixel_ratio + b"\0\0"


def _strip_webp(data: bytes, icc: bool, exif: bytes) -> bytes:
    end = 8 + int.from_bytes(data[4:8], "little")
    all_chunks = list(webp_chunks(data))
    if end > len(data) or not all_chunks or all_chunks[-1][2] + all_chunks[-1][2] % 2 < end - 1:
        raise _broken("WebP")
    chunks = [
        (kind, _strip_frame(data, kind, start, stop))
        for kind, start, stop in all_chunks
        if kind in _WEBP_KEPT or (icc and kind == b"ICCP")
    ]
    if not {kind for kind, _ in chunks} & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise _broken("WebP")
    if chunks[0][0] == b"VP8X":
        header = chunks[0][1]
        if len(header) < 10:
            raise _broken("WebP")
        flags = header[0] & ~(_EXIF | _XMP | (0 if icc else _ICC)) | (_EXIF if exif else 0)
        chunks[0] = (b"VP8X", bytes([flags]) + header[1:10])
    # EXIF applies to extended files only, so that a file with an orientation has a VP8X chunk.
    return build_webp([*chunks, (b"EXIF", exif)] if exif else chunks)


def _strip_frame(data: bytes, kind: bytes, start: int, stop: int) -> bytes:
    """Return the body of a chunk; in a frame of an animation, only the chunks with pixels stay."""
    if kind != b"ANMF":
        return data[start:stop]
    chunks = [
        data[inner_start - 8 : inner_stop + inner_stop % 2 - inner_start % 2]
        for name, inner_start, inner_stop in riff_chunks(data, start + 16, stop)
        if name in (b"ALPH", b"VP8 ", b"VP8L")
    ]
    return data[start : start + 16] + b"".join(chunks)


def _strip_gif(data: bytes) -> bytes:
    """Keep frames, their timing and the number of loops; remove comments and everything else.

    See GIF89a, and the looping extension of Netscape.
    """
    position = 13 + _color_table_bytes(data[10:11])
    blocks = [data[:position]]
    while True:
        start, kind = position, data[position : position + 1]
        if kind == b"\x3b":
            return b"".join((*blocks, kind))
        if kind == b"\x21":
            position = _sub_blocks_end(data, position + 2)
            label, name = data[start + 1 : start + 2], data[start + 3 : start + 14]
            if label == b"\xf9" or (label == b"\xff" and name in (b"NETSCAPE2.0", b"ANIMEXTS1.0")):
                blocks.append(data[start:position])
        elif kind == b"\x2c":
            flags = data[position + 9 : position + 10]
            position = _sub_blocks_end(data, position + 10 + _color_table_bytes(flags) + 1)
            blocks.append(data[start:position])
        else:
            raise _broken("GIF")


def _color_table_bytes(flags: bytes) -> int:
    """Return the length of the color table that these flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _sub_blocks_end(data: bytes, position: int) -> int:
    """Return the position after the empty block that ends a sequence of sub-blocks."""
    while position < len(data):
        length = data[position]
        position += 1 + length
        if length == 0:
            return position
    raise _broken("GIF")
