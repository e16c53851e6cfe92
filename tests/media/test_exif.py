from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from majordomo import InvalidRequestError
from majordomo.media.exif import Exif, read_exif, write_exif
from majordomo.media.image_containers import (
    avif_size,
    exif_block,
    jpeg_segments,
    webp_chunks,
    with_exif,
)
from majordomo.media.image_header import read_header, read_orientation, read_texts, with_metadata
from majordomo.media.image_part import ImagePart
from tests.support.hypothesis_effort import max_examples
from tests.support.sample_images import gradient, part


@given(
    st.integers(1, 8),
    st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), max_size=200),
)
def test_what_is_written_is_read(orientation: int, comment: str) -> None:
    exif = read_exif(write_exif(orientation, "prompt: " + comment))
    assert exif == Exif(orientation, "prompt: " + comment)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_reads_what_is_written(orientation: int) -> None:
    exif = Image.Exif()
    exif.load(write_exif(orientation, "größe"))
    assert exif.get(0x0112, 1) == orientation
    assert exif.get_ifd(0x8769)[0x9286] == b"UNICODE\0" + "größe".encode("utf-16-be")


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("writer", ["utf-16-le", "utf-16-be"])
def test_a_comment_is_read_in_either_byte_order(order: str, writer: str) -> None:
    mark = "<" if order == "little" else ">"
    text = b"UNICODE\0" + "a fox, Steps: 5".encode(writer)
    head = (b"II*\0" if order == "little" else b"MM\0*") + struct.pack(f"{mark}I", 8)
    directory = struct.pack(f"{mark}H", 1) + struct.pack(f"{mark}HHII", 0x8769, 4, 1, 26) + bytes(4)
    inner = (
        struct.pack(f"{mark}H", 1) + struct.pack(f"{mark}HHII", 0x9286, 7, len(text), 44) + bytes(4)
    )
    assert read_exif(head + directory + inner + text).comment == "a fox, Steps: 5"


def test_a_comment_in_ascii_is_read() -> None:
    block = (
        write_exif(1, "xxxxxxxx")
        .replace(b"UNICODE\0", b"ASCII\0\0\0")
        .replace("xxxxxxxx".encode("utf-16-be"), b"plain words, yes")
    )
    assert read_exif(block).comment == "plain words, yes"


def test_an_invalid_orientation_is_upright() -> None:
    assert read_exif(write_exif(6).replace(b"\0\6\0\0", b"\0\x63\0\0")).orientation == 1
    assert write_exif() == b""


@given(st.binary(max_size=200), st.integers(0, 200), st.booleans())
@settings(max_examples=max_examples(200))
def test_broken_blocks_never_raise(junk: bytes, cut: int, framed: bool) -> None:
    block = write_exif(6, "hello")[:cut] + junk if framed else b"II*\0" + junk
    exif = read_exif(block)
    assert 1 <= exif.orientation <= 8


def test_a_block_that_refers_to_itself_is_read() -> None:
    assert read_exif(b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8)) == Exif()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_block_is_written_and_replaced(kind: str) -> None:
    plain = part(gradient(33, 21), kind)
    result = with_exif(plain.data, write_exif(3, "hello"))
    assert exif_block(result) == write_exif(3, "hello")
    assert exif_block(with_exif(result, write_exif(1, "other"))) == write_exif(1, "other")
    assert ImagePart(result).to_pil().tobytes() == plain.to_pil().tobytes()
    assert ImagePart(result).width == 33
    assert ImagePart(result).to_pil().getexif()[0x0112] == 3


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_exif_turns_a_simple_webp_into_an_extended_one(lossless: bool, mode: str) -> None:
    plain = part(gradient(33, 21, mode), "WEBP", lossless=lossless)
    result = with_exif(plain.data, write_exif(1, "x"))
    assert next(kind for kind, _, _ in webp_chunks(result)) == b"VP8X"
    assert (read_header(result).width, read_header(result).height) == (33, 21)  # type: ignore[union-attr]
    assert (
        Image.open(io.BytesIO(result)).convert("RGBA").tobytes()
        == plain.to_pil().convert("RGBA").tobytes()
    )


def test_the_segments_of_a_jpeg_are_complete() -> None:
    data = part(gradient(100, 80), "JPEG", progressive=True).data
    segments = list(jpeg_segments(data + b"behind"))
    assert b"".join(data[start:end] for _, start, end in segments) == data[2:]
    assert segments[-1][0] == 0xD9


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_metadata_is_replaced_and_the_orientation_kept(kind: str) -> None:
    original = part(gradient(), kind, exif=b"Exif\0\0" + write_exif(8))
    once = with_metadata(original.data, "first\nSteps: 5")
    twice = with_metadata(once, "second, größe\nSteps: 6")
    assert read_texts(twice) == {"parameters": "second, größe\nSteps: 6"}
    assert b"first" not in twice
    assert "first".encode("utf-16-be") not in twice
    assert read_orientation(twice) == 8


@pytest.mark.parametrize(
    "settings",
    [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0" + write_exif(6)}],
    ids=str,
)
def test_metadata_in_a_truncated_webp_is_written_or_a_typed_error(
    settings: dict[str, object],
) -> None:
    sample = part(gradient(8, 6), "WEBP", **settings).data
    for end in range(30, len(sample)):
        for claimed in (sample[4:8], bytes(4)):  # how long the file says it is
            cut = sample[:4] + claimed + sample[8:end]
            if read_header(cut) is None:
                continue
            try:
                result = with_metadata(cut, "a fox")
            except InvalidRequestError as error:
                assert (error.field, error.code) == ("metadata", "BAD_IMAGE")
            else:
                assert read_header(result) == read_header(cut)


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (333, 222)])
def test_an_avif_is_recognized_by_its_bytes(size: tuple[int, int]) -> None:
    result = part(gradient(*size), "AVIF")
    assert (result.mime, result.width, result.height) == ("image/avif", *size)
    assert part(gradient(*size, "RGBA"), "AVIF").mime == "image/avif"


def test_other_box_formats_are_not_avif() -> None:
    data = part(gradient(), "AVIF").data
    assert avif_size(data.replace(b"avif", b"heic")) is None
    assert read_header(data[:60]) is None
    assert avif_size(data.replace(b"ispe", b"free")) == (0, 0)
    assert read_header(data.replace(b"ispe", b"free")) is None


@given(st.data())
@settings(max_examples=max_examples(100), deadline=None)
def test_broken_avif_never_raises(data: st.DataObject) -> None:
    sample = bytearray(AVIF)
    for _ in range(data.draw(st.integers(1, 8))):
        sample[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    read_header(bytes(sample[: data.draw(st.integers(0, len(sample)))]))


AVIF = part(gradient(), "AVIF").data
