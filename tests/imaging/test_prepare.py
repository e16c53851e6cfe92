from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

import majordomo as md
from majordomo.imaging.prepare import mask_for, rgb_png
from majordomo.settings import Limits
from tests.support.sample_images import part

MakeImage = Callable[..., md.ImagePart]
LIMITS = Limits()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    converted = rgb_png(
        part(
            Image.new("L", (8, 4), 255).convert(mode)
            if mode != "I;16"
            else Image.new("I;16", (8, 4), 65535)
        ),
        LIMITS,
    )
    image = converted.to_pil()
    assert (converted.mime, image.mode, image.size) == ("image/png", "RGB", (8, 4))
    assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_any_format_becomes_png(image: MakeImage, kind: str) -> None:
    assert rgb_png(image(8, 8, "white", kind=kind), LIMITS).mime == "image/png"


def test_an_rgb_png_is_not_changed(image: MakeImage) -> None:
    original = image()
    assert rgb_png(original, LIMITS) is original


def test_transparency_becomes_white(image: MakeImage) -> None:
    assert rgb_png(image(4, 4, (0, 0, 0, 0), mode="RGBA"), LIMITS).to_pil().getpixel((0, 0)) == (
        255,
        255,
        255,
    )
    palette = Image.new("P", (4, 4))
    palette.putpalette([0, 0, 0])
    assert rgb_png(part(palette, transparency=0), LIMITS).to_pil().getpixel((0, 0)) == (
        255,
        255,
        255,
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_exif_orientation_is_applied(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    converted = rgb_png(part(Image.new("RGB", (8, 4)), kind, exif=exif), LIMITS)
    assert (converted.width, converted.height) == (4, 8)


def test_sixteen_bit_gray_levels_are_scaled() -> None:
    converted = rgb_png(part(Image.new("I;16", (2, 2), 257 * 100)), LIMITS)
    assert converted.to_pil().getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_mask_is_converted_to_luminance_or_alpha(mode: str) -> None:
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (4, 0, 8, 8))
    gray = mask_for(part(mask.convert(mode)), (16, 16), "luminance", LIMITS).to_pil()
    assert (gray.mode, gray.size, gray.getpixel((0, 0)), gray.getpixel((15, 0))) == (
        "L",
        (16, 16),
        0,
        255,
    )
    transparent = mask_for(part(mask.convert(mode)), (8, 8), "alpha", LIMITS).to_pil()
    assert (transparent.mode, transparent.getpixel((0, 0))[3], transparent.getpixel((7, 0))[3]) == (
        "RGBA",
        255,
        0,
    )


def test_an_invalid_mask_names_its_field(image: MakeImage) -> None:
    broken = md.ImagePart(image(8, 8).data[:45])
    for mask in (broken, image(8, 4), image(8, 8, (0, 0, 0, 9), mode="RGBA")):
        with pytest.raises(md.InvalidRequestError) as caught:
            mask_for(mask, (8, 8), "luminance", LIMITS)
        assert caught.value.field == "mask"
    with pytest.raises(md.InvalidRequestError) as caught:
        rgb_png(md.ImagePart(image(8, 8, mode="L", color=3).data[:45]), LIMITS)
    assert caught.value.field == "images"


def test_an_opaque_mask_with_alpha_is_accepted(image: MakeImage) -> None:
    assert (
        mask_for(image(8, 8, (255, 255, 255, 255), mode="RGBA"), (8, 8), "luminance", LIMITS)
        .to_pil()
        .getpixel((0, 0))
        == 255
    )
