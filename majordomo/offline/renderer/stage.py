"""The stage: the canvas, the scene and the measurements that all drawing functions share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from majordomo.offline.renderer.canvas import Canvas
from majordomo.offline.renderer.palette import RGB, Palette, mix, rng_for
from majordomo.offline.renderer.scene import Scene

WATERY = ("sea", "lake", "beach")


@dataclass(slots=True)
class Stage:
    """One composition. Lengths and positions are in pixels of the canvas."""

    canvas: Canvas
    """The surface to draw on."""
    scene: Scene
    """What to draw."""
    seed_parts: tuple[object, ...]
    """What all random numbers depend on."""
    detail: float
    """Amount of detail, from 0 (rough) to 1 (fine)."""
    guidance: float
    """Strength of the prompt; 1 is the default cfg_scale."""
    falloff: float = 1.0
    """How quickly light fades around its source."""
    horizon: float = 0.0
    """Vertical position of the horizon."""
    focus: float = 0.0
    """Horizontal position of the main subject."""
    light_x: float = 0.0
    """Horizontal position of the sun or moon."""
    light_y: float = 0.0
    """Vertical position of the sun or moon."""
    ground: Callable[[float], float] = field(default=lambda x: 0.0)
    """Vertical position of the ground at a horizontal position."""

    def __post_init__(self) -> None:
        rng = self.rng_for("frame")
        width, height = self.canvas.width, self.canvas.height
        low = {"mountains": 0.7, "city": 0.72, "forest": 0.74, "space": 0.86, "desert": 0.66}.get(
            self.scene.location, 0.64
        )
        self.horizon = height * (low + rng.uniform(-0.03, 0.03))
        side = rng.choice([-1, 1])
        self.focus = width * (0.5 + side * rng.uniform(0.15, 0.23))
        self.light_x = width * (0.5 - side * rng.uniform(0.1, 0.26))
        self.light_y = (
            self.horizon * (1 - self.palette.sun_height) + rng.uniform(-0.02, 0.02) * height
        )
        self.ground = lambda x: self.horizon

    @property
    def palette(self) -> Palette:
        """The colors of the scene."""
        return self.scene.palette

    def rng_for(self, name: str) -> random.Random:
        """Return the random generator of one layer.

        Each layer has its own, so that more detail in one does not move the others.
        """
        return rng_for(*self.seed_parts, name)

    def count(self, maximum: int) -> int:
        """Return how many small shapes to draw: `maximum` at full detail, at least 1."""
        return max(1, round(maximum * (0.12 + 0.88 * self.detail)))

    def faded(self, color: RGB, distance: float) -> RGB:
        """Return a color as seen from a `distance` between 0 (near) and 1 (at the horizon)."""
        return mix(color, self.palette.far, 0.85 * distance)
