"""The things a prompt can name: who paints each, how high it is and where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from majordomo.offline.renderer import animals, buildings, nature
from majordomo.offline.renderer.placement import Spot


@dataclass(frozen=True, slots=True)
class Kind:
    """How a thing is painted, how high it is in units of the canvas, where it belongs, how many of it look right."""

    paint: Callable[[Spot], None]
    height: float
    where: str  # land, water, sky
    crowd: int = 1


KINDS: dict[str, Kind] = {
    "lighthouse": Kind(buildings.lighthouse, 0.5, "land"),
    "house": Kind(buildings.house, 0.14, "land"),
    "castle": Kind(buildings.castle, 0.42, "land"),
    "windmill": Kind(buildings.windmill, 0.36, "land"),
    "tower": Kind(buildings.tower, 0.4, "land"),
    "tree": Kind(nature.tree, 0.34, "land", 2),
    "pine": Kind(nature.pine, 0.34, "land", 5),
    "palm": Kind(nature.palm, 0.42, "land", 2),
    "cactus": Kind(nature.cactus, 0.3, "land", 3),
    "boat": Kind(buildings.boat, 0.19, "water"),
    "ship": Kind(buildings.ship, 0.15, "water"),
    "whale": Kind(animals.whale, 0.16, "water"),
    "bird": Kind(animals.bird, 0.022, "sky", 7),
    "cat": Kind(animals.cat, 0.3, "land"),
    "dog": Kind(animals.four_legged((150, 106, 70), 0.12, "soft", "long"), 0.22, "land"),
    "fox": Kind(animals.four_legged((220, 112, 44), 0.1, "soft", "bushy"), 0.2, "land"),
    "horse": Kind(animals.four_legged((124, 80, 54), 0.3, "mane", "long"), 0.28, "land"),
    "deer": Kind(animals.four_legged((158, 112, 74), 0.3, "antlers", "short"), 0.26, "land"),
    "sheep": Kind(animals.sheep, 0.12, "land", 4),
    "rabbit": Kind(animals.rabbit, 0.16, "land"),
    "person": Kind(animals.person, 0.22, "land"),
    "flower": Kind(nature.flower, 0.17, "land", 16),
    "balloon": Kind(buildings.balloon, 0.26, "sky", 2),
    "rocket": Kind(buildings.rocket, 0.34, "sky"),
    "tent": Kind(buildings.tent, 0.12, "land"),
    "mushroom": Kind(nature.mushroom, 0.15, "land", 3),
    "bridge": Kind(buildings.bridge, 0.2, "water"),
    "planet": Kind(nature.planet, 0.3, "sky"),
    "rainbow": Kind(nature.rainbow, 0.5, "back"),
}
