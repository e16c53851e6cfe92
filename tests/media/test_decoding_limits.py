"""Checks before decoding: any file is an image within the limits or a typed error."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo.dialects.image_fields import parse_image
from majordomo.imaging.pixels import open_image
from majordomo.media.image_containers import (
    build_webp,
    jpeg_segments,
    png_chunks,
    png_text,
    webp_chunks,
)
from majordomo.media.image_header import read_header
from tests.fuzz.targets import image_limits
from tests.support.hypothesis_effort import max_examples
from tests.support.sample_images import animation, gradient, image_with_metadata, part, png_chunk

Chunk = tuple[bytes, bytes]  # name, body
LIMITS = md.Limits(max_image_pixels=10_000, max_image_side=1000)


def split_png(data: bytes) -> list[Chunk]:
    return [(kind, bytes(body)) for kind, body in png_chunks(data)]


def join_png(chunks: list[Chunk]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def split_jpeg(data: bytes) -> list[Chunk]:
    return [(bytes([marker]), data[start:end]) for marker, start, end in jpeg_segments(data)]


def join_jpeg(chunks: list[Chunk]) -> bytes:
    return b"\xff\xd8" + b"".join(body for _, body in chunks)


def split_webp(data: bytes) -> list[Chunk]:
    return [(kind, data[start:end]) for kind, start, end in webp_chunks(data)]


CONTAINERS: dict[
    str, tuple[list[bytes], Callable[[bytes], list[Chunk]], Callable[[list[Chunk]], bytes]]
] = {
    "PNG": (
        [image_with_metadata(gradient(8, 6), "PNG", 6).data, animation("PNG").data],
        split_png,
        join_png,
    ),
    "JPEG": (
        [
            image_with_metadata(gradient(8, 6), "JPEG", 6).data,
            part(gradient(8, 6), "JPEG", progressive=True).data,
        ],
        split_jpeg,
        join_jpeg,
    ),
    "WEBP": (
        [
            image_with_metadata(gradient(8, 6), "WEBP", 6).data,
            animation("WEBP").data,
            part(gradient(8, 6, "RGBA"), "WEBP").data,
        ],
        split_webp,
        build_webp,
    ),
}


@pytest.mark.parametrize("container", CONTAINERS)
@settings(max_examples=max_examples(60), deadline=None)
@given(st.data())
def test_mutated_chunks_are_an_image_or_a_typed_error(container: str, data: st.DataObject) -> None:
    """Remove, duplicate, move, shorten, lengthen and change chunks.

    The checksums of a PNG stay correct.
    """
    files, split, join = CONTAINERS[container]
    sample = data.draw(st.sampled_from(files))
    chunks = split(sample)
    assert join(chunks)[:16] == sample[:16]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(chunks) - 1)))
        kind, body = chunks[at] if chunks else (b"IDAT", b"")
        match data.draw(
            st.sampled_from(["leave out", "double", "move", "shorten", "lengthen", "change"])
        ):
            case "leave out":
                chunks[at : at + 1] = []
            case "double":
                chunks.insert(data.draw(st.integers(0, len(chunks))), (kind, body))
            case "move":
                chunks[at : at + 1] = []
                chunks.insert(data.draw(st.integers(0, len(chunks))), (kind, body))
            case "shorten":
                chunks[at : at + 1] = [(kind, body[: data.draw(st.integers(0, len(body)))])]
            case "lengthen":
                chunks[at : at + 1] = [(kind, body + data.draw(st.binary(max_size=8)))]
            case "change":
                offset = data.draw(st.integers(0, len(body)))
                chunks[at : at + 1] = [
                    (
                        kind,
                        body[:offset]
                        + data.draw(st.binary(min_size=1, max_size=4))
                        + body[offset + 1 :],
                    )
                ]
    image_limits(join(chunks))


def sized_png(width: int, height: int) -> bytes:
    data = part(gradient(8, 6)).data
    body = struct.pack(">II", width, height) + data[24:29]
    return data[:8] + png_chunk(b"IHDR", body) + data[33:]


def sized_jpeg(width: int, height: int) -> bytes:
    data = part(gradient(8, 6), "JPEG").data
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + data[at + 4 :]


def sized_webp(width: int, height: int) -> bytes:
    data = animation("WEBP").data
    size = (max(1, width & 0xFFFFFF) - 1).to_bytes(3, "little") + (
        max(1, height & 0xFFFFFF) - 1
    ).to_bytes(3, "little")
    return data[:24] + size + data[30:]


SIDES = (
    st.integers(0, 2**32 - 1)
    | st.integers(0, 2000)
    | st.sampled_from([0, 1, 999, 1000, 1001, 16_384, 65_535])
)


@pytest.mark.parametrize(
    "build", [sized_png, sized_jpeg, sized_webp], ids=lambda build: build.__name__
)
@settings(max_examples=max_examples(80), deadline=None)
@given(width=SIDES, height=SIDES)
def test_a_size_beyond_the_limits_is_refused_before_decoding(
    build: Callable[[int, int], bytes], width: int, height: int
) -> None:
    data = build(width, height)
    header = read_header(data)
    image_limits(data)
    if header is None:
        assert not (width and height) or build is sized_jpeg
        return
    if header.width > 1000 or header.height > 1000 or header.width * header.height > 10_000:
        with pytest.raises(md.BadResponseError) as refused:
            parse_image(data, LIMITS)
        assert refused.value.code == "IMAGE_TOO_LARGE"
        with pytest.raises(md.InvalidRequestError) as caught:
            md.ImagePart(data).to_pil(max_pixels=10_000, max_side=1000)
        assert caught.value.code == "IMAGE_TOO_LARGE"


def two_headers() -> dict[str, bytes]:
    """Return files with a small size in the first header and a large one in a later header."""
    png, jpeg = part(gradient(8, 6)).data, part(gradient(8, 6), "JPEG").data
    frame = jpeg[(at := jpeg.index(b"\xff\xc0")) : at + 19]
    larger = frame[:5] + struct.pack(">HH", 8000, 8000) + frame[9:]
    gif = bytearray(part(gradient(8, 6), "GIF").data)
    position = gif.index(b"\x2c", 13 + (3 << ((gif[10] & 7) + 1)))
    gif[position + 5 : position + 9] = struct.pack("<HH", 8000, 8000)
    return {
        "PNG": png[:33]
        + png_chunk(b"IHDR", struct.pack(">II", 8000, 8000) + png[24:29])
        + png[33:],
        "JPEG": jpeg[: at + 19] + larger + jpeg[at + 19 :],
        "GIF": bytes(gif),
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_a_second_header_does_not_bypass_the_limits(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow uses the last header; no memory of that size is allocated."""
    data = two_headers()[kind]
    image = md.ImagePart(data)
    assert (image.width, image.height) == (8, 6)
    assert Image.open(io.BytesIO(data)).size == (8000, 8000), "Pillow uses the second header"

    def refuse(*size: object) -> None:
        raise AssertionError("memory was allocated")

    monkeypatch.setattr(Image.core, "new", refuse)
    for decode in (lambda: image.to_pil(), lambda: open_image(image, md.Limits())):
        with pytest.raises(md.InvalidRequestError) as caught:
            decode()
        assert caught.value.code == "IMAGE_TOO_LARGE"


def test_compressed_text_is_decompressed_within_limits() -> None:
    data = part(gradient(8, 6)).data
    bomb = png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(50 << 20), 9))
    assert len(png_text(data[:33] + bomb + data[33:])["parameters"]) == 1 << 20
