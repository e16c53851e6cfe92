"""Drawing functions for plants, planets and the rainbow.

Coordinates and sizes are multiples of the subject's height; see `Placement.at`.
"""

from __future__ import annotations

import math

from majordomo.offline.renderer.canvas import Point
from majordomo.offline.renderer.palette import RGB, lighter, mix
from majordomo.offline.renderer.placement import Placement, oval


def tree(placement: Placement) -> None:
    """Draw a tree whose crown follows the season: blossom, leaves, autumn colors, snow."""
    season, rng, palette = placement.stage.scene.season, placement.rng, placement.stage.palette
    leaf: RGB = {
        "spring": (246, 178, 200),
        "autumn": (216, 112, 40),
        "winter": (214, 222, 232),
    }.get(season, (70, 132, 60))
    leaf = placement.lit(placement.color or leaf)
    bark = placement.lit((92, 64, 48))
    placement.block(
        placement.at((-0.045, -0.03), (-0.022, 0.5), (0.022, 0.5), (0.045, -0.03)), bark
    )
    for dx in (-0.17, 0.16, -0.06):
        placement.stroke(placement.at((0, 0.3 + abs(dx) * 0.3), (dx, 0.6)), bark, 0.02)
    blobs = [
        (rng.gauss(0, 0.13), 0.68 + rng.gauss(0, 0.1), rng.uniform(0.09, 0.17))
        for _ in range(placement.stage.count(34))
    ]
    sun = -1 if placement.sun_from_left else 1
    for share, shift in ((0.5, 0.0), (0.15, 0.02), (-0.16, 0.055)):
        shade = (
            mix(leaf, palette.near, share) if share > 0 else mix(leaf, palette.sun, -share * 1.6)
        )
        for dx, dy, radius in blobs:
            placement.disc(
                dx + sun * shift,
                dy + shift,
                radius * (1 - shift * 7),
                radius * (0.86 - shift * 6),
                shade,
                235 if share > 0 else 150,
            )


def pine(placement: Placement) -> None:
    """Draw a pine in tiers of branches, with snow on them in winter."""
    green = placement.lit(placement.color or (44, 96, 70))
    placement.block(
        placement.at((-0.03, -0.04), (-0.03, 0.2), (0.03, 0.2), (0.03, -0.04)),
        placement.lit((84, 60, 46)),
    )
    tiers = 4 + round(3 * placement.stage.detail)
    for index in range(tiers):
        t = index / tiers
        low, half, tip = (
            0.1 + 0.78 * t,
            0.25 * (1 - t) + 0.03,
            0.1 + 0.78 * t + 0.3 * (1 - 0.55 * t),
        )
        placement.block(
            placement.at(
                (-half, low),
                (-half * 0.4, low + 0.03),
                (0, tip),
                (half * 0.4, low + 0.03),
                (half, low),
                (0, low + 0.025),
            ),
            green,
        )
        if (
            placement.stage.scene.season == "winter"
            and "snow" not in placement.stage.scene.excluded
        ):
            placement.flat(
                placement.at((-half * 0.62, low + 0.07), (0, tip), (half * 0.3, low + 0.12)),
                placement.lit((240, 244, 250)),
                190,
            )


def palm(placement: Placement) -> None:
    """Draw a leaning trunk and nine fronds."""
    lean, rng = placement.rng.choice([-1, 1]) * placement.rng.uniform(0.12, 0.25), placement.rng
    trunk = [(lean * t * t, 0.78 * t) for t in (0, 0.25, 0.5, 0.75, 1)]
    placement.stroke(placement.at(*trunk), placement.lit((132, 96, 66)), 0.045)
    green = placement.lit(placement.color or (54, 120, 62))
    for index in range(9):
        angle = math.pi * (index / 8) * 1.3 - 0.15 * math.pi + rng.uniform(-0.1, 0.1)
        long = rng.uniform(0.26, 0.36)
        curve = [
            (lean + math.cos(angle) * long * t, 0.78 + math.sin(angle) * long * t - 0.26 * t * t)
            for t in (0, 0.25, 0.5, 0.75, 1)
        ]
        back = [
            (x, y - 0.055 * math.sin(math.pi * min(1, i / 4 + 0.12)))
            for i, (x, y) in enumerate(curve)
        ]
        placement.flat(
            placement.at(*curve, *reversed(back)),
            mix(green, placement.stage.palette.near, 0.4 * rng.random()),
        )
    for dx in (-0.03, 0.03):
        placement.disc(lean + dx, 0.75, 0.024, 0.024, placement.lit((110, 70, 44)))


def cactus(placement: Placement) -> None:
    """Draw a column with two arms."""
    green = placement.lit(placement.color or (70, 122, 76))
    columns: tuple[list[Point], ...] = (
        [(0, -0.03), (0, 0.9)],
        [(0, 0.34), (-0.2, 0.36), (-0.22, 0.45), (-0.22, 0.66)],
        [(0, 0.46), (0.18, 0.48), (0.2, 0.56), (0.2, 0.8)],
    )
    for column in columns:
        wide = 0.14 if len(column) == 2 else 0.09
        placement.stroke(placement.at(*column), green, wide)
        placement.disc(column[-1][0], column[-1][1], wide / 2, wide / 2, green)
        placement.stroke(
            placement.at(*((x + 0.02, y) for x, y in column)),
            mix(green, placement.stage.palette.near, 0.35),
            wide * 0.25,
        )


def flower(placement: Placement) -> None:
    """Draw a stalk, two leaves and a few petals."""
    rng = placement.rng
    petals = placement.lit(
        placement.color
        or rng.choice(
            [(226, 60, 70), (250, 196, 60), (238, 130, 180), (160, 110, 220), (250, 246, 240)]
        )
    )
    green = placement.lit((66, 124, 60))
    bend = rng.uniform(-0.12, 0.12)
    placement.stroke(placement.at((0, -0.05), (bend * 0.3, 0.4), (bend, 0.78)), green, 0.035)
    for side in (-1, 1):
        placement.flat(
            placement.at((bend * 0.2, 0.2), (side * 0.16, 0.42), (side * 0.05, 0.22)), green
        )
    count, turn = rng.choice([5, 6, 8]), rng.uniform(0, 3)
    for index in range(count):
        angle = turn + index * 2 * math.pi / count
        placement.disc(
            bend + 0.12 * math.cos(angle),
            0.8 + 0.12 * math.sin(angle),
            0.095,
            0.095,
            lighter(petals, 0.12 * math.sin(angle)),
        )
    placement.disc(bend, 0.8, 0.075, 0.075, placement.lit((250, 206, 84)))


def mushroom(placement: Placement) -> None:
    """Draw a dotted cap on a white stem."""
    cap = placement.lit(placement.color or (204, 50, 46))
    placement.block(
        placement.at((-0.12, -0.03), (-0.08, 0.5), (0.08, 0.5), (0.12, -0.03)),
        placement.lit((240, 228, 206)),
    )
    dome = [
        (0.42 * math.cos(t * math.pi / 12), 0.46 + 0.44 * math.sin(t * math.pi / 12))
        for t in range(13)
    ]
    placement.block(placement.at(*dome), cap)
    for dx, dy, radius in (
        (-0.2, 0.62, 0.06),
        (0.02, 0.76, 0.07),
        (0.22, 0.6, 0.055),
        (-0.02, 0.56, 0.04),
    ):
        placement.disc(dx, dy, radius, radius * 0.8, placement.lit((250, 244, 234)))


def planet(placement: Placement) -> None:
    """Draw a banded planet with a ring that passes behind it and in front of it."""
    body = placement.color or placement.rng.choice(
        [(214, 150, 96), (110, 160, 210), (190, 120, 170)]
    )
    tilt = 0.3
    ring = [
        (0.85 * math.cos(t), 0.5 + 0.16 * math.sin(t) + tilt * 0.4 * math.cos(t))
        for t in (i * math.pi / 20 for i in range(41))
    ]
    placement.stroke(placement.at(*ring[:21]), lighter(body, 0.25), 0.05)
    placement.block(placement.at(*oval(0, 0.5, 0.5, 0.5)), body, 0.75)
    for dy in (0.3, 0.47, 0.66):
        half = math.sqrt(max(0.0, 0.25 - (dy - 0.5) ** 2)) * 0.97
        placement.flat(
            placement.at((-half, dy), (half, dy + 0.1), (half, dy + 0.16), (-half, dy + 0.06)),
            lighter(body, 0.25),
            60,
        )
    placement.stroke(placement.at(*ring[20:]), lighter(body, 0.35), 0.05)


def rainbow(placement: Placement) -> None:
    """Draw an arc of six colors."""
    canvas = placement.stage.canvas
    bands: list[RGB] = [
        (226, 62, 60),
        (242, 150, 50),
        (250, 226, 80),
        (80, 180, 90),
        (70, 130, 220),
        (130, 80, 190),
    ]
    for index, color in enumerate(bands):
        outer, wide = placement.size * (1.0 - 0.04 * index), placement.size * 0.05
        canvas.arc(placement.x, placement.y, outer * 1.15, outer, wide, color, 84)
