"""Scale an image down for display in a terminal."""

from __future__ import annotations

from typing import cast

from PIL import Image

from majordomo.media.image_part import ImagePart

Pixel = tuple[int, int, int]
_MAX_ROWS = 200


def pixel_rows(image: ImagePart, columns: int) -> list[list[Pixel]]:
    """Return the image as rows of (red, green, blue) pixels.

    Each row has `columns` pixels. The number of rows is even, at most 200, and otherwise keeps the
    aspect ratio.
    """
    rows = max(2, round(image.height * columns / image.width / 2) * 2)
    small = (
        image.to_pil().convert("RGB").resize((columns, min(rows, _MAX_ROWS)), Image.Resampling.BOX)
    )
    return [
        [cast("Pixel", small.getpixel((x, y))) for x in range(small.width)]
        for y in range(small.height)
    ]
