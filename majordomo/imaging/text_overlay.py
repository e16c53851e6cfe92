"""Steps that draw text and watermarks over an image."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from majordomo.errors import InvalidRequestError, UnsupportedError
from majordomo.imaging.operations import Text, Watermark
from majordomo.imaging.pipeline import Pipeline
from majordomo.imaging.pixels import (
    Note,
    Pixels,
    decode_srgb,
    ensure_color,
    parse_color,
)
from majordomo.imaging.shapes import anchor_position

Font = ImageFont.FreeTypeFont
Color = tuple[int, int, int]
# In pixels. Smaller text is not readable.
MIN_FONT_SIZE = 6
# In pixels: enough to distinguish a glyph from the box for a missing one.
_SAMPLE_FONT_SIZE = 20
_FALLBACK_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
)
# Space between two lines, as a fraction of the font size.
_LINE_SPACING = 0.1


def text(pipeline: Pipeline, step: Text) -> None:
    """Apply a `Text` step."""
    color = parse_color(step.color, "color")
    outline_color = parse_color(step.outline_color, "outline_color")
    width, height = pipeline.size
    shorter = min(width, height)
    margin = round(shorter * step.margin)
    max_size = (
        max(1, min(round(width * step.width), width - 2 * margin)),
        max(1, height - 2 * margin),
    )
    layout = fit_text(
        step.text,
        choose_font(step.text, step.font),
        max(MIN_FONT_SIZE, round(shorter * step.size)),
        max_size,
        step.outline,
        _alignment(step.anchor),
    )
    if layout.is_smaller:
        pipeline.note(
            "TEXT_SHRUNK",
            f"the text did not fit and was drawn with a font size of {layout.size:.0f} pixels",
        )
    _note_missing_glyphs(step.text, layout.font, pipeline.note)
    layer = apply_opacity(layout.render(color, outline_color), step.opacity)
    pixels = ensure_color(pipeline.pixels(), pipeline.note)
    image = pixels.image.copy()
    composite(image, layer, anchor_position(step.anchor, pipeline.size, layer.size, margin))
    pipeline.set_pixels(Pixels(image, pixels.profile))


def watermark(pipeline: Pipeline, step: Watermark) -> None:
    """Apply a `Watermark` step."""
    mark = apply_opacity(_render_mark(pipeline, step), step.opacity)
    pixels = ensure_color(pipeline.pixels(), pipeline.note)
    image = pixels.image.copy()
    if step.tile:
        _composite_tiles(image, mark, step.margin)
    else:
        margin = round(min(image.size) * step.margin)
        composite(image, mark, anchor_position(step.anchor, image.size, mark.size, margin))
    pipeline.set_pixels(Pixels(image, pixels.profile))


def _render_mark(pipeline: Pipeline, step: Watermark) -> Image.Image:
    """Return the watermark as RGBA in its final size."""
    width, height = pipeline.size
    mark_width = max(1, round(width * step.scale))
    if step.image is not None:
        original = decode_srgb(step.image, pipeline.limits, "image").convert("RGBA")
        mark = original.resize(
            (mark_width, max(1, round(original.height * mark_width / original.width))),
            Image.Resampling.LANCZOS,
        )
    else:
        color = parse_color(step.color, "color")
        lines = step.text.splitlines()
        path = choose_font(step.text, step.font)
        sample = load_font(path, 100)
        sample_width = max(1.0, *(sample.getlength(line) for line in lines))
        font = load_font(path, max(MIN_FONT_SIZE, 100 * mark_width / sample_width))
        _note_missing_glyphs(step.text, font, pipeline.note)
        mark = TextLayout(lines, font, 0, "center", False).render(color, color)
    if step.angle:
        mark = mark.rotate(step.angle, Image.Resampling.BICUBIC, expand=True)
    scale = min(1.0, width / mark.width, height / mark.height)
    if scale < 1:
        mark = mark.resize(
            (max(1, int(mark.width * scale)), max(1, int(mark.height * scale))),
            Image.Resampling.LANCZOS,
        )
    return mark


def _composite_tiles(image: Image.Image, mark: Image.Image, margin: float) -> None:
    """Repeat the mark over the image, every other row shifted to the left by half a mark."""
    gap = round(max(mark.size) * max(margin, 0.05))
    for row, top in enumerate(range(0, image.height, mark.height + gap)):
        start = -(mark.width + gap) // 2 if row % 2 else 0
        for left in range(start, image.width, mark.width + gap):
            composite(image, mark, (left, top))


def composite(image: Image.Image, layer: Image.Image, position: tuple[int, int]) -> None:
    """Draw an RGBA layer over an RGB or RGBA image in place.

    `position` is left and top of the layer; parts outside of the image are cut off.
    """
    if image.mode == "RGB":
        image.paste(layer, position, layer)
        return
    x, y = position
    left, top = max(0, x), max(0, y)
    right, bottom = min(image.width, x + layer.width), min(image.height, y + layer.height)
    if left < right and top < bottom:
        visible = layer.crop((left - x, top - y, right - x, bottom - y))
        image.paste(
            Image.alpha_composite(image.crop((left, top, right, bottom)), visible), (left, top)
        )


def apply_opacity(layer: Image.Image, opacity: float) -> Image.Image:
    """Multiply the alpha of an RGBA layer by `opacity` in place, and return the layer."""
    if opacity < 1:
        layer.putalpha(
            layer.getchannel("A").point([round(level * opacity) for level in range(256)])
        )
    return layer


@dataclass(frozen=True, slots=True)
class TextLayout:
    """Text in lines, ready to be rendered."""

    lines: list[str]
    """The lines."""
    font: Font
    """The font in its final size."""
    outline: int
    """Width of the outline in pixels."""
    alignment: str
    """`"left"`, `"center"` or `"right"`."""
    is_smaller: bool
    """Whether the font is smaller than requested."""

    @property
    def size(self) -> float:
        """The font size in pixels."""
        return self.font.size

    def box(self) -> tuple[int, int, int, int]:
        """Return the bounding box of the text when it is drawn at 0, 0."""
        draw = ImageDraw.Draw(Image.new("L", (1, 1)))
        left, top, right, bottom = draw.multiline_textbbox(
            (0, 0), "\n".join(self.lines), self.font, **self._settings()
        )
        return int(left), int(top), int(right + 0.999), int(bottom + 0.999)

    def render(self, color: Color, outline_color: Color) -> Image.Image:
        """Return the text as RGBA, cropped to its glyphs."""
        left, top, right, bottom = self.box()
        layer = Image.new(
            "RGBA",
            (max(1, right - left), max(1, bottom - top)),
            (*(outline_color if self.outline else color), 0),
        )
        ImageDraw.Draw(layer).multiline_text(
            (-left, -top),
            "\n".join(self.lines),
            color,
            self.font,
            stroke_fill=outline_color,
            **self._settings(),
        )
        # The bounding box includes the bearings of the glyphs.
        visible = layer.getchannel("A").getbbox()
        return layer.crop(visible) if visible is not None else layer

    def _settings(self) -> dict[str, Any]:
        """Return the keyword arguments for Pillow's text functions."""
        return {
            "spacing": self.font.size * _LINE_SPACING,
            "align": self.alignment,
            "stroke_width": self.outline,
        }


def fit_text(
    text: str,
    path: str | None,
    size: float,
    max_size: tuple[int, int],
    outline: float,
    alignment: str,
) -> TextLayout:
    """Lay out text within `max_size` pixels, in font size `size` or the largest that fits.

    Raises:
        InvalidRequestError: Field `font`: it cannot be read. Field `text`: it would be too small to
            read (code TEXT_TOO_LONG).
    """
    requested = size
    while True:
        font = load_font(path, size)
        stroke = round(size * outline) if outline else 0
        lines = wrap_text(text, font, max_size[0] - 2 * stroke)
        layout = TextLayout(lines, font, stroke, alignment, size < requested)
        left, top, right, bottom = layout.box()
        if right - left <= max_size[0] and bottom - top <= max_size[1]:
            return layout
        if size <= MIN_FONT_SIZE:
            raise InvalidRequestError(
                f"the text does not fit into {max_size[0]}x{max_size[1]} pixels in a readable size",
                field="text",
                code="TEXT_TOO_LONG",
            )
        size = max(MIN_FONT_SIZE, size * 0.9)


def wrap_text(text: str, font: Font, width: float) -> list[str]:
    """Break text into lines of at most `width` pixels; a longer word is split."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            *full_lines, line = _split_word(word, font, width)
            lines += full_lines
        lines.append(line)
    return lines


def _split_word(word: str, font: Font, width: float) -> list[str]:
    """Split a word into parts of at most `width` pixels."""
    if font.getlength(word) <= width:
        return [word]
    parts = [""]
    for letter in word:
        if parts[-1] and font.getlength(parts[-1] + letter) > width:
            parts.append("")
        parts[-1] += letter
    return parts


def load_font(path: str | None, size: float) -> Font:
    """Load a font file, or Pillow's own font if `path` is None.

    Raises:
        InvalidRequestError: Field `font`: the file cannot be read (code FONT_NOT_FOUND).
        UnsupportedError: Pillow was built without FreeType.
    """
    if path is None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise UnsupportedError(
                "Pillow was built without FreeType and has no scalable font", field="font"
            )
        return font
    try:
        return ImageFont.truetype(path, size)
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            f"the font {path[:200]!r} cannot be read: {type(error).__name__}",
            field="font",
            code="FONT_NOT_FOUND",
        ) from None


def choose_font(text: str, path: str | None) -> str | None:
    """Return the path of a font that has all glyphs of the text.

    A requested font is used in any case. Otherwise it is Pillow's own (None), or a font of the
    system if Pillow's lacks a glyph.
    """
    if path is not None or not _missing_glyphs(text, load_font(None, _SAMPLE_FONT_SIZE)):
        return path
    for name in _FALLBACK_FONTS:
        with suppress(InvalidRequestError):
            if not _missing_glyphs(text, load_font(name, _SAMPLE_FONT_SIZE)):
                return name
    return None


def _missing_glyphs(text: str, font: Font) -> list[str]:
    """Return the characters that the font draws as the box for a missing glyph."""
    # No font has a glyph for this character.
    box = bytes(font.getmask("\uffff"))
    characters = {letter for letter in text if letter.isprintable() and not letter.isspace()}
    return sorted(letter for letter in characters if bytes(font.getmask(letter)) == box)


def _note_missing_glyphs(text: str, font: Font, note: Note) -> None:
    if missing := _missing_glyphs(text, font):
        note("GLYPHS_MISSING", f"the font has no glyphs for {' '.join(missing[:20])}")


def _alignment(anchor: str) -> str:
    return "left" if "left" in anchor else "right" if "right" in anchor else "center"
