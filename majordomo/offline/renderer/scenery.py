"""Layers of land and water, from the horizon to the grass. Each draws over what is there."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image

from majordomo.offline.renderer.canvas import Point, gradient
from majordomo.offline.renderer.palette import RGB, lighter, mix
from majordomo.offline.renderer.stage import WATERY, Stage


def ridge(
    rng: random.Random, stage: Stage, base: float, height: float, waves: float, rough: float
) -> list[Point]:
    """Return the upper edge of a range of hills, as a sum of sines.

    Args:
        rng: Random numbers.
        stage: The composition.
        base: Vertical position of the foot, in pixels.
        height: Height of the range, in pixels.
        waves: Frequency of the largest sine.
        rough: Strength of the finer sines, 0 to 1.
    """
    width = stage.canvas.width
    unit = max(1.0, stage.canvas.unit)
    octaves = 2 + round(4 * stage.detail * min(1.0, 0.4 + rough))
    parts = [
        (
            waves * 1.9**octave,
            rng.uniform(0, 6.28),
            (0.42 + 0.16 * rough) ** octave * rng.uniform(0.7, 1.2),
        )
        for octave in range(octaves)
    ]
    steps = min(1200, max(8, width // 5))
    points = []
    for index in range(steps + 1):
        x = width * index / steps
        value = 0.0
        for frequency, phase, share in parts:
            value += share * math.sin(phase + frequency * x / unit * 2)
        points.append((x, base - height * (0.5 + 0.5 * value)))
    return points


def _fill(stage: Stage, edge: list[Point], floor: float, top: RGB, bottom: RGB) -> None:
    stage.canvas.shade([*edge, (stage.canvas.width, floor), (0, floor)], top, bottom)


def far_land(stage: Stage) -> None:
    """Draw faint ranges at the horizon, higher ones when the location is mountains."""
    location, palette, canvas = stage.scene.location, stage.palette, stage.canvas
    if location in ("space", "abstract"):
        return
    rng, unit = stage.rng_for("far"), canvas.unit
    if location == "mountains":
        for index, distance in enumerate((0.86, 0.62, 0.34)):
            _mountains(
                stage,
                rng,
                stage.horizon + unit * (0.01 + 0.03 * index),
                unit * (0.46 - 0.09 * index),
                distance,
            )
        return
    heights = {"sea": 0.07, "beach": 0.07, "lake": 0.26, "desert": 0.16, "city": 0.1}
    tall = unit * heights.get(location, 0.2)
    for index, distance in enumerate((0.92, 0.7)):
        edge = ridge(
            rng,
            stage,
            stage.horizon + unit * 0.01,
            tall * (1 - 0.35 * index),
            1.2 + 1.2 * index,
            0.2,
        )
        body = stage.faded(palette.land, distance)
        _fill(stage, edge, stage.horizon + unit * 0.03, body, mix(body, palette.sky[3], 0.35))


def _mountains(stage: Stage, rng: random.Random, base: float, tall: float, distance: float) -> None:
    """Draw one range: roughened flanks, shadow on the side away from the sun, snow on top."""
    canvas, palette, unit = stage.canvas, stage.palette, max(1.0, stage.canvas.unit)
    peaks: list[tuple[float, float, float]] = []
    x = -unit * 0.1
    while x < canvas.width + unit * 0.2:
        peaks.append((x, tall * rng.uniform(0.45, 1.0), rng.uniform(0.75, 1.25)))
        x += unit * rng.uniform(0.16, 0.36)
    steps = min(1200, max(12, canvas.width // 4))
    rough = [
        (rng.uniform(18, 120), rng.uniform(0, 6.28), rng.uniform(0.2, 1.0))
        for _ in range(2 + round(6 * stage.detail))
    ]
    edge: list[Point] = []
    peak_of_point: list[int] = []
    nearby = 0
    for index in range(steps + 1):
        x = canvas.width * index / steps
        while nearby < len(peaks) - 1 and peaks[nearby + 1][0] < x:
            nearby += 1
        some = range(max(0, nearby - 3), min(len(peaks), nearby + 5))
        nearest_peak = max(some, key=lambda at: peaks[at][1] - peaks[at][2] * abs(x - peaks[at][0]))
        height = max(
            tall * 0.12,
            peaks[nearest_peak][1] - peaks[nearest_peak][2] * abs(x - peaks[nearest_peak][0]),
        )
        height += (
            tall
            * 0.016
            * sum(
                share * math.sin(phase + rate * x / unit) * 30 / rate
                for rate, phase, share in rough
            )
        )
        edge.append((x, base - height))
        peak_of_point.append(nearest_peak)
    body = stage.faded(mix(palette.land, palette.near, 0.35), distance)
    _fill(stage, edge, stage.horizon + unit * 0.2, body, mix(body, palette.far, 0.6))
    for at in range(len(peaks)):
        flank = [
            point
            for point, nearest_peak in zip(edge, peak_of_point, strict=True)
            if nearest_peak == at
        ]
        if len(flank) > 3:
            _peak(stage, rng, flank, base, body, tall)


def _peak(
    stage: Stage, rng: random.Random, flank: list[Point], base: float, body: RGB, tall: float
) -> None:
    canvas, palette = stage.canvas, stage.palette
    top = min(flank, key=lambda point: point[1])
    away = 1 if top[0] > stage.light_x else -1
    shadow = [point for point in flank if (point[0] - top[0]) * away >= 0]
    if away < 0:
        shadow.reverse()
    if len(shadow) > 1:
        foot = max(y for _, y in shadow)
        spine = [
            (
                top[0] + away * tall * (0.05 * t + rng.uniform(-0.03, 0.03)),
                top[1] + (foot - top[1]) * t,
            )
            for t in (0.9, 0.7, 0.5, 0.3, 0.15)
        ]
        canvas.polygon([top, *shadow, *spine], lighter(body, -0.4), 95)
    height = base - top[1]
    if "snow" in stage.scene.excluded or height < tall * 0.5:
        return
    depth = height * rng.uniform(0.22, 0.36)
    cap = [point for point in flank if point[1] < top[1] + depth]
    if len(cap) < 3:
        return
    teeth = 3 + round(6 * stage.detail)
    left, right = cap[0], cap[-1]
    hem = []
    for t in range(1, teeth):
        share = t / teeth
        x, y = right[0] + (left[0] - right[0]) * share, right[1] + (left[1] - right[1]) * share
        hem.append((x, y + depth * ((0.16 if t % 2 else -0.26) + rng.uniform(-0.12, 0.12))))
    snow = mix(
        mix((248, 250, 255), palette.sky[3], 0.2), palette.far, 0.1 + 0.4 * (1 - palette.daylight)
    )
    canvas.polygon([*cap, *hem], snow, 235)
    shaded = [point for point in [*cap, *hem] if (point[0] - top[0]) * away >= 0]
    if len(shaded) > 2:
        canvas.polygon([top, *shaded], mix(snow, body, 0.45), 120)


def skyline(stage: Stage) -> None:
    """Draw three rows of houses, the nearest the darkest, with lit windows in the evening."""
    canvas, palette, rng, unit = (
        stage.canvas,
        stage.palette,
        stage.rng_for("skyline"),
        stage.canvas.unit,
    )
    for index, distance in enumerate((0.8, 0.5, 0.12)):
        x = -unit * 0.05 * rng.random()
        body = stage.faded(mix(palette.near, palette.land, 0.25), distance)
        while x < canvas.width:
            wide = unit * rng.uniform(0.05, 0.11) * (1 + 0.25 * index)
            tall = (
                unit
                * (rng.uniform(0.16, 0.56) - 0.1 * index)
                * (0.7 + 0.3 * math.sin(3.1 * x / canvas.width))
            )
            top = stage.horizon - tall
            floor = max(stage.horizon, top + 1) + unit * 0.01
            corners = [(x, floor), (x, top), (x + wide, top), (x + wide, floor)]
            shape = rng.randrange(4)
            if shape == 1:
                corners[1:3] = [
                    (x, top + wide * 0.3),
                    (x + wide / 2, top - wide * 0.2),
                    (x + wide, top + wide * 0.3),
                ]
            elif shape == 2:
                corners[1:3] = [(x, top), (x + wide, top + wide * 0.45)]
            elif shape == 3:
                canvas.line(
                    [(x + wide / 2, top), (x + wide / 2, top - wide * 0.8)], body, unit * 0.004
                )
            canvas.shade(corners, body, mix(body, palette.far, 0.5 * (1 - index / 3)))
            _windows(stage, x, top + wide * 0.45, wide, floor, distance, rng)
            x += wide * rng.uniform(0.9, 1.25)


def _windows(
    stage: Stage,
    x: float,
    top: float,
    wide: float,
    floor: float,
    distance: float,
    rng: random.Random,
) -> None:
    if stage.detail < 0.15:
        return
    palette, pitch = stage.palette, stage.canvas.unit * 0.017
    lit = 0.62 - 0.55 * palette.daylight
    columns, rows = (
        min(8, int((wide - pitch) / pitch)),
        min(30, int((floor - top) / (pitch * 1.35))),
    )
    for row in range(rows):
        for column in range(columns):
            roll = rng.random()
            if roll > 0.25 + 0.65 * stage.detail:
                continue
            glass = palette.lamp if roll < lit else lighter(palette.sky[2], 0.1)
            alpha = round((235 if roll < lit else 60) * (1 - 0.65 * distance))
            stage.canvas.rectangle(
                x + pitch * (0.75 + column),
                top + row * pitch * 1.35,
                pitch * 0.45,
                pitch * 0.7,
                stage.faded(glass, distance * 0.5),
                alpha,
            )


def water(stage: Stage) -> None:
    """Draw a darker, horizontally blurred reflection of the sky and the far shore, and ripples."""
    canvas, palette, rng = stage.canvas, stage.palette, stage.rng_for("water")
    line = int(stage.horizon)
    depth = canvas.height - line
    if depth < 1 or line < 1:
        return
    above = canvas.image.crop((0, max(0, line - depth * 2), canvas.width, line)).transpose(
        Image.Transpose.FLIP_TOP_BOTTOM
    )
    # A narrow copy, enlarged again, blurs the reflection horizontally as ripples would.
    calm = 5 if stage.scene.location == "lake" else 14
    narrow = above.resize((max(1, canvas.width // calm), depth), Image.Resampling.BILINEAR)
    mirror = narrow.resize((canvas.width, depth), Image.Resampling.BILINEAR)
    body = gradient(
        [
            (0.0, mix(palette.water, palette.sky[3], 0.55)),
            (0.35, palette.water),
            (1.0, mix(palette.water, palette.near, 0.7)),
        ],
        depth,
    )
    surface = Image.blend(body.resize(mirror.size, Image.Resampling.NEAREST), mirror, 0.58)
    canvas.image.paste(surface, (0, line))
    if canvas.opaque_mask is not None:
        canvas.opaque_mask.paste(255, (0, line, canvas.width, canvas.height))
    _ripples(stage, rng, line, depth)


def _ripples(stage: Stage, rng: random.Random, line: int, depth: int) -> None:
    canvas, palette, unit = stage.canvas, stage.palette, stage.canvas.unit
    rough = {"storm": 2.2, "rain": 1.4}.get(stage.scene.weather, 1.0)
    for _ in range(stage.count(min(1500, round(520 * canvas.width / unit)))):
        t = rng.random() ** 1.5
        x, y = rng.random() * canvas.width, line + t * depth
        wide, thick = (
            unit * (0.012 + 0.13 * t) * rng.uniform(0.4, 1.2),
            unit * (0.0006 + 0.0042 * t) * rough,
        )
        color = (
            mix(palette.sky[3], palette.sky[2], rng.random())
            if rng.random() < 0.45
            else mix(palette.water, palette.near, 0.6)
        )
        canvas.ellipse(x, y, wide, thick, color, round(20 + 46 * (1 - t)))
    if stage.scene.weather in ("rain", "storm", "fog"):
        return
    for _ in range(stage.count(430)):
        t = rng.random() ** 1.25
        spread = unit * (0.02 + 0.1 * t)
        x, y = stage.light_x + rng.gauss(0, 1) * spread, line + t * depth
        wide, thick = (
            unit * (0.008 + 0.04 * t) * rng.uniform(0.3, 1.1),
            unit * (0.0009 + 0.0034 * t),
        )
        canvas.ellipse(
            x,
            y,
            wide,
            thick,
            mix(palette.sun, palette.sky[3], 0.35 * t),
            round(150 * (1 - 0.75 * t)),
        )


def near_land(stage: Stage) -> None:
    """Draw the ground below the subjects and set `stage.ground`."""
    location = stage.scene.location
    draw_by_location: dict[str, Callable[[Stage], None]] = {
        "sea": _headland,
        "lake": _headland,
        "city": _quay,
    }
    draw_by_location.get(location, _slope)(stage)


def _slope(stage: Stage) -> None:
    canvas, palette, rng, unit = (
        stage.canvas,
        stage.palette,
        stage.rng_for("slope"),
        stage.canvas.unit,
    )
    watery = stage.scene.location in WATERY
    rows = ((0.22, 0.2),) if watery else ((-0.01, 0.5), (0.09, 0.26), (0.2, 0.0))
    edge: list[Point] = []
    middle: list[Point] = []
    for index, (drop, distance) in enumerate(rows):
        waves = 0.9 if watery else 1.1 + 0.5 * index
        edge = ridge(
            rng, stage, stage.horizon + unit * drop * 0.9 + unit * 0.05, unit * 0.1, waves, 0.0
        )
        top = stage.faded(lighter(palette.land, 0.06 * palette.daylight), distance)
        if not watery and index == len(rows) - 2:
            middle = edge
        _fill(stage, edge, canvas.height, top, mix(top, palette.near, 0.55 + 0.2 * (1 - distance)))
        canvas.line(edge, mix(top, palette.sun, 0.35), unit * 0.003, 90)
        if not watery and stage.scene.location not in ("desert", "space"):
            _grass(stage, edge, unit * (0.008 + 0.012 * index), top, rng)
    stage.ground = _height_by_column(middle or edge, canvas.width)


def _height_by_column(edge: list[Point], width: int) -> Callable[[float], float]:
    def height(x: float) -> float:
        index = min(len(edge) - 1, max(0, round(x / max(1, width) * (len(edge) - 1))))
        return edge[index][1]

    return height


def _grass(stage: Stage, edge: list[Point], tall: float, color: RGB, rng: random.Random) -> None:
    for _ in range(stage.count(420)):
        x, y = edge[int(rng.random() * len(edge))]
        x, lean = x + rng.uniform(-1, 1) * tall, rng.uniform(-0.4, 0.4) * tall
        y += rng.random() ** 2 * tall * 6
        blade = mix(color, stage.palette.near, rng.uniform(0.0, 0.6))
        stage.canvas.line(
            [(x, y + tall * 0.3), (x + lean, y - tall * rng.uniform(0.3, 1))],
            blade,
            tall * 0.14,
            170,
        )


def _headland(stage: Stage) -> None:
    """Draw a cliff that extends into the sea, on the side of the main subject.

    Its tip is nearer to the viewer than the horizon.
    """
    canvas, palette, rng, unit = (
        stage.canvas,
        stage.palette,
        stage.rng_for("headland"),
        stage.canvas.unit,
    )
    side = 1 if stage.focus > canvas.width / 2 else -1
    tip, end = (
        stage.focus - side * unit * rng.uniform(0.22, 0.3),
        canvas.width + unit * 0.08 if side > 0 else -unit * 0.08,
    )
    crown = stage.horizon - unit * rng.uniform(0.0, 0.05)
    foot = stage.horizon + unit * 0.15
    steps = 30 + round(90 * stage.detail)
    bumps = [
        (rng.uniform(8, 40), rng.uniform(0, 6.28), rng.uniform(0.002, 0.007))
        for _ in range(2 + round(4 * stage.detail))
    ]
    edge: list[Point] = []
    for index in range(steps + 1):
        t = index / steps
        x = tip + (end - tip) * t
        rise = min(1.0, abs(x - tip) / (unit * 0.2))
        rise = rise * rise * (3 - 2 * rise)
        y = foot + (crown - foot) * rise - unit * 0.05 * max(0.0, t - 0.5)
        edge.append(
            (
                x,
                y
                + unit
                * sum(size * math.sin(phase + rate * x / unit) for rate, phase, size in bumps),
            )
        )
    stage.ground = _height_at_nearest(edge)
    shore = [
        (
            tip + (end - tip) * t / 24 - side * unit * 0.02,
            foot + unit * (0.012 + 0.03 * t / 24 + rng.uniform(-0.005, 0.005)),
        )
        for t in range(24, -1, -1)
    ]
    # The dark reflection comes first, the rock over it.
    mirrored = [(x, foot + unit * 0.02 + (foot - y) * 0.55) for x, y in edge]
    for share in (1.0, 0.8, 0.6):
        part = [(x, foot + (y - foot) * share) for x, y in mirrored]
        canvas.polygon(
            [*part, (end, foot), (tip, foot)], mix(palette.water, palette.near, 0.75), 70
        )
    # Ripples break the rim of the reflection.
    for _ in range(stage.count(170)):
        x, y = mirrored[int(rng.random() * len(mirrored))]
        y += rng.uniform(-0.03, 0.02) * unit
        color = (
            mix(palette.water, palette.near, 0.75)
            if rng.random() < 0.5
            else mix(palette.water, palette.sky[2], 0.5)
        )
        canvas.ellipse(
            x - side * unit * rng.random() * 0.03,
            y,
            unit * rng.uniform(0.01, 0.06),
            unit * 0.0017,
            color,
            85,
        )
    top = mix(palette.land, palette.far, 0.1)
    canvas.shade([*edge, *shore], top, palette.near)
    _rocks(stage, edge, foot, rng, side)
    rim = [point for point in edge if point[0] * side < (stage.focus + side * unit * 0.3) * side]
    canvas.line(rim, mix(top, palette.sun, 0.55), unit * 0.003, 130)
    _grass(stage, edge, unit * 0.012, top, rng)
    for t in range(stage.count(60)):
        x = tip + (end - tip) * rng.random() ** 1.4 - side * unit * 0.03
        y = (
            foot
            + unit * (0.02 + rng.random() * 0.02)
            + abs(x - tip) / max(1.0, abs(end - tip)) * unit * 0.03
        )
        canvas.ellipse(
            x,
            y,
            unit * rng.uniform(0.006, 0.03),
            unit * 0.0016,
            lighter(palette.sky[3], 0.3),
            90 - t % 30,
        )


def _height_at_nearest(edge: list[Point]) -> Callable[[float], float]:
    def height(x: float) -> float:
        return min(edge, key=lambda point: abs(point[0] - x))[1]

    return height


def _rocks(stage: Stage, edge: list[Point], foot: float, rng: random.Random, side: int) -> None:
    """Draw facets on the cliff, some lit by the sun and the others dark."""
    canvas, palette, unit = stage.canvas, stage.palette, stage.canvas.unit
    for _ in range(stage.count(150)):
        x, y = edge[int(rng.random() ** 1.3 * len(edge))]
        low = foot + unit * 0.01
        if low <= y + unit * 0.008:
            continue
        middle = y + (low - y) * rng.uniform(0.12, 0.9)
        size = min(unit * rng.uniform(0.012, 0.045), low - y)
        lit = rng.random() < 0.4
        color = mix(palette.land, palette.sun, 0.4) if lit else palette.near
        shape = [
            (x + dx * size, middle + dy * size)
            for dx, dy in (
                (-0.05, -0.7),
                (0.22 * side, -0.3),
                (0.3 * side, 0.8),
                (-0.18 * side, 0.4),
            )
        ]
        if all(py > y for _, py in shape):
            canvas.polygon(shape, color, 40 if lit else 70)


def _quay(stage: Stage) -> None:
    canvas, palette, unit = stage.canvas, stage.palette, stage.canvas.unit
    top = stage.horizon + unit * 0.16
    floor = max(canvas.height, top + 1)
    canvas.shade(
        [(0, top), (canvas.width, top), (canvas.width, floor), (0, floor)],
        mix(palette.near, palette.land, 0.35),
        palette.near,
    )
    canvas.line(
        [(0, top), (canvas.width, top)], mix(palette.near, palette.sky[3], 0.4), unit * 0.004
    )
    stage.ground = lambda x: top + unit * 0.02


def foreground(stage: Stage) -> None:
    """Draw dark ground and grass at the lower edge, which adds depth."""
    canvas, palette, rng, unit = (
        stage.canvas,
        stage.palette,
        stage.rng_for("foreground"),
        stage.canvas.unit,
    )
    if stage.scene.location in ("space", "abstract", "city", "beach", "desert"):
        return
    low = canvas.height - unit * 0.02
    edge = ridge(rng, stage, low, unit * 0.05, 1.2, 0.3)
    canvas.polygon([*edge, (canvas.width, canvas.height), (0, canvas.height)], palette.near)
    for _ in range(stage.count(min(2000, round(300 * canvas.width / unit)))):
        x, base = edge[int(rng.random() * len(edge))]
        x += rng.uniform(-1, 1) * unit * 0.01
        tall, lean = unit * rng.uniform(0.015, 0.075), unit * rng.uniform(-0.02, 0.03)
        blade = [
            (x - unit * 0.002, base + unit * 0.02),
            (x + lean, base - tall),
            (x + unit * 0.002, base + unit * 0.02),
        ]
        canvas.polygon(blade, mix(palette.near, palette.land, rng.uniform(0, 0.25)))
