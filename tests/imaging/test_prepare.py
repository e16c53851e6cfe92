from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

import majordomo as md
from majordomo.imaging.prepare import mask_for, rgb_png
from majordomo.settings import Limits

Picture = Callable[..., md.ImagePart]
LIMITS = Limits()


def part(image: Image.Image, kind: str = "PNG", **settings: object) -> md.ImagePart:
    held = io.BytesIO()
    image.save(held, kind, **settings)
    return md.ImagePart(held.getvalue())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    made = rgb_png(
        part(
            Image.new("L", (8, 4), 255).convert(mode)
            if mode != "I;16"
            else Image.new("I;16", (8, 4), 65535)
        ),
        LIMITS,
    )
    image = made.to_pil()
    assert (made.mime, image.mode, image.size) == ("image/png", "RGB", (8, 4))
    assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_any_kind_becomes_png(image: Picture, kind: str) -> None:
    assert rgb_png(image(8, 8, "white", kind=kind), LIMITS).mime == "image/png"


def test_what_is_right_already_stays_as_it_is(image: Picture) -> None:
    given = image()
    assert rgb_png(given, LIMITS) is given


def test_transparency_becomes_white(image: Picture) -> None:
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
def test_an_image_is_turned_as_its_camera_held_it(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    made = rgb_png(part(Image.new("RGB", (8, 4)), kind, exif=exif), LIMITS)
    assert (made.width, made.height) == (4, 8)


def test_sixteen_bits_keep_their_grays() -> None:
    made = rgb_png(part(Image.new("I;16", (2, 2), 257 * 100)), LIMITS)
    assert made.to_pil().getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_mask_is_white_where_it_repaints(mode: str) -> None:
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (4, 0, 8, 8))
    gray = mask_for(part(mask.convert(mode)), (16, 16), "luminance", LIMITS).to_pil()
    assert (gray.mode, gray.size, gray.getpixel((0, 0)), gray.getpixel((15, 0))) == (
        "L",
        (16, 16),
        0,
        255,
    )
    hole = mask_for(part(mask.convert(mode)), (8, 8), "alpha", LIMITS).to_pil()
    assert (hole.mode, hole.getpixel((0, 0))[3], hole.getpixel((7, 0))[3]) == ("RGBA", 255, 0)


def test_a_mask_that_is_none_names_its_field(image: Picture) -> None:
    broken = md.ImagePart(image(8, 8).data[:45])
    for mask in (broken, image(8, 4), image(8, 8, (0, 0, 0, 9), mode="RGBA")):
        with pytest.raises(md.InvalidRequestError) as caught:
            mask_for(mask, (8, 8), "luminance", LIMITS)
        assert caught.value.field == "mask"
    with pytest.raises(md.InvalidRequestError) as caught:
        rgb_png(md.ImagePart(image(8, 8, mode="L", color=3).data[:45]), LIMITS)
    assert caught.value.field == "images"


def test_an_opaque_alpha_says_nothing(image: Picture) -> None:
    assert (
        mask_for(image(8, 8, (255, 255, 255, 255), mode="RGBA"), (8, 8), "luminance", LIMITS)
        .to_pil()
        .getpixel((0, 0))
        == 255
    )
