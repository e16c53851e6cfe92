"""Combine several images into one: contact sheets and before-after strips."""

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
from majordomo.imaging.text_overlay import TextLayout, choose_font, composite, load_font
from majordomo.media.image_part import ImagePart, as_image_part
from majordomo.settings import Limits
from majordomo.validation import as_tuple, check_number, check_text

Color = tuple[int, int, int]
# Images on one contact sheet.
MAX_IMAGES = 400
# In pixels.
_MIN_FONT_SIZE = 14
# Height of a line of a label, as a multiple of the font size.
_LINE_HEIGHT = 1.6
# Gap between an image and its label, as a multiple of the font size.
_LABEL_GAP = 0.3


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
    """Arrange images in a grid, with captions.

    Args:
        images: 1 to 400 images; none is enlarged.
        captions: One line of text below each image, up to 2,000 characters; a line that is too wide
            is cut off with "…". Default: no captions.
        columns: Number of columns, 1 to 400. Default: about as many as rows.
        tile: Longest side of each image in pixels, 8 to 4096.
        margin: Distance between images and from the edges in pixels, 0 to 1024.
        background: Name of a color or `#rrggbb`.
        color: Color of the captions: a name or `#rrggbb`.
        font: Path of a TrueType or OpenType file. Default: as for `Text`.
        format: Format of the sheet: `"png"`, `"jpeg"`, `"webp"` or `"avif"`.
        limits: Size limits for the images and the sheet. Default: `Limits()`.

    Returns:
        The sheet.

    Raises:
        InvalidRequestError: Names the field: `images[2]` for an image that cannot be decoded,
            `tile` for a sheet that exceeds the limits, or the parameter that is not valid.
    """
    parts = _check_images(images)
    texts = _check_captions(captions, len(parts))
    check_number("columns", columns, 1, MAX_IMAGES, integer=True)
    check_number("tile", tile, 8, 4096, integer=True)
    check_number("margin", margin, 0, 1024, integer=True)
    file_format, limits = Convert(format).format, limits or Limits()
    background_rgb, text_rgb = parse_color(background, "background"), parse_color(color, "color")
    columns = min(len(parts), columns or math.ceil(math.sqrt(len(parts))))
    rows = math.ceil(len(parts) / columns)
    font_size = max(_MIN_FONT_SIZE, tile // 14) if any(texts) else 0
    # The rows are only as high as the highest image.
    row_height = max(_scale_to_fit(upright_size(part), (tile, tile))[1] for part in parts)
    cell = (tile + margin, row_height + margin + round(font_size * _LINE_HEIGHT))
    size = (columns * cell[0] + margin, rows * cell[1] + margin)
    check_target(size, limits, "tile")
    sheet = Image.new("RGB", size, background_rgb)
    # Only one image is decoded at a time.
    for index, part in enumerate(parts):
        left = margin + index % columns * cell[0]
        top = margin + index // columns * cell[1]
        small = _decode_to_fit(part, (tile, tile), limits, f"images[{index}]", background_rgb)
        sheet.paste(
            small, (left + (tile - small.width) // 2, top + (row_height - small.height) // 2)
        )
        if texts[index]:
            label = _render_label(texts[index], font, font_size, tile, text_rgb)
            label_top = top + row_height + round(font_size * _LABEL_GAP)
            composite(sheet, label, (left + (tile - label.width) // 2, label_top))
    return ImagePart(encode(Pixels(sheet), EncodeOptions(file_format)))


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
    """Place two images side by side, with a label below each.

    Args:
        before: The left image; it is not enlarged.
        after: The right image; it is not enlarged.
        labels: The labels; `("", "")` for none.
        height: Largest height of the images in pixels, 8 to 8192.
        margin: Distance between the images and from the edges in pixels, 0 to 1024.
        background: Name of a color or `#rrggbb`.
        color: Color of the labels: a name or `#rrggbb`.
        font: Path of a TrueType or OpenType file. Default: as for `Text`.
        format: Format of the result: `"png"`, `"jpeg"`, `"webp"` or `"avif"`.
        limits: Size limits for the images and the result. Default: `Limits()`.

    Returns:
        The strip.

    Raises:
        InvalidRequestError: Names the field: `before` or `after` for an image that cannot be
            decoded, `height` for a result that exceeds the limits, or the parameter that is not
            valid.
    """
    check_number("height", height, 8, 8192, integer=True)
    check_number("margin", margin, 0, 1024, integer=True)
    texts = _check_captions(labels, 2, "labels")
    file_format, limits = Convert(format).format, limits or Limits()
    background_rgb, text_rgb = parse_color(background, "background"), parse_color(color, "color")
    max_size = (limits.max_image_side, height)
    pair = [
        _decode_to_fit(part, max_size, limits, name, background_rgb)
        for part, name in ((before, "before"), (after, "after"))
    ]
    font_size = max(_MIN_FONT_SIZE, height // 20) if any(texts) else 0
    row_height = max(image.height for image in pair)
    size = (
        sum(image.width for image in pair) + 3 * margin,
        row_height + 2 * margin + round(font_size * _LINE_HEIGHT),
    )
    check_target(size, limits, "height")
    strip, left = Image.new("RGB", size, background_rgb), margin
    for image, text in zip(pair, texts, strict=True):
        strip.paste(image, (left, margin + (row_height - image.height) // 2))
        if text:
            label = _render_label(text, font, font_size, image.width, text_rgb)
            label_top = margin + row_height + round(font_size * _LABEL_GAP)
            composite(strip, label, (left + (image.width - label.width) // 2, label_top))
        left += image.width + margin
    return ImagePart(encode(Pixels(strip), EncodeOptions(file_format)))


def _decode_to_fit(
    part: ImagePart, max_size: Size, limits: Limits, field: str, background: Color
) -> Image.Image:
    """Decode an image to RGB in sRGB, no larger than `max_size`.

    A JPEG is decoded no larger than necessary.
    """
    min_size = (min(max_size), min(max_size))
    image = as_srgb(decode(part, limits, ignore_notes, field, min_size), ignore_notes).image
    size = _scale_to_fit(image.size, max_size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return flatten_onto(image, background)


def _scale_to_fit(size: Size, max_size: Size) -> Size:
    scale = min(1.0, max_size[0] / size[0], max_size[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _render_label(text: str, path: str | None, size: int, width: int, color: Color) -> Image.Image:
    """Render one line of text, cut off at `width` pixels."""
    font = load_font(choose_font(text, path), size)
    line = " ".join(text.split())
    if font.getlength(line) > width:
        while line and font.getlength(line + "…") > width:
            line = line[:-1]
        line = line.rstrip() + "…"
    return TextLayout([line], font, 0, "center", False).render(color, color)


def _check_images(images: object) -> tuple[ImagePart, ...]:
    parts = as_tuple(images, "images")
    if not 1 <= len(parts) <= MAX_IMAGES:
        raise InvalidRequestError(
            f"images must have 1 to {MAX_IMAGES} items; got {len(parts)}", field="images"
        )
    for index, part in enumerate(parts):
        as_image_part(part, f"images[{index}]")
    return parts


def _check_captions(captions: object, count: int, field: str = "captions") -> tuple[str, ...]:
    if captions is None:
        return ("",) * count
    texts = as_tuple(captions, field)
    if len(texts) != count:
        raise InvalidRequestError(
            f"{field} must have one item per image ({count}); got {len(texts)}", field=field
        )
    for index, text in enumerate(texts):
        check_text(text, f"{field}[{index}]", MAX_TEXT_CHARACTERS)
    return texts
