"""Steps that change the file: format, size in bytes, transparency, generation parameters."""

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
    rgba_bytes,
)

NOTE = {"prompt": "a fox", "seed": 5, "steps": 9}


def codes(result: Applied) -> list[str]:
    return [note.code for note in result.notes]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "avif"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_every_format_converts_to_every_other(source: str, kind: str) -> None:
    original = part(gradient(), source)
    result = apply(original, Convert(kind))  # type: ignore[arg-type]
    assert result.mime == f"image/{kind}"
    assert compare(original, result).mean_error < 0.05
    assert (result is original) == (source.lower() == kind)


def test_lossless_conversion_keeps_every_pixel() -> None:
    original = part(noise(mode="RGBA"))
    assert rgba_bytes(apply(original, Convert("webp", lossless=True))) == rgba_bytes(original)
    assert rgba_bytes(
        apply(apply(original, Convert("webp", lossless=True)), Convert("png"))
    ) == rgba_bytes(original)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_lower_quality_gives_fewer_bytes(kind: str) -> None:
    original = part(gradient(256, 256))
    poor, good = (apply(original, Convert(kind, quality)) for quality in (20, 95))  # type: ignore[arg-type]
    assert len(poor.data) < len(good.data)
    assert compare(original, good).mean_error < compare(original, poor).mean_error


def test_an_image_of_the_format_is_re_encoded_only_with_a_quality() -> None:
    original = part(gradient(), "JPEG", quality=95)
    assert apply(original, Convert("jpeg")) is original
    assert len(apply(original, Convert("jpeg", 20)).data) < len(original.data)


def test_transparency_in_a_jpeg_becomes_the_background_with_a_note() -> None:
    clear = part(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
    result = apply_with_notes(clear, Convert("jpeg", background="#ff8000"))
    assert pixel_at(result.image, 8, 8) == pytest.approx((255, 128, 0), abs=4)
    assert codes(result) == ["ALPHA_FLATTENED"]
    assert codes(apply_with_notes(part(Image.new("RGBA", (16, 16), "red")), Convert("jpeg"))) == []
    assert pixel_at(apply(clear, Recipe(Flatten("lime"), Convert("jpeg"))), 8, 8) == pytest.approx(
        (0, 255, 0), abs=4
    )


def test_flatten_replaces_transparency_with_its_color() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 255, 255))
    image.putpixel((2, 2), (255, 255, 255, 128))
    result = apply(part(image), Flatten("#000000")).to_pil()
    assert (result.mode, result.getpixel((0, 0)), result.getpixel((1, 1))) == (
        "RGB",
        (0, 0, 0),
        (0, 0, 255),
    )
    assert result.getpixel((2, 2)) == (128, 128, 128)
    opaque = part(four_colors())
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
def test_an_invalid_color_names_its_field(step: imaging.Step) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(part(four_colors(mode := 40)), step)
    assert caught.value.field in ("color", "background")
    assert mode == 40


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_optimize_loses_nothing_of_a_png(mode: str) -> None:
    original = part(gradient(80, 60).convert(mode), compress_level=1)
    result = apply(original, Optimize())
    assert rgba_bytes(result) == rgba_bytes(original)
    assert len(result.data) <= len(original.data)


def test_optimize_uses_the_mode_with_the_fewest_bytes() -> None:
    few = part(four_colors(64, 64).convert("RGBA"))
    result = apply(few, Optimize())
    assert result.to_pil().mode == "P"
    assert rgba_bytes(result) == rgba_bytes(few)
    assert apply(part(noise(64, 64, mode="L").convert("RGB")), Optimize()).to_pil().mode == "L"
    clear = Image.new("RGBA", (64, 64), (1, 2, 3, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 30, 30))
    assert rgba_bytes(apply(part(clear), Optimize())) == rgba_bytes(part(clear))


def test_optimize_reduces_colors_on_request() -> None:
    original = part(gradient(128, 128))
    result = apply(original, Optimize(colors=16))
    assert len(result.to_pil().convert("RGB").getcolors() or ()) <= 16
    assert len(result.data) < len(original.data)


def test_optimize_re_encodes_a_jpeg_with_its_own_tables() -> None:
    original = image_with_metadata(gradient(200, 150), "JPEG", orientation=6)
    assert codes(apply_with_notes(original, Optimize())) == [
        "NOT_OPTIMIZED"
    ]  # its colors have a lower resolution
    original = embed_parameters(
        part(
            gradient(200, 150),
            "JPEG",
            quality=95,
            subsampling=0,
            exif=make_exif(6),
            comment=b"x" * 500,
        ),
        NOTE,
    )
    result = apply_with_notes(original, Optimize())
    assert len(result.image.data) < len(original.data)
    assert result.image.to_pil().getexif()[0x0112] == 6
    assert compare(original, result.image).largest_error <= 4 / 255
    assert result.image.parameters == original.parameters
    assert (
        sum(marker == 0xDA for marker, _, _ in jpeg_segments(result.image.data)) > 1
    )  # progressive


def test_optimize_never_increases_the_size() -> None:
    best = apply(part(noise()), Optimize())
    assert apply(best, Optimize()).data == best.data


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "AVIF"])
def test_optimize_notes_an_unchanged_file(kind: str) -> None:
    original = part(gradient(), kind)
    result = apply_with_notes(original, Optimize())
    assert result.image is original
    assert codes(result) == ["NOT_OPTIMIZED"]
    assert codes(apply_with_notes(animation("PNG"), Optimize())) == ["NOT_OPTIMIZED"]


def test_optimize_after_a_change_applies_to_the_result() -> None:
    original = part(gradient(200, 200))
    for kind in ("png", "jpeg", "webp"):
        plain, packed = (
            apply(original, Recipe(Resize(150), Convert(kind), *rest))
            for rest in ((), (Optimize(),))
        )  # type: ignore[arg-type]
        assert len(packed.data) < len(plain.data)


@given(
    st.integers(300, 40_000),
    st.sampled_from([None, ("jpeg",), ("webp", "jpeg"), ("png", "webp"), ("avif",)]),
    st.sampled_from(["RGB", "RGBA", "L"]),
    st.integers(1, 40),
)
@settings(max_examples=max_examples(40), deadline=None)
def test_fit_never_exceeds_max_bytes(
    max_bytes: int, formats: tuple[str, ...] | None, mode: str, side: int
) -> None:
    original = part(noise(120, 90, mode=mode))
    try:
        result = apply(original, Fit(max_bytes, formats, side))
    except md.InvalidRequestError as error:
        assert (error.field, error.code) == ("max_bytes", "IMAGE_TOO_LARGE")
    else:
        assert len(result.data) <= max_bytes
        assert formats is None or result.mime.removeprefix("image/") in formats
        assert result is original or min(result.width, result.height) >= min(side, 90)


def test_fit_keeps_the_format_of_convert() -> None:
    original = part(noise(300, 300))
    for kind in ("jpeg", "webp", "png", "avif"):
        result = apply(original, Recipe(Convert(kind), Fit(12_000, min_side=16)))  # type: ignore[arg-type]
        assert (result.mime, len(result.data) <= 12_000) == (f"image/{kind}", True)


def test_fit_includes_the_metadata_in_the_size() -> None:
    original = embed_parameters(part(noise(200, 200)), NOTE | {"prompt": "x" * 900})
    result = apply(original, Fit(6000, min_side=16))
    assert len(result.data) <= 6000
    assert md.ImagePart(result.data).parameters["prompt"] == "x" * 900


def test_steps_after_fit_use_its_result() -> None:
    result = apply(
        part(noise(200, 200)), Recipe(Fit(6000, ("jpeg",), 16), Resize(10), Convert("png"))
    )
    assert (result.mime, max(result.width, result.height)) == ("image/png", 10)


def test_a_recipe_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    real = Image.Image.save
    monkeypatch.setattr(
        Image.Image,
        "save",
        lambda self, buffer, kind, **rest: (saved.append(kind), real(self, buffer, kind, **rest))[
            1
        ],
    )
    original = part(gradient())
    saved.clear()
    apply(
        original,
        Recipe.parse(
            "sanitize,resize=30,crop=1:1,text=a,watermark=b,convert=jpeg,optimize,strip,flatten"
        ),
    )
    assert saved == ["JPEG"]


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_generation_parameters_are_kept_in_the_file(source: str, kind: str) -> None:
    original = embed_parameters(part(gradient(), source), NOTE)
    result = apply(original, Recipe(Resize(20), Convert(kind)))  # type: ignore[arg-type]
    assert md.ImagePart(result.data).parameters == original.parameters  # from the bytes
    clean = apply(original, Recipe(Resize(20), Convert(kind), Sanitize()))  # type: ignore[arg-type]
    assert clean.parameters == {}
    kept = apply(original, Recipe(Sanitize(parameters=True), Resize(20), Convert(kind)))  # type: ignore[arg-type]
    assert md.ImagePart(kept.data).parameters == original.parameters


def test_parameters_outside_of_the_file_are_not_written_into_it() -> None:
    original = part(gradient()).with_parameters(NOTE)
    result = apply(original, Convert("jpeg"))
    assert result.parameters["seed"] == 5
    assert md.ImagePart(result.data).parameters == {}
    assert apply(original, Sanitize()).parameters == {}


def test_a_comfyui_graph_becomes_parameters_text() -> None:
    graph = (
        '{"3": {"inputs": {"seed": 8, "steps": 20, "positive": ["6", 0]}},'
        ' "6": {"inputs": {"text": "a cat"}}}'
    )
    original = md.ImagePart(with_text(part(gradient()).data, "prompt", graph))
    assert original.parameters["prompt"] == "a cat"
    result = md.ImagePart(apply(original, Convert("webp")).data)
    assert (result.parameters["prompt"], result.parameters["seed"]) == ("a cat", 8)


def test_metadata_that_does_not_fit_is_left_out_with_a_note() -> None:
    original = embed_parameters(part(gradient()), NOTE | {"prompt": "x" * 50_000})
    for kind in ("jpeg", "avif"):
        result = apply_with_notes(original, Convert(kind))  # type: ignore[arg-type]
        assert codes(result) == ["PARAMETERS_NOT_WRITTEN"]
        assert result.image.parameters["seed"] == 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_embedding_parameters_changes_no_pixel(kind: str) -> None:
    original = part(gradient(), kind, exif=make_exif(6))
    result = embed_parameters(original, NOTE)
    assert rgba_bytes(result) == rgba_bytes(original)
    assert {key: result.parameters[key] for key in NOTE} == NOTE
    assert embed_parameters(embed_parameters(original, {"prompt": "x"}), NOTE).data == result.data
    assert embed_parameters(original.with_parameters(NOTE)).parameters["seed"] == 5
    assert result.to_pil().getexif()[0x0112] == 6


@pytest.mark.parametrize("kind", ["GIF", "AVIF"])
def test_embedding_into_an_unsupported_format_raises_an_error(kind: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        embed_parameters(part(gradient(), kind), NOTE)
    assert (caught.value.field, caught.value.code) == ("image", "UNSUPPORTED_FORMAT")


def test_embedding_nothing_or_too_much_raises_an_error() -> None:
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


def test_a_format_that_pillow_lacks_raises_unsupported_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, avif = part(gradient()), part(gradient(), "AVIF")
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(md.UnsupportedError) as caught:
        apply(original, Convert("avif"))
    assert caught.value.field == "format"
    with pytest.raises(md.UnsupportedError) as caught:
        apply(avif, Resize(3))
    assert caught.value.field == "image"


def test_a_re_encoded_file_has_no_other_metadata() -> None:
    result = apply(image_with_metadata(gradient(), "JPEG", 6), Resize(20))
    assert set(Image.open(io.BytesIO(result.data)).info) <= {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "dpi",
        "icc_profile",
        "exif",
    }
    assert b"s3cret" not in result.data
