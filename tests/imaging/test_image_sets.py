"""Contact sheets, before-after strips, comparisons, masks and derivatives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo.imaging import (
    STANDARD_SET,
    Convert,
    Crop,
    Derivative,
    Recipe,
    Resize,
    Sanitize,
    Text,
    apply,
    before_after,
    compare,
    contact_sheet,
    derive,
    derive_async,
    dhash,
    distance,
    mask_feathered,
    mask_from_alpha,
    mask_inverted,
    mask_rectangle,
    phash,
)
from majordomo.imaging.prepare import mask_for
from majordomo.settings import Limits
from tests.support.hypothesis_effort import max_examples
from tests.support.sample_images import (
    animation,
    four_colors,
    gradient,
    image_with_metadata,
    make_exif,
    noise,
    part,
    pixel_at,
)

RED, LIME, BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
PLAIN = [part(Image.new("RGB", (40, 20), color)) for color in ("red", "lime", "blue")]
BROKEN = md.ImagePart(part(noise()).data[:200])


def test_a_contact_sheet_arranges_images_in_rows() -> None:
    sheet = contact_sheet(PLAIN, columns=2, tile=40, margin=10)
    assert (sheet.width, sheet.height) == (110, 70)  # the rows are as high as the images
    assert [pixel_at(sheet, *point) for point in ((30, 20), (80, 20), (30, 50))] == [
        RED,
        LIME,
        BLUE,
    ]
    assert pixel_at(sheet, 80, 50) == (255, 255, 255)
    mixed = contact_sheet([PLAIN[0], part(Image.new("RGB", (10, 40)))], tile=40, margin=10)
    assert [pixel_at(mixed, 30, 15), pixel_at(mixed, 30, 30)] == [
        (255, 255, 255),
        RED,
    ]  # in the middle of its tile


def test_a_contact_sheet_is_about_square_by_default() -> None:
    assert contact_sheet(PLAIN * 3, tile=20, margin=0).width == 60
    assert contact_sheet(PLAIN, tile=20, margin=0, columns=9).width == 60


def test_captions_are_below_and_cut_off_at_the_tile() -> None:
    plain = contact_sheet(PLAIN, tile=60, columns=3, margin=10)
    captioned = contact_sheet(
        PLAIN,
        ["one", "", "a caption that is far too long for its tile"],
        tile=60,
        columns=3,
        margin=10,
    )
    assert captioned.height > plain.height
    below = captioned.to_pil().crop((0, 41, captioned.width, captioned.height)).convert("L")
    dark = [
        min(below.crop((10 + 70 * n, 0, 70 + 70 * n, below.height)).tobytes()) < 100
        for n in range(3)
    ]
    assert dark == [True, False, True]
    assert min(below.crop((0, 0, 9, below.height)).tobytes()) == 255
    assert min(below.crop((captioned.width - 9, 0, captioned.width, below.height)).tobytes()) == 255


def test_a_contact_sheet_shows_upright_images() -> None:
    turned = part(four_colors(), exif=make_exif(6))
    sheet = contact_sheet(
        [turned, animation("GIF"), part(Image.new("RGBA", (9, 9)))],
        tile=40,
        margin=0,
        columns=3,
        background="#202020",
        format="webp",
    )
    assert sheet.mime == "image/webp"
    assert pixel_at(sheet, 15, 5) == pytest.approx(BLUE, abs=60)
    assert pixel_at(sheet, 100, 20) == pytest.approx((32, 32, 32), abs=4)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"images": []}, "images"),
        ({"images": PLAIN[0]}, "images"),
        ({"images": [PLAIN[0], BROKEN]}, "images[1]"),
        ({"images": ["a.png"]}, "images[0]"),
        ({"images": PLAIN, "captions": ["one"]}, "captions"),
        ({"images": PLAIN, "captions": ["one", 2, "three"]}, "captions[1]"),
        ({"images": PLAIN, "columns": 0}, "columns"),
        ({"images": PLAIN, "tile": 1}, "tile"),
        ({"images": PLAIN * 100, "tile": 4096}, "tile"),
        ({"images": PLAIN, "background": "?"}, "background"),
        ({"images": PLAIN, "format": "gif"}, "format"),
        ({"images": PLAIN, "captions": ["a"] * 3, "font": "/nowhere.ttf"}, "font"),
        ({"images": PLAIN * 200}, "images"),
    ],
)
def test_an_invalid_contact_sheet_names_its_field(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        contact_sheet(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_before_and_after_are_side_by_side() -> None:
    strip = before_after(PLAIN[0], PLAIN[1], ("", ""), margin=10)
    assert (strip.width, strip.height) == (110, 40)
    assert [pixel_at(strip, 30, 20), pixel_at(strip, 80, 20), pixel_at(strip, 55, 20)] == [
        RED,
        LIME,
        (255, 255, 255),
    ]
    labeled = before_after(part(gradient(300, 200)), PLAIN[1], height=100)
    assert labeled.height > 124
    with pytest.raises(md.InvalidRequestError) as caught:
        before_after(PLAIN[0], BROKEN)
    assert (caught.value.field, caught.value.code) == ("after", "BAD_IMAGE")


def test_equal_pixels_compare_as_equal_in_any_format() -> None:
    image = gradient(64, 48)
    same = compare(part(image), part(image, "WEBP", lossless=True))
    assert same.identical
    assert (same.mean_error, same.dhash_distance, same.phash_distance) == (0, 0, 0)


def test_errors_are_fractions_of_the_largest_possible_error() -> None:
    black, white, gray = (
        part(Image.new("RGB", (8, 8), color)) for color in ("black", "white", (51, 51, 51))
    )
    assert compare(black, white).mean_error == 1
    assert compare(black, gray).mean_error == pytest.approx(0.2)
    dot = Image.new("RGB", (10, 10))
    dot.putpixel((0, 0), (255, 255, 255))
    comparison = compare(part(Image.new("RGB", (10, 10))), part(dot))
    assert (comparison.mean_error, comparison.largest_error, comparison.identical) == (
        pytest.approx(0.01),
        1,
        False,
    )


def test_colors_of_transparent_pixels_are_not_compared() -> None:
    a, b = (part(Image.new("RGBA", (4, 4), (level, 0, 0, 0))) for level in (0, 255))
    assert compare(a, b).identical
    assert compare(a, part(Image.new("RGBA", (4, 4), (0, 0, 0, 255)))).mean_error == pytest.approx(
        0.25
    )


def test_hashes_are_near_for_similar_images_only() -> None:
    photo = (
        md.Offline()
        .image_model("renderer")
        .generate_sync("a lighthouse at dusk", size="256x192", seed=3)
        .image
    )
    other = (
        md.Offline()
        .image_model("renderer")
        .generate_sync("a forest in the morning", size="256x192", seed=4)
        .image
    )
    similar = apply(photo, Recipe(Resize(180), Convert("jpeg", 60)))
    for hash_image in (dhash, phash):
        assert 0 <= hash_image(photo) < 2**64
        assert distance(hash_image(photo), hash_image(similar)) <= 6
        assert distance(hash_image(photo), hash_image(other)) >= 14
    comparison = compare(photo, similar)
    assert (
        comparison.same_size,
        comparison.dhash_distance <= 6,
        comparison.phash_distance <= 6,
    ) == (
        False,
        True,
        True,
    )
    assert phash(PLAIN[0]) == phash(PLAIN[0])


def test_a_comparison_names_the_broken_image() -> None:
    for a, b, field in ((BROKEN, PLAIN[0], "a"), (PLAIN[0], BROKEN, "b")):
        with pytest.raises(md.InvalidRequestError) as caught:
            compare(a, b)
        assert (caught.value.field, caught.value.code) == (field, "BAD_IMAGE")


def test_a_mask_from_alpha_is_white_where_it_is_transparent() -> None:
    mask = mask_from_alpha(part(gradient(64, 4, "RGBA"))).to_pil()
    assert (mask.mode, mask.getpixel((0, 0)), mask.getpixel((63, 3))) == ("L", 255, 0)
    with pytest.raises(md.InvalidRequestError) as caught:
        mask_from_alpha(PLAIN[0])
    assert (caught.value.field, caught.value.code) == ("image", "NO_ALPHA")


def test_a_rectangle_mask_is_white_inside() -> None:
    for source in (PLAIN[0], (40, 20)):
        mask = mask_rectangle(source, (10, 5, 30, 15)).to_pil()
        assert (mask.mode, mask.size, mask.getbbox()) == ("L", (40, 20), (10, 5, 30, 15))
        assert set(mask.tobytes()) == {0, 255}
    assert mask_rectangle((40, 20), (-5, -5, 10, 10)).to_pil().getbbox() == (0, 0, 10, 10)
    assert mask_rectangle(part(four_colors(), exif=make_exif(6)), (0, 0, 5, 5)).width == 20


@pytest.mark.parametrize(
    ("image", "box", "field"),
    [
        ((40, 20), (40, 0, 50, 20), "box"),
        ((40, 20), (5, 5, 5, 9), "box"),
        ((40, 20), (1, 2, 3), "box"),
        ((40, 20), (0, 0, 1.5, 3), "box"),
        ((0, 20), (0, 0, 1, 1), "image"),
        ("40x20", (0, 0, 1, 1), "image"),
        ((40_000, 2), (0, 0, 1, 1), "image"),
    ],
)
def test_an_invalid_rectangle_names_its_field(image: object, box: object, field: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        mask_rectangle(image, box)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_mask_is_inverted_and_feathered() -> None:
    mask = mask_rectangle((40, 20), (0, 0, 20, 20))
    assert mask_inverted(mask).to_pil().getbbox() == (20, 0, 40, 20)
    assert mask_inverted(mask_inverted(mask)) == mask
    soft = mask_feathered(mask, 3).to_pil()
    levels = [soft.getpixel((x, 10)) for x in range(40)]
    assert levels == sorted(levels, reverse=True)  # type: ignore[type-var]
    assert 0 < levels[20] < 255  # type: ignore[operator]
    assert mask_feathered(mask, 0) == mask
    assert mask_rectangle((40, 20), (0, 0, 20, 20), feather=3) == mask_feathered(mask, 3)


def test_a_mask_with_transparency_is_refused() -> None:
    for function in (mask_inverted, lambda mask: mask_feathered(mask, 2)):
        with pytest.raises(md.InvalidRequestError) as caught:
            function(part(Image.new("RGBA", (4, 4))))
        assert caught.value.field == "mask"
    assert mask_inverted(part(Image.new("RGBA", (4, 4), "white"))).to_pil().getextrema() == (0, 0)


def test_masks_need_no_conversion_for_backends() -> None:
    mask = mask_rectangle(PLAIN[0], (0, 0, 9, 9), feather=2)
    assert (
        mask_for(mask, (40, 20), "luminance", Limits()).to_pil().tobytes()
        == mask.to_pil().tobytes()
    )


def test_derived_files_have_names_sizes_formats_and_hashes() -> None:
    source = image_with_metadata(gradient(600, 400), "PNG")
    thumbnail, web, original = derive(source, STANDARD_SET, stem="../Büro Foto.png")
    assert [(d.name, d.image.mime, d.image.width) for d in (thumbnail, web, original)] == [
        ("thumbnail", "image/webp", 256),
        ("web", "image/webp", 600),
        ("original", "image/png", 600),
    ]
    assert thumbnail.filename == "Büro_Foto_png-thumbnail.webp"
    assert original.image == apply(source, Sanitize())
    assert thumbnail.sha256 == thumbnail.image.sha256
    described = json.loads(json.dumps(web.to_dict()))
    assert (described["file"], described["width"], described["height"], described["bytes"]) == (
        web.filename,
        600,
        400,
        len(web.image.data),
    )
    assert [note.code for note in web.notes] == ["NOT_ENLARGED"]


def test_derive_decodes_the_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    real = Image.open
    source = part(gradient(200, 100))
    monkeypatch.setattr(
        Image, "open", lambda *args, **rest: (opened.append(1), real(*args, **rest))[1]
    )
    files = derive(
        source,
        [
            Derivative("a", size=50),
            Derivative("b", Text("x")),
            Derivative("c", Crop(aspect="1:1")),
            Derivative("d", Sanitize()),
        ],
    )
    assert len(files) == 4
    assert len(opened) == 1
    assert derive(source, [Derivative("only", Sanitize())])[0].image == apply(source, Sanitize())
    assert len(opened) == 1


def test_notes_of_decoding_are_on_each_derived_file() -> None:
    files = derive(
        animation("PNG"), [Derivative("a", size=5), Derivative("b", size=6), Derivative("c")]
    )
    assert [[note.code for note in d.notes] for d in files] == [
        ["FIRST_FRAME"],
        ["FIRST_FRAME"],
        [],
    ]


STEPS = st.sampled_from(
    [
        Resize(20),
        Text("a"),
        Sanitize(),
        Convert("jpeg"),
        Convert("webp", 50),
        Crop(aspect="1:1"),
        Resize(9, 9, "fill", fast=True),
    ]
)


@given(
    st.lists(st.lists(STEPS, max_size=3), min_size=1, max_size=3),
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
)
@settings(max_examples=max_examples(30), deadline=None)
def test_derived_files_are_deterministic_and_independent(
    recipes: list[list[object]], kind: str
) -> None:
    source = part(gradient(40, 30), kind)
    wanted = [Derivative(f"d{index}", Recipe(*steps)) for index, steps in enumerate(recipes)]  # type: ignore[arg-type]
    first, second = derive(source, wanted), derive(source, list(reversed(wanted)))
    assert [d.sha256 for d in first] == [d.sha256 for d in reversed(second)]


async def test_derive_async_equals_derive() -> None:
    source = part(gradient())
    assert await derive_async(source, STANDARD_SET, stem="a") == derive(
        source, STANDARD_SET, stem="a"
    )


def test_an_error_names_the_derivative() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        derive(PLAIN[0], [Derivative("good", size=5), Derivative("bad", Crop(box=(0, 0, 999, 9)))])
    assert (
        caught.value.field,
        caught.value.details["derivative"],
        caught.value.details["step"],
    ) == ("box", "bad", "steps[0].crop")


@pytest.mark.parametrize("wanted", [[Derivative("a"), Derivative("A")], "abc", [Recipe()], None])
def test_invalid_derivatives_name_their_field(wanted: object) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        derive(PLAIN[0], wanted)  # type: ignore[arg-type]
    assert (caught.value.field or "").startswith("derivatives")


def test_the_fields_of_a_derivative_are_validated_on_construction() -> None:
    for fields, field in (
        ({"size": 0}, "width"),
        ({"format": "gif"}, "format"),
        ({"quality": 3}, "quality"),
        ({"recipe": "strip"}, "recipe"),
    ):
        with pytest.raises(md.InvalidRequestError) as caught:
            Derivative("a", **fields)  # type: ignore[arg-type]
        assert caught.value.field == field
