"""What is painted in which order: a scene becomes a list of layers, each of them one piece of work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from PIL import Image

from majordomo.offline.renderer import nature, scenery, sky
from majordomo.offline.renderer.palette import dice, lighter, mix
from majordomo.offline.renderer.placement import Placement
from majordomo.offline.renderer.scene import Thing
from majordomo.offline.renderer.stage import WATERY, Stage
from majordomo.offline.renderer.subjects import DRAWABLES

Layer = Callable[[Stage], None]


def layers_of(stage: Stage) -> list[Layer]:
    """The layers from the sky to the foreground."""
    scene = stage.scene
    if scene.place == "abstract":
        return [
            sky.sky,
            _shapes(0),
            _shapes(1),
            _shapes(2),
            _things(on_land=False),
            _things(on_land=True),
        ]
    layers: list[Layer] = [sky.sky]
    if scene.place == "space":
        layers.append(sky.nebula)
    layers += [sky.stars, sky.luminary, sky.clouds, _back]
    if "mountains" not in scene.absent or scene.place != "mountains":
        layers.append(_solid(scenery.far_land))
    if scene.place == "city":
        layers.append(_solid(scenery.skyline))
    if scene.place in (*WATERY, "city"):
        layers.append(scenery.water)
    layers.append(sky.haze)
    if scene.place == "forest":
        layers += [_solid(_forest(0)), _solid(_forest(1))]
    on_land = any(
        DRAWABLES[thing.name].where == "land" for thing in scene.things if thing.name in DRAWABLES
    )
    if scene.place not in ("sea", "lake", "city") or on_land:
        layers.append(_solid(scenery.near_land))
    layers += [
        _things(on_land=False),
        _things(on_land=True),
        _solid(scenery.foreground),
        sky.weather,
    ]
    return layers


def _solid(layer: Layer) -> Layer:
    def paint(stage: Stage) -> None:
        stage.canvas.marking = True
        layer(stage)
        stage.canvas.marking = False

    return paint


def _back(stage: Stage) -> None:
    if stage.scene.has("rainbow"):
        spot = Placement(
            stage,
            stage.canvas.width / 2,
            stage.horizon,
            stage.canvas.unit * 0.55,
            stage.dice("rainbow"),
            None,
        )
        nature.rainbow(spot)


def _forest(row: int) -> Layer:
    def paint(stage: Stage) -> None:
        canvas, chance, unit = stage.canvas, stage.dice(f"forest {row}"), stage.canvas.unit
        x = -unit * 0.05
        while x < canvas.width + unit * 0.1:
            tall = unit * chance.uniform(0.2, 0.36) * (1 + 0.4 * row)
            color = stage.faded(mix((58, 104, 72), stage.palette.land, 0.5), 0.75 - 0.4 * row)
            nature.pine(
                Placement(stage, x, stage.horizon + unit * 0.06 * (row + 1), tall, chance, color)
            )
            x += tall * chance.uniform(0.16, 0.4) / (0.4 + 0.6 * stage.detail)

    return paint


def _shapes(part: int) -> Layer:
    """Discs, arcs, bands and triangles, large ones first."""

    def paint(stage: Stage) -> None:
        canvas, palette, chance = stage.canvas, stage.palette, stage.dice(f"shapes {part}")
        unit = canvas.unit
        wheel = [
            *stage.scene.colors * 3,
            *palette.sky,
            palette.accent,
            palette.land,
            palette.water,
            palette.near,
            palette.sun,
        ]
        canvas.marking = True
        for _ in range(stage.count(7 + 3 * part)):
            color, other = chance.choice(wheel), chance.choice(wheel)
            x, y = (
                chance.uniform(0.05, 0.95) * canvas.width,
                chance.uniform(0.05, 0.95) * canvas.height,
            )
            size, turn = (
                unit * chance.uniform(0.12, 0.34) / (1 + 0.7 * part),
                chance.uniform(0, math.pi),
            )
            kind = chance.randrange(5)
            if kind == 0:
                canvas.shade(
                    [
                        (x + size * math.cos(t / 24), y + size * math.sin(t / 24))
                        for t in range(151)
                    ],
                    color,
                    other,
                )
            elif kind == 1:
                for ring in range(4):
                    canvas.ellipse(
                        x,
                        y,
                        size * (1 - ring / 4.5),
                        size * (1 - ring / 4.5),
                        (color, other)[ring % 2],
                        230,
                    )
            elif kind == 2:
                spread = [turn, turn + 2.1, turn + 4.2]
                canvas.shade(
                    [(x + size * math.cos(a), y + size * math.sin(a)) for a in spread],
                    color,
                    other,
                    across=True,
                )
            elif kind == 3:
                dx, dy = math.cos(turn) * unit, math.sin(turn) * unit
                canvas.line([(x - dx, y - dy), (x + dx, y + dy)], color, size * 0.16, 210)
            else:
                half = [turn + t * math.pi / 20 for t in range(21)]
                canvas.shade(
                    [(x + size * math.cos(a), y + size * math.sin(a)) for a in half],
                    color,
                    lighter(other, 0.1),
                )
        canvas.marking = False

    return paint


def _things(*, on_land: bool) -> Layer:
    """The things of the scene that stand on land, or those behind them: in the sky and on the water."""

    def paint(stage: Stage) -> None:
        opacity = min(1.0, stage.literal / 0.45)
        if opacity <= 0:
            return
        canvas = stage.canvas
        plain = canvas.image.copy() if opacity < 1 else None
        canvas.marking = True
        for order, thing in enumerate(stage.scene.things):
            kind = DRAWABLES.get(thing.name)
            if kind is None or kind.where == "back" or (kind.where == "land") != on_land:
                continue
            for spot in sorted(_spots(stage, thing, order), key=lambda spot: spot.y):
                kind.paint(spot)
        canvas.marking = False
        if plain is not None:
            canvas.image = Image.blend(plain, canvas.image, opacity)

    return paint


def _spots(stage: Stage, thing: Thing, order: int) -> Iterator[Placement]:
    """Where the things of one name go. The first thing of the scene has the best place, the others keep out of its way."""
    name = thing.name
    kind, chance = DRAWABLES[name], stage.dice(f"spots {name}")
    canvas, unit = stage.canvas, stage.canvas.unit
    count = max(kind.crowd, 3 if thing.many else 1)
    scale = (
        (1.0 if order == 0 else 0.72)
        * (0.82 + 0.18 * min(2.0, stage.literal))
        * (1.15 if stage.scene.place == "abstract" else 1)
    )
    firm = any(
        DRAWABLES[other.name].where == "land"
        for other in stage.scene.things
        if other.name in DRAWABLES
    )
    for index in range(count):
        own = dice(*stage.root, "thing", name, index)
        size = unit * kind.height * scale * (1 if index == 0 else own.uniform(0.55, 0.9))
        if kind.where == "sky":
            x = canvas.width * (
                0.5
                + (0.5 - stage.focus / canvas.width) * 0.8
                + own.uniform(-0.16, 0.16) * (1 if index == 0 else 2.2)
            )
            y = stage.horizon * own.uniform(0.22, 0.6) + size * 0.5
        elif kind.where == "water":
            centre = canvas.width - stage.focus if firm else stage.focus
            x = (
                centre
                + (own.uniform(-0.05, 0.05) if index == 0 else own.uniform(-0.4, 0.4))
                * canvas.width
            )
            depth = own.uniform(0.06, 0.2) if name != "bridge" else 0.08
            y = stage.horizon + unit * depth
        elif order == 0 and index == 0:
            x = stage.focus
            y = stage.ground(x) + unit * 0.012
        else:
            low, high = _range(stage)
            x = low + (high - low) * chance.random()
            y = stage.ground(x) + unit * (0.012 + own.random() * (0.16 if kind.crowd > 3 else 0.06))
        if stage.scene.place == "abstract":
            y = canvas.height * 0.62 + size * 0.5
        yield Placement(stage, x, y, size, own, thing.color)


def _range(stage: Stage) -> tuple[float, float]:
    """The part of the width that is land."""
    width = stage.canvas.width
    if stage.scene.place not in ("sea", "lake"):
        return width * 0.06, width * 0.94
    return (
        (stage.focus + width * 0.02, width * 0.98)
        if stage.focus > width / 2
        else (width * 0.02, stage.focus - width * 0.02)
    )
