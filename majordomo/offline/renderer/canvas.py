"""The drawing surface and its primitives. Coordinates are pixels of the canvas."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageDraw

from majordomo.offline.renderer.palette import RGB, mix

Point = tuple[float, float]
Box = tuple[int, int, int, int]


class Canvas:
    """An RGB image with drawing primitives and, optionally, a mask of what covers the sky.

    Args:
        width: Pixels.
        height: Pixels.
        keep_opaque_mask: Record in `opaque_mask` what is drawn while `marking_opaque` is true.
    """

    def __init__(self, width: int, height: int, *, keep_opaque_mask: bool = False) -> None:
        self.width: int = width
        self.height: int = height
        # Sizes of subjects are multiples of this length.
        self.unit: float = min(height, 1.25 * width)
        self.image: Image.Image = Image.new("RGB", (width, height))
        self.opaque_mask: Image.Image | None = (
            Image.new("L", (width, height)) if keep_opaque_mask else None
        )
        # Whether the shapes drawn now cover the sky.
        self.marking_opaque = False

    def polygon(self, points: Sequence[Point], fill: RGB, alpha: int = 255) -> None:
        """Fill a polygon; an `alpha` below 255 lets the pixels below show through."""
        self._pen().polygon(points, fill=(*fill, alpha))
        if mask := self._mask():
            mask.polygon(points, fill=255)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: RGB, alpha: int = 255
    ) -> None:
        """Fill an ellipse around its center, with the radii `rx` and `ry`."""
        box = (x - rx, y - ry, x + rx, y + ry)
        self._pen().ellipse(box, fill=(*fill, alpha))
        if mask := self._mask():
            mask.ellipse(box, fill=255)

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: RGB, alpha: int = 255
    ) -> None:
        """Fill a rectangle from its upper left corner."""
        box = (x, y, x + max(0.0, width), y + max(0.0, height))
        self._pen().rectangle(box, fill=(*fill, alpha))
        if mask := self._mask():
            mask.rectangle(box, fill=255)

    def line(self, points: Sequence[Point], fill: RGB, width: float, alpha: int = 255) -> None:
        """Draw a line that is at least one pixel wide."""
        self._pen().line(
            points,
            fill=(*fill, alpha),
            width=max(1, round(width)),
            joint="curve" if len(points) > 2 else None,
        )
        if mask := self._mask():
            mask.line(points, fill=255, width=max(1, round(width)))

    def shade(
        self, points: Sequence[Point], first: RGB, last: RGB, *, across: bool = False
    ) -> None:
        """Fill a polygon with a gradient from top to bottom, or `across` from left to right."""
        box = self._clip(points)
        if box is None:
            return
        left, top, right, bottom = box
        size = (right - left, bottom - top)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in points], fill=255)
        span = size[0] if across else size[1]
        ramp = gradient([(0.0, first), (1.0, last)], span)
        self.image.paste(
            (ramp.transpose(Image.Transpose.ROTATE_90) if across else ramp).resize(
                size, Image.Resampling.NEAREST
            ),
            box,
            mask,
        )
        if self.opaque_mask is not None and self.marking_opaque:
            self.opaque_mask.paste(255, box, mask)

    def glow(
        self,
        x: float,
        y: float,
        radius: float,
        fill: RGB,
        amount: float,
        power: float = 2.0,
        flat: float = 1.0,
    ) -> None:
        """Add light around a point that fades outwards. Never part of the opaque mask.

        Args:
            x: Center, in pixels.
            y: Center, in pixels.
            radius: Vertical radius, in pixels.
            fill: Color of the light.
            amount: Strength at the center, 0 to 1.
            power: How quickly the light fades; 1 is linear.
            flat: Width divided by height.
        """
        rx, ry = max(1.0, radius * flat), max(1.0, radius)
        left, top = max(0, int(x - rx)), max(0, int(y - ry))
        right, bottom = min(self.width, int(x + rx) + 1), min(self.height, int(y + ry) + 1)
        if left >= right or top >= bottom:
            return
        # A glow may be much larger than the image: scale only the part that falls on the canvas.
        scale_x, scale_y = 256 / (2 * rx), 256 / (2 * ry)
        source = (
            max(0.0, (left - x + rx) * scale_x),
            max(0.0, (top - y + ry) * scale_y),
            min(256.0, (right - x + rx) * scale_x),
            min(256.0, (bottom - y + ry) * scale_y),
        )
        if source[2] - source[0] < 0.01 or source[3] - source[1] < 0.01:
            return
        box = (left, top, right, bottom)
        mask = _fade(amount, power).resize(
            (right - left, bottom - top), Image.Resampling.BILINEAR, box=source
        )
        self._screen(fill, mask, box)

    def beam(self, points: Sequence[Point], reach: float, fill: RGB, amount: float) -> None:
        """Add light that leaves the first point and fades along the polygon.

        The light ends `reach` pixels from the first point. Never part of the opaque mask.
        """
        box = self._clip(points)
        if box is None:
            return
        left, top, right, bottom = box
        x, y = points[0]
        scale = 128 / max(1.0, reach)
        # The fade is cut from a disc that may be larger than the image. There is no light outside
        # of the disc.
        corners = [
            128 + (edge - middle) * scale
            for edge, middle in ((left, x), (top, y), (right, x), (bottom, y))
        ]
        x0, y0, x1, y1 = (min(256.0, max(0.0, corner)) for corner in corners)
        if x1 - x0 < 0.01 or y1 - y0 < 0.01:
            return
        fade = _fade(amount, 1.5).resize(
            (right - left, bottom - top), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)
        )
        wedge = Image.new("L", fade.size)
        ImageDraw.Draw(wedge).polygon([(px - left, py - top) for px, py in points], fill=255)
        self._screen(fill, ImageChops.multiply(fade, wedge), box)

    def _screen(self, fill: RGB, mask: Image.Image, box: Box) -> None:
        part = self.image.crop(box)
        lit = ImageChops.screen(part, Image.new("RGB", part.size, fill))
        part.paste(lit, (0, 0), mask)
        self.image.paste(part, box)

    def arc(
        self, x: float, y: float, rx: float, ry: float, width: float, fill: RGB, alpha: int
    ) -> None:
        """Draw the upper half of a ring, `width` wide inwards. Never part of the opaque mask."""
        mask = Image.new("L", (self.width, max(1, min(self.height, round(y)))))
        ImageDraw.Draw(mask).arc(
            (x - rx, y - ry, x + rx, y + ry), 180, 360, fill=alpha, width=max(1, round(width))
        )
        self.cover(fill, mask, (0, 0))

    def cover(self, fill: RGB, mask: Image.Image, at: tuple[int, int]) -> None:
        """Paint one color through a mask whose upper left corner is at `at`."""
        self.image.paste(fill, (at[0], at[1], at[0] + mask.width, at[1] + mask.height), mask)

    def _pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image, "RGBA")

    def _mask(self) -> ImageDraw.ImageDraw | None:
        return (
            ImageDraw.Draw(self.opaque_mask)
            if self.opaque_mask is not None and self.marking_opaque
            else None
        )

    def _clip(self, points: Sequence[Point]) -> Box | None:
        left, right = (
            max(0, int(min(x for x, _ in points))),
            min(self.width, int(max(x for x, _ in points)) + 1),
        )
        top, bottom = (
            max(0, int(min(y for _, y in points))),
            min(self.height, int(max(y for _, y in points)) + 1),
        )
        return (left, top, right, bottom) if left < right and top < bottom else None


def gradient(stops: Sequence[tuple[float, RGB]], height: int) -> Image.Image:
    """Return a column of pixels that blends the color stops; positions go from 0 to 1."""
    column = bytearray()
    index = 0
    for row in range(height):
        at = row / max(1, height - 1)
        while index < len(stops) - 2 and at > stops[index + 1][0]:
            index += 1
        (low, first), (high, last) = stops[index], stops[index + 1]
        column += bytes(mix(first, last, (at - low) / (high - low) if high > low else 1.0))
    return Image.frombytes("RGB", (1, height), bytes(column))


def noise(
    rng: random.Random, size: tuple[int, int], cells: tuple[int, int], octaves: int = 4
) -> Image.Image:
    """Return smooth gray noise: a sum of random grids, each twice as fine and half as strong."""
    # Mixed at a small size and enlarged once: it looks alike, at a cost independent of the image.
    small = (
        min(size[0], max(16, cells[0] * 2**octaves)),
        min(size[1], max(16, cells[1] * 2**octaves)),
    )
    total = Image.new("L", small)
    weight = 0.0
    for octave in range(octaves):
        columns, rows = cells[0] * 2**octave + 1, cells[1] * 2**octave + 1
        grid = Image.frombytes("L", (columns, rows), rng.randbytes(columns * rows)).resize(
            small, Image.Resampling.BICUBIC
        )
        share = 0.5**octave
        weight += share
        total = grid if octave == 0 else Image.blend(total, grid, share / weight)
    return total.resize(size, Image.Resampling.BICUBIC)


def levels(low: float, high: float, top: float = 255.0) -> Callable[[int], int]:
    """Return a point function: 0 up to `low`, `top` from `high`, smooth in between."""

    def level(value: int) -> int:
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(top * share * share * (3 - 2 * share))

    return level


def _fade(amount: float, power: float) -> Image.Image:
    """Return a disc of light, 256 pixels wide: `amount` in the middle, 0 from the rim on."""
    # Pillow's gradient is 181 where the inscribed circle touches the edge, and 255 only in the
    # corners.
    strength = [max(0.0, 1 - level / 181) ** power for level in range(256)]
    return Image.radial_gradient("L").point(
        [round(255 * min(1.0, amount) * share) for share in strength]
    )
