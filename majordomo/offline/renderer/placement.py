"""Where a thing stands and the few ways in which all things are painted: lit from one side, in the light of the hour."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from majordomo.offline.renderer.canvas import Point
from majordomo.offline.renderer.palette import RGB, mix
from majordomo.offline.renderer.stage import Stage


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one thing goes: its foot, its height, its own chance, and the color the prompt gave it."""

    stage: Stage
    x: float
    y: float
    size: float
    chance: random.Random
    color: RGB | None

    def at(self, *points: Point) -> list[Point]:
        """Points in heights of the thing, from its foot, y upwards."""
        return [(self.x + dx * self.size, self.y - dy * self.size) for dx, dy in points]

    def lit(self, color: RGB) -> RGB:
        """A color in the light of the hour: dimmed by the evening, warmed by the horizon."""
        palette = self.stage.palette
        dim = 0.56 * (1 - palette.daylight)
        return mix(mix(color, palette.near, dim), palette.sky[3], 0.12)

    @property
    def away(self) -> bool:
        """Whether the light comes from the left."""
        return self.stage.light_x < self.x

    def block(self, points: list[Point], color: RGB, contrast: float = 0.42) -> None:
        """A round or upright body: bright towards the light, dark away from it."""
        bright, dark = (
            mix(color, self.stage.palette.sun, 0.22),
            mix(color, self.stage.palette.near, contrast + 0.2),
        )
        self.stage.canvas.shade(
            points, *((bright, dark) if self.away else (dark, bright)), across=True
        )

    def flat(self, points: list[Point], color: RGB, alpha: int = 255) -> None:
        """One color all over."""
        self.stage.canvas.polygon(points, color, alpha)

    def disc(
        self, dx: float, dy: float, rx: float, ry: float, color: RGB, alpha: int = 255
    ) -> None:
        """An ellipse around a point in heights of the thing."""
        self.stage.canvas.ellipse(
            self.x + dx * self.size,
            self.y - dy * self.size,
            rx * self.size,
            ry * self.size,
            color,
            alpha,
        )

    def stroke(self, points: list[Point], color: RGB, width: float) -> None:
        """A line; its width is in heights of the thing."""
        self.stage.canvas.line(points, color, width * self.size)

    def window(self, dx: float, dy: float, wide: float, tall: float) -> None:
        """Lit when the day is going, with a little of its light around."""
        palette, canvas = self.stage.palette, self.stage.canvas
        glass = palette.lamp if palette.daylight < 0.7 else mix(palette.sky[1], palette.near, 0.5)
        self.flat(
            self.at((dx, dy), (dx + wide, dy), (dx + wide, dy + tall), (dx, dy + tall)), glass
        )
        if palette.daylight < 0.7:
            middle = self.at((dx + wide / 2, dy + tall / 2))[0]
            canvas.glow(*middle, max(wide, tall) * self.size * 2.2, palette.lamp, 0.6)


def oval(dx: float, dy: float, rx: float, ry: float) -> list[Point]:
    """The outline of an ellipse, in heights of a thing."""
    return [
        (dx + rx * math.cos(t * math.pi / 12), dy + ry * math.sin(t * math.pi / 12))
        for t in range(24)
    ]
