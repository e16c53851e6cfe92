"""An image in a terminal: two pixels per character, the upper half block in front of the lower pixel's color."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from majordomo.imaging.downscale import pixel_rows
from majordomo.media.image_part import ImagePart


def half_blocks(image: ImagePart, columns: int) -> Text:
    """The image as colored text, `columns` characters wide."""
    text = Text()
    pixels = pixel_rows(image, columns)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=False):
        for above, below in zip(upper, lower, strict=True):
            text.append(
                "▀",
                Style(color=f"rgb{above}".replace(" ", ""), bgcolor=f"rgb{below}".replace(" ", "")),
            )
        text.append("\n")
    return text
