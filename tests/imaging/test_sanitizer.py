from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

import majordomo as md
from majordomo import imaging
from majordomo.imaging import Sanitize, apply, apply_with_notes
from majordomo.imaging.sanitizer import strip_metadata
from majordomo.media.image_containers import build_webp, jpeg_segments, png_chunks, webp_chunks
from tests.support.hypothesis_effort import max_examples
from tests.support.sample_images import (
    SECRET,
    SRGB,
    animation,
    four_colors,
    gradient,
    image_with_metadata,
    make_exif,
    noise,
    part,
    pixel_at,
    png_chunk,
    rgba_bytes,
)

KINDS = ["PNG", "JPEG", "WEBP"]


def leftovers(image: md.ImagePart) -> set[str]:
    """What Pillow finds in the file besides the image."""
    info = dict(Image.open(io.BytesIO(image.data)).info)
    plain = {
        "icc_profile",
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "progressive",
        "progression",
        "version",
        "loop",
        "background",
        "timestamp",
        "duration",
        "transparency",
    }
    return set(info) - plain


@pytest.mark.parametrize("kind", KINDS)
def test_sanitize_removes_everything_but_the_image_and_its_profile(kind: str) -> None:
    original = image_with_metadata(gradient(), kind)
    assert SECRET in original.data
    result = apply(original, Sanitize())
    assert SECRET not in result.data
    assert b"a fox" not in result.data
    assert "a fox".encode("utf-16-be") not in result.data
    assert leftovers(result) == set()
    if kind == "WEBP":
        assert result.data[12:16] == b"VP8X"
        assert result.data[20] & 0x0C == 0  # it announces neither EXIF nor XMP
    assert result.to_pil().info["icc_profile"] == SRGB
    assert rgba_bytes(result) == rgba_bytes(original)
    assert result.parameters == {}


@pytest.mark.parametrize("kind", KINDS)
def test_sanitize_can_remove_the_color_profile(kind: str) -> None:
    result = apply(image_with_metadata(gradient(), kind), Sanitize(icc=False))
    assert "icc_profile" not in result.to_pil().info
    assert b"ICC" not in result.data


@pytest.mark.parametrize("kind", KINDS)
def test_sanitize_can_keep_the_generation_parameters(kind: str) -> None:
    original = image_with_metadata(gradient(), kind)
    assert original.parameters["seed"] == 5
    result = apply(original, Sanitize(parameters=True))
    assert result.parameters == original.parameters
    assert SECRET not in result.data
    assert rgba_bytes(result) == rgba_bytes(original)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_rotated_image_stays_upright(kind: str, orientation: int) -> None:
    original = image_with_metadata(four_colors(), kind, orientation)
    upright = apply(original, imaging.Orient())
    kept = apply(original, Sanitize())
    assert rgba_bytes(kept) == rgba_bytes(original)
    assert dict(kept.to_pil().getexif()) == {0x0112: orientation}
    assert SECRET not in kept.data
    assert rgba_bytes(apply(kept, imaging.Orient())) == rgba_bytes(upright)
    turned = apply_with_notes(original, Sanitize(orientation="apply"))
    assert dict(turned.image.to_pil().getexif()) == {}
    assert rgba_bytes(turned.image) == rgba_bytes(upright)
    assert [note.code for note in turned.notes] == (["RE_ENCODED"] if kind == "JPEG" else [])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_an_animation_keeps_its_frames(kind: str) -> None:
    original = animation(kind)
    result = apply(md.ImagePart(original.data + b"<html>"), Sanitize())
    frames = [
        [
            frame.convert("RGB").tobytes()
            for frame in ImageSequence.Iterator(Image.open(io.BytesIO(p.data)))
        ]
        for p in (original, result)
    ]
    assert len(frames[1]) == 3
    assert frames[0] == frames[1]
    assert Image.open(io.BytesIO(result.data)).info["loop"] == 0
    assert b"<html>" not in result.data


def test_the_comment_of_a_gif_is_removed() -> None:
    original = part(gradient(mode="P"), "GIF", comment=SECRET)
    assert SECRET in original.data
    result = apply(original, Sanitize())
    assert SECRET not in result.data
    assert rgba_bytes(result) == rgba_bytes(original)


def test_a_progressive_jpeg_keeps_all_its_scans() -> None:
    original = part(
        gradient(200, 200), "JPEG", progressive=True, comment=SECRET, restart_marker_blocks=3
    )
    result = apply(original, Sanitize())
    assert rgba_bytes(result) == rgba_bytes(original)
    assert SECRET not in result.data


def test_a_jfif_thumbnail_is_removed_and_the_pixel_ratio_is_kept() -> None:
    data = part(gradient(), "JPEG").data
    assert data[6:10] == b"JFIF"
    thumbnail = bytes(3 * 4 * 4)
    head = (
        b"\xff\xd8\xff\xe0"
        + (16 + len(thumbnail)).to_bytes(2, "big")
        + b"JFIF\0\1\1\0\0\2\0\1\4\4"
        + thumbnail
    )
    result = strip_metadata(head + data[20:])
    assert result[:20] == b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\2\0\1\0\0"
    assert md.ImagePart(result).to_pil().tobytes() == md.ImagePart(data).to_pil().tobytes()


def test_a_comment_between_two_scans_is_removed() -> None:
    data = part(gradient(), "JPEG", progressive=True).data
    second = [start for marker, start, _ in jpeg_segments(data) if marker == 0xDA][1]
    comment = b"\xff\xff\xfe" + (2 + len(SECRET)).to_bytes(2, "big") + SECRET  # behind a fill byte
    result = strip_metadata(data[:second] + comment + data[second:])
    assert SECRET not in result
    assert rgba_bytes(md.ImagePart(result)) == rgba_bytes(md.ImagePart(data))


def test_unknown_chunks_in_webp_frames_are_removed() -> None:
    original = animation("WEBP")
    chunks = []
    for kind, start, end in webp_chunks(original.data):
        body = original.data[start:end]
        if kind == b"ANMF":
            body += b"hide" + len(SECRET).to_bytes(4, "little") + SECRET
        chunks.append((kind, body))
    hidden = build_webp(chunks)
    assert md.ImagePart(hidden).to_pil().n_frames == 3  # type: ignore[attr-defined]
    assert SECRET not in strip_metadata(hidden)
    assert strip_metadata(hidden) == strip_metadata(original.data)


def test_an_avif_is_re_encoded_with_a_note() -> None:
    original = part(gradient(), "AVIF", exif=make_exif().tobytes())
    result = apply_with_notes(original, Sanitize())
    assert SECRET in original.data
    assert SECRET not in result.image.data
    assert (result.image.mime, [note.code for note in result.notes]) == (
        "image/avif",
        ["RE_ENCODED"],
    )


@pytest.mark.parametrize("kind", [*KINDS, "GIF"])
@pytest.mark.parametrize("lost", [2, 20, 0.5])
def test_a_truncated_file_raises_an_error(kind: str, lost: float) -> None:
    data = part(noise(), kind).data
    cut = data[: int(len(data) * lost) if lost < 1 else len(data) - int(lost)]
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(md.ImagePart(cut), Sanitize())
    assert (caught.value.field, caught.value.code) == ("image", "BAD_IMAGE")


def test_sanitize_is_idempotent_and_adds_no_notes() -> None:
    for kind in KINDS:
        once = apply_with_notes(image_with_metadata(gradient(), kind), Sanitize())
        assert once.notes == ()
        assert apply(once.image, Sanitize()).data == once.image.data


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["L", "P"],
}


@given(st.data(), st.binary(max_size=60).map(lambda tail: b"\x7fS3CR\x81T" + tail))
@settings(max_examples=max_examples(60), deadline=None)
def test_pixels_are_unchanged_and_hidden_bytes_are_removed(
    data: st.DataObject, secret: bytes
) -> None:
    kind = data.draw(st.sampled_from(sorted(MODES)))
    mode = data.draw(st.sampled_from(MODES[kind]))
    width, height = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    image = (
        noise(width, height, data.draw(st.integers(0, 99)), "RGBA")
        .convert("RGB" if mode in ("CMYK", "P", "1") else "RGBA")
        .convert(mode)
    )
    plain = part(image, kind)
    hidden = plain.data + secret
    if kind == "PNG":
        index = data.draw(st.integers(0, sum(1 for _ in png_chunks(plain.data)) - 2))
        offset = 8 + sum(12 + len(body) for _, body in list(png_chunks(plain.data))[: index + 1])
        hidden = (
            plain.data[:offset]
            + png_chunk(data.draw(st.sampled_from([b"tEXt", b"eXIf", b"zzZz", b"tIME"])), secret)
            + plain.data[offset:]
        )
    elif kind == "JPEG":
        marker = data.draw(st.sampled_from([0xE1, 0xE3, 0xED, 0xEF, 0xFE]))
        hidden = (
            plain.data[:2]
            + bytes((0xFF, marker))
            + (len(secret) + 2).to_bytes(2, "big")
            + secret
            + plain.data[2:]
        )
    result = apply(md.ImagePart(hidden), Sanitize())
    assert rgba_bytes(result) == rgba_bytes(plain)
    assert result.to_pil().mode == plain.to_pil().mode
    assert secret not in result.data
    assert leftovers(result) - {"adobe", "adobe_transform"} == set()


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]), st.data())
@settings(max_examples=max_examples(80), deadline=None)
def test_broken_bytes_are_a_typed_error_or_a_sanitized_file(kind: str, data: st.DataObject) -> None:
    mutated = bytearray(
        image_with_metadata(gradient(16, 12, "L"), kind).data
        if kind != "GIF"
        else part(gradient(16, 12, "P"), kind).data
    )
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(4, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = apply(md.ImagePart(bytes(mutated)), Sanitize())
    except md.InvalidRequestError as error:
        assert error.code in ("BAD_IMAGE", "NOT_AN_IMAGE", "IMAGE_TOO_LARGE")
    else:
        assert isinstance(result, md.ImagePart)


def test_an_image_of_one_pixel_is_sanitized() -> None:
    assert pixel_at(apply(part(Image.new("RGB", (1, 1), "red")), Sanitize()), 0, 0) == (255, 0, 0)
