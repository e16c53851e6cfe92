"""Where an image is being composed: the surface, the scene and the few measures all painters share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from majordomo.offline.renderer.canvas import Canvas
from majordomo.offline.renderer.palette import RGB, Palette, dice, mix
from majordomo.offline.renderer.scene import Scene

WATERY = ("sea", "lake", "beach")


@dataclass(slots=True)
class Stage:
    """One composition. Lengths are pixels of the canvas; `detail` runs from 0 (rough) to 1 (fine)."""

    canvas: Canvas
    scene: Scene
    root: tuple[object, ...]  # what chance depends on
    detail: float
    literal: float
    falloff: float = 1.0  # how quickly light fades around its source
    horizon: float = 0.0
    focus: float = 0.0  # x of the main thing
    light_x: float = 0.0
    light_y: float = 0.0
    ground: Callable[[float], float] = field(default=lambda x: 0.0)

    def __post_init__(self) -> None:
        chance = self.dice("frame")
        width, height = self.canvas.width, self.canvas.height
        low = {"mountains": 0.7, "city": 0.72, "forest": 0.74, "space": 0.86, "desert": 0.66}.get(
            self.scene.place, 0.64
        )
        self.horizon = height * (low + chance.uniform(-0.03, 0.03))
        side = chance.choice([-1, 1])
        self.focus = width * (0.5 + side * chance.uniform(0.15, 0.23))
        self.light_x = width * (0.5 - side * chance.uniform(0.1, 0.26))
        self.light_y = (
            self.horizon * (1 - self.palette.sun_height) + chance.uniform(-0.02, 0.02) * height
        )
        self.ground = lambda x: self.horizon

    @property
    def palette(self) -> Palette:
        """The colors of the scene."""
        return self.scene.palette

    def dice(self, name: str) -> random.Random:
        """Chance of its own for each painter, so that more detail in one does not move the others."""
        return dice(*self.root, name)

    def count(self, most: int) -> int:
        """How many of something small to paint: all at full detail, few in a rough image."""
        return max(1, round(most * (0.12 + 0.88 * self.detail)))

    def faded(self, color: RGB, distance: float) -> RGB:
        """A color as it looks from `distance` (0 here, 1 at the horizon)."""
        return mix(color, self.palette.far, 0.85 * distance)
