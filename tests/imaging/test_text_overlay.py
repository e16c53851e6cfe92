from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageChops

import majordomo as md
from majordomo.imaging import Text, Watermark, apply, apply_with_notes, compare, text_overlay
from majordomo.imaging.text_overlay import load_font, wrap_text
from tests.support.sample_images import gradient, noise, part, pixel_at

ANCHORS = [
    "top-left",
    "top",
    "top-right",
    "left",
    "center",
    "right",
    "bottom-left",
    "bottom",
    "bottom-right",
]
GRAY = part(Image.new("RGB", (300, 200), (100, 100, 100)))


def changed(before: md.ImagePart, after: md.ImagePart) -> tuple[int, int, int, int]:
    """The box in which pixels differ."""
    box = ImageChops.difference(
        before.to_pil().convert("RGB"), after.to_pil().convert("RGB")
    ).getbbox()
    assert box is not None
    return box


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize(
    "step",
    [Text("Hi", size=0.15, margin=0.1), Watermark("Hi", margin=0.1, opacity=1)],
    ids=["text", "watermark"],
)
def test_text_is_at_its_anchor_with_a_margin(anchor: str, step: Text | Watermark) -> None:
    left, top, right, bottom = changed(GRAY, apply(GRAY, replace(step, anchor=anchor)))  # type: ignore[arg-type]
    gaps = {"left": left, "right": 300 - right, "top": top, "bottom": 200 - bottom}
    assert min(gaps.values()) >= 19
    for side in ("left", "right", "top", "bottom"):
        if side in anchor:
            assert 19 <= gaps[side] <= 24
    if "left" not in anchor and "right" not in anchor:
        assert abs(gaps["left"] - gaps["right"]) <= 3
    if "top" not in anchor and "bottom" not in anchor:
        assert abs(gaps["top"] - gaps["bottom"]) <= 3


def test_font_size_is_a_fraction_of_the_shorter_side() -> None:
    small, large = (
        changed(GRAY, apply(GRAY, Text("H", size=size, outline=0))) for size in (0.1, 0.4)
    )
    assert (large[3] - large[1]) / (small[3] - small[1]) == pytest.approx(4, rel=0.15)
    twice = part(Image.new("RGB", (600, 400), (100, 100, 100)))
    box = changed(twice, apply(twice, Text("H", size=0.1, outline=0)))
    assert (box[3] - box[1]) / (small[3] - small[1]) == pytest.approx(2, rel=0.15)


def test_text_has_its_color_and_an_outline() -> None:
    result = apply(
        GRAY,
        Text("I", size=0.8, color="#ff0000", outline=0.1, outline_color="#0000ff", anchor="center"),
    ).to_pil()
    colors = {color for count, color in result.getcolors(10_000) or () if count > 50}
    assert colors == {(100, 100, 100), (255, 0, 0), (0, 0, 255)}
    plain = apply(GRAY, Text("I", size=0.8, color="#ff0000", outline=0, anchor="center")).to_pil()
    assert {color for count, color in plain.getcolors(10_000) or () if count > 50} == {
        (100, 100, 100),
        (255, 0, 0),
    }


@pytest.mark.parametrize(
    "step",
    [
        Text("I", size=0.9, outline=0, opacity=0.5, anchor="center"),
        Watermark("I", scale=0.3, opacity=0.5, anchor="center"),
    ],
    ids=["text", "watermark"],
)
def test_opacity_blends_with_the_image(step: Text | Watermark) -> None:
    result = apply(GRAY, step).to_pil()
    brightest = max(level for _, level in result.convert("L").getcolors() or ())
    assert brightest == pytest.approx(178, abs=2)
    assert apply(GRAY, replace(step, opacity=0)).to_pil().tobytes() == GRAY.to_pil().tobytes()


def test_long_text_is_wrapped_and_reduced_with_a_note() -> None:
    text = (
        "The quick brown fox jumps over the lazy dog and keeps on running until the evening comes. "
        * 3
    )
    result = apply_with_notes(GRAY, Text(text, size=0.2, width=0.6, anchor="center"))
    left, top, right, bottom = changed(GRAY, result.image)
    assert right - left <= 180
    assert bottom - top <= 184
    assert [(note.code, note.field) for note in result.notes] == [("TEXT_SHRUNK", "text")]


def test_lines_break_at_spaces_and_inside_long_words() -> None:
    font = load_font(None, 20)
    width = font.getlength("aaaa bbbb") + 1
    assert wrap_text("aaaa bbbb cccc\n\ndd", font, width) == ["aaaa bbbb", "cccc", "", "dd"]
    parts = wrap_text("x" * 60, font, width)
    assert "".join(parts) == "x" * 60
    assert all(font.getlength(part_text) <= width for part_text in parts)
    assert wrap_text("a " + "x" * 60, font, width)[0] == "a"


def test_text_that_cannot_fit_raises_an_error() -> None:
    for image, text in ((part(Image.new("RGB", (1, 1))), "a"), (GRAY, "W" * 1990)):
        with pytest.raises(md.InvalidRequestError) as caught:
            apply(image, Text(text, size=0.05))
        assert (caught.value.field, caught.value.code) == ("text", "TEXT_TOO_LONG")


@pytest.mark.parametrize(
    "step", [Text("a", font="/nowhere/at-all.ttf"), Watermark("a", font="/nowhere/at-all.ttf")]
)
def test_a_missing_font_names_its_field(step: Text | Watermark) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(GRAY, step)
    assert (caught.value.field, caught.value.code) == ("font", "FONT_NOT_FOUND")


def test_a_file_that_is_not_a_font_names_its_field(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(b"no font")
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(GRAY, Text("a", font=str(tmp_path / "a.ttf")))
    assert (caught.value.field, caught.value.code) == ("font", "FONT_NOT_FOUND")


def test_a_font_file_is_used(tmp_path: Path) -> None:
    own = load_font(None, 10).font_bytes  # Pillow's own letters, from a file
    (tmp_path / "own.ttf").write_bytes(own)
    theirs = apply(GRAY, Text("Hello", font=str(tmp_path / "own.ttf")))
    assert compare(theirs, apply(GRAY, Text("Hello"))).mean_error < 0.005  # kerned, perhaps
    assert theirs != GRAY


def test_missing_glyphs_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_overlay, "_FALLBACK_FONTS", ())
    result = apply_with_notes(GRAY, Text("a 海 é"))
    assert [note.code for note in result.notes] == ["GLYPHS_MISSING"]
    assert "海" in result.notes[0].message
    assert apply_with_notes(GRAY, Text("plain ASCII, it's fine!")).notes == ()


def test_a_system_font_is_used_if_the_default_lacks_a_glyph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = load_font
    requested: list[str | None] = []

    def other(path: str | None, size: float) -> object:
        requested.append(path)
        return real(None, size)

    monkeypatch.setattr(text_overlay, "load_font", other)
    monkeypatch.setattr(
        text_overlay,
        "_missing_glyphs",
        lambda text, font: ["é"] if requested[-1] != "Found.ttf" else [],
    )
    monkeypatch.setattr(text_overlay, "_FALLBACK_FONTS", ("Other.ttf", "Found.ttf"))
    assert apply_with_notes(GRAY, Text("é")).notes == ()
    assert requested[:4] == [None, "Other.ttf", "Found.ttf", "Found.ttf"]


def test_an_image_watermark_keeps_its_transparency() -> None:
    stamp = Image.new("RGBA", (10, 10), (255, 0, 0, 255))
    stamp.paste((0, 0, 0, 0), (0, 0, 5, 10))
    result = apply(
        GRAY, Watermark(image=part(stamp), opacity=1, scale=0.2, anchor="top-left", margin=0)
    )
    assert changed(GRAY, result)[2:] == (60, 60)
    assert pixel_at(result, 10, 30) == (100, 100, 100)
    assert pixel_at(result, 50, 30) == (255, 0, 0)
    assert pixel_at(result, 70, 30) == (100, 100, 100)


def test_tiles_cover_the_whole_image() -> None:
    left, top, right, bottom = changed(GRAY, apply(GRAY, Watermark("ME", tile=True, angle=30)))
    assert left < 40
    assert top < 40
    assert right > 260
    assert bottom > 160


def test_a_watermark_is_never_larger_than_the_image() -> None:
    tall = part(Image.new("RGB", (10, 400), "red"))
    _, top, _, bottom = changed(
        GRAY, apply(GRAY, Watermark(image=tall, scale=1, opacity=1, margin=0))
    )
    assert bottom - top <= 200
    one = part(Image.new("RGB", (1, 1)))
    assert apply(one, Watermark("a")).width == 1


@pytest.mark.parametrize("step", [Text("Hello"), Watermark("Hello", tile=True)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_text_can_be_drawn_on_every_mode(step: Text | Watermark, mode: str) -> None:
    result = apply(part(gradient(120, 90).convert(mode)), step)
    assert result.to_pil().mode in ("RGB", "RGBA")


def test_text_on_transparency_keeps_its_opacity() -> None:
    clear = part(Image.new("RGBA", (200, 100)))
    alpha = (
        apply(clear, Text("Hi", opacity=0.5, anchor="center", size=0.5)).to_pil().getchannel("A")
    )
    assert alpha.getextrema() == (0, pytest.approx(128, abs=1))
    assert apply(part(noise(50, 50)), Text("x")).to_pil().mode == "RGB"


def test_the_source_image_is_not_modified() -> None:
    before = GRAY.data
    first = apply(GRAY, Text("Hello"))
    assert GRAY.data == before
    assert apply(GRAY, Text("Hello")) == first
