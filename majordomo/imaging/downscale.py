"""An image small enough for a terminal."""

from __future__ import annotations

from typing import cast

from PIL import Image

from majordomo.media.image_part import ImagePart

Pixel = tuple[int, int, int]


def pixel_rows(image: ImagePart, columns: int) -> list[list[Pixel]]:
    """The image's pixels as rows of (red, green, blue), `columns` wide, an even number of rows, its proportions kept."""
    height = max(2, round(image.height * columns / image.width / 2) * 2)
    small = image.to_pil().convert("RGB").resize((columns, min(height, 200)), Image.Resampling.BOX)
    return [
        [cast("Pixel", small.getpixel((x, y))) for x in range(small.width)]
        for y in range(small.height)
    ]
