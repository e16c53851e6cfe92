"""The drawing order: a scene becomes a list of layers, each a function that draws on the stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from PIL import Image

from majordomo.offline.renderer import nature, scenery, sky
from majordomo.offline.renderer.palette import lighter, mix, rng_for
from majordomo.offline.renderer.placement import Placement
from majordomo.offline.renderer.scene import Subject
from majordomo.offline.renderer.stage import WATERY, Stage
from majordomo.offline.renderer.subjects import DRAWABLES

Layer = Callable[[Stage], None]


def build_layers(stage: Stage) -> list[Layer]:
    """Return the layers of a scene, from the sky to the foreground."""
    scene = stage.scene
    if scene.location == "abstract":
        return [
            sky.sky,
            _shapes(0),
            _shapes(1),
            _shapes(2),
            _subjects(on_land=False),
            _subjects(on_land=True),
        ]
    layers: list[Layer] = [sky.sky]
    if scene.location == "space":
        layers.append(sky.nebula)
    layers += [sky.stars, sky.sun_and_moon, sky.clouds, _rainbow]
    if "mountains" not in scene.excluded or scene.location != "mountains":
        layers.append(_opaque(scenery.far_land))
    if scene.location == "city":
        layers.append(_opaque(scenery.skyline))
    if scene.location in (*WATERY, "city"):
        layers.append(scenery.water)
    layers.append(sky.haze)
    if scene.location == "forest":
        layers += [_opaque(_forest(0)), _opaque(_forest(1))]
    on_land = any(
        DRAWABLES[subject.name].zone == "land"
        for subject in scene.subjects
        if subject.name in DRAWABLES
    )
    if scene.location not in ("sea", "lake", "city") or on_land:
        layers.append(_opaque(scenery.near_land))
    layers += [
        _subjects(on_land=False),
        _subjects(on_land=True),
        _opaque(scenery.foreground),
        sky.weather,
    ]
    return layers


def _opaque(layer: Layer) -> Layer:
    """Return the layer with its shapes marked as covering the sky."""

    def draw(stage: Stage) -> None:
        stage.canvas.marking_opaque = True
        layer(stage)
        stage.canvas.marking_opaque = False

    return draw


def _rainbow(stage: Stage) -> None:
    if stage.scene.has("rainbow"):
        placement = Placement(
            stage,
            stage.canvas.width / 2,
            stage.horizon,
            stage.canvas.unit * 0.55,
            stage.rng_for("rainbow"),
            None,
        )
        nature.rainbow(placement)


def _forest(row: int) -> Layer:
    """Return a row of pines; row 1 is nearer and larger than row 0."""

    def draw(stage: Stage) -> None:
        canvas, rng, unit = stage.canvas, stage.rng_for(f"forest {row}"), stage.canvas.unit
        x = -unit * 0.05
        while x < canvas.width + unit * 0.1:
            tall = unit * rng.uniform(0.2, 0.36) * (1 + 0.4 * row)
            color = stage.faded(mix((58, 104, 72), stage.palette.land, 0.5), 0.75 - 0.4 * row)
            nature.pine(
                Placement(stage, x, stage.horizon + unit * 0.06 * (row + 1), tall, rng, color)
            )
            x += tall * rng.uniform(0.16, 0.4) / (0.4 + 0.6 * stage.detail)

    return draw


def _shapes(part: int) -> Layer:
    """Return a layer of discs, rings, bands and triangles; higher `part`s are smaller and more."""

    def draw(stage: Stage) -> None:
        canvas, palette, rng = stage.canvas, stage.palette, stage.rng_for(f"shapes {part}")
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
        canvas.marking_opaque = True
        for _ in range(stage.count(7 + 3 * part)):
            color, other = rng.choice(wheel), rng.choice(wheel)
            x, y = (
                rng.uniform(0.05, 0.95) * canvas.width,
                rng.uniform(0.05, 0.95) * canvas.height,
            )
            size, turn = (
                unit * rng.uniform(0.12, 0.34) / (1 + 0.7 * part),
                rng.uniform(0, math.pi),
            )
            shape = rng.randrange(5)
            if shape == 0:
                canvas.shade(
                    [
                        (x + size * math.cos(t / 24), y + size * math.sin(t / 24))
                        for t in range(151)
                    ],
                    color,
                    other,
                )
            elif shape == 1:
                for ring in range(4):
                    canvas.ellipse(
                        x,
                        y,
                        size * (1 - ring / 4.5),
                        size * (1 - ring / 4.5),
                        (color, other)[ring % 2],
                        230,
                    )
            elif shape == 2:
                spread = [turn, turn + 2.1, turn + 4.2]
                canvas.shade(
                    [(x + size * math.cos(a), y + size * math.sin(a)) for a in spread],
                    color,
                    other,
                    across=True,
                )
            elif shape == 3:
                dx, dy = math.cos(turn) * unit, math.sin(turn) * unit
                canvas.line([(x - dx, y - dy), (x + dx, y + dy)], color, size * 0.16, 210)
            else:
                half = [turn + t * math.pi / 20 for t in range(21)]
                canvas.shade(
                    [(x + size * math.cos(a), y + size * math.sin(a)) for a in half],
                    color,
                    lighter(other, 0.1),
                )
        canvas.marking_opaque = False

    return draw


def _subjects(*, on_land: bool) -> Layer:
    """Return the layer of the subjects on land, or of those behind: in the sky and on water."""

    def draw(stage: Stage) -> None:
        opacity = min(1.0, stage.guidance / 0.45)
        if opacity <= 0:
            return
        canvas = stage.canvas
        plain = canvas.image.copy() if opacity < 1 else None
        canvas.marking_opaque = True
        for order, subject in enumerate(stage.scene.subjects):
            drawable = DRAWABLES.get(subject.name)
            if drawable is None or drawable.zone == "back" or (drawable.zone == "land") != on_land:
                continue
            for placement in sorted(
                _placements(stage, subject, order), key=lambda placement: placement.y
            ):
                drawable.draw(placement)
        canvas.marking_opaque = False
        if plain is not None:
            canvas.image = Image.blend(plain, canvas.image, opacity)

    return draw


def _placements(stage: Stage, subject: Subject, order: int) -> Iterator[Placement]:
    """Yield where the instances of a subject go. The scene's first subject gets the focus."""
    name = subject.name
    # The strings "spots" and "thing" are part of the seed: changing them changes every image.
    drawable, rng = DRAWABLES[name], stage.rng_for(f"spots {name}")
    canvas, unit = stage.canvas, stage.canvas.unit
    count = max(drawable.group_size, 3 if subject.many else 1)
    scale = (
        (1.0 if order == 0 else 0.72)
        * (0.82 + 0.18 * min(2.0, stage.guidance))
        * (1.15 if stage.scene.location == "abstract" else 1)
    )
    has_land_subject = any(
        DRAWABLES[other.name].zone == "land"
        for other in stage.scene.subjects
        if other.name in DRAWABLES
    )
    for index in range(count):
        instance_rng = rng_for(*stage.seed_parts, "thing", name, index)
        size = (
            unit * drawable.height * scale * (1 if index == 0 else instance_rng.uniform(0.55, 0.9))
        )
        if drawable.zone == "sky":
            x = canvas.width * (
                0.5
                + (0.5 - stage.focus / canvas.width) * 0.8
                + instance_rng.uniform(-0.16, 0.16) * (1 if index == 0 else 2.2)
            )
            y = stage.horizon * instance_rng.uniform(0.22, 0.6) + size * 0.5
        elif drawable.zone == "water":
            center = canvas.width - stage.focus if has_land_subject else stage.focus
            x = (
                center
                + (
                    instance_rng.uniform(-0.05, 0.05)
                    if index == 0
                    else instance_rng.uniform(-0.4, 0.4)
                )
                * canvas.width
            )
            depth = instance_rng.uniform(0.06, 0.2) if name != "bridge" else 0.08
            y = stage.horizon + unit * depth
        elif order == 0 and index == 0:
            x = stage.focus
            y = stage.ground(x) + unit * 0.012
        else:
            low, high = _land_range(stage)
            x = low + (high - low) * rng.random()
            y = stage.ground(x) + unit * (
                0.012 + instance_rng.random() * (0.16 if drawable.group_size > 3 else 0.06)
            )
        if stage.scene.location == "abstract":
            y = canvas.height * 0.62 + size * 0.5
        yield Placement(stage, x, y, size, instance_rng, subject.color)


def _land_range(stage: Stage) -> tuple[float, float]:
    """Return the left and right end of the land, in pixels."""
    width = stage.canvas.width
    if stage.scene.location not in ("sea", "lake"):
        return width * 0.06, width * 0.94
    return (
        (stage.focus + width * 0.02, width * 0.98)
        if stage.focus > width / 2
        else (width * 0.02, stage.focus - width * 0.02)
    )
