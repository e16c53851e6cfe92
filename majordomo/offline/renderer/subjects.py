"""The subjects a prompt can name, and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from majordomo.offline.renderer import animals, buildings, nature
from majordomo.offline.renderer.placement import Placement


@dataclass(frozen=True, slots=True)
class Drawable:
    """How a subject is drawn and where it belongs."""

    draw: Callable[[Placement], None]
    """Draws one instance."""
    height: float
    """Height in units of the canvas; see `Canvas.unit`."""
    zone: str
    """Either "land", "water" or "sky"; "back" for what a layer of its own draws."""
    group_size: int = 1
    """How many instances to draw at least."""


DRAWABLES: dict[str, Drawable] = {
    "lighthouse": Drawable(buildings.lighthouse, 0.5, "land"),
    "house": Drawable(buildings.house, 0.14, "land"),
    "castle": Drawable(buildings.castle, 0.42, "land"),
    "windmill": Drawable(buildings.windmill, 0.36, "land"),
    "tower": Drawable(buildings.tower, 0.4, "land"),
    "tree": Drawable(nature.tree, 0.34, "land", 2),
    "pine": Drawable(nature.pine, 0.34, "land", 5),
    "palm": Drawable(nature.palm, 0.42, "land", 2),
    "cactus": Drawable(nature.cactus, 0.3, "land", 3),
    "boat": Drawable(buildings.boat, 0.19, "water"),
    "ship": Drawable(buildings.ship, 0.15, "water"),
    "whale": Drawable(animals.whale, 0.16, "water"),
    "bird": Drawable(animals.bird, 0.022, "sky", 7),
    "cat": Drawable(animals.cat, 0.3, "land"),
    "dog": Drawable(animals.four_legged((150, 106, 70), 0.12, "soft", "long"), 0.22, "land"),
    "fox": Drawable(animals.four_legged((220, 112, 44), 0.1, "soft", "bushy"), 0.2, "land"),
    "horse": Drawable(animals.four_legged((124, 80, 54), 0.3, "mane", "long"), 0.28, "land"),
    "deer": Drawable(animals.four_legged((158, 112, 74), 0.3, "antlers", "short"), 0.26, "land"),
    "sheep": Drawable(animals.sheep, 0.12, "land", 4),
    "rabbit": Drawable(animals.rabbit, 0.16, "land"),
    "person": Drawable(animals.person, 0.22, "land"),
    "flower": Drawable(nature.flower, 0.17, "land", 16),
    "balloon": Drawable(buildings.balloon, 0.26, "sky", 2),
    "rocket": Drawable(buildings.rocket, 0.34, "sky"),
    "tent": Drawable(buildings.tent, 0.12, "land"),
    "mushroom": Drawable(nature.mushroom, 0.15, "land", 3),
    "bridge": Drawable(buildings.bridge, 0.2, "water"),
    "planet": Drawable(nature.planet, 0.3, "sky"),
    "rainbow": Drawable(nature.rainbow, 0.5, "back"),
}
