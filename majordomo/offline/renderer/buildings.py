"""Painters of what people made: houses, towers, ships and whatever else was built. Plain shapes, measured in heights of the thing."""

from __future__ import annotations

import math

from majordomo.offline.renderer.canvas import Point
from majordomo.offline.renderer.palette import lighter, mix
from majordomo.offline.renderer.placement import Placement


def lighthouse(spot: Placement) -> None:
    """A striped tower with gallery, lantern and the house of its keeper; lit, with beams, when it gets dark."""
    stage, palette = spot.stage, spot.stage.palette
    chance = spot.chance
    stripe = spot.lit(spot.color or palette.accent)
    wall = spot.lit((246, 240, 230))
    foot, top = 0.105, 0.062

    def half(height: float) -> float:  # the wall leans in, more at the foot
        t = min(1.0, max(0.0, height / 0.74))
        return top + (foot - top) * math.pow(1 - t, 1.35)

    def band(low: float, high: float) -> list[Point]:
        rows = [low + (high - low) * t / 5 for t in range(6)]
        return spot.at(*[(-half(h), h) for h in rows], *[(half(h), h) for h in reversed(rows)])

    dim = 1 - palette.daylight
    lamp = spot.at((0, 0.83))[0]
    if dim > 0.3:
        _beam(spot, lamp, dim)
    _keepers_house(spot)
    stripes = chance.choice([3, 4, 5])
    for index in range(2 * stripes - 1):
        low, high = 0.74 * index / (2 * stripes - 1), 0.74 * (index + 1) / (2 * stripes - 1)
        spot.block(band(low - 0.002, high + 0.002), wall if index % 2 == 0 else stripe)
    if stage.detail > 0.2:
        for height in (0.17, 0.38, 0.58):
            spot.window(-0.012, height, 0.024, 0.045)
        spot.block(
            spot.at((-0.028, 0), (-0.028, 0.07), (0.028, 0.07), (0.028, 0)), lighter(stripe, -0.5)
        )
    iron = mix(palette.near, (40, 38, 46), 0.5)
    spot.block(spot.at((-0.096, 0.74), (-0.104, 0.765), (0.104, 0.765), (0.096, 0.74)), iron)
    for index in range(9 if stage.detail > 0.4 else 3):
        dx = -0.1 + 0.2 * index / (8 if stage.detail > 0.4 else 2)
        spot.stroke(spot.at((dx, 0.765), (dx, 0.8)), iron, 0.004)
    spot.stroke(spot.at((-0.102, 0.8), (0.102, 0.8)), iron, 0.006)
    glass = palette.lamp if dim > 0.2 else mix(palette.sky[2], (255, 255, 255), 0.3)
    spot.flat(spot.at((-0.05, 0.765), (-0.05, 0.885), (0.05, 0.885), (0.05, 0.765)), glass)
    for dx in (-0.05, -0.018, 0.018, 0.05):
        spot.stroke(spot.at((dx, 0.765), (dx, 0.885)), iron, 0.006)
    dome = [
        (0.064 * math.cos(t * math.pi / 10), 0.88 + 0.07 * math.sin(t * math.pi / 10))
        for t in range(11)
    ]
    spot.block(spot.at(*dome), stripe)
    spot.stroke(spot.at((0, 0.94), (0, 0.995)), iron, 0.008)
    spot.disc(0, 0.965, 0.01, 0.01, iron)
    if dim > 0.2:
        stage.canvas.glow(*lamp, spot.size * 0.42, palette.lamp, 0.75 * dim, 2.6 * stage.falloff)
        stage.canvas.glow(*lamp, spot.size * 0.1, (255, 246, 214), 0.95, 1.2)


def _beam(spot: Placement, lamp: Point, dim: float) -> None:
    """A wedge of light to either side, softer at its edges."""
    canvas, palette = spot.stage.canvas, spot.stage.palette
    tilt, reach = spot.chance.uniform(-0.02, 0.1), canvas.unit * 1.2
    for side in (-1, 1):
        for wide, amount in ((0.085, 0.16), (0.065, 0.2), (0.045, 0.24)):
            end = (lamp[0] + side * reach, lamp[1] - reach * tilt * side)
            wedge = [lamp, (end[0], end[1] - reach * wide), (end[0], end[1] + reach * wide)]
            canvas.beam(wedge, reach, palette.lamp, amount * dim)


def _keepers_house(spot: Placement) -> None:
    """On the side of the land, where it has ground under both its walls."""
    side = 1 if spot.x > spot.stage.canvas.width / 2 else -1
    x, size = spot.x + side * spot.size * spot.chance.uniform(0.24, 0.3), spot.size * 0.19
    ground = max(spot.stage.ground(x + dx * size) for dx in (-0.6, 0.0, 0.6))
    house(
        Placement(
            spot.stage,
            x,
            max(ground, spot.y - spot.size * 0.02) + spot.size * 0.004,
            size,
            spot.chance,
            None,
        )
    )


def house(spot: Placement) -> None:
    """A wall, a roof, a door and two windows; snow on the roof in winter."""
    chance = spot.chance
    wall = spot.lit(
        spot.color
        or chance.choice([(240, 230, 212), (226, 208, 180), (214, 190, 170), (236, 232, 226)])
    )
    roof = spot.lit(chance.choice([(150, 62, 50), (110, 66, 58), (86, 84, 100)]))
    wide = 0.62
    if spot.stage.scene.season == "winter":
        roof = spot.lit((236, 240, 248))
    spot.block(spot.at((0.26, 0.6), (0.26, 1.0), (0.38, 1.0), (0.38, 0.6)), mix(wall, roof, 0.6))
    spot.block(spot.at((-wide, -0.1), (-wide, 0.55), (wide, 0.55), (wide, -0.1)), wall)
    spot.block(
        spot.at((-wide - 0.1, 0.52), (-wide + 0.22, 0.94), (wide - 0.22, 0.94), (wide + 0.1, 0.52)),
        roof,
        0.3,
    )
    spot.flat(spot.at((-0.1, -0.02), (-0.1, 0.3), (0.08, 0.3), (0.08, -0.02)), lighter(roof, -0.35))
    for dx in (-0.46, 0.24):
        spot.window(dx, 0.18, 0.18, 0.18)


def castle(spot: Placement) -> None:
    """Four towers behind a wall with battlements."""
    stone = spot.lit(spot.color or (176, 168, 170))
    roof = spot.lit(spot.stage.palette.accent)
    towers = [(-0.34, 0.1, 0.52), (0.34, 0.1, 0.58), (-0.13, 0.09, 0.8), (0.14, 0.08, 0.68)]
    spot.block(spot.at((-0.4, -0.05), (-0.4, 0.34), (0.4, 0.34), (0.4, -0.05)), stone)
    for step in range(9):
        dx = -0.4 + 0.1 * step
        spot.block(spot.at((dx, 0.33), (dx, 0.38), (dx + 0.05, 0.38), (dx + 0.05, 0.33)), stone)
    for dx, half, tall in towers:
        spot.block(
            spot.at((dx - half, -0.05), (dx - half, tall), (dx + half, tall), (dx + half, -0.05)),
            lighter(stone, 0.05),
        )
        spot.block(
            spot.at((dx - half * 1.25, tall), (dx, tall + 0.2), (dx + half * 1.25, tall)), roof
        )
        spot.window(dx - 0.015, tall - 0.14, 0.03, 0.06)
        spot.stroke(spot.at((dx, tall + 0.19), (dx, tall + 0.25)), roof, 0.006)
    arch = [
        (0.055 * math.cos(t * math.pi / 8), 0.12 + 0.06 * math.sin(t * math.pi / 8))
        for t in range(9)
    ]
    spot.flat(
        spot.at((0.055, -0.05), *arch, (-0.055, -0.05)), mix(stone, spot.stage.palette.near, 0.8)
    )


def windmill(spot: Placement) -> None:
    """Its sails stand at an angle of their own."""
    wall, cap = spot.lit(spot.color or (236, 226, 208)), spot.lit((120, 70, 52))
    spot.block(spot.at((-0.17, -0.04), (-0.1, 0.62), (0.1, 0.62), (0.17, -0.04)), wall)
    spot.block(spot.at((-0.13, 0.61), (-0.06, 0.76), (0.06, 0.76), (0.13, 0.61)), cap)
    spot.window(-0.03, 0.36, 0.06, 0.08)
    spot.flat(
        spot.at((-0.045, -0.03), (-0.045, 0.15), (0.045, 0.15), (0.045, -0.03)), lighter(cap, -0.4)
    )
    turn = spot.chance.uniform(0.2, 1.3)
    for index in range(4):
        angle = turn + index * math.pi / 2
        cos, sin = math.cos(angle), math.sin(angle)
        spot.stroke(spot.at((0, 0.67), (0.46 * cos, 0.67 + 0.46 * sin)), cap, 0.014)
        sail = [(0.1, 0.0), (0.46, 0.0), (0.46, 0.11), (0.1, 0.09)]
        spot.flat(
            spot.at(*((u * cos - v * sin, 0.67 + u * sin + v * cos) for u, v in sail)),
            lighter(wall, 0.2),
            205,
        )


def tower(spot: Placement) -> None:
    """Slender, with a pointed roof."""
    wall = spot.lit(spot.color or (206, 190, 170))
    spot.block(spot.at((-0.11, -0.04), (-0.11, 0.66), (0.11, 0.66), (0.11, -0.04)), wall)
    spot.block(spot.at((-0.14, 0.65), (0, 1.0), (0.14, 0.65)), spot.lit((104, 74, 84)))
    spot.window(-0.035, 0.48, 0.07, 0.11)
    spot.window(-0.03, 0.2, 0.06, 0.08)


def boat(spot: Placement) -> None:
    """Two sails over a small hull and its reflection."""
    palette = spot.stage.palette
    hull, sail = spot.lit(spot.color or palette.accent), spot.lit((250, 246, 236))
    for index in range(5):  # its reflection, broken by ripples
        spot.disc(
            0,
            -0.05 - 0.055 * index,
            0.3 - 0.045 * index,
            0.012,
            mix(hull, palette.near, 0.4),
            120 - 18 * index,
        )
    spot.block(spot.at((-0.34, 0.12), (-0.24, -0.02), (0.24, -0.02), (0.38, 0.13)), hull)
    spot.stroke(spot.at((-0.34, 0.12), (0.38, 0.13)), lighter(hull, 0.4), 0.012)
    spot.stroke(spot.at((0, 0.1), (0, 1.0)), spot.lit((90, 66, 48)), 0.016)
    spot.block(spot.at((0.02, 0.18), (0.02, 0.96), (0.16, 0.52), (0.3, 0.2)), sail, 0.2)
    spot.block(
        spot.at((-0.02, 0.18), (-0.02, 0.84), (-0.14, 0.45), (-0.26, 0.2)),
        lighter(sail, -0.08),
        0.2,
    )


def ship(spot: Placement) -> None:
    """A steamer with two funnels and a row of portholes."""
    hull, white = spot.lit(spot.color or (56, 62, 84)), spot.lit((240, 238, 232))
    for index in range(4):
        spot.disc(
            0,
            -0.04 - 0.06 * index,
            0.8 - 0.12 * index,
            0.012,
            mix(hull, spot.stage.palette.near, 0.4),
            110 - 20 * index,
        )
    spot.block(spot.at((-0.95, 0.3), (-0.85, -0.02), (0.75, -0.02), (1.0, 0.34)), hull)
    spot.block(spot.at((-0.6, 0.28), (-0.6, 0.48), (0.5, 0.48), (0.6, 0.28)), white)
    spot.block(spot.at((-0.4, 0.47), (-0.4, 0.62), (0.3, 0.62), (0.36, 0.47)), white)
    for dx in (-0.3, 0.0):
        spot.block(
            spot.at((dx, 0.6), (dx, 0.95), (dx + 0.13, 0.95), (dx + 0.13, 0.6)),
            spot.lit(spot.stage.palette.accent),
        )
    for index in range(9):
        spot.window(-0.52 + 0.11 * index, 0.35, 0.04, 0.05)


def balloon(spot: Placement) -> None:
    """Striped, with a basket."""
    palette = spot.stage.palette
    main, other = spot.lit(spot.color or palette.accent), spot.lit((252, 236, 200))
    for index, half in enumerate((0.36, 0.27, 0.17, 0.065)):
        body = [
            (half * math.cos(t * math.pi / 12), 0.66 + 0.34 * math.sin(t * math.pi / 12))
            for t in range(13)
        ]
        spot.block(
            spot.at(
                *body,
                (-half * 0.86, 0.52),
                (-half * 0.25, 0.25),
                (half * 0.25, 0.25),
                (half * 0.86, 0.52),
            ),
            (main, other)[index % 2],
        )
    for dx in (-0.06, 0.06):
        spot.stroke(spot.at((dx, 0.25), (dx * 0.9, 0.12)), palette.near, 0.01)
    spot.block(
        spot.at((-0.075, 0.12), (-0.06, 0.0), (0.06, 0.0), (0.075, 0.12)), spot.lit((140, 96, 60))
    )


def rocket(spot: Placement) -> None:
    """In flight, on its flame."""
    hull, fin = spot.lit(spot.color or (236, 236, 240)), spot.lit(spot.stage.palette.accent)
    spot.stage.canvas.glow(spot.x, spot.y - spot.size * 0.02, spot.size * 0.5, (255, 190, 90), 0.8)
    spot.flat(spot.at((-0.09, 0.14), (0, -0.2), (0.09, 0.14)), (255, 170, 60))
    spot.flat(spot.at((-0.045, 0.14), (0, -0.07), (0.045, 0.14)), (255, 240, 180))
    for side in (-1, 1):
        spot.flat(spot.at((side * 0.1, 0.36), (side * 0.24, 0.1), (side * 0.08, 0.16)), fin)
    spot.block(
        spot.at(
            (-0.1, 0.14),
            (-0.15, 0.42),
            (-0.12, 0.72),
            (0, 1.0),
            (0.12, 0.72),
            (0.15, 0.42),
            (0.1, 0.14),
        ),
        hull,
    )
    spot.block(spot.at((-0.095, 0.79), (0, 1.0), (0.095, 0.79)), fin)
    spot.disc(0, 0.58, 0.065, 0.065, fin)
    spot.disc(0, 0.58, 0.045, 0.045, (140, 200, 230))


def tent(spot: Placement) -> None:
    """Lit from inside when it is dark."""
    cloth = spot.lit(spot.color or (230, 130, 50))
    spot.stage.canvas.glow(
        spot.x,
        spot.y - spot.size * 0.3,
        spot.size * 1.1,
        spot.stage.palette.lamp,
        0.5 * (1 - spot.stage.palette.daylight),
    )
    spot.block(spot.at((-0.75, -0.02), (0, 0.85), (0.75, -0.02)), cloth)
    spot.flat(
        spot.at((-0.2, -0.02), (0, 0.6), (0.2, -0.02)),
        mix(cloth, spot.stage.palette.lamp, 0.7 - 0.5 * spot.stage.palette.daylight),
    )


def bridge(spot: Placement) -> None:
    """Hung from two towers; it runs out of its place on both sides."""
    stone = spot.lit(spot.color or (150, 134, 126))
    for side in (-1, 1):
        spot.block(
            spot.at(
                (side * 0.95 - 0.07, -0.25),
                (side * 0.95 - 0.06, 1.0),
                (side * 0.95 + 0.06, 1.0),
                (side * 0.95 + 0.07, -0.25),
            ),
            stone,
        )
    cable = [(t / 8 * 0.95, 0.42 + 0.55 * (t / 8) ** 2) for t in range(-8, 9)]
    spot.stroke(spot.at(*cable), stone, 0.03)
    for dx, dy in cable:
        spot.stroke(spot.at((dx, 0.3), (dx, dy)), stone, 0.012)
    for side in (-1, 1):
        spot.stroke(spot.at((side * 0.95, 0.95), (side * 1.7, 0.3)), stone, 0.03)
    spot.block(spot.at((-2.6, 0.24), (-2.6, 0.32), (2.6, 0.32), (2.6, 0.24)), stone, 0.3)
