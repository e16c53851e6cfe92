"""Several images on one: contact sheets with captions, and a strip of before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from majordomo.errors import InvalidRequestError
from majordomo.imaging.operations import MAX_TEXT_CHARACTERS, Convert, ImageFormat
from majordomo.imaging.pixels import (
    EncodeOptions,
    Pixels,
    Size,
    as_srgb,
    decode,
    encode,
    flatten_onto,
    ignore_notes,
    parse_color,
    upright_size,
)
from majordomo.imaging.shapes import check_target
from majordomo.imaging.text_overlay import TextLayout, font_of, lay, suited
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.validation import as_tuple, check_number, check_text

_MAX_IMAGES = 400  # images on a sheet


def contact_sheet(
    images: Sequence[ImagePart],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    *,
    tile: int = 256,
    margin: int = 12,
    background: str = "white",
    color: str = "black",
    font: str | None = None,
    format: ImageFormat = "png",
    limits: Limits | None = None,
) -> ImagePart:
    """The images in rows of `columns` (None: about as many as rows), each within `tile` pixels a side, never enlarged, with its caption
    in one line below, cut short with … where it is too long.

    Raises InvalidRequestError naming the field: `images[2]` for one that cannot be decoded, `tile` for a sheet larger than `limits`.
    """
    shown = _images(images)
    words = _captions(captions, len(shown))
    check_number("columns", columns, 1, _MAX_IMAGES, whole=True)
    check_number("tile", tile, 8, 4096, whole=True)
    check_number("margin", margin, 0, 1024, whole=True)
    how, bounds = Convert(format), limits or Limits()
    behind, ink = parse_color(background, "background"), parse_color(color, "color")
    across = min(len(shown), columns or math.ceil(math.sqrt(len(shown))))
    down = math.ceil(len(shown) / across)
    line = max(14, tile // 14) if any(words) else 0
    high = max(
        _scaled(upright_size(part), (tile, tile))[1] for part in shown
    )  # no room for what none of them needs
    cell = (tile + margin, high + margin + (round(line * 1.6) if line else 0))
    size = (across * cell[0] + margin, down * cell[1] + margin)
    check_target(size, bounds, "tile")
    sheet = Image.new("RGB", size, behind)
    for index, part in enumerate(shown):  # one decoded image at a time
        left, top = margin + index % across * cell[0], margin + index // across * cell[1]
        small = _within(part, (tile, tile), bounds, f"images[{index}]", behind)
        sheet.paste(small, (left + (tile - small.width) // 2, top + (high - small.height) // 2))
        if words[index]:
            label = _label(words[index], font, line, tile, ink)
            lay(sheet, label, (left + (tile - label.width) // 2, top + high + round(line * 0.3)))
    return ImagePart(encode(Pixels(sheet), EncodeOptions(how.format)))


def before_after(
    before: ImagePart,
    after: ImagePart,
    labels: tuple[str, str] = ("before", "after"),
    *,
    height: int = 384,
    margin: int = 12,
    background: str = "white",
    color: str = "black",
    font: str | None = None,
    format: ImageFormat = "png",
    limits: Limits | None = None,
) -> ImagePart:
    """Two images side by side, as high as `height` pixels or as the higher one, with a label below each; ("", "") leaves them out.

    Raises InvalidRequestError naming the field, `before` or `after` for an image that cannot be decoded.
    """
    check_number("height", height, 8, 8192, whole=True)
    check_number("margin", margin, 0, 1024, whole=True)
    words = _captions(labels, 2, "labels")
    how, bounds = Convert(format), limits or Limits()
    behind, ink = parse_color(background, "background"), parse_color(color, "color")
    wide = bounds.max_image_side
    pair = [
        _within(part, (wide, height), bounds, name, behind)
        for part, name in ((before, "before"), (after, "after"))
    ]
    line = max(14, height // 20) if any(words) else 0
    high = max(image.height for image in pair)
    size = (
        sum(image.width for image in pair) + 3 * margin,
        high + 2 * margin + (round(line * 1.6) if line else 0),
    )
    check_target(size, bounds, "height")
    strip, left = Image.new("RGB", size, behind), margin
    for image, label in zip(pair, words, strict=True):
        strip.paste(image, (left, margin + (high - image.height) // 2))
        if label:
            drawn = _label(label, font, line, image.width, ink)
            lay(
                strip,
                drawn,
                (left + (image.width - drawn.width) // 2, margin + high + round(line * 0.3)),
            )
        left += image.width + margin
    return ImagePart(encode(Pixels(strip), EncodeOptions(how.format)))


def _within(
    part: ImagePart, room: Size, limits: Limits, field: str, background: tuple[int, int, int]
) -> Image.Image:
    """RGB, in sRGB, no larger than the room. A JPEG is decoded no larger than needed."""
    image = as_srgb(
        decode(part, limits, ignore_notes, field, near=(min(room), min(room))), ignore_notes
    ).image
    size = _scaled(image.size, room)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return flatten_onto(image, background)


def _scaled(size: Size, room: Size) -> Size:
    scale = min(1.0, room[0] / size[0], room[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _label(
    words: str, font: str | None, size: int, width: int, color: tuple[int, int, int]
) -> Image.Image:
    letters = font_of(suited(words, font), size)
    line = " ".join(words.split())
    if letters.getlength(line) > width:
        while line and letters.getlength(line + "…") > width:
            line = line[:-1]
        line = line.rstrip() + "…"
    return TextLayout([line], letters, 0, "center", False).drawn(color, color)


def _images(images: object) -> tuple[ImagePart, ...]:
    shown = as_tuple(images, "images")
    if not 1 <= len(shown) <= _MAX_IMAGES:
        raise InvalidRequestError(f"a sheet has 1 to {_MAX_IMAGES} images", field="images")
    for index, part in enumerate(shown):
        if not isinstance(part, ImagePart):
            raise InvalidRequestError(
                f"an image is an ImagePart, not {type(part).__name__}", field=f"images[{index}]"
            )
    return shown


def _captions(captions: object, number: int, field: str = "captions") -> tuple[str, ...]:
    if captions is None:
        return ("",) * number
    words = as_tuple(captions, field)
    if len(words) != number:
        raise InvalidRequestError(
            f"there are {len(words)} {field} for {number} images", field=field
        )
    for index, caption in enumerate(words):
        check_text(caption, f"{field}[{index}]", MAX_TEXT_CHARACTERS)
    return words
