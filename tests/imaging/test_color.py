"""Colors keep their appearance: profiles, CMYK, sixteen bits, palettes, animations."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageCms

import majordomo as md
from majordomo.imaging import (
    Convert,
    Recipe,
    Resize,
    Sanitize,
    Text,
    apply,
    apply_with_notes,
    compare,
)
from tests.support.sample_images import SRGB, animation, gradient, noise, part, pixel_at, png_chunk

XYZ = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


def wide_gamut() -> bytes:
    """Return sRGB with red and blue swapped: a profile with an obvious effect."""
    profile = bytearray(SRGB)
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def gray_profile() -> bytes:
    """Return a gray profile of gamma 1.0 (ICC.1:2010): header, wtpt, kTRC, desc, cprt."""
    white = b"XYZ \0\0\0\0" + bytes.fromhex("0000f6d6000100000000d32d")
    curve = b"curv\0\0\0\0\0\0\0\0"
    text = b"desc\0\0\0\0\0\0\0\5grey\0" + bytes(78 + 3)
    rights = b"text\0\0\0\0none\0\0\0\0"
    tags, body, offset = b"", b"", 128 + 4 + 12 * 4
    for name, value in ((b"wtpt", white), (b"kTRC", curve), (b"desc", text), (b"cprt", rights)):
        tags += name + offset.to_bytes(4, "big") + len(value).to_bytes(4, "big")
        padded = value + bytes(-len(value) % 4)
        body, offset = body + padded, offset + len(padded)
    head = (
        offset.to_bytes(4, "big")
        + b"lcms"
        + b"\2\x10\0\0mntrGRAYXYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
        + bytes.fromhex("0000f6d6000100000000d32d")
        + bytes(48)
    )
    return head + (4).to_bytes(4, "big") + tags + body


def codes(original: md.ImagePart, *steps: object) -> list[str]:
    return [note.code for note in apply_with_notes(original, Recipe(*steps)).notes]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "avif"])
def test_a_color_profile_is_kept(kind: str) -> None:
    original = part(gradient(), icc_profile=wide_gamut())
    result = apply(original, Recipe(Resize(20), Convert(kind)))  # type: ignore[arg-type]
    assert result.to_pil().info["icc_profile"] == wide_gamut()


def test_conversion_to_srgb_changes_values_but_not_the_appearance() -> None:
    original = part(Image.new("RGB", (8, 8), (250, 10, 10)), icc_profile=wide_gamut())
    result = apply_with_notes(original, Convert("png", colors="srgb"))
    assert "icc_profile" not in result.image.to_pil().info
    assert pixel_at(result.image, 4, 4) == pytest.approx((10, 10, 250), abs=12)
    assert [note.code for note in result.notes] == ["COLORS_CONVERTED"]
    assert compare(original, result.image).mean_error < 0.01


def test_conversion_to_srgb_keeps_alpha() -> None:
    result = apply(
        part(gradient(mode="RGBA"), icc_profile=wide_gamut()), Convert("png", colors="srgb")
    )
    assert (
        result.to_pil().getchannel("A").tobytes() == gradient(mode="RGBA").getchannel("A").tobytes()
    )


def test_a_broken_profile_is_removed_with_a_note() -> None:
    original = part(gradient(), icc_profile=b"no profile at all")
    result = apply_with_notes(original, Resize(20))
    assert "icc_profile" not in result.image.to_pil().info
    assert [note.code for note in result.notes] == ["PROFILE_DROPPED"]


def test_a_removed_profile_is_not_added_again() -> None:
    original = part(gradient(), icc_profile=wide_gamut())
    assert (
        "icc_profile" not in apply(original, Recipe(Sanitize(icc=False), Resize(20))).to_pil().info
    )
    assert (
        "icc_profile" not in apply(original, Recipe(Resize(20), Sanitize(icc=False))).to_pil().info
    )


def test_a_gray_profile_is_kept_for_gray_and_applied_for_color() -> None:
    original = part(
        Image.new("L", (40, 40), 55), icc_profile=gray_profile()
    )  # 55 linear is 128 in sRGB
    small = apply(original, Resize(20)).to_pil()
    assert (small.mode, small.info["icc_profile"]) == ("L", gray_profile())
    result = apply_with_notes(original, Text("a", color="red"))
    assert result.image.to_pil().mode == "RGB"
    assert pixel_at(result.image, 0, 0) == pytest.approx((128, 128, 128), abs=6)
    assert [note.code for note in result.notes] == ["COLORS_CONVERTED"]


def test_cmyk_is_converted_to_rgb_with_a_note() -> None:
    original = part(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    for kind in ("png", "webp"):
        result = apply_with_notes(original, Convert(kind))  # type: ignore[arg-type]
        assert pixel_at(result.image, 8, 8) == pytest.approx((255, 0, 0), abs=8)
        assert [note.code for note in result.notes] == ["COLORS_CONVERTED"]
    assert apply(original, Resize(8)).to_pil().mode == "RGB"
    assert apply(original, Convert("jpeg", colors="srgb")).to_pil().mode == "RGB"


def test_an_rgb_profile_on_cmyk_is_ignored() -> None:
    assert codes(part(Image.new("CMYK", (16, 16)), "JPEG", icc_profile=SRGB), Resize(8)) == [
        "COLORS_CONVERTED"
    ]


def test_sixteen_bits_are_reduced_to_eight_with_a_note() -> None:
    image = Image.new("I;16", (4, 4), 257 * 100)
    result = apply_with_notes(part(image), Convert("webp", lossless=True))
    assert pixel_at(result.image, 0, 0) == (100, 100, 100)
    assert [note.code for note in result.notes] == ["EIGHT_BITS"]
    assert part(image) == apply(part(image), Sanitize())  # what changes no pixel keeps all bits


def png(color_type: int, rows: bytes, *chunks: bytes) -> md.ImagePart:
    """Return a PNG of 2x1 pixels with sixteen bits a channel."""
    import zlib

    head = png_chunk(b"IHDR", bytes((0, 0, 0, 2, 0, 0, 0, 1, 16, color_type, 0, 0, 0)))
    return md.ImagePart(
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(b"\0" + rows))
        + png_chunk(b"IEND", b"")
    )


def test_sixteen_bit_color_keeps_its_transparent_color() -> None:
    original = png(
        2,
        bytes.fromhex("ff00 8000 0100 1234 5678 9abc"),
        png_chunk(b"tRNS", bytes.fromhex("1234 5678 9abc")),
    )
    result = apply_with_notes(original, Convert("webp", lossless=True))
    image = result.image.to_pil()
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (255, 128, 1, 255)
    assert image.getpixel((1, 0))[3] == 0  # type: ignore[index]
    assert "EIGHT_BITS" in [note.code for note in result.notes]


def test_sixteen_bit_gray_keeps_its_transparent_level() -> None:
    original = png(0, bytes.fromhex("8080 1234"), png_chunk(b"tRNS", bytes.fromhex("1234")))
    image = apply(original, Convert("webp", lossless=True)).to_pil()
    assert image.getpixel((0, 0)) == (128, 128, 128, 255)
    assert image.getpixel((1, 0))[3] == 0  # type: ignore[index]


def test_a_palette_keeps_its_transparency() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 4, 8))
    original = part(image, transparency=0)
    result = apply(original, Convert("webp", lossless=True)).to_pil()
    assert result.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert result.getpixel((7, 7)) == (0, 0, 255, 255)
    soft = part(image, transparency=bytes([128, 255]))
    assert apply(soft, Resize(4)).to_pil().getpixel((0, 0)) == pytest.approx(
        (255, 0, 0, 128), abs=3
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_keeps_its_appearance(mode: str) -> None:
    image = noise(32, 32, mode="RGBA").convert("RGB").convert(mode)
    original = part(image)
    result = apply(original, Resize(32, 31, "exact"))
    assert result.to_pil().mode in ("L", "RGB", "RGBA")
    assert compare(original, apply(original, Convert("webp", lossless=True))).identical
    assert result.height == 31


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_a_changed_animation_keeps_its_first_frame_with_a_note(kind: str) -> None:
    original = animation(kind)
    result = apply_with_notes(original, Recipe(Resize(10), Convert("png")))
    assert pixel_at(result.image, 5, 2) == pytest.approx((255, 0, 0), abs=12)
    assert "FIRST_FRAME" in [note.code for note in result.notes]
    assert not getattr(Image.open(io.BytesIO(result.image.data)), "is_animated", False)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_unchanged_animation_stays_animated(kind: str) -> None:
    original = animation(kind)
    assert apply(original, Recipe(Resize(100), Convert(kind.lower()))) is original  # type: ignore[arg-type]
    assert apply_with_notes(original, Convert(kind.lower())).notes == ()  # type: ignore[arg-type]


def test_a_profile_of_another_color_space_is_not_added() -> None:
    assert "icc_profile" not in apply(part(gradient(), icc_profile=XYZ), Resize(20)).to_pil().info
