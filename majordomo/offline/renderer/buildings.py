"""Drawing functions for buildings and vehicles.

Coordinates and sizes are multiples of the subject's height; see `Placement.at`.
"""

from __future__ import annotations

import math

from majordomo.offline.renderer.canvas import Point
from majordomo.offline.renderer.palette import lighter, mix
from majordomo.offline.renderer.placement import Placement


def lighthouse(placement: Placement) -> None:
    """Draw a striped lighthouse with the keeper's house; with lamp and beams in the dark."""
    stage, palette = placement.stage, placement.stage.palette
    rng = placement.rng
    stripe = placement.lit(placement.color or palette.accent)
    wall = placement.lit((246, 240, 230))
    foot, top = 0.105, 0.062

    # The wall leans inwards, more so at the foot.
    def half(height: float) -> float:
        t = min(1.0, max(0.0, height / 0.74))
        return top + (foot - top) * math.pow(1 - t, 1.35)

    def band(low: float, high: float) -> list[Point]:
        rows = [low + (high - low) * t / 5 for t in range(6)]
        return placement.at(*[(-half(h), h) for h in rows], *[(half(h), h) for h in reversed(rows)])

    dim = 1 - palette.daylight
    lamp = placement.at((0, 0.83))[0]
    if dim > 0.3:
        _beam(placement, lamp, dim)
    _keepers_house(placement)
    stripes = rng.choice([3, 4, 5])
    for index in range(2 * stripes - 1):
        low, high = 0.74 * index / (2 * stripes - 1), 0.74 * (index + 1) / (2 * stripes - 1)
        placement.block(band(low - 0.002, high + 0.002), wall if index % 2 == 0 else stripe)
    if stage.detail > 0.2:
        for height in (0.17, 0.38, 0.58):
            placement.window(-0.012, height, 0.024, 0.045)
        placement.block(
            placement.at((-0.028, 0), (-0.028, 0.07), (0.028, 0.07), (0.028, 0)),
            lighter(stripe, -0.5),
        )
    iron = mix(palette.near, (40, 38, 46), 0.5)
    placement.block(
        placement.at((-0.096, 0.74), (-0.104, 0.765), (0.104, 0.765), (0.096, 0.74)), iron
    )
    for index in range(9 if stage.detail > 0.4 else 3):
        dx = -0.1 + 0.2 * index / (8 if stage.detail > 0.4 else 2)
        placement.stroke(placement.at((dx, 0.765), (dx, 0.8)), iron, 0.004)
    placement.stroke(placement.at((-0.102, 0.8), (0.102, 0.8)), iron, 0.006)
    glass = palette.lamp if dim > 0.2 else mix(palette.sky[2], (255, 255, 255), 0.3)
    placement.flat(
        placement.at((-0.05, 0.765), (-0.05, 0.885), (0.05, 0.885), (0.05, 0.765)), glass
    )
    for dx in (-0.05, -0.018, 0.018, 0.05):
        placement.stroke(placement.at((dx, 0.765), (dx, 0.885)), iron, 0.006)
    dome = [
        (0.064 * math.cos(t * math.pi / 10), 0.88 + 0.07 * math.sin(t * math.pi / 10))
        for t in range(11)
    ]
    placement.block(placement.at(*dome), stripe)
    placement.stroke(placement.at((0, 0.94), (0, 0.995)), iron, 0.008)
    placement.disc(0, 0.965, 0.01, 0.01, iron)
    if dim > 0.2:
        stage.canvas.glow(
            *lamp, placement.size * 0.42, palette.lamp, 0.75 * dim, 2.6 * stage.falloff
        )
        stage.canvas.glow(*lamp, placement.size * 0.1, (255, 246, 214), 0.95, 1.2)


def _beam(placement: Placement, lamp: Point, dim: float) -> None:
    """Draw a wedge of light to either side, softer at its edges."""
    canvas, palette = placement.stage.canvas, placement.stage.palette
    tilt, reach = placement.rng.uniform(-0.02, 0.1), canvas.unit * 1.2
    for side in (-1, 1):
        for wide, amount in ((0.085, 0.16), (0.065, 0.2), (0.045, 0.24)):
            end = (lamp[0] + side * reach, lamp[1] - reach * tilt * side)
            wedge = [lamp, (end[0], end[1] - reach * wide), (end[0], end[1] + reach * wide)]
            canvas.beam(wedge, reach, palette.lamp, amount * dim)


def _keepers_house(placement: Placement) -> None:
    """Draw the house on the landward side, with ground under both of its walls."""
    side = 1 if placement.x > placement.stage.canvas.width / 2 else -1
    x, size = (
        placement.x + side * placement.size * placement.rng.uniform(0.24, 0.3),
        placement.size * 0.19,
    )
    ground = max(placement.stage.ground(x + dx * size) for dx in (-0.6, 0.0, 0.6))
    house(
        Placement(
            placement.stage,
            x,
            max(ground, placement.y - placement.size * 0.02) + placement.size * 0.004,
            size,
            placement.rng,
            None,
        )
    )


def house(placement: Placement) -> None:
    """Draw a house with two windows, and snow on the roof in winter."""
    rng = placement.rng
    wall = placement.lit(
        placement.color
        or rng.choice([(240, 230, 212), (226, 208, 180), (214, 190, 170), (236, 232, 226)])
    )
    roof = placement.lit(rng.choice([(150, 62, 50), (110, 66, 58), (86, 84, 100)]))
    wide = 0.62
    if placement.stage.scene.season == "winter":
        roof = placement.lit((236, 240, 248))
    placement.block(
        placement.at((0.26, 0.6), (0.26, 1.0), (0.38, 1.0), (0.38, 0.6)), mix(wall, roof, 0.6)
    )
    placement.block(placement.at((-wide, -0.1), (-wide, 0.55), (wide, 0.55), (wide, -0.1)), wall)
    placement.block(
        placement.at(
            (-wide - 0.1, 0.52), (-wide + 0.22, 0.94), (wide - 0.22, 0.94), (wide + 0.1, 0.52)
        ),
        roof,
        0.3,
    )
    placement.flat(
        placement.at((-0.1, -0.02), (-0.1, 0.3), (0.08, 0.3), (0.08, -0.02)), lighter(roof, -0.35)
    )
    for dx in (-0.46, 0.24):
        placement.window(dx, 0.18, 0.18, 0.18)


def castle(placement: Placement) -> None:
    """Draw four towers behind a wall with battlements."""
    stone = placement.lit(placement.color or (176, 168, 170))
    roof = placement.lit(placement.stage.palette.accent)
    towers = [(-0.34, 0.1, 0.52), (0.34, 0.1, 0.58), (-0.13, 0.09, 0.8), (0.14, 0.08, 0.68)]
    placement.block(placement.at((-0.4, -0.05), (-0.4, 0.34), (0.4, 0.34), (0.4, -0.05)), stone)
    for step in range(9):
        dx = -0.4 + 0.1 * step
        placement.block(
            placement.at((dx, 0.33), (dx, 0.38), (dx + 0.05, 0.38), (dx + 0.05, 0.33)), stone
        )
    for dx, half, tall in towers:
        placement.block(
            placement.at(
                (dx - half, -0.05), (dx - half, tall), (dx + half, tall), (dx + half, -0.05)
            ),
            lighter(stone, 0.05),
        )
        placement.block(
            placement.at((dx - half * 1.25, tall), (dx, tall + 0.2), (dx + half * 1.25, tall)), roof
        )
        placement.window(dx - 0.015, tall - 0.14, 0.03, 0.06)
        placement.stroke(placement.at((dx, tall + 0.19), (dx, tall + 0.25)), roof, 0.006)
    arch = [
        (0.055 * math.cos(t * math.pi / 8), 0.12 + 0.06 * math.sin(t * math.pi / 8))
        for t in range(9)
    ]
    placement.flat(
        placement.at((0.055, -0.05), *arch, (-0.055, -0.05)),
        mix(stone, placement.stage.palette.near, 0.8),
    )


def windmill(placement: Placement) -> None:
    """Draw a windmill with its sails at a random angle."""
    wall, cap = placement.lit(placement.color or (236, 226, 208)), placement.lit((120, 70, 52))
    placement.block(placement.at((-0.17, -0.04), (-0.1, 0.62), (0.1, 0.62), (0.17, -0.04)), wall)
    placement.block(placement.at((-0.13, 0.61), (-0.06, 0.76), (0.06, 0.76), (0.13, 0.61)), cap)
    placement.window(-0.03, 0.36, 0.06, 0.08)
    placement.flat(
        placement.at((-0.045, -0.03), (-0.045, 0.15), (0.045, 0.15), (0.045, -0.03)),
        lighter(cap, -0.4),
    )
    turn = placement.rng.uniform(0.2, 1.3)
    for index in range(4):
        angle = turn + index * math.pi / 2
        cos, sin = math.cos(angle), math.sin(angle)
        placement.stroke(placement.at((0, 0.67), (0.46 * cos, 0.67 + 0.46 * sin)), cap, 0.014)
        sail = [(0.1, 0.0), (0.46, 0.0), (0.46, 0.11), (0.1, 0.09)]
        placement.flat(
            placement.at(*((u * cos - v * sin, 0.67 + u * sin + v * cos) for u, v in sail)),
            lighter(wall, 0.2),
            205,
        )


def tower(placement: Placement) -> None:
    """Draw a slender tower with a pointed roof."""
    wall = placement.lit(placement.color or (206, 190, 170))
    placement.block(placement.at((-0.11, -0.04), (-0.11, 0.66), (0.11, 0.66), (0.11, -0.04)), wall)
    placement.block(
        placement.at((-0.14, 0.65), (0, 1.0), (0.14, 0.65)), placement.lit((104, 74, 84))
    )
    placement.window(-0.035, 0.48, 0.07, 0.11)
    placement.window(-0.03, 0.2, 0.06, 0.08)


def boat(placement: Placement) -> None:
    """Draw a sailing boat with two sails and its reflection."""
    palette = placement.stage.palette
    hull, sail = placement.lit(placement.color or palette.accent), placement.lit((250, 246, 236))
    # The reflection is a stack of flat ellipses, as if broken by ripples.
    for index in range(5):
        placement.disc(
            0,
            -0.05 - 0.055 * index,
            0.3 - 0.045 * index,
            0.012,
            mix(hull, palette.near, 0.4),
            120 - 18 * index,
        )
    placement.block(placement.at((-0.34, 0.12), (-0.24, -0.02), (0.24, -0.02), (0.38, 0.13)), hull)
    placement.stroke(placement.at((-0.34, 0.12), (0.38, 0.13)), lighter(hull, 0.4), 0.012)
    placement.stroke(placement.at((0, 0.1), (0, 1.0)), placement.lit((90, 66, 48)), 0.016)
    placement.block(placement.at((0.02, 0.18), (0.02, 0.96), (0.16, 0.52), (0.3, 0.2)), sail, 0.2)
    placement.block(
        placement.at((-0.02, 0.18), (-0.02, 0.84), (-0.14, 0.45), (-0.26, 0.2)),
        lighter(sail, -0.08),
        0.2,
    )


def ship(placement: Placement) -> None:
    """Draw a steamer with two funnels and a row of portholes."""
    hull, white = placement.lit(placement.color or (56, 62, 84)), placement.lit((240, 238, 232))
    for index in range(4):
        placement.disc(
            0,
            -0.04 - 0.06 * index,
            0.8 - 0.12 * index,
            0.012,
            mix(hull, placement.stage.palette.near, 0.4),
            110 - 20 * index,
        )
    placement.block(placement.at((-0.95, 0.3), (-0.85, -0.02), (0.75, -0.02), (1.0, 0.34)), hull)
    placement.block(placement.at((-0.6, 0.28), (-0.6, 0.48), (0.5, 0.48), (0.6, 0.28)), white)
    placement.block(placement.at((-0.4, 0.47), (-0.4, 0.62), (0.3, 0.62), (0.36, 0.47)), white)
    for dx in (-0.3, 0.0):
        placement.block(
            placement.at((dx, 0.6), (dx, 0.95), (dx + 0.13, 0.95), (dx + 0.13, 0.6)),
            placement.lit(placement.stage.palette.accent),
        )
    for index in range(9):
        placement.window(-0.52 + 0.11 * index, 0.35, 0.04, 0.05)


def balloon(placement: Placement) -> None:
    """Draw a striped hot-air balloon with a basket."""
    palette = placement.stage.palette
    main, other = placement.lit(placement.color or palette.accent), placement.lit((252, 236, 200))
    for index, half in enumerate((0.36, 0.27, 0.17, 0.065)):
        body = [
            (half * math.cos(t * math.pi / 12), 0.66 + 0.34 * math.sin(t * math.pi / 12))
            for t in range(13)
        ]
        placement.block(
            placement.at(
                *body,
                (-half * 0.86, 0.52),
                (-half * 0.25, 0.25),
                (half * 0.25, 0.25),
                (half * 0.86, 0.52),
            ),
            (main, other)[index % 2],
        )
    for dx in (-0.06, 0.06):
        placement.stroke(placement.at((dx, 0.25), (dx * 0.9, 0.12)), palette.near, 0.01)
    placement.block(
        placement.at((-0.075, 0.12), (-0.06, 0.0), (0.06, 0.0), (0.075, 0.12)),
        placement.lit((140, 96, 60)),
    )


def rocket(placement: Placement) -> None:
    """Draw a rocket in flight, with its flame."""
    hull, fin = (
        placement.lit(placement.color or (236, 236, 240)),
        placement.lit(placement.stage.palette.accent),
    )
    placement.stage.canvas.glow(
        placement.x, placement.y - placement.size * 0.02, placement.size * 0.5, (255, 190, 90), 0.8
    )
    placement.flat(placement.at((-0.09, 0.14), (0, -0.2), (0.09, 0.14)), (255, 170, 60))
    placement.flat(placement.at((-0.045, 0.14), (0, -0.07), (0.045, 0.14)), (255, 240, 180))
    for side in (-1, 1):
        placement.flat(
            placement.at((side * 0.1, 0.36), (side * 0.24, 0.1), (side * 0.08, 0.16)), fin
        )
    placement.block(
        placement.at(
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
    placement.block(placement.at((-0.095, 0.79), (0, 1.0), (0.095, 0.79)), fin)
    placement.disc(0, 0.58, 0.065, 0.065, fin)
    placement.disc(0, 0.58, 0.045, 0.045, (140, 200, 230))


def tent(placement: Placement) -> None:
    """Draw a tent, lit from inside when it is dark."""
    cloth = placement.lit(placement.color or (230, 130, 50))
    placement.stage.canvas.glow(
        placement.x,
        placement.y - placement.size * 0.3,
        placement.size * 1.1,
        placement.stage.palette.lamp,
        0.5 * (1 - placement.stage.palette.daylight),
    )
    placement.block(placement.at((-0.75, -0.02), (0, 0.85), (0.75, -0.02)), cloth)
    placement.flat(
        placement.at((-0.2, -0.02), (0, 0.6), (0.2, -0.02)),
        mix(cloth, placement.stage.palette.lamp, 0.7 - 0.5 * placement.stage.palette.daylight),
    )


def bridge(placement: Placement) -> None:
    """Draw a suspension bridge with two towers that extends beyond its placement."""
    stone = placement.lit(placement.color or (150, 134, 126))
    for side in (-1, 1):
        placement.block(
            placement.at(
                (side * 0.95 - 0.07, -0.25),
                (side * 0.95 - 0.06, 1.0),
                (side * 0.95 + 0.06, 1.0),
                (side * 0.95 + 0.07, -0.25),
            ),
            stone,
        )
    cable = [(t / 8 * 0.95, 0.42 + 0.55 * (t / 8) ** 2) for t in range(-8, 9)]
    placement.stroke(placement.at(*cable), stone, 0.03)
    for dx, dy in cable:
        placement.stroke(placement.at((dx, 0.3), (dx, dy)), stone, 0.012)
    for side in (-1, 1):
        placement.stroke(placement.at((side * 0.95, 0.95), (side * 1.7, 0.3)), stone, 0.03)
    placement.block(placement.at((-2.6, 0.24), (-2.6, 0.32), (2.6, 0.32), (2.6, 0.24)), stone, 0.3)
