"""Images in a terminal: each character is an upper half block and shows two pixels."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from majordomo.imaging.downscale import pixel_rows
from majordomo.media.image_part import ImagePart


def half_blocks(image: ImagePart, columns: int) -> Text:
    """Return the image as colored text that is `columns` characters wide."""
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
