"""Steps that change the file: kinds, optimizing, fitting, flattening, and the text that says what an image was made with."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo import imaging
from majordomo.imaging import (
    Applied,
    Convert,
    Fit,
    Flatten,
    Optimize,
    Recipe,
    Resize,
    Sanitize,
    apply,
    apply_with_notes,
    compare,
    embed_parameters,
)
from majordomo.media.image_containers import jpeg_segments, with_text
from tests.support.hypothesis_effort import tries
from tests.support.sample_images import (
    animation,
    at,
    corners,
    exif_of,
    gradient,
    noisy,
    part,
    pixels,
    telling,
)

NOTE = {"prompt": "a fox", "seed": 5, "steps": 9}


def codes(made: Applied) -> list[str]:
    return [note.code for note in made.notes]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "avif"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_every_kind_becomes_every_other(source: str, kind: str) -> None:
    given = part(gradient(), source)
    made = apply(given, Convert(kind))  # type: ignore[arg-type]
    assert made.mime == f"image/{kind}"
    assert compare(given, made).mean_error < 0.05
    assert (made is given) == (source.lower() == kind)


def test_a_lossless_way_keeps_every_pixel() -> None:
    given = part(noisy(mode="RGBA"))
    assert pixels(apply(given, Convert("webp", lossless=True))) == pixels(given)
    assert pixels(apply(apply(given, Convert("webp", lossless=True)), Convert("png"))) == pixels(
        given
    )


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_less_quality_is_fewer_bytes(kind: str) -> None:
    given = part(gradient(256, 256))
    poor, good = (apply(given, Convert(kind, quality)) for quality in (20, 95))  # type: ignore[arg-type]
    assert len(poor.data) < len(good.data)
    assert compare(given, good).mean_error < compare(given, poor).mean_error


def test_an_image_of_the_kind_is_encoded_anew_only_when_a_quality_is_given() -> None:
    given = part(gradient(), "JPEG", quality=95)
    assert apply(given, Convert("jpeg")) is given
    assert len(apply(given, Convert("jpeg", 20)).data) < len(given.data)


def test_transparency_in_a_jpeg_becomes_its_background_and_that_is_said() -> None:
    clear = part(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    made = apply_with_notes(clear, Convert("jpeg", background="#ff8000"))
    assert at(made.image, 8, 8) == pytest.approx((255, 128, 0), abs=4)
    assert codes(made) == ["ALPHA_FLATTENED"]
    assert codes(apply_with_notes(part(Image.new("RGBA", (16, 16), "red")), Convert("jpeg"))) == []
    assert at(apply(clear, Recipe(Flatten("lime"), Convert("jpeg"))), 8, 8) == pytest.approx(
        (0, 255, 0), abs=4
    )


def test_flatten_puts_its_color_behind() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 255, 255))
    image.putpixel((2, 2), (255, 255, 255, 128))
    made = apply(part(image), Flatten("#000000")).to_pil()
    assert (made.mode, made.getpixel((0, 0)), made.getpixel((1, 1))) == (
        "RGB",
        (0, 0, 0),
        (0, 0, 255),
    )
    assert made.getpixel((2, 2)) == (128, 128, 128)
    opaque = part(corners())
    assert apply(opaque, Flatten()) is opaque


@pytest.mark.parametrize(
    "step",
    [
        Flatten("nocolor"),
        Convert("png", background="#12"),
        imaging.Text("a", color="?"),
        imaging.Watermark("a", color="?"),
    ],
)
def test_a_color_that_is_none_names_its_field(step: imaging.Step) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(part(corners(mode := 40)), step)
    assert caught.value.field in ("color", "background")
    assert mode == 40


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_optimize_loses_nothing_of_a_png(mode: str) -> None:
    given = part(gradient(80, 60).convert(mode), compress_level=1)
    made = apply(given, Optimize())
    assert pixels(made) == pixels(given)
    assert len(made.data) <= len(given.data)


def test_optimize_takes_the_mode_with_the_fewest_bytes() -> None:
    few = part(corners(64, 64).convert("RGBA"))
    made = apply(few, Optimize())
    assert made.to_pil().mode == "P"
    assert pixels(made) == pixels(few)
    assert apply(part(noisy(64, 64, mode="L").convert("RGB")), Optimize()).to_pil().mode == "L"
    clear = Image.new("RGBA", (64, 64), (1, 2, 3, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 30, 30))
    assert pixels(apply(part(clear), Optimize())) == pixels(part(clear))


def test_optimize_reduces_colors_when_asked() -> None:
    given = part(gradient(128, 128))
    made = apply(given, Optimize(colors=16))
    assert len(made.to_pil().convert("RGB").getcolors() or ()) <= 16
    assert len(made.data) < len(given.data)


def test_optimize_packs_a_jpeg_with_its_own_tables() -> None:
    given = telling(gradient(200, 150), "JPEG", orientation=6)
    assert codes(apply_with_notes(given, Optimize())) == [
        "NOT_OPTIMIZED"
    ]  # its colors have half the pixels
    given = embed_parameters(
        part(
            gradient(200, 150),
            "JPEG",
            quality=95,
            subsampling=0,
            exif=exif_of(6),
            comment=b"x" * 500,
        ),
        NOTE,
    )
    made = apply_with_notes(given, Optimize())
    assert len(made.image.data) < len(given.data)
    assert made.image.to_pil().getexif()[0x0112] == 6
    assert compare(given, made.image).largest_error <= 4 / 255
    assert made.image.parameters == given.parameters
    assert sum(marker == 0xDA for marker, _, _ in jpeg_segments(made.image.data)) > 1  # progressive


def test_optimize_never_makes_more_bytes() -> None:
    best = apply(part(noisy()), Optimize())
    assert apply(best, Optimize()).data == best.data


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "AVIF"])
def test_optimize_says_what_it_leaves_alone(kind: str) -> None:
    given = part(gradient(), kind)
    made = apply_with_notes(given, Optimize())
    assert made.image is given
    assert codes(made) == ["NOT_OPTIMIZED"]
    assert codes(apply_with_notes(animation("PNG"), Optimize())) == ["NOT_OPTIMIZED"]


def test_optimize_after_a_change_packs_what_comes_out() -> None:
    given = part(gradient(200, 200))
    for kind in ("png", "jpeg", "webp"):
        plain, packed = (
            apply(given, Recipe(Resize(150), Convert(kind), *rest)) for rest in ((), (Optimize(),))
        )  # type: ignore[arg-type]
        assert len(packed.data) < len(plain.data)


@given(
    st.integers(300, 40_000),
    st.sampled_from([None, ("jpeg",), ("webp", "jpeg"), ("png", "webp"), ("avif",)]),
    st.sampled_from(["RGB", "RGBA", "L"]),
    st.integers(1, 40),
)
@settings(max_examples=tries(40), deadline=None)
def test_fit_never_exceeds_its_bytes(
    most: int, formats: tuple[str, ...] | None, mode: str, side: int
) -> None:
    given = part(noisy(120, 90, mode=mode))
    try:
        made = apply(given, Fit(most, formats, side))
    except md.InvalidRequestError as error:
        assert (error.field, error.code) == ("max_bytes", "IMAGE_TOO_LARGE")
    else:
        assert len(made.data) <= most
        assert formats is None or made.mime.removeprefix("image/") in formats
        assert made is given or min(made.width, made.height) >= min(side, 90)


def test_fit_keeps_the_kind_that_was_chosen() -> None:
    given = part(noisy(300, 300))
    for kind in ("jpeg", "webp", "png", "avif"):
        made = apply(given, Recipe(Convert(kind), Fit(12_000, min_side=16)))  # type: ignore[arg-type]
        assert (made.mime, len(made.data) <= 12_000) == (f"image/{kind}", True)


def test_fit_counts_the_text_that_it_keeps() -> None:
    given = embed_parameters(part(noisy(200, 200)), NOTE | {"prompt": "x" * 900})
    made = apply(given, Fit(6000, min_side=16))
    assert len(made.data) <= 6000
    assert md.ImagePart(made.data).parameters["prompt"] == "x" * 900


def test_steps_after_fit_see_what_it_made() -> None:
    made = apply(
        part(noisy(200, 200)), Recipe(Fit(6000, ("jpeg",), 16), Resize(10), Convert("png"))
    )
    assert (made.mime, max(made.width, made.height)) == ("image/png", 10)


def test_a_recipe_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    real = Image.Image.save
    monkeypatch.setattr(
        Image.Image,
        "save",
        lambda self, held, kind, **rest: (saved.append(kind), real(self, held, kind, **rest))[1],
    )
    given = part(gradient())
    saved.clear()
    apply(
        given,
        Recipe.parse(
            "sanitize,resize=30,crop=1:1,text=a,watermark=b,convert=jpeg,optimize,strip,flatten"
        ),
    )
    assert saved == ["JPEG"]


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_what_it_was_made_with_goes_along(source: str, kind: str) -> None:
    given = embed_parameters(part(gradient(), source), NOTE)
    made = apply(given, Recipe(Resize(20), Convert(kind)))  # type: ignore[arg-type]
    assert md.ImagePart(made.data).parameters == given.parameters  # from the bytes
    clean = apply(given, Recipe(Resize(20), Convert(kind), Sanitize()))  # type: ignore[arg-type]
    assert clean.parameters == {}
    kept = apply(given, Recipe(Sanitize(parameters=True), Resize(20), Convert(kind)))  # type: ignore[arg-type]
    assert md.ImagePart(kept.data).parameters == given.parameters


def test_what_was_only_known_stays_known_and_out_of_the_file() -> None:
    given = part(gradient()).with_parameters(NOTE)
    made = apply(given, Convert("jpeg"))
    assert made.parameters["seed"] == 5
    assert md.ImagePart(made.data).parameters == {}
    assert apply(given, Sanitize()).parameters == {}


def test_a_graph_of_comfyui_becomes_plain_text() -> None:
    graph = '{"3": {"inputs": {"seed": 8, "steps": 20, "positive": ["6", 0]}}, "6": {"inputs": {"text": "a cat"}}}'
    given = md.ImagePart(with_text(part(gradient()).data, "prompt", graph))
    assert given.parameters["prompt"] == "a cat"
    made = md.ImagePart(apply(given, Convert("webp")).data)
    assert (made.parameters["prompt"], made.parameters["seed"]) == ("a cat", 8)


def test_text_that_has_no_room_is_left_out_and_that_is_said() -> None:
    given = embed_parameters(part(gradient()), NOTE | {"prompt": "x" * 50_000})
    for kind in ("jpeg", "avif"):
        made = apply_with_notes(given, Convert(kind))  # type: ignore[arg-type]
        assert codes(made) == ["PARAMETERS_NOT_WRITTEN"]
        assert made.image.parameters["seed"] == 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_inscribing_changes_no_pixel(kind: str) -> None:
    given = part(gradient(), kind, exif=exif_of(6))
    made = embed_parameters(given, NOTE)
    assert pixels(made) == pixels(given)
    assert {key: made.parameters[key] for key in NOTE} == NOTE
    assert embed_parameters(embed_parameters(given, {"prompt": "x"}), NOTE).data == made.data
    assert embed_parameters(given.with_parameters(NOTE)).parameters["seed"] == 5
    assert made.to_pil().getexif()[0x0112] == 6


@pytest.mark.parametrize("kind", ["GIF", "AVIF"])
def test_inscribing_a_kind_without_room_is_an_error(kind: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        embed_parameters(part(gradient(), kind), NOTE)
    assert (caught.value.field, caught.value.code) == ("image", "UNSUPPORTED_FORMAT")


def test_inscribing_nothing_or_too_much_is_an_error() -> None:
    for image, values in (
        (part(gradient()), None),
        (part(gradient(), "JPEG"), {"prompt": "x" * 40_000}),
        (part(gradient()), {}),
    ):
        with pytest.raises(md.InvalidRequestError) as caught:
            embed_parameters(image, values)
        assert caught.value.field == "parameters"
    with pytest.raises(md.InvalidRequestError) as caught:
        embed_parameters(b"", NOTE)  # type: ignore[arg-type]
    assert caught.value.field == "image"


def test_a_kind_without_a_codec_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, avif = part(gradient()), part(gradient(), "AVIF")
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(md.UnsupportedError) as caught:
        apply(given, Convert("avif"))
    assert caught.value.field == "format"
    with pytest.raises(md.UnsupportedError) as caught:
        apply(avif, Resize(3))
    assert caught.value.field == "image"


def test_the_file_of_a_recipe_holds_nothing_that_nobody_asked_for() -> None:
    made = apply(telling(gradient(), "JPEG", 6), Resize(20))
    assert set(Image.open(io.BytesIO(made.data)).info) <= {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "dpi",
        "icc_profile",
        "exif",
    }
    assert b"s3cret" not in made.data
