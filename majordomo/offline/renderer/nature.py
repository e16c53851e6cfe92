"""Painters of what grows and what shines. Plain shapes, measured in heights of the thing."""

from __future__ import annotations

import math

from majordomo.offline.renderer.canvas import Point
from majordomo.offline.renderer.palette import RGB, lighter, mix
from majordomo.offline.renderer.placement import Placement, oval


def tree(spot: Placement) -> None:
    """Its crown follows the season: blossom, leaves, autumn colors, snow."""
    season, chance, palette = spot.stage.scene.season, spot.chance, spot.stage.palette
    leaf: RGB = {
        "spring": (246, 178, 200),
        "autumn": (216, 112, 40),
        "winter": (214, 222, 232),
    }.get(season, (70, 132, 60))
    leaf = spot.lit(spot.color or leaf)
    bark = spot.lit((92, 64, 48))
    spot.block(spot.at((-0.045, -0.03), (-0.022, 0.5), (0.022, 0.5), (0.045, -0.03)), bark)
    for dx in (-0.17, 0.16, -0.06):
        spot.stroke(spot.at((0, 0.3 + abs(dx) * 0.3), (dx, 0.6)), bark, 0.02)
    blobs = [
        (chance.gauss(0, 0.13), 0.68 + chance.gauss(0, 0.1), chance.uniform(0.09, 0.17))
        for _ in range(spot.stage.count(34))
    ]
    sun = -1 if spot.away else 1
    for share, shift in ((0.5, 0.0), (0.15, 0.02), (-0.16, 0.055)):
        shade = (
            mix(leaf, palette.near, share) if share > 0 else mix(leaf, palette.sun, -share * 1.6)
        )
        for dx, dy, radius in blobs:
            spot.disc(
                dx + sun * shift,
                dy + shift,
                radius * (1 - shift * 7),
                radius * (0.86 - shift * 6),
                shade,
                235 if share > 0 else 150,
            )


def pine(spot: Placement) -> None:
    """Tiers of branches, with snow on them in winter."""
    green = spot.lit(spot.color or (44, 96, 70))
    spot.block(
        spot.at((-0.03, -0.04), (-0.03, 0.2), (0.03, 0.2), (0.03, -0.04)), spot.lit((84, 60, 46))
    )
    tiers = 4 + round(3 * spot.stage.detail)
    for index in range(tiers):
        t = index / tiers
        low, half, tip = (
            0.1 + 0.78 * t,
            0.25 * (1 - t) + 0.03,
            0.1 + 0.78 * t + 0.3 * (1 - 0.55 * t),
        )
        spot.block(
            spot.at(
                (-half, low),
                (-half * 0.4, low + 0.03),
                (0, tip),
                (half * 0.4, low + 0.03),
                (half, low),
                (0, low + 0.025),
            ),
            green,
        )
        if spot.stage.scene.season == "winter" and "snow" not in spot.stage.scene.absent:
            spot.flat(
                spot.at((-half * 0.62, low + 0.07), (0, tip), (half * 0.3, low + 0.12)),
                spot.lit((240, 244, 250)),
                190,
            )


def palm(spot: Placement) -> None:
    """A leaning trunk and nine fronds."""
    lean, chance = spot.chance.choice([-1, 1]) * spot.chance.uniform(0.12, 0.25), spot.chance
    trunk = [(lean * t * t, 0.78 * t) for t in (0, 0.25, 0.5, 0.75, 1)]
    spot.stroke(spot.at(*trunk), spot.lit((132, 96, 66)), 0.045)
    green = spot.lit(spot.color or (54, 120, 62))
    for index in range(9):
        angle = math.pi * (index / 8) * 1.3 - 0.15 * math.pi + chance.uniform(-0.1, 0.1)
        long = chance.uniform(0.26, 0.36)
        curve = [
            (lean + math.cos(angle) * long * t, 0.78 + math.sin(angle) * long * t - 0.26 * t * t)
            for t in (0, 0.25, 0.5, 0.75, 1)
        ]
        back = [
            (x, y - 0.055 * math.sin(math.pi * min(1, i / 4 + 0.12)))
            for i, (x, y) in enumerate(curve)
        ]
        spot.flat(
            spot.at(*curve, *reversed(back)),
            mix(green, spot.stage.palette.near, 0.4 * chance.random()),
        )
    for dx in (-0.03, 0.03):
        spot.disc(lean + dx, 0.75, 0.024, 0.024, spot.lit((110, 70, 44)))


def cactus(spot: Placement) -> None:
    """A column with two arms."""
    green = spot.lit(spot.color or (70, 122, 76))
    columns: tuple[list[Point], ...] = (
        [(0, -0.03), (0, 0.9)],
        [(0, 0.34), (-0.2, 0.36), (-0.22, 0.45), (-0.22, 0.66)],
        [(0, 0.46), (0.18, 0.48), (0.2, 0.56), (0.2, 0.8)],
    )
    for column in columns:
        wide = 0.14 if len(column) == 2 else 0.09
        spot.stroke(spot.at(*column), green, wide)
        spot.disc(column[-1][0], column[-1][1], wide / 2, wide / 2, green)
        spot.stroke(
            spot.at(*((x + 0.02, y) for x, y in column)),
            mix(green, spot.stage.palette.near, 0.35),
            wide * 0.25,
        )


def flower(spot: Placement) -> None:
    """A stalk, two leaves and a few petals."""
    chance = spot.chance
    petals = spot.lit(
        spot.color
        or chance.choice(
            [(226, 60, 70), (250, 196, 60), (238, 130, 180), (160, 110, 220), (250, 246, 240)]
        )
    )
    green = spot.lit((66, 124, 60))
    bend = chance.uniform(-0.12, 0.12)
    spot.stroke(spot.at((0, -0.05), (bend * 0.3, 0.4), (bend, 0.78)), green, 0.035)
    for side in (-1, 1):
        spot.flat(spot.at((bend * 0.2, 0.2), (side * 0.16, 0.42), (side * 0.05, 0.22)), green)
    count, turn = chance.choice([5, 6, 8]), chance.uniform(0, 3)
    for index in range(count):
        angle = turn + index * 2 * math.pi / count
        spot.disc(
            bend + 0.12 * math.cos(angle),
            0.8 + 0.12 * math.sin(angle),
            0.095,
            0.095,
            lighter(petals, 0.12 * math.sin(angle)),
        )
    spot.disc(bend, 0.8, 0.075, 0.075, spot.lit((250, 206, 84)))


def mushroom(spot: Placement) -> None:
    """A dotted cap on a white foot."""
    cap = spot.lit(spot.color or (204, 50, 46))
    spot.block(
        spot.at((-0.12, -0.03), (-0.08, 0.5), (0.08, 0.5), (0.12, -0.03)), spot.lit((240, 228, 206))
    )
    dome = [
        (0.42 * math.cos(t * math.pi / 12), 0.46 + 0.44 * math.sin(t * math.pi / 12))
        for t in range(13)
    ]
    spot.block(spot.at(*dome), cap)
    for dx, dy, radius in (
        (-0.2, 0.62, 0.06),
        (0.02, 0.76, 0.07),
        (0.22, 0.6, 0.055),
        (-0.02, 0.56, 0.04),
    ):
        spot.disc(dx, dy, radius, radius * 0.8, spot.lit((250, 244, 234)))


def planet(spot: Placement) -> None:
    """Banded, with a ring that passes behind and before it."""
    body = spot.color or spot.chance.choice([(214, 150, 96), (110, 160, 210), (190, 120, 170)])
    tilt = 0.3
    ring = [
        (0.85 * math.cos(t), 0.5 + 0.16 * math.sin(t) + tilt * 0.4 * math.cos(t))
        for t in (i * math.pi / 20 for i in range(41))
    ]
    spot.stroke(spot.at(*ring[:21]), lighter(body, 0.25), 0.05)
    spot.block(spot.at(*oval(0, 0.5, 0.5, 0.5)), body, 0.75)
    for dy in (0.3, 0.47, 0.66):
        half = math.sqrt(max(0.0, 0.25 - (dy - 0.5) ** 2)) * 0.97
        spot.flat(
            spot.at((-half, dy), (half, dy + 0.1), (half, dy + 0.16), (-half, dy + 0.06)),
            lighter(body, 0.25),
            60,
        )
    spot.stroke(spot.at(*ring[20:]), lighter(body, 0.35), 0.05)


def rainbow(spot: Placement) -> None:
    """An arc of six colors as high as its size."""
    canvas = spot.stage.canvas
    bands: list[RGB] = [
        (226, 62, 60),
        (242, 150, 50),
        (250, 226, 80),
        (80, 180, 90),
        (70, 130, 220),
        (130, 80, 190),
    ]
    for index, color in enumerate(bands):
        outer, wide = spot.size * (1.0 - 0.04 * index), spot.size * 0.05
        canvas.arc(spot.x, spot.y, outer * 1.15, outer, wide, color, 84)
