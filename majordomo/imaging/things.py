"""Painters of single things, each drawn as a few plain shapes at (x, y), `size` high. `y` is where it stands or floats."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from majordomo.imaging.canvas import Point
from majordomo.imaging.palette import RGB, lighter, mix
from majordomo.imaging.stage import Stage


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one thing goes: its foot, its height, its own chance, and the colour the prompt gave it."""

    stage: Stage
    x: float
    y: float
    size: float
    chance: random.Random
    colour: RGB | None

    def at(self, *points: Point) -> list[Point]:
        """Points in heights of the thing, from its foot, y upwards."""
        return [(self.x + dx * self.size, self.y - dy * self.size) for dx, dy in points]

    def lit(self, colour: RGB) -> RGB:
        """A colour in the light of the hour: dimmed by the evening, warmed by the horizon."""
        palette = self.stage.palette
        dim = 0.56 * (1 - palette.daylight)
        return mix(mix(colour, palette.near, dim), palette.sky[3], 0.12)

    @property
    def away(self) -> bool:
        """Whether the light comes from the left."""
        return self.stage.light_x < self.x

    def block(self, points: list[Point], colour: RGB, contrast: float = 0.42) -> None:
        """A round or upright body: bright towards the light, dark away from it."""
        bright, dark = mix(colour, self.stage.palette.sun, 0.22), mix(colour, self.stage.palette.near, contrast + 0.2)
        self.stage.canvas.shade(points, *((bright, dark) if self.away else (dark, bright)), across=True)

    def flat(self, points: list[Point], colour: RGB, alpha: int = 255) -> None:
        self.stage.canvas.polygon(points, colour, alpha)

    def disc(self, dx: float, dy: float, rx: float, ry: float, colour: RGB, alpha: int = 255) -> None:
        self.stage.canvas.ellipse(self.x + dx * self.size, self.y - dy * self.size, rx * self.size, ry * self.size, colour, alpha)

    def stroke(self, points: list[Point], colour: RGB, width: float) -> None:
        self.stage.canvas.line(points, colour, width * self.size)

    def window(self, dx: float, dy: float, wide: float, tall: float) -> None:
        """Lit when the day is going, with a little of its light around."""
        palette, canvas = self.stage.palette, self.stage.canvas
        glass = palette.lamp if palette.daylight < 0.7 else mix(palette.sky[1], palette.near, 0.5)
        self.flat(self.at((dx, dy), (dx + wide, dy), (dx + wide, dy + tall), (dx, dy + tall)), glass)
        if palette.daylight < 0.7:
            middle = self.at((dx + wide / 2, dy + tall / 2))[0]
            canvas.glow(*middle, max(wide, tall) * self.size * 2.2, palette.lamp, 0.6)


def lighthouse(spot: Spot) -> None:
    stage, palette = spot.stage, spot.stage.palette
    chance = spot.chance
    stripe = spot.lit(spot.colour or palette.accent)
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
        spot.block(spot.at((-0.028, 0), (-0.028, 0.07), (0.028, 0.07), (0.028, 0)), lighter(stripe, -0.5))
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
    dome = [(0.064 * math.cos(t * math.pi / 10), 0.88 + 0.07 * math.sin(t * math.pi / 10)) for t in range(11)]
    spot.block(spot.at(*dome), stripe)
    spot.stroke(spot.at((0, 0.94), (0, 0.995)), iron, 0.008)
    spot.disc(0, 0.965, 0.01, 0.01, iron)
    if dim > 0.2:
        stage.canvas.glow(*lamp, spot.size * 0.42, palette.lamp, 0.75 * dim, 2.6 * stage.falloff)
        stage.canvas.glow(*lamp, spot.size * 0.1, (255, 246, 214), 0.95, 1.2)


def _beam(spot: Spot, lamp: Point, dim: float) -> None:
    """A wedge of light to either side, softer at its edges."""
    canvas, palette = spot.stage.canvas, spot.stage.palette
    tilt, reach = spot.chance.uniform(-0.02, 0.1), canvas.unit * 1.2
    for side in (-1, 1):
        for wide, amount in ((0.085, 0.16), (0.065, 0.2), (0.045, 0.24)):
            end = (lamp[0] + side * reach, lamp[1] - reach * tilt * side)
            wedge = [lamp, (end[0], end[1] - reach * wide), (end[0], end[1] + reach * wide)]
            canvas.beam(wedge, reach, palette.lamp, amount * dim)


def _keepers_house(spot: Spot) -> None:
    """On the side of the land, where it has ground under both its walls."""
    side = 1 if spot.x > spot.stage.canvas.width / 2 else -1
    x, size = spot.x + side * spot.size * spot.chance.uniform(0.24, 0.3), spot.size * 0.19
    ground = max(spot.stage.ground(x + dx * size) for dx in (-0.6, 0.0, 0.6))
    house(Spot(spot.stage, x, max(ground, spot.y - spot.size * 0.02) + spot.size * 0.004, size, spot.chance, None))


def house(spot: Spot) -> None:
    chance = spot.chance
    wall = spot.lit(spot.colour or chance.choice([(240, 230, 212), (226, 208, 180), (214, 190, 170), (236, 232, 226)]))
    roof = spot.lit(chance.choice([(150, 62, 50), (110, 66, 58), (86, 84, 100)]))
    wide = 0.62
    if spot.stage.scene.season == "winter":
        roof = spot.lit((236, 240, 248))
    spot.block(spot.at((0.26, 0.6), (0.26, 1.0), (0.38, 1.0), (0.38, 0.6)), mix(wall, roof, 0.6))
    spot.block(spot.at((-wide, -0.1), (-wide, 0.55), (wide, 0.55), (wide, -0.1)), wall)
    spot.block(spot.at((-wide - 0.1, 0.52), (-wide + 0.22, 0.94), (wide - 0.22, 0.94), (wide + 0.1, 0.52)), roof, 0.3)
    spot.flat(spot.at((-0.1, -0.02), (-0.1, 0.3), (0.08, 0.3), (0.08, -0.02)), lighter(roof, -0.35))
    for dx in (-0.46, 0.24):
        spot.window(dx, 0.18, 0.18, 0.18)


def castle(spot: Spot) -> None:
    stone = spot.lit(spot.colour or (176, 168, 170))
    roof = spot.lit(spot.stage.palette.accent)
    towers = [(-0.34, 0.1, 0.52), (0.34, 0.1, 0.58), (-0.13, 0.09, 0.8), (0.14, 0.08, 0.68)]
    spot.block(spot.at((-0.4, -0.05), (-0.4, 0.34), (0.4, 0.34), (0.4, -0.05)), stone)
    for step in range(9):
        dx = -0.4 + 0.1 * step
        spot.block(spot.at((dx, 0.33), (dx, 0.38), (dx + 0.05, 0.38), (dx + 0.05, 0.33)), stone)
    for dx, half, tall in towers:
        spot.block(spot.at((dx - half, -0.05), (dx - half, tall), (dx + half, tall), (dx + half, -0.05)), lighter(stone, 0.05))
        spot.block(spot.at((dx - half * 1.25, tall), (dx, tall + 0.2), (dx + half * 1.25, tall)), roof)
        spot.window(dx - 0.015, tall - 0.14, 0.03, 0.06)
        spot.stroke(spot.at((dx, tall + 0.19), (dx, tall + 0.25)), roof, 0.006)
    arch = [(0.055 * math.cos(t * math.pi / 8), 0.12 + 0.06 * math.sin(t * math.pi / 8)) for t in range(9)]
    spot.flat(spot.at((0.055, -0.05), *arch, (-0.055, -0.05)), mix(stone, spot.stage.palette.near, 0.8))


def windmill(spot: Spot) -> None:
    wall, cap = spot.lit(spot.colour or (236, 226, 208)), spot.lit((120, 70, 52))
    spot.block(spot.at((-0.17, -0.04), (-0.1, 0.62), (0.1, 0.62), (0.17, -0.04)), wall)
    spot.block(spot.at((-0.13, 0.61), (-0.06, 0.76), (0.06, 0.76), (0.13, 0.61)), cap)
    spot.window(-0.03, 0.36, 0.06, 0.08)
    spot.flat(spot.at((-0.045, -0.03), (-0.045, 0.15), (0.045, 0.15), (0.045, -0.03)), lighter(cap, -0.4))
    turn = spot.chance.uniform(0.2, 1.3)
    for index in range(4):
        angle = turn + index * math.pi / 2
        cos, sin = math.cos(angle), math.sin(angle)
        spot.stroke(spot.at((0, 0.67), (0.46 * cos, 0.67 + 0.46 * sin)), cap, 0.014)
        sail = [(0.1, 0.0), (0.46, 0.0), (0.46, 0.11), (0.1, 0.09)]
        spot.flat(spot.at(*((u * cos - v * sin, 0.67 + u * sin + v * cos) for u, v in sail)), lighter(wall, 0.2), 205)


def tower(spot: Spot) -> None:
    wall = spot.lit(spot.colour or (206, 190, 170))
    spot.block(spot.at((-0.11, -0.04), (-0.11, 0.66), (0.11, 0.66), (0.11, -0.04)), wall)
    spot.block(spot.at((-0.14, 0.65), (0, 1.0), (0.14, 0.65)), spot.lit((104, 74, 84)))
    spot.window(-0.035, 0.48, 0.07, 0.11)
    spot.window(-0.03, 0.2, 0.06, 0.08)


def tree(spot: Spot) -> None:
    season, chance, palette = spot.stage.scene.season, spot.chance, spot.stage.palette
    leaf: RGB = {"spring": (246, 178, 200), "autumn": (216, 112, 40), "winter": (214, 222, 232)}.get(season, (70, 132, 60))
    leaf = spot.lit(spot.colour or leaf)
    bark = spot.lit((92, 64, 48))
    spot.block(spot.at((-0.045, -0.03), (-0.022, 0.5), (0.022, 0.5), (0.045, -0.03)), bark)
    for dx in (-0.17, 0.16, -0.06):
        spot.stroke(spot.at((0, 0.3 + abs(dx) * 0.3), (dx, 0.6)), bark, 0.02)
    blobs = [(chance.gauss(0, 0.13), 0.68 + chance.gauss(0, 0.1), chance.uniform(0.09, 0.17)) for _ in range(spot.stage.count(34))]
    sun = -1 if spot.away else 1
    for share, shift in ((0.5, 0.0), (0.15, 0.02), (-0.16, 0.055)):
        shade = mix(leaf, palette.near, share) if share > 0 else mix(leaf, palette.sun, -share * 1.6)
        for dx, dy, radius in blobs:
            spot.disc(dx + sun * shift, dy + shift, radius * (1 - shift * 7), radius * (0.86 - shift * 6), shade, 235 if share > 0 else 150)


def pine(spot: Spot) -> None:
    green = spot.lit(spot.colour or (44, 96, 70))
    spot.block(spot.at((-0.03, -0.04), (-0.03, 0.2), (0.03, 0.2), (0.03, -0.04)), spot.lit((84, 60, 46)))
    tiers = 4 + round(3 * spot.stage.detail)
    for index in range(tiers):
        t = index / tiers
        low, half, tip = 0.1 + 0.78 * t, 0.25 * (1 - t) + 0.03, 0.1 + 0.78 * t + 0.3 * (1 - 0.55 * t)
        spot.block(
            spot.at((-half, low), (-half * 0.4, low + 0.03), (0, tip), (half * 0.4, low + 0.03), (half, low), (0, low + 0.025)), green
        )
        if spot.stage.scene.season == "winter" and "snow" not in spot.stage.scene.absent:
            spot.flat(spot.at((-half * 0.62, low + 0.07), (0, tip), (half * 0.3, low + 0.12)), spot.lit((240, 244, 250)), 190)


def palm(spot: Spot) -> None:
    lean, chance = spot.chance.choice([-1, 1]) * spot.chance.uniform(0.12, 0.25), spot.chance
    trunk = [(lean * t * t, 0.78 * t) for t in (0, 0.25, 0.5, 0.75, 1)]
    spot.stroke(spot.at(*trunk), spot.lit((132, 96, 66)), 0.045)
    green = spot.lit(spot.colour or (54, 120, 62))
    for index in range(9):
        angle = math.pi * (index / 8) * 1.3 - 0.15 * math.pi + chance.uniform(-0.1, 0.1)
        long = chance.uniform(0.26, 0.36)
        curve = [(lean + math.cos(angle) * long * t, 0.78 + math.sin(angle) * long * t - 0.26 * t * t) for t in (0, 0.25, 0.5, 0.75, 1)]
        back = [(x, y - 0.055 * math.sin(math.pi * min(1, i / 4 + 0.12))) for i, (x, y) in enumerate(curve)]
        spot.flat(spot.at(*curve, *reversed(back)), mix(green, spot.stage.palette.near, 0.4 * chance.random()))
    for dx in (-0.03, 0.03):
        spot.disc(lean + dx, 0.75, 0.024, 0.024, spot.lit((110, 70, 44)))


def cactus(spot: Spot) -> None:
    green = spot.lit(spot.colour or (70, 122, 76))
    columns: tuple[list[Point], ...] = (
        [(0, -0.03), (0, 0.9)],
        [(0, 0.34), (-0.2, 0.36), (-0.22, 0.45), (-0.22, 0.66)],
        [(0, 0.46), (0.18, 0.48), (0.2, 0.56), (0.2, 0.8)],
    )
    for column in columns:
        wide = 0.14 if len(column) == 2 else 0.09
        spot.stroke(spot.at(*column), green, wide)
        spot.disc(column[-1][0], column[-1][1], wide / 2, wide / 2, green)
        spot.stroke(spot.at(*((x + 0.02, y) for x, y in column)), mix(green, spot.stage.palette.near, 0.35), wide * 0.25)


def boat(spot: Spot) -> None:
    palette = spot.stage.palette
    hull, sail = spot.lit(spot.colour or palette.accent), spot.lit((250, 246, 236))
    for index in range(5):  # its reflection, broken by ripples
        spot.disc(0, -0.05 - 0.055 * index, 0.3 - 0.045 * index, 0.012, mix(hull, palette.near, 0.4), 120 - 18 * index)
    spot.block(spot.at((-0.34, 0.12), (-0.24, -0.02), (0.24, -0.02), (0.38, 0.13)), hull)
    spot.stroke(spot.at((-0.34, 0.12), (0.38, 0.13)), lighter(hull, 0.4), 0.012)
    spot.stroke(spot.at((0, 0.1), (0, 1.0)), spot.lit((90, 66, 48)), 0.016)
    spot.block(spot.at((0.02, 0.18), (0.02, 0.96), (0.16, 0.52), (0.3, 0.2)), sail, 0.2)
    spot.block(spot.at((-0.02, 0.18), (-0.02, 0.84), (-0.14, 0.45), (-0.26, 0.2)), lighter(sail, -0.08), 0.2)


def ship(spot: Spot) -> None:
    hull, white = spot.lit(spot.colour or (56, 62, 84)), spot.lit((240, 238, 232))
    for index in range(4):
        spot.disc(0, -0.04 - 0.06 * index, 0.8 - 0.12 * index, 0.012, mix(hull, spot.stage.palette.near, 0.4), 110 - 20 * index)
    spot.block(spot.at((-0.95, 0.3), (-0.85, -0.02), (0.75, -0.02), (1.0, 0.34)), hull)
    spot.block(spot.at((-0.6, 0.28), (-0.6, 0.48), (0.5, 0.48), (0.6, 0.28)), white)
    spot.block(spot.at((-0.4, 0.47), (-0.4, 0.62), (0.3, 0.62), (0.36, 0.47)), white)
    for dx in (-0.3, 0.0):
        spot.block(spot.at((dx, 0.6), (dx, 0.95), (dx + 0.13, 0.95), (dx + 0.13, 0.6)), spot.lit(spot.stage.palette.accent))
    for index in range(9):
        spot.window(-0.52 + 0.11 * index, 0.35, 0.04, 0.05)


def whale(spot: Spot) -> None:
    body = spot.lit(spot.colour or (62, 84, 116))
    arc = [(0.9 * math.cos(math.pi * t / 14), 0.42 * math.sin(math.pi * t / 14)) for t in range(15)]
    spot.block(spot.at(*arc), body)
    spot.flat(spot.at((-1.0, 0.0), (-1.02, 0.34), (-1.3, 0.62), (-1.05, 0.56), (-0.92, 0.66), (-0.9, 0.36), (-0.84, 0.0)), body)
    spot.disc(0.6, 0.14, 0.03, 0.03, (10, 12, 18))
    for dx in (-0.12, -0.05, 0.05, 0.12):
        spot.stroke(spot.at((0.3, 0.42), (0.3 + dx * 0.6, 0.72), (0.3 + dx * 1.6, 0.78)), lighter(spot.stage.palette.sky[3], 0.4), 0.02)
    for index in range(4):
        spot.disc(-0.05, -0.03 - 0.04 * index, 1.1 - 0.2 * index, 0.014, lighter(body, 0.25), 120 - 22 * index)


def bird(spot: Spot) -> None:
    ink = spot.colour or mix(spot.stage.palette.near, spot.stage.palette.sky[1], 0.2)
    flap = spot.chance.uniform(0.25, 0.6)
    for side in (-1, 1):
        wing = [(0, 0.0), (side * 0.45, flap), (side * 1.0, flap * 0.45), (side * 0.5, flap * 0.55), (0, -0.14)]
        spot.flat(spot.at(*wing), ink)


def cat(spot: Spot) -> None:
    fur = spot.lit(spot.colour or spot.chance.choice([(60, 56, 62), (220, 140, 70), (150, 140, 136)]))
    spot.stroke(spot.at((0.22, 0.08), (0.42, 0.1), (0.46, 0.3), (0.4, 0.4)), fur, 0.07)
    spot.block([(spot.x + dx * spot.size, spot.y - dy * spot.size) for dx, dy in _oval(0, 0.28, 0.25, 0.32)], fur)
    spot.block(spot.at(*_oval(0, 0.7, 0.19, 0.165)), lighter(fur, 0.05))
    for side in (-1, 1):
        spot.flat(spot.at((side * 0.17, 0.76), (side * 0.16, 0.97), (side * 0.03, 0.84)), fur)
        spot.disc(side * 0.075, 0.715, 0.032, 0.036, (196, 214, 110))
        spot.disc(side * 0.075, 0.715, 0.012, 0.032, (14, 14, 18))
        spot.disc(side * 0.09, 0.02, 0.08, 0.04, lighter(fur, 0.12))
        for tilt in (-0.02, 0.02):
            spot.stroke(spot.at((side * 0.05, 0.64), (side * 0.26, 0.64 + tilt)), lighter(fur, 0.5), 0.006)
    spot.flat(spot.at((-0.022, 0.665), (0.022, 0.665), (0, 0.64)), (220, 130, 140))


def _oval(dx: float, dy: float, rx: float, ry: float) -> list[Point]:
    return [(dx + rx * math.cos(t * math.pi / 12), dy + ry * math.sin(t * math.pi / 12)) for t in range(24)]


def _four_legged(fur: RGB, neck: float, ears: str, tail: str) -> Callable[[Spot], None]:
    def paint(spot: Spot) -> None:
        coat = spot.lit(spot.colour or fur)
        dark = mix(coat, spot.stage.palette.near, 0.35)
        head = 0.6 + neck
        for dx, shade in ((-0.27, dark), (0.2, dark), (-0.2, coat), (0.27, coat)):
            spot.flat(spot.at((dx - 0.035, 0), (dx - 0.05, 0.45), (dx + 0.05, 0.45), (dx + 0.03, 0)), shade)
        if tail == "bushy":
            spot.flat(spot.at((-0.3, 0.5), (-0.62, 0.36), (-0.74, 0.16), (-0.5, 0.26), (-0.32, 0.4)), coat)
        elif tail == "long":
            spot.stroke(spot.at((-0.34, 0.58), (-0.46, 0.5), (-0.47, 0.22)), dark, 0.06)
        else:
            spot.disc(-0.37, 0.54, 0.06, 0.06, lighter(coat, 0.2))
        spot.block(spot.at(*_oval(0, 0.5, 0.38, 0.17)), coat)
        spot.block(spot.at((0.16, 0.5), (0.3, head + 0.05), (0.44, head), (0.37, 0.42)), coat)
        spot.block(spot.at(*_oval(0.43, head, 0.15, 0.085)), coat)
        spot.disc(0.44, head + 0.025, 0.014, 0.014, (10, 10, 12))
        spot.disc(0.56, head - 0.01, 0.022, 0.02, (20, 18, 20))
        for dx in (0.31, 0.38):
            spot.flat(spot.at((dx - 0.035, head + 0.04), (dx - 0.02, head + 0.18), (dx + 0.05, head + 0.05)), dark)
        if ears == "antlers":
            for lean in (-0.12, 0.12):
                for fork in (0.0, 0.1):
                    spot.stroke(
                        spot.at((0.36, head + 0.06), (0.36 + lean, head + 0.26), (0.36 + lean * 1.6 + fork, head + 0.42)), dark, 0.018
                    )
        elif ears == "mane":
            spot.flat(spot.at((0.12, 0.56), (0.26, head + 0.12), (0.34, head + 0.06), (0.24, 0.58)), dark)

    return paint


def sheep(spot: Spot) -> None:
    wool, dark = spot.lit(spot.colour or (244, 240, 230)), spot.lit((60, 54, 54))
    for dx in (-0.22, -0.1, 0.14, 0.26):
        spot.stroke(spot.at((dx, 0), (dx, 0.35)), dark, 0.06)
    for index in range(12):
        turn = index * math.pi / 6
        spot.disc(0.3 * math.cos(turn), 0.5 + 0.17 * math.sin(turn), 0.15, 0.15, lighter(wool, -0.1 if math.sin(turn) < 0 else 0.05))
    spot.disc(0, 0.5, 0.32, 0.2, wool)
    spot.disc(0.45, 0.62, 0.12, 0.16, dark)
    spot.disc(0.36, 0.72, 0.07, 0.03, dark)


def rabbit(spot: Spot) -> None:
    fur = spot.lit(spot.colour or (178, 150, 126))
    for dx in (-0.07, 0.05):
        spot.flat(spot.at(*_oval(dx + 0.12, 0.86, 0.045, 0.17)), lighter(fur, -0.1))
        spot.flat(spot.at(*_oval(dx + 0.12, 0.85, 0.02, 0.12)), (226, 168, 166))
    spot.block(spot.at(*_oval(-0.05, 0.26, 0.32, 0.27)), fur)
    spot.block(spot.at(*_oval(0.14, 0.6, 0.17, 0.15)), fur)
    spot.disc(-0.36, 0.2, 0.085, 0.085, lighter(fur, 0.5))
    spot.disc(0.2, 0.63, 0.022, 0.026, (14, 12, 14))
    spot.disc(0.18, 0.04, 0.15, 0.05, fur)


def person(spot: Spot) -> None:
    coat, dark = spot.lit(spot.colour or spot.stage.palette.accent), mix(spot.stage.palette.near, (40, 36, 44), 0.4)
    for dx in (-0.06, 0.06):
        spot.flat(spot.at((dx - 0.045, 0), (dx - 0.04, 0.46), (dx + 0.04, 0.46), (dx + 0.045, 0)), dark)
    spot.block(spot.at((-0.16, 0.32), (-0.11, 0.8), (0.11, 0.8), (0.16, 0.32)), coat)
    for side in (-1, 1):
        spot.stroke(spot.at((side * 0.1, 0.77), (side * 0.19, 0.58), (side * 0.17, 0.42)), lighter(coat, -0.2), 0.06)
    spot.disc(0, 0.9, 0.085, 0.1, spot.lit((224, 180, 150)))
    spot.disc(0, 0.94, 0.09, 0.07, dark)


def flower(spot: Spot) -> None:
    chance = spot.chance
    petals = spot.lit(spot.colour or chance.choice([(226, 60, 70), (250, 196, 60), (238, 130, 180), (160, 110, 220), (250, 246, 240)]))
    green = spot.lit((66, 124, 60))
    bend = chance.uniform(-0.12, 0.12)
    spot.stroke(spot.at((0, -0.05), (bend * 0.3, 0.4), (bend, 0.78)), green, 0.035)
    for side in (-1, 1):
        spot.flat(spot.at((bend * 0.2, 0.2), (side * 0.16, 0.42), (side * 0.05, 0.22)), green)
    count, turn = chance.choice([5, 6, 8]), chance.uniform(0, 3)
    for index in range(count):
        angle = turn + index * 2 * math.pi / count
        spot.disc(bend + 0.12 * math.cos(angle), 0.8 + 0.12 * math.sin(angle), 0.095, 0.095, lighter(petals, 0.12 * math.sin(angle)))
    spot.disc(bend, 0.8, 0.075, 0.075, spot.lit((250, 206, 84)))


def balloon(spot: Spot) -> None:
    palette = spot.stage.palette
    main, other = spot.lit(spot.colour or palette.accent), spot.lit((252, 236, 200))
    for index, half in enumerate((0.36, 0.27, 0.17, 0.065)):
        body = [(half * math.cos(t * math.pi / 12), 0.66 + 0.34 * math.sin(t * math.pi / 12)) for t in range(13)]
        spot.block(
            spot.at(*body, (-half * 0.86, 0.52), (-half * 0.25, 0.25), (half * 0.25, 0.25), (half * 0.86, 0.52)), (main, other)[index % 2]
        )
    for dx in (-0.06, 0.06):
        spot.stroke(spot.at((dx, 0.25), (dx * 0.9, 0.12)), palette.near, 0.01)
    spot.block(spot.at((-0.075, 0.12), (-0.06, 0.0), (0.06, 0.0), (0.075, 0.12)), spot.lit((140, 96, 60)))


def rocket(spot: Spot) -> None:
    hull, fin = spot.lit(spot.colour or (236, 236, 240)), spot.lit(spot.stage.palette.accent)
    spot.stage.canvas.glow(spot.x, spot.y - spot.size * 0.02, spot.size * 0.5, (255, 190, 90), 0.8)
    spot.flat(spot.at((-0.09, 0.14), (0, -0.2), (0.09, 0.14)), (255, 170, 60))
    spot.flat(spot.at((-0.045, 0.14), (0, -0.07), (0.045, 0.14)), (255, 240, 180))
    for side in (-1, 1):
        spot.flat(spot.at((side * 0.1, 0.36), (side * 0.24, 0.1), (side * 0.08, 0.16)), fin)
    spot.block(spot.at((-0.1, 0.14), (-0.15, 0.42), (-0.12, 0.72), (0, 1.0), (0.12, 0.72), (0.15, 0.42), (0.1, 0.14)), hull)
    spot.block(spot.at((-0.095, 0.79), (0, 1.0), (0.095, 0.79)), fin)
    spot.disc(0, 0.58, 0.065, 0.065, fin)
    spot.disc(0, 0.58, 0.045, 0.045, (140, 200, 230))


def tent(spot: Spot) -> None:
    cloth = spot.lit(spot.colour or (230, 130, 50))
    spot.stage.canvas.glow(
        spot.x, spot.y - spot.size * 0.3, spot.size * 1.1, spot.stage.palette.lamp, 0.5 * (1 - spot.stage.palette.daylight)
    )
    spot.block(spot.at((-0.75, -0.02), (0, 0.85), (0.75, -0.02)), cloth)
    spot.flat(spot.at((-0.2, -0.02), (0, 0.6), (0.2, -0.02)), mix(cloth, spot.stage.palette.lamp, 0.7 - 0.5 * spot.stage.palette.daylight))


def mushroom(spot: Spot) -> None:
    cap = spot.lit(spot.colour or (204, 50, 46))
    spot.block(spot.at((-0.12, -0.03), (-0.08, 0.5), (0.08, 0.5), (0.12, -0.03)), spot.lit((240, 228, 206)))
    dome = [(0.42 * math.cos(t * math.pi / 12), 0.46 + 0.44 * math.sin(t * math.pi / 12)) for t in range(13)]
    spot.block(spot.at(*dome), cap)
    for dx, dy, radius in ((-0.2, 0.62, 0.06), (0.02, 0.76, 0.07), (0.22, 0.6, 0.055), (-0.02, 0.56, 0.04)):
        spot.disc(dx, dy, radius, radius * 0.8, spot.lit((250, 244, 234)))


def bridge(spot: Spot) -> None:
    stone = spot.lit(spot.colour or (150, 134, 126))
    for side in (-1, 1):
        spot.block(
            spot.at((side * 0.95 - 0.07, -0.25), (side * 0.95 - 0.06, 1.0), (side * 0.95 + 0.06, 1.0), (side * 0.95 + 0.07, -0.25)), stone
        )
    cable = [(t / 8 * 0.95, 0.42 + 0.55 * (t / 8) ** 2) for t in range(-8, 9)]
    spot.stroke(spot.at(*cable), stone, 0.03)
    for dx, dy in cable:
        spot.stroke(spot.at((dx, 0.3), (dx, dy)), stone, 0.012)
    for side in (-1, 1):
        spot.stroke(spot.at((side * 0.95, 0.95), (side * 1.7, 0.3)), stone, 0.03)
    spot.block(spot.at((-2.6, 0.24), (-2.6, 0.32), (2.6, 0.32), (2.6, 0.24)), stone, 0.3)


def planet(spot: Spot) -> None:
    body = spot.colour or spot.chance.choice([(214, 150, 96), (110, 160, 210), (190, 120, 170)])
    tilt = 0.3
    ring = [(0.85 * math.cos(t), 0.5 + 0.16 * math.sin(t) + tilt * 0.4 * math.cos(t)) for t in (i * math.pi / 20 for i in range(41))]
    spot.stroke(spot.at(*ring[:21]), lighter(body, 0.25), 0.05)
    spot.block(spot.at(*_oval(0, 0.5, 0.5, 0.5)), body, 0.75)
    for dy in (0.3, 0.47, 0.66):
        half = math.sqrt(max(0.0, 0.25 - (dy - 0.5) ** 2)) * 0.97
        spot.flat(spot.at((-half, dy), (half, dy + 0.1), (half, dy + 0.16), (-half, dy + 0.06)), lighter(body, 0.25), 60)
    spot.stroke(spot.at(*ring[20:]), lighter(body, 0.35), 0.05)


def rainbow(spot: Spot) -> None:
    canvas = spot.stage.canvas
    bands: list[RGB] = [(226, 62, 60), (242, 150, 50), (250, 226, 80), (80, 180, 90), (70, 130, 220), (130, 80, 190)]
    for index, colour in enumerate(bands):
        outer, wide = spot.size * (1.0 - 0.04 * index), spot.size * 0.05
        canvas.arc(spot.x, spot.y, outer * 1.15, outer, wide, colour, 84)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a thing is painted, how high it is in units of the canvas, where it belongs, how many of it look right."""

    paint: Callable[[Spot], None]
    height: float
    where: str  # land, water, sky
    crowd: int = 1


KINDS: dict[str, Kind] = {
    "lighthouse": Kind(lighthouse, 0.5, "land"),
    "house": Kind(house, 0.14, "land"),
    "castle": Kind(castle, 0.42, "land"),
    "windmill": Kind(windmill, 0.36, "land"),
    "tower": Kind(tower, 0.4, "land"),
    "tree": Kind(tree, 0.34, "land", 2),
    "pine": Kind(pine, 0.34, "land", 5),
    "palm": Kind(palm, 0.42, "land", 2),
    "cactus": Kind(cactus, 0.3, "land", 3),
    "boat": Kind(boat, 0.19, "water"),
    "ship": Kind(ship, 0.15, "water"),
    "whale": Kind(whale, 0.16, "water"),
    "bird": Kind(bird, 0.022, "sky", 7),
    "cat": Kind(cat, 0.3, "land"),
    "dog": Kind(_four_legged((150, 106, 70), 0.12, "soft", "long"), 0.22, "land"),
    "fox": Kind(_four_legged((220, 112, 44), 0.1, "soft", "bushy"), 0.2, "land"),
    "horse": Kind(_four_legged((124, 80, 54), 0.3, "mane", "long"), 0.28, "land"),
    "deer": Kind(_four_legged((158, 112, 74), 0.3, "antlers", "short"), 0.26, "land"),
    "sheep": Kind(sheep, 0.12, "land", 4),
    "rabbit": Kind(rabbit, 0.16, "land"),
    "person": Kind(person, 0.22, "land"),
    "flower": Kind(flower, 0.17, "land", 16),
    "balloon": Kind(balloon, 0.26, "sky", 2),
    "rocket": Kind(rocket, 0.34, "sky"),
    "tent": Kind(tent, 0.12, "land"),
    "mushroom": Kind(mushroom, 0.15, "land", 3),
    "bridge": Kind(bridge, 0.2, "water"),
    "planet": Kind(planet, 0.3, "sky"),
    "rainbow": Kind(rainbow, 0.5, "back"),
}
