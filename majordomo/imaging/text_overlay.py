"""Words and marks laid over an image."""

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
    apply_profile,
    as_srgb,
    decode,
    ignore_notes,
    parse_color,
)
from majordomo.imaging.shapes import placed

Font = ImageFont.FreeTypeFont
_SMALLEST = 6  # pixels of letters that can still be read
_SAMPLE = 20  # pixels: enough to tell a letter from a box
_STAND_INS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
)
_SPACING = 0.1  # between lines, as a share of the letters' size


def text(work: Pipeline, step: Text) -> None:
    color, outline = (
        parse_color(step.color, "color"),
        parse_color(step.outline_color, "outline_color"),
    )
    width, height = work.size
    shorter = min(width, height)
    margin = round(shorter * step.margin)
    room = (max(1, min(round(width * step.width), width - 2 * margin)), max(1, height - 2 * margin))
    setting = typeset(
        step.text,
        suited(step.text, step.font),
        max(_SMALLEST, round(shorter * step.size)),
        room,
        step.outline,
        _side(step.anchor),
    )
    if setting.shrunk:
        work.note("TEXT_SHRUNK", f"the text did not fit and was set in {setting.size:.0f} pixels")
    _tell_missing(step.text, setting.font, work.note)
    layer = faded(setting.drawn(color, outline), step.opacity)
    pixels = apply_profile(work.pixels(), work.note)
    image = pixels.image.copy()
    lay(image, layer, placed(step.anchor, work.size, layer.size, margin))
    work.change(Pixels(image, pixels.profile))


def watermark(work: Pipeline, step: Watermark) -> None:
    mark = faded(_mark(work, step), step.opacity)
    pixels = apply_profile(work.pixels(), work.note)
    image = pixels.image.copy()
    if step.tile:
        _tiled(image, mark, step.margin)
    else:
        lay(
            image,
            mark,
            placed(step.anchor, image.size, mark.size, round(min(image.size) * step.margin)),
        )
    work.change(Pixels(image, pixels.profile))


def _mark(work: Pipeline, step: Watermark) -> Image.Image:
    """RGBA, as large as it will be."""
    width, height = work.size
    wanted = max(1, round(width * step.scale))
    if step.image is not None:
        stamp = as_srgb(
            decode(step.image, work.limits, ignore_notes, "image"), ignore_notes
        ).image.convert("RGBA")
        mark = stamp.resize(
            (wanted, max(1, round(stamp.height * wanted / stamp.width))), Image.Resampling.LANCZOS
        )
    else:
        color = parse_color(step.color, "color")
        path = suited(step.text, step.font)
        font = font_of(path, 100)
        font = font_of(
            path,
            max(
                _SMALLEST,
                100 * wanted / max(1.0, *(font.getlength(line) for line in step.text.splitlines())),
            ),
        )
        _tell_missing(step.text, font, work.note)
        mark = TextLayout(step.text.splitlines(), font, 0, "center", False).drawn(color, color)
    if step.angle:
        mark = mark.rotate(step.angle, Image.Resampling.BICUBIC, expand=True)
    scale = min(1.0, width / mark.width, height / mark.height)
    if scale < 1:
        mark = mark.resize(
            (max(1, int(mark.width * scale)), max(1, int(mark.height * scale))),
            Image.Resampling.LANCZOS,
        )
    return mark


def _tiled(image: Image.Image, mark: Image.Image, margin: float) -> None:
    """Row by row, every other one by half a mark to the left."""
    gap = round(max(mark.size) * max(margin, 0.05))
    for row, top in enumerate(range(0, image.height, mark.height + gap)):
        start = -(mark.width + gap) // 2 if row % 2 else 0
        for left in range(start, image.width, mark.width + gap):
            lay(image, mark, (left, top))


def lay(image: Image.Image, layer: Image.Image, at: tuple[int, int]) -> None:
    """The layer (RGBA) over an RGB or RGBA image, which changes; what hangs over the edges is cut off."""
    if image.mode == "RGB":
        image.paste(layer, at, layer)
        return
    left, top = max(0, at[0]), max(0, at[1])
    right, bottom = min(image.width, at[0] + layer.width), min(image.height, at[1] + layer.height)
    if left < right and top < bottom:
        shown = layer.crop((left - at[0], top - at[1], right - at[0], bottom - at[1]))
        image.paste(
            Image.alpha_composite(image.crop((left, top, right, bottom)), shown), (left, top)
        )


def faded(layer: Image.Image, opacity: float) -> Image.Image:
    if opacity < 1:
        layer.putalpha(
            layer.getchannel("A").point([round(level * opacity) for level in range(256)])
        )
    return layer


@dataclass(frozen=True, slots=True)
class TextLayout:
    """Text in lines, ready to be drawn."""

    lines: list[str]
    font: Font
    outline: int  # pixels
    side: str
    shrunk: bool

    @property
    def size(self) -> float:
        return self.font.size

    def box(self) -> tuple[int, int, int, int]:
        """Where ink goes, when drawn at 0, 0."""
        draw = ImageDraw.Draw(Image.new("L", (1, 1)))
        left, top, right, bottom = draw.multiline_textbbox(
            (0, 0), "\n".join(self.lines), self.font, **self._ways()
        )
        return int(left), int(top), int(right + 0.999), int(bottom + 0.999)

    def drawn(self, color: tuple[int, int, int], outline: tuple[int, int, int]) -> Image.Image:
        """RGBA, no larger than its ink."""
        left, top, right, bottom = self.box()
        layer = Image.new(
            "RGBA",
            (max(1, right - left), max(1, bottom - top)),
            (*(outline if self.outline else color), 0),
        )
        ImageDraw.Draw(layer).multiline_text(
            (-left, -top),
            "\n".join(self.lines),
            color,
            self.font,
            stroke_fill=outline,
            **self._ways(),
        )
        ink = layer.getchannel("A").getbbox()  # letters have room at their sides
        return layer.crop(ink) if ink is not None else layer

    def _ways(self) -> dict[str, Any]:
        return {
            "spacing": self.font.size * _SPACING,
            "align": self.side,
            "stroke_width": self.outline,
        }


def typeset(
    words: str, path: str | None, size: float, room: tuple[int, int], outline: float, side: str
) -> TextLayout:
    """The text in a room of so many pixels, in letters of `size` or the largest that fit.

    Raises InvalidRequestError: `font` for one that cannot be read, `text` (TEXT_TOO_LONG) for text that would be too small to read.
    """
    wanted = size
    while True:
        font = font_of(path, size)
        stroke = round(size * outline) if outline else 0
        setting = TextLayout(
            wrapped(words, font, room[0] - 2 * stroke), font, stroke, side, size < wanted
        )
        left, top, right, bottom = setting.box()
        if right - left <= room[0] and bottom - top <= room[1]:
            return setting
        if size <= _SMALLEST:
            message = (
                f"the text does not fit into {room[0]}x{room[1]} pixels in letters that can be read"
            )
            raise InvalidRequestError(message, field="text", code="TEXT_TOO_LONG")
        size = max(_SMALLEST, size * 0.9)


def wrapped(words: str, font: Font, width: float) -> list[str]:
    """Lines of at most `width` pixels; a word that is longer is broken."""
    lines: list[str] = []
    for paragraph in words.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            *whole, line = _broken(word, font, width)
            lines += whole
        lines.append(line)
    return lines


def _broken(word: str, font: Font, width: float) -> list[str]:
    pieces = [""]
    if font.getlength(word) <= width:
        return [word]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def font_of(path: str | None, size: float) -> Font:
    """The font file, or Pillow's own letters. Raises InvalidRequestError (field `font`, code FONT_NOT_FOUND)."""
    if path is None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise UnsupportedError(
                "this Pillow was built without FreeType: it has no letters of any size",
                field="font",
            )
        return font
    try:
        return ImageFont.truetype(path, size)
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise InvalidRequestError(
            f"the font {path[:200]!r} cannot be read: {reason}", field="font", code="FONT_NOT_FOUND"
        ) from None


def suited(words: str, path: str | None) -> str | None:
    """The font as asked for; where none was and Pillow's own lacks a letter, one of this machine's that has them all."""
    if path is not None or not _missing(words, font_of(None, _SAMPLE)):
        return path
    for name in _STAND_INS:
        with suppress(InvalidRequestError):
            if not _missing(words, font_of(name, _SAMPLE)):
                return name
    return None


def _missing(words: str, font: Font) -> list[str]:
    """Letters that come out as the box that the font draws for a character that no font has."""
    unknown = bytes(font.getmask("\uffff"))
    letters = {letter for letter in words if letter.isprintable() and not letter.isspace()}
    return sorted(letter for letter in letters if bytes(font.getmask(letter)) == unknown)


def _tell_missing(words: str, font: Font, note: Note) -> None:
    if missing := _missing(words, font):
        note("GLYPHS_MISSING", f"the font has no letters for {' '.join(missing[:20])}")


def _side(anchor: str) -> str:
    return "left" if "left" in anchor else "right" if "right" in anchor else "center"
