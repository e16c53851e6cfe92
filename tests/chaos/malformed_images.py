"""Malformed images: tables of name, value that a backend sends, and expected result."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

from tests.support.loopback import Handler, Peer
from tests.support.sample_images import animation, gradient, part, png_chunk

ACCEPTED, REFUSED = "accepted", "refused"
ImageCase = tuple[Callable[[], Any], str]
PNG = part(gradient(16, 12)).data
JPEG = part(gradient(16, 12), "JPEG").data
WEBP = part(gradient(16, 12), "WEBP").data
LOSSLESS = part(gradient(16, 12), "WEBP", lossless=True).data


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(
    width: int, height: int, *chunks: bytes, depth: int = 8, color: int = 2, data: bytes = b""
) -> bytes:
    """A PNG that claims this size, with these chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, color, 0, 0, 0)
    pixels = png_chunk(b"IDAT", data or zlib.compress(b"\0" * 100))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(chunks)
        + pixels
        + png_chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    """A real JPEG whose frame claims this size."""
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


def webp(width: int, height: int) -> bytes:
    """An extended WebP that claims this size, at most 2**24 a side."""
    canvas = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    body = b"WEBP" + canvas + WEBP[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    gradient(16, 12).save(buffer, kind)
    return buffer.getvalue()


@functools.cache
def heavy(size: int, width: int = 4, height: int = 4) -> bytes:
    """A PNG of exactly this many bytes, almost all in a chunk that decoders ignore."""
    empty = png(width, height, png_chunk(b"prVt", b""))
    return png(width, height, png_chunk(b"prVt", bytes(size - len(empty))))


def _cut(data: bytes, keep: float) -> Callable[[], bytes]:
    return lambda: data[: int(len(data) * keep)]


# JSON values, for backends that send images in JSON.
TEXTS: dict[str, ImageCase] = {
    "not base64": (lambda: "%%%", REFUSED),
    "a non-ASCII letter": (lambda: b64(PNG)[:40] + "ä" + b64(PNG)[41:], REFUSED),
    "a NUL": (lambda: b64(PNG)[:40] + "\0" + b64(PNG)[40:], REFUSED),
    "a lone surrogate": (lambda: b64(PNG) + "\ud800", REFUSED),
    "padding missing": (lambda: b64(PNG + b"\0").rstrip("="), REFUSED),
    "padding doubled": (lambda: b64(PNG) + "==", REFUSED),
    "padding in the middle": (lambda: b64(PNG[:40]) + b64(PNG[40:]), REFUSED),
    "three characters too few": (lambda: b64(PNG)[:-3], REFUSED),
    "only padding": (lambda: "====", REFUSED),
    "lines": (lambda: "\r\n".join(re.findall(".{1,76}", b64(PNG))), ACCEPTED),
    "spaces around it": (lambda: f" \n{b64(PNG)}\t ", ACCEPTED),
    "encoded twice": (lambda: b64(b64(PNG).encode()), REFUSED),
    "hexadecimal": (lambda: PNG.hex(), REFUSED),
    "a link": (lambda: "http://127.0.0.1:9/a.png", REFUSED),
    "a file": (lambda: "file:///etc/passwd", REFUSED),
    "a path": (lambda: "/etc/passwd", REFUSED),
    "a data URL": (lambda: "data:image/png;base64," + b64(PNG), ACCEPTED),
    "a data URL that claims SVG": (lambda: "data:image/svg+xml;base64," + b64(PNG), ACCEPTED),
    "a data URL of text": (lambda: "data:text/html;base64," + b64(b"<html>"), REFUSED),
    "a data URL without base64": (lambda: "data:image/png," + PNG.decode("latin-1"), REFUSED),
    "an empty data URL": (lambda: "data:image/png;base64,", REFUSED),
    "a data URL within one": (
        lambda: "data:image/png;base64,data:image/png;base64," + b64(PNG),
        REFUSED,
    ),
    "an empty text": (lambda: "", REFUSED),
    "whitespace": (lambda: " \r\n", REFUSED),
    "null": (lambda: None, REFUSED),
    "true": (lambda: True, REFUSED),
    "7": (lambda: 7, REFUSED),
    "0": (lambda: 0, REFUSED),
    "-1": (lambda: -1, REFUSED),
    "1e999": (lambda: float("inf"), REFUSED),
    "500 digits": (lambda: 10**500, REFUSED),
    "a list": (lambda: [b64(PNG)], REFUSED),
    "numbers": (lambda: list(PNG), REFUSED),
    "an object": (lambda: {"b64_json": b64(PNG)}, REFUSED),
}

FILES: dict[str, ImageCase] = {
    "nothing": (lambda: b"", REFUSED),
    "a byte": (lambda: b"\x89", REFUSED),
    "a JPEG": (lambda: JPEG, ACCEPTED),
    "a WebP": (lambda: WEBP, ACCEPTED),
    "a lossless WebP": (lambda: LOSSLESS, ACCEPTED),
    **{
        f"{int(keep * 100)} % of a {kind}": (_cut(data, keep), REFUSED)
        for kind, data in {
            "PNG": PNG,
            "JPEG": JPEG,
            "WebP": WEBP,
            "lossless WebP": LOSSLESS,
        }.items()
        for keep in (0.05, 0.3, 0.7, 0.97)
    },
    "only a signature": (lambda: PNG[:8], REFUSED),
    "only a header": (lambda: PNG[:33], REFUSED),
    "chunks longer than the file": (lambda: PNG[:33] + b"\xff\xff\xff\xffIDAT" + PNG[41:], REFUSED),
    "the end in the middle of a chunk": (lambda: PNG[:41] + b"\0\0\0\0IEND\xaeB`\x82", REFUSED),
    "SVG": (
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        REFUSED,
    ),
    "HTML": (lambda: b"<!doctype html><title>Login</title>", REFUSED),
    "XML": (
        lambda: b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
        REFUSED,
    ),
    "JSON": (lambda: b'{"error": "no"}', REFUSED),
    "GIF": (lambda: saved("GIF"), REFUSED),
    "an animated GIF": (lambda: animation("GIF").data, REFUSED),
    "TIFF": (lambda: saved("TIFF"), REFUSED),
    "BMP": (lambda: saved("BMP"), REFUSED),
    "ICO": (lambda: saved("ICO"), REFUSED),
    "PPM": (lambda: saved("PPM"), REFUSED),
    "PDF": (lambda: saved("PDF"), REFUSED),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", REFUSED),
    "PSD": (
        lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(40),
        REFUSED,
    ),
    "AVIF": (lambda: b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + bytes(200), REFUSED),
    "ZIP": (lambda: b"PK\3\4" + bytes(60), REFUSED),
    "a GIF called PNG": (lambda: b"\x89PNG\r\n\x1a\n" + saved("GIF"), REFUSED),
    "a JPEG called PNG": (lambda: PNG[:33] + JPEG, REFUSED),
    "a WebP with the length of another": (
        lambda: WEBP[:4] + struct.pack("<I", 1 << 30) + WEBP[8:],
        REFUSED,
    ),
    "a page before the image": (lambda: b"<html>" + PNG, REFUSED),
    "a ZIP behind a PNG": (lambda: PNG + b"PK\3\4" + bytes(60), ACCEPTED),
    "a page behind a JPEG": (lambda: JPEG + b"<script>alert(1)</script>", ACCEPTED),
    "an animated PNG": (lambda: animation("PNG").data, ACCEPTED),
    "an animated WebP": (lambda: animation("WEBP").data, ACCEPTED),
    "no width": (lambda: png(0, 9), REFUSED),
    "no height": (lambda: png(9, 0), REFUSED),
    "no size": (lambda: png(0, 0), REFUSED),
    "a JPEG without height": (lambda: jpeg(9, 0), REFUSED),
    "a side below nothing": (lambda: png(-1, 9), REFUSED),
    "sides of 2**31": (lambda: png(1 << 31, 1 << 31), REFUSED),
    "40 Mpx": (lambda: png(8000, 5000), ACCEPTED),
    "40 Mpx and a row": (lambda: png(8000, 5001), REFUSED),
    "a JPEG of 40 Mpx and a row": (lambda: jpeg(8000, 5001), REFUSED),
    "a WebP of 40 Mpx and a row": (lambda: webp(8000, 5001), REFUSED),
    "16,384 a side": (lambda: png(16_384, 1), ACCEPTED),
    "16,385 a side": (lambda: png(1, 16_385), REFUSED),
    "a JPEG of 16,385 a side": (lambda: jpeg(16_385, 1), REFUSED),
    "a WebP of 2**24 a side": (lambda: webp(1 << 24, 1), REFUSED),
    "a bomb of a PNG": (lambda: png(60_000, 60_000), REFUSED),
    "a bomb of a JPEG": (lambda: jpeg(65_500, 65_500), REFUSED),
    "a bomb of a WebP": (lambda: webp(1 << 24, 1 << 24), REFUSED),
    "invalid pixel data": (lambda: png(9, 9, data=b"garbage"), ACCEPTED),
}

# Too large for every backend in the ordinary run.
HEAVY: dict[str, ImageCase] = {
    "32 MiB": (lambda: heavy(32 << 20), ACCEPTED),
    "32 MiB and a byte": (lambda: heavy((32 << 20) + 1), REFUSED),
}


class ImageReplacingServer:
    """A healthy server that sends `value` instead of each image: bytes as a file, else as JSON."""

    def __init__(self, healthy: Handler) -> None:
        self._healthy = healthy
        self.value: Any = PNG
        self.replaced = 0

    def __call__(self, peer: Peer) -> None:
        self._healthy(
            _ReplacingPeer(
                peer.socket,
                peer.server,
                peer.number,
                closed_by_client=peer.closed_by_client,
                replace_image=self._replace_image,
            )
        )  # type: ignore[call-arg]

    def _replace_image(self, body: bytes) -> bytes:
        if body.startswith(b"\x89PNG") and isinstance(self.value, bytes):
            self.replaced += 1
            return self.value
        if b'"iVBOR' not in body:
            return body
        self.replaced += 1
        value = json.dumps(
            b64(self.value) if isinstance(self.value, bytes) else self.value
        ).encode()
        return re.sub(rb'"iVBOR[^"]*"', lambda _: value.replace(b"Infinity", b"1e999"), body)


class _ReplacingPeer(Peer):
    def __init__(self, *args: Any, replace_image: Callable[[bytes], bytes], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._replace_image = replace_image

    def send(self, data: bytes) -> None:
        head, end, body = data.partition(b"\r\n\r\n")
        if data.startswith(b"HTTP/1.1 ") and body:
            body = self._replace_image(body)
            data = re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(body), head) + end + body
        super().send(data)

    def chunk(self, data: bytes) -> None:
        super().chunk(self._replace_image(data))


def decodes(data: bytes) -> bool:
    """Return whether Pillow can decode it, as an independent check."""
    try:
        Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")).load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True
