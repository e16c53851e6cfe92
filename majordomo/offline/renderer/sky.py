"""Layers of sky, light and weather. Each draws over what is there."""

from __future__ import annotations

import math

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from majordomo.offline.renderer.canvas import gradient, levels, noise
from majordomo.offline.renderer.palette import lighter, mix
from majordomo.offline.renderer.stage import Stage


def sky(stage: Stage) -> None:
    """Draw the sky gradient of the time of day, brighter around a sun."""
    a, b, c, d = stage.palette.sky
    canvas = stage.canvas
    end = min(0.99, stage.horizon / canvas.height)
    stops = [(0.0, a), (end * 0.4, b), (end * 0.78, c), (end, d), (1.0, d)]
    canvas.image.paste(
        gradient(stops, canvas.height).resize(
            (canvas.width, canvas.height), Image.Resampling.NEAREST
        )
    )
    if not stage.palette.moon:
        reach = max(stage.horizon, canvas.unit * 0.5) * 1.25
        canvas.glow(
            stage.light_x,
            stage.light_y,
            reach,
            mix(stage.palette.sun, d, 0.45),
            0.5,
            1.6 * stage.falloff,
            flat=1.4,
        )


def stars(stage: Stage) -> None:
    """Draw faint stars, a few with a halo; none by day or under an overcast sky."""
    dark = 1 - stage.palette.daylight
    if stage.scene.location == "space":
        dark = 1.0
    if (
        dark < 0.5
        or "star" in stage.scene.excluded
        or stage.scene.weather in ("rain", "storm", "fog")
    ):
        return
    rng, canvas = stage.rng_for("stars"), stage.canvas
    for index in range(stage.count(round(260 * (dark - 0.4) / 0.6))):
        x, y = rng.random() * canvas.width, rng.random() ** 1.5 * stage.horizon * 0.85
        size = canvas.unit * 0.0011 * (0.7 + 2.2 * rng.random() ** 4)
        bright = (1 - y / (stage.horizon + 1)) * rng.uniform(0.4, 1)
        canvas.ellipse(x, y, size, size, (255, 250, 236), round(255 * min(1.0, bright)))
        if index % 30 == 0:
            canvas.glow(x, y, size * 7, (220, 226, 255), 0.55 * dark)


def sun_and_moon(stage: Stage) -> None:
    """Draw the sun or the moon, and the light around it."""
    scene, canvas, palette = stage.scene, stage.canvas, stage.palette
    clear = scene.weather not in ("rain", "storm", "fog")
    moon = (
        (palette.moon or scene.has("moon"))
        and "moon" not in scene.excluded
        and clear
        and not scene.has("planet")
    )
    sun = not palette.moon and "sun" not in scene.excluded and clear and scene.location != "space"
    x, y, unit = stage.light_x, stage.light_y, canvas.unit
    if sun:
        size = unit * (0.05 if palette.sun_height > 0.3 else 0.066)
        canvas.glow(
            x, y, size * 5.5, mix(palette.sun, palette.sky[3], 0.3), 0.6, 2.2 * stage.falloff
        )
        canvas.glow(x, y, size * 2.2, palette.sun, 0.75, 1.6 * stage.falloff)
        canvas.ellipse(x, y, size, size, palette.sun)
        canvas.ellipse(
            x - size * 0.1,
            y - size * 0.12,
            size * 0.72,
            size * 0.72,
            lighter(palette.sun, 0.45),
            120,
        )
    if moon:
        if sun:
            x, y = canvas.width - x * 0.6, stage.horizon * 0.22
        size = unit * 0.055
        canvas.glow(
            x, y, size * 6, mix(palette.sky[3], (214, 224, 255), 0.5), 0.55, 2.4 * stage.falloff
        )
        canvas.glow(x, y, size * 2.0, (236, 236, 220), 0.5, 1.6)
        canvas.ellipse(x, y, size, size, (244, 240, 222))
        rng = stage.rng_for("moon")
        for _ in range(stage.count(9)):
            turn, far, crater = (
                rng.uniform(0, 6.28),
                rng.uniform(0.1, 0.72) * size,
                rng.uniform(0.06, 0.2) * size,
            )
            canvas.ellipse(
                x + math.cos(turn) * far,
                y + math.sin(turn) * far,
                crater,
                crater * 0.9,
                (214, 208, 190),
                110,
            )


def nebula(stage: Stage) -> None:
    """Draw glowing clouds, for scenes in space."""
    canvas, rng = stage.canvas, stage.rng_for("nebula")
    size = (canvas.width, canvas.height)
    for color in (stage.palette.accent, (70, 90, 210), (190, 90, 200)):
        mask = noise(rng, size, (4, 3), 5).point(levels(120, 215, 150))
        canvas.image.paste(
            ImageChops.screen(canvas.image, Image.new("RGB", size, color)), (0, 0), mask
        )


def clouds(stage: Stage) -> None:
    """Draw clouds: bands at low sun, cumulus at high sun, an overcast sky in bad weather."""
    weather = stage.scene.weather
    if weather == "clear" or stage.scene.location == "space":
        return
    if (
        stage.palette.sun_height > 0.35
        and not stage.palette.moon
        and weather in ("fair", "clouds", "snow")
    ):
        _cumulus(stage, 11 if weather == "clouds" else 5)
        return
    canvas, palette, rng = stage.canvas, stage.palette, stage.rng_for("clouds")
    heavy = {"clouds": 0.85, "storm": 1.0, "rain": 0.95, "snow": 0.8, "fog": 0.4}.get(weather, 0.55)
    low_sun = palette.sun_height < 0.35
    size = (canvas.width, max(1, int(stage.horizon)))
    columns = max(2, min(24, round(3.2 * size[0] / size[1])))
    # A low sun gets long flat bands of cloud, a high sun round shapes.
    cells = (max(1, columns // 2), 7) if low_sun else (columns, 4)
    field = noise(rng, size, cells, 2 + round(3 * stage.detail))
    mean = 128 + 34 * (0.75 - heavy)
    fade = gradient(
        [
            (0.0, (200, 200, 200)),
            (0.55, (255, 255, 255)),
            (0.86, (200, 200, 200)),
            (1.0, (30, 30, 30)),
        ],
        size[1],
    ).convert("L")
    shape = ImageChops.multiply(
        field.point(levels(mean, mean + 62, 235)), fade.resize(size, Image.Resampling.NEAREST)
    )
    shift = max(1, round(size[1] * 0.022))
    under = ImageChops.subtract(shape, ImageChops.offset(shape, 0, -shift if low_sun else shift))
    # The offset wraps around; clear the rows that came from the opposite edge.
    for edge in (0, size[1] - shift):
        under.paste(0, (0, edge, size[0], edge + shift))
    dark = (
        mix(palette.cloud, palette.sky[1], 0.72)
        if low_sun
        else mix(palette.cloud, palette.far, 0.4)
    )
    if weather in ("storm", "rain"):
        dark = lighter(mix(dark, (52, 56, 70), 0.6), -0.2 * (1 - palette.daylight))
    canvas.cover(dark if low_sun else palette.cloud, shape, (0, 0))
    # Light comes from below at low sun, and from above at high sun.
    lit = mix(palette.cloud, palette.sun, 0.4) if low_sun else lighter(palette.cloud, 0.5)
    if palette.moon:
        lit = mix(palette.cloud, palette.sun, 0.25)
    canvas.cover(lit, under.point([min(230, level * 3) for level in range(256)]), (0, 0))


def _cumulus(stage: Stage, count: int) -> None:
    """Draw cumulus clouds: discs on a flat base, small and low in the distance, large when near."""
    canvas, palette, rng, unit = (
        stage.canvas,
        stage.palette,
        stage.rng_for("heaps"),
        stage.canvas.unit,
    )
    count = min(60, round(count * max(1.0, canvas.width / unit)))
    for index in range(count):
        near = 1 - index / count if count > 1 else 1.0
        x, foot = (
            rng.random() * canvas.width,
            stage.horizon * (0.78 - 0.62 * (1 - near) ** 0.8 * rng.uniform(0.6, 1)),
        )
        size = unit * (0.06 + 0.16 * (1 - foot / max(1.0, stage.horizon))) * rng.uniform(0.7, 1.3)
        box = (
            int(x - 2.3 * size) - 2,
            int(foot - 1.6 * size) - 2,
            int(x + 2.3 * size) + 3,
            int(foot + 0.3 * size) + 3,
        )
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        pen = ImageDraw.Draw(mask)
        for _ in range(6 + stage.count(20)):
            spread = rng.gauss(0, 0.75)
            radius = size * rng.uniform(0.24, 0.5) * max(0.35, 1 - 0.3 * abs(spread))
            dx, dy = (
                x + spread * size * 0.9 - box[0],
                foot - radius * rng.uniform(0.6, 1.7 - 0.4 * min(2.0, abs(spread))) - box[1],
            )
            pen.ellipse((dx - radius, dy - radius, dx + radius, dy + radius), fill=255)
        pen.rectangle((0, foot - box[1], mask.width, mask.height), fill=0)
        mask = mask.filter(ImageFilter.GaussianBlur(max(0.6, size * 0.045)))
        # Clouds are lit from above, and fainter in the distance.
        bright = gradient(
            [
                (0.0, lighter(palette.cloud, 0.6)),
                (1.0, mix(palette.cloud, mix(palette.sky[1], palette.far, 0.5), 0.5)),
            ],
            mask.height,
        )
        sheet = bright.resize(mask.size, Image.Resampling.NEAREST)
        alpha = 0.5 + 0.42 * (1 - foot / max(1.0, stage.horizon))
        canvas.image.paste(sheet, box, mask.point([round(level * alpha) for level in range(256)]))


def haze(stage: Stage) -> None:
    """Draw haze at the horizon, and fog banks in fog."""
    canvas, palette, rng = stage.canvas, stage.palette, stage.rng_for("haze")
    if stage.scene.location in ("space", "abstract"):
        return
    band = max(2, int(canvas.unit * 0.12))
    top = int(stage.horizon) - band
    fade = (
        gradient([(0.0, (0, 0, 0)), (0.5, (92, 92, 92)), (1.0, (0, 0, 0))], band * 2)
        .convert("L")
        .resize((canvas.width, band * 2))
    )
    canvas.cover(mix(palette.sky[3], palette.far, 0.35), fade, (0, top))
    if stage.scene.weather == "fog":
        size = (canvas.width, canvas.height)
        canvas.cover(
            mix(palette.sky[3], (226, 230, 234), 0.4),
            noise(rng, size, (3, 6), 4).point(levels(70, 200, 205)),
            (0, 0),
        )


def weather(stage: Stage) -> None:
    """Draw rain, snow or lightning in front of everything else."""
    canvas, rng, unit = stage.canvas, stage.rng_for("weather"), stage.canvas.unit
    kind = stage.scene.weather
    area = min(6.0, canvas.width * canvas.height / max(1.0, unit * unit))
    if kind in ("rain", "storm"):
        for _ in range(stage.count(round(420 * area))):
            x, y, long = (
                rng.random() * canvas.width,
                rng.random() * canvas.height,
                unit * rng.uniform(0.02, 0.07),
            )
            canvas.line(
                [(x, y), (x - long * 0.25, y + long)],
                (214, 224, 236),
                unit * 0.0015,
                rng.randrange(40, 120),
            )
    elif kind == "snow":
        for _ in range(stage.count(round(420 * area))):
            size = unit * (0.0012 + 0.005 * rng.random() ** 3)
            canvas.ellipse(
                rng.random() * canvas.width,
                rng.random() * canvas.height,
                size,
                size,
                (252, 252, 255),
                rng.randrange(110, 240),
            )
    if kind == "storm" and "lightning" not in stage.scene.excluded:
        x, y = stage.light_x, 0.0
        bolt = [(x, y)]
        while y < stage.horizon:
            x, y = x + rng.uniform(-1, 1) * unit * 0.05, y + unit * rng.uniform(0.03, 0.08)
            bolt.append((x, y))
        canvas.glow(stage.light_x, stage.horizon * 0.4, unit * 0.5, (190, 200, 255), 0.5)
        canvas.line(bolt, (250, 250, 255), unit * 0.005)


def bloom(stage: Stage) -> None:
    """Add bloom: a faint, blurred copy of the bright parts screened over the image."""
    image = stage.canvas.image
    small = image.resize(
        (max(1, image.width // 8), max(1, image.height // 8)), Image.Resampling.BOX
    )
    soft = small.point([levels(120, 255, 120)(level) for level in range(256)] * 3).filter(
        ImageFilter.GaussianBlur(4)
    )
    stage.canvas.image = ImageChops.screen(
        image, soft.resize(image.size, Image.Resampling.BILINEAR)
    )


def vignette(stage: Stage, depth: float) -> None:
    """Darken the corners by `depth`, which depends on the scheduler."""
    canvas = stage.canvas
    size = (canvas.width, canvas.height)
    ring = (
        Image.radial_gradient("L")
        .point(levels(90, 290, 255 * depth))
        .resize(size, Image.Resampling.BILINEAR)
    )
    canvas.image.paste(mix(stage.palette.near, (8, 6, 18), 0.5), (0, 0, *size), ring)
