"""Colors stay what they were meant to be: profiles, inks, sixteen bits, palettes, animations."""

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
from tests.support.sample_images import SRGB, animation, at, gradient, noisy, part, png_chunk

XYZ = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


def wide_gamut() -> bytes:
    """sRGB with red and blue swapped: a profile whose effect cannot be overlooked."""
    profile = bytearray(SRGB)
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def gray_profile() -> bytes:
    """A gray profile of gamma 1.0, built by hand (ICC.1:2010): header, wtpt, kTRC, desc, cprt."""
    white = b"XYZ \0\0\0\0" + bytes.fromhex("0000f6d6000100000000d32d")
    curve = b"curv\0\0\0\0\0\0\0\0"
    text = b"desc\0\0\0\0\0\0\0\5grey\0" + bytes(78 + 3)
    rights = b"text\0\0\0\0none\0\0\0\0"
    tags, body, at_ = b"", b"", 128 + 4 + 12 * 4
    for name, piece in ((b"wtpt", white), (b"kTRC", curve), (b"desc", text), (b"cprt", rights)):
        tags += name + at_.to_bytes(4, "big") + len(piece).to_bytes(4, "big")
        padded = piece + bytes(-len(piece) % 4)
        body, at_ = body + padded, at_ + len(padded)
    head = (
        at_.to_bytes(4, "big")
        + b"lcms"
        + b"\2\x10\0\0mntrGRAYXYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
        + bytes.fromhex("0000f6d6000100000000d32d")
        + bytes(48)
    )
    return head + (4).to_bytes(4, "big") + tags + body


def codes(given: md.ImagePart, *steps: object) -> list[str]:
    return [note.code for note in apply_with_notes(given, Recipe(*steps)).notes]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "avif"])
def test_a_profile_goes_along(kind: str) -> None:
    given = part(gradient(), icc_profile=wide_gamut())
    made = apply(given, Recipe(Resize(20), Convert(kind)))  # type: ignore[arg-type]
    assert made.to_pil().info["icc_profile"] == wide_gamut()


def test_srgb_moves_the_numbers_and_leaves_the_look() -> None:
    given = part(Image.new("RGB", (8, 8), (250, 10, 10)), icc_profile=wide_gamut())
    made = apply_with_notes(given, Convert("png", colors="srgb"))
    assert "icc_profile" not in made.image.to_pil().info
    assert at(made.image, 4, 4) == pytest.approx((10, 10, 250), abs=12)
    assert [note.code for note in made.notes] == ["COLORS_CONVERTED"]
    assert compare(given, made.image).mean_error < 0.01


def test_alpha_stays_when_colors_move() -> None:
    made = apply(
        part(gradient(mode="RGBA"), icc_profile=wide_gamut()), Convert("png", colors="srgb")
    )
    assert (
        made.to_pil().getchannel("A").tobytes() == gradient(mode="RGBA").getchannel("A").tobytes()
    )


def test_a_broken_profile_is_left_out_and_that_is_said() -> None:
    given = part(gradient(), icc_profile=b"no profile at all")
    made = apply_with_notes(given, Resize(20))
    assert "icc_profile" not in made.image.to_pil().info
    assert [note.code for note in made.notes] == ["PROFILE_DROPPED"]


def test_a_dropped_profile_stays_dropped() -> None:
    given = part(gradient(), icc_profile=wide_gamut())
    assert "icc_profile" not in apply(given, Recipe(Sanitize(icc=False), Resize(20))).to_pil().info
    assert "icc_profile" not in apply(given, Recipe(Resize(20), Sanitize(icc=False))).to_pil().info


def test_a_gray_profile_stays_on_grays_and_is_gone_through_for_colors() -> None:
    given = part(
        Image.new("L", (40, 40), 55), icc_profile=gray_profile()
    )  # 55 linear is 128 in sRGB
    small = apply(given, Resize(20)).to_pil()
    assert (small.mode, small.info["icc_profile"]) == ("L", gray_profile())
    made = apply_with_notes(given, Text("a", color="red"))
    assert made.image.to_pil().mode == "RGB"
    assert at(made.image, 0, 0) == pytest.approx((128, 128, 128), abs=6)
    assert [note.code for note in made.notes] == ["COLORS_CONVERTED"]


def test_inks_become_light() -> None:
    given = part(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    for kind in ("png", "webp"):
        made = apply_with_notes(given, Convert(kind))  # type: ignore[arg-type]
        assert at(made.image, 8, 8) == pytest.approx((255, 0, 0), abs=8)
        assert [note.code for note in made.notes] == ["COLORS_CONVERTED"]
    assert apply(given, Resize(8)).to_pil().mode == "RGB"
    assert apply(given, Convert("jpeg", colors="srgb")).to_pil().mode == "RGB"


def test_an_unsuitable_profile_on_inks_does_no_harm() -> None:
    assert codes(part(Image.new("CMYK", (16, 16)), "JPEG", icc_profile=SRGB), Resize(8)) == [
        "COLORS_CONVERTED"
    ]


def test_sixteen_bits_become_eight_and_that_is_said() -> None:
    image = Image.new("I;16", (4, 4), 257 * 100)
    made = apply_with_notes(part(image), Convert("webp", lossless=True))
    assert at(made.image, 0, 0) == (100, 100, 100)
    assert [note.code for note in made.notes] == ["EIGHT_BITS"]
    assert part(image) == apply(part(image), Sanitize())  # what changes no pixel keeps all bits


def png(color_type: int, rows: bytes, *chunks: bytes) -> md.ImagePart:
    """A PNG of 2x1 pixels and sixteen bits a channel."""
    import zlib

    head = png_chunk(b"IHDR", bytes((0, 0, 0, 2, 0, 0, 0, 1, 16, color_type, 0, 0, 0)))
    return md.ImagePart(
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(b"\0" + rows))
        + png_chunk(b"IEND", b"")
    )


def test_sixteen_bits_of_color_become_eight_with_their_transparent_one() -> None:
    given = png(
        2,
        bytes.fromhex("ff00 8000 0100 1234 5678 9abc"),
        png_chunk(b"tRNS", bytes.fromhex("1234 5678 9abc")),
    )
    made = apply_with_notes(given, Convert("webp", lossless=True))
    image = made.image.to_pil()
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (255, 128, 1, 255)
    assert image.getpixel((1, 0))[3] == 0  # type: ignore[index]
    assert "EIGHT_BITS" in [note.code for note in made.notes]


def test_sixteen_bit_grays_keep_their_transparent_one() -> None:
    given = png(0, bytes.fromhex("8080 1234"), png_chunk(b"tRNS", bytes.fromhex("1234")))
    image = apply(given, Convert("webp", lossless=True)).to_pil()
    assert image.getpixel((0, 0)) == (128, 128, 128, 255)
    assert image.getpixel((1, 0))[3] == 0  # type: ignore[index]


def test_a_palette_keeps_its_transparency() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 4, 8))
    given = part(image, transparency=0)
    made = apply(given, Convert("webp", lossless=True)).to_pil()
    assert made.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert made.getpixel((7, 7)) == (0, 0, 255, 255)
    soft = part(image, transparency=bytes([128, 255]))
    assert apply(soft, Resize(4)).to_pil().getpixel((0, 0)) == pytest.approx(
        (255, 0, 0, 128), abs=3
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_looks_the_same_after_a_change(mode: str) -> None:
    image = noisy(32, 32, mode="RGBA").convert("RGB").convert(mode)
    given = part(image)
    made = apply(given, Resize(32, 31, "exact"))
    assert made.to_pil().mode in ("L", "RGB", "RGBA")
    assert compare(given, apply(given, Convert("webp", lossless=True))).identical
    assert made.height == 31


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_of_an_animation_that_changes_the_first_image_is_left_and_that_is_said(kind: str) -> None:
    given = animation(kind)
    made = apply_with_notes(given, Recipe(Resize(10), Convert("png")))
    assert at(made.image, 5, 2) == pytest.approx((255, 0, 0), abs=12)
    assert "FIRST_FRAME" in [note.code for note in made.notes]
    assert not getattr(Image.open(io.BytesIO(made.image.data)), "is_animated", False)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_that_does_not_change_stays_one(kind: str) -> None:
    given = animation(kind)
    assert apply(given, Recipe(Resize(100), Convert(kind.lower()))) is given  # type: ignore[arg-type]
    assert apply_with_notes(given, Convert(kind.lower())).notes == ()  # type: ignore[arg-type]


def test_a_profile_of_another_space_is_not_put_on_the_image() -> None:
    assert "icc_profile" not in apply(part(gradient(), icc_profile=XYZ), Resize(20)).to_pil().info
