"""The position of a subject, and drawing primitives in its own coordinates.

All shapes are lit from one side, in the light of the time of day.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from majordomo.offline.renderer.canvas import Point
from majordomo.offline.renderer.palette import RGB, mix
from majordomo.offline.renderer.stage import Stage


@dataclass(frozen=True, slots=True)
class Placement:
    """The position, size and color of one subject on the stage."""

    stage: Stage
    """The composition to draw on."""
    x: float
    """Horizontal position of the foot, in pixels of the canvas."""
    y: float
    """Vertical position of the foot, in pixels of the canvas."""
    size: float
    """Height of the subject, in pixels of the canvas."""
    rng: random.Random
    """Random numbers for this subject."""
    color: RGB | None
    """Color that the prompt names for the subject, if any."""

    def at(self, *points: Point) -> list[Point]:
        """Convert points from heights of the subject (from its foot, y upwards) to pixels."""
        return [(self.x + dx * self.size, self.y - dy * self.size) for dx, dy in points]

    def lit(self, color: RGB) -> RGB:
        """Return a color in the light of the time of day: darker at night, tinted by the sky."""
        palette = self.stage.palette
        dim = 0.56 * (1 - palette.daylight)
        return mix(mix(color, palette.near, dim), palette.sky[3], 0.12)

    @property
    def sun_from_left(self) -> bool:
        """Whether the sun or moon is left of the subject."""
        return self.stage.light_x < self.x

    def block(self, points: list[Point], color: RGB, contrast: float = 0.42) -> None:
        """Fill a round or upright body: bright towards the light, dark away from it."""
        bright, dark = (
            mix(color, self.stage.palette.sun, 0.22),
            mix(color, self.stage.palette.near, contrast + 0.2),
        )
        self.stage.canvas.shade(
            points, *((bright, dark) if self.sun_from_left else (dark, bright)), across=True
        )

    def flat(self, points: list[Point], color: RGB, alpha: int = 255) -> None:
        """Fill a polygon with one color."""
        self.stage.canvas.polygon(points, color, alpha)

    def disc(
        self, dx: float, dy: float, rx: float, ry: float, color: RGB, alpha: int = 255
    ) -> None:
        """Fill an ellipse; center and radii are in heights of the subject."""
        self.stage.canvas.ellipse(
            self.x + dx * self.size,
            self.y - dy * self.size,
            rx * self.size,
            ry * self.size,
            color,
            alpha,
        )

    def stroke(self, points: list[Point], color: RGB, width: float) -> None:
        """Draw a line whose width is in heights of the subject."""
        self.stage.canvas.line(points, color, width * self.size)

    def window(self, dx: float, dy: float, wide: float, tall: float) -> None:
        """Draw a window, lit and with a glow in the evening; lengths in heights of the subject."""
        palette, canvas = self.stage.palette, self.stage.canvas
        glass = palette.lamp if palette.daylight < 0.7 else mix(palette.sky[1], palette.near, 0.5)
        self.flat(
            self.at((dx, dy), (dx + wide, dy), (dx + wide, dy + tall), (dx, dy + tall)), glass
        )
        if palette.daylight < 0.7:
            middle = self.at((dx + wide / 2, dy + tall / 2))[0]
            canvas.glow(*middle, max(wide, tall) * self.size * 2.2, palette.lamp, 0.6)


def oval(dx: float, dy: float, rx: float, ry: float) -> list[Point]:
    """Return the outline of an ellipse, in heights of a subject."""
    return [
        (dx + rx * math.cos(t * math.pi / 12), dy + ry * math.sin(t * math.pi / 12))
        for t in range(24)
    ]
