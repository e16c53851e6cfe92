"""Orientation, resizing and cropping, checked pixel by pixel where possible."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import majordomo as md
from majordomo.imaging import (
    Convert,
    Crop,
    Orient,
    Recipe,
    Resize,
    apply,
    apply_with_notes,
    compare,
)
from tests.support.hypothesis_effort import max_examples
from tests.support.sample_images import (
    four_colors,
    gradient,
    make_exif,
    noise,
    part,
    pixel_at,
    rgba_bytes,
)

RED, LIME, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_orient_applies_the_exif_orientation(orientation: int, kind: str) -> None:
    original = part(four_colors(), kind, exif=make_exif(orientation), lossless=True)
    expected = ImageOps.exif_transpose(original.to_pil())
    result = apply(original, Orient())
    assert result.to_pil().tobytes() == expected.tobytes()
    assert (result.width, result.height) == expected.size
    assert dict(result.to_pil().getexif()).get(0x0112, 1) == 1


def test_orient_applies_the_orientation_of_an_avif() -> None:
    original = part(four_colors(), "AVIF", exif=make_exif(6).tobytes(), quality=100)
    result = apply(original, Recipe(Orient(), Convert("png")))
    assert (result.width, result.height) == (20, 40)


def test_an_upright_image_is_not_changed() -> None:
    original = part(four_colors(), "JPEG")
    assert apply(original, Orient()) is original


@pytest.mark.parametrize(("turn", "first"), [(90, BLUE), (180, WHITE), (270, LIME)])
def test_orient_rotates_clockwise(turn: int, first: object) -> None:
    result = apply(part(four_colors()), Orient(turn))
    assert pixel_at(result, 0, 0) == first
    assert (result.width, result.height) == ((40, 20) if turn == 180 else (20, 40))


def test_orient_mirrors() -> None:
    assert pixel_at(apply(part(four_colors()), Orient(mirror=True)), 0, 0) == LIME


def test_steps_use_the_upright_image() -> None:
    original = part(
        four_colors(), exif=make_exif(6)
    )  # rotated clockwise, so that blue is at the top left
    result = apply(original, Crop(box=(0, 0, 5, 5)))
    assert pixel_at(result, 0, 0) == BLUE
    assert (lambda p: (p.width, p.height))(apply(original, Resize(10, 10))) == (5, 10)


@pytest.mark.parametrize(
    ("step", "size"),
    [
        (Resize(20, 20), (20, 10)),
        (Resize(20), (20, 10)),
        (Resize(height=5), (10, 5)),
        (Resize(20, how="long_side"), (20, 10)),
        (Resize(10, 10, "fill"), (10, 10)),
        (Resize(7, 13, "exact"), (7, 13)),
        (Resize(80, 80, enlarge=True), (80, 40)),
        (Resize(80, 80, "fill", enlarge=True), (80, 80)),
        (Resize(80, 5, "exact", enlarge=True), (80, 5)),
        (Resize(100, how="long_side", enlarge=True), (100, 50)),
        (Resize(1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_a_resize_gives_the_requested_size(step: Resize, size: tuple[int, int], fast: bool) -> None:
    result = apply_with_notes(part(four_colors()), replace(step, fast=fast))
    assert (result.image.width, result.image.height) == size
    assert result.notes == ()


@pytest.mark.parametrize(
    ("step", "size"),
    [
        (Resize(80, 80), (40, 20)),
        (Resize(100, how="long_side"), (40, 20)),
        (Resize(100, 100, "fill"), (20, 20)),
        (Resize(80, 5, "exact"), (40, 5)),
    ],
)
def test_an_image_is_not_enlarged_by_default_with_a_note(
    step: Resize, size: tuple[int, int]
) -> None:
    result = apply_with_notes(part(four_colors()), step)
    assert (result.image.width, result.image.height) == size
    assert [(note.code, note.field) for note in result.notes] == [("NOT_ENLARGED", "resize")]


def test_an_image_of_the_requested_size_is_not_changed() -> None:
    original = part(four_colors(), "JPEG")
    assert apply(original, Resize(40, 20)) is original
    assert apply(original, Recipe(Resize(1000), Crop(aspect="2:1"))) is original


def test_fill_crops_at_the_anchor() -> None:
    original = part(four_colors())
    for anchor, color in {"left": RED, "right": LIME}.items():
        assert pixel_at(apply(original, Resize(10, 10, "fill", anchor=anchor)), 1, 1) == color  # type: ignore[arg-type]
    tall = apply(original, Orient(90))
    assert pixel_at(apply(tall, Resize(10, 10, "fill", anchor="bottom")), 1, 8) == WHITE


def test_a_resize_equals_pillows_lanczos() -> None:
    image = noise(64, 48)
    result = apply(part(image), Resize(20, 15))
    assert result.to_pil().tobytes() == image.resize((20, 15), Image.Resampling.LANCZOS).tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_fast_resize_looks_similar(mode: str) -> None:
    original = part(gradient(256, 192, mode))
    slow, fast = apply(original, Resize(64, 48)), apply(original, Resize(64, 48, fast=True))
    assert fast.to_pil().mode == mode
    assert compare(slow, fast).mean_error < 0.03  # checkered patterns are the hardest case


def test_a_fast_resize_of_a_jpeg_looks_similar() -> None:
    original = part(gradient(800, 600), "JPEG", quality=95, exif=make_exif(6))
    for step in (Resize(100, 133), Resize(64, 64, "fill"), Resize(120, how="long_side")):
        slow, fast = apply(original, step), apply(original, replace(step, fast=True))
        assert (slow.width, slow.height) == (fast.width, fast.height)
        assert compare(slow, fast).mean_error < 0.03


def test_colors_of_transparent_pixels_do_not_bleed() -> None:
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (20, 0, 40, 40))
    for fast in (False, True):
        result = apply(part(image), Resize(10, 10, fast=fast)).to_pil()
        assert all(
            result.getpixel((x, 5))[0] < 10 for x in range(10) if result.getpixel((x, 5))[3] > 30
        )  # type: ignore[index]


def test_cropping_is_exact() -> None:
    image = noise(64, 48)
    assert (
        apply(part(image), Crop(box=(3, 5, 33, 45))).to_pil().tobytes()
        == image.crop((3, 5, 33, 45)).tobytes()
    )
    assert (
        apply(part(image), Crop(width=20, height=10)).to_pil().tobytes()
        == image.crop((22, 19, 42, 29)).tobytes()
    )


@pytest.mark.parametrize(
    ("anchor", "color"),
    [
        ("top-left", RED),
        ("top-right", LIME),
        ("bottom-left", BLUE),
        ("bottom-right", WHITE),
        ("left", RED),
        ("right", LIME),
    ],
)
def test_a_crop_is_taken_at_its_anchor(anchor: str, color: object) -> None:
    assert (
        pixel_at(apply(part(four_colors()), Crop(width=8, height=8, anchor=anchor)), 1, 1) == color
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("aspect", "size"),
    [("1:1", (20, 20)), ("2:1", (40, 20)), ("4:1", (40, 10)), ("1:1000", (1, 20))],
)
def test_an_aspect_gives_the_largest_part_of_that_ratio(aspect: str, size: tuple[int, int]) -> None:
    result = apply(part(four_colors()), Crop(aspect=aspect))
    assert (result.width, result.height) == size


def test_a_crop_larger_than_the_image_is_reduced_with_a_note() -> None:
    result = apply_with_notes(part(four_colors()), Crop(width=100, height=10))
    assert (result.image.width, result.image.height) == (40, 10)
    assert [note.code for note in result.notes] == ["NOT_ENLARGED"]


def test_a_box_outside_of_the_image_raises_an_error() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(part(four_colors()), Recipe(Orient(), Crop(box=(0, 0, 41, 20))))
    assert (caught.value.field, caught.value.details["step"]) == ("box", "steps[1].crop")


@pytest.mark.parametrize("position", [(0, 10), (130, 50), (60, 0)])
def test_a_smart_crop_finds_the_detail(position: tuple[int, int]) -> None:
    image = Image.new("RGB", (200, 100), "white")
    image.paste(noise(40, 40), position)
    result = apply(part(image), Crop(width=60, height=60, how="smart"))
    colors = result.to_pil().getcolors(10_000)
    assert colors is not None
    assert sum(count for count, color in colors if color != WHITE) > 1500  # nearly all of 1600


def test_a_smart_crop_of_a_plain_image_is_its_center() -> None:
    image = Image.new("RGB", (90, 30), "white")
    image.paste("gray", (30, 0, 60, 30))
    result = apply(part(Image.new("RGB", (90, 30), "white")), Crop(aspect="1:1", how="smart"))
    assert (result.width, result.height) == (30, 30)
    assert apply(part(image), Crop(aspect="1:1", how="smart")).to_pil().getpixel((15, 15)) == (
        128,
        128,
        128,
    )


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["center", "smart"]),
)
@settings(max_examples=max_examples(60), deadline=None)
def test_any_crop_lies_within_the_image(
    width: int, height: int, wide: int, high: int, how: str
) -> None:
    result = apply(part(noise(width, height)), Crop(width=wide, height=high, how=how))  # type: ignore[arg-type]
    assert (result.width, result.height) == (min(width, wide), min(height, high))


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["fit", "fill", "exact"]),
    st.booleans(),
)
@settings(max_examples=max_examples(80), deadline=None)
@example(2, 15, 1, 11, "fill", False)  # 15 * 11 / 11 is a little more than 15
def test_any_resize_respects_its_limits(
    width: int, height: int, wide: int, high: int, how: str, enlarge: bool
) -> None:
    result = apply_with_notes(
        part(noise(width, height)), Resize(wide, high, how, enlarge=enlarge)
    ).image  # type: ignore[arg-type]
    assert 1 <= result.width <= wide
    assert 1 <= result.height <= high
    if not enlarge:
        assert result.width <= width
        assert result.height <= height
    if how != "fit" and (enlarge or (width >= wide and height >= high)):
        assert (result.width, result.height) == (wide, high)


def test_the_format_is_kept_and_a_gif_becomes_a_png() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "AVIF"):
        assert apply(part(four_colors(), kind), Resize(8)).mime == f"image/{kind.lower()}"
    result = apply_with_notes(part(four_colors(), "GIF"), Resize(8))
    assert result.image.mime == "image/png"
    assert [note.code for note in result.notes] == ["FORMAT_CHANGED"]


def test_a_lossless_webp_stays_lossless() -> None:
    image = noise(32, 32)
    result = apply(part(image, "WEBP", lossless=True), Crop(box=(1, 1, 9, 9)))
    assert result.to_pil().convert("RGB").tobytes() == image.crop((1, 1, 9, 9)).tobytes()


LOSSLESS = st.sampled_from(
    [
        Orient(90),
        Orient(180, mirror=True),
        Crop(box=(0, 0, 9, 8)),
        Crop(aspect="1:1"),
        Crop(width=11, height=9, how="smart"),
        Resize(17),
        Resize(9, 9, "fill"),
        Resize(30, 30, "exact", enlarge=True),
    ]
)


@given(
    st.lists(LOSSLESS, max_size=3),
    st.lists(LOSSLESS, max_size=3),
    st.sampled_from(["RGB", "RGBA", "L"]),
)
@settings(max_examples=max_examples(60), deadline=None)
def test_added_recipes_equal_applying_them_in_turn(
    first: list[object], second: list[object], mode: str
) -> None:
    original = part(gradient(24, 18, mode))
    a, b = Recipe(*first), Recipe(*second)  # type: ignore[arg-type]
    try:
        together = apply(original, a + b)
    except md.InvalidRequestError as error:  # a box beyond what a step before has left
        with pytest.raises(md.InvalidRequestError) as caught:
            apply(apply(original, a), b)
        assert caught.value.field == error.field
    else:
        assert rgba_bytes(together) == rgba_bytes(apply(apply(original, a), b))


def test_a_result_larger_than_the_limits_is_rejected() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(part(four_colors()), Resize(20_000, 20_000, "exact", enlarge=True))
    assert (caught.value.field, caught.value.code) == ("width", "IMAGE_TOO_LARGE")


def test_a_very_wide_image_is_supported() -> None:
    original = part(gradient(16_384, 2))
    assert apply(original, Resize(1024, how="long_side")).width == 1024
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(original, Convert("webp"))
    assert (caught.value.field, caught.value.code) == ("format", "IMAGE_TOO_LARGE")
    assert Image.open(io.BytesIO(apply(original, Convert("jpeg")).data)).width == 16_384


@pytest.mark.parametrize(
    "line",
    [
        "resize=100:fast",
        "strip,resize=100:fast",
        "convert=png,resize=100:fast",
        "sanitize:apply,resize=100:fast",
        "resize=60x60:fill:fast",
        "resize=90x",
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.slow
def test_a_jpeg_decoded_at_a_fraction_gets_the_same_size(line: str, orientation: int) -> None:
    original = part(gradient(1013, 677), "JPEG", exif=make_exif(orientation))
    fast, slow = (
        apply(original, Recipe.parse(line)),
        apply(original, Recipe.parse(line.replace(":fast", ""))),
    )
    assert (fast.width, fast.height) == (slow.width, slow.height)
    assert compare(fast, slow).mean_error < 0.03
