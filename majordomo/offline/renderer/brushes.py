"""Brushes: filters that give the finished composition a style.

The name of the sampler selects the brush. A sampler has no meaning without a diffusion model, but
two samplers should still give two different images.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from majordomo.offline.renderer.canvas import levels, noise
from majordomo.offline.renderer.palette import rng_for

Brush = Callable[[Image.Image, random.Random], Image.Image]
# Marks along the shorter side, so that small and large images get the same look.
CELLS = 96


def soft(image: Image.Image, rng: random.Random) -> Image.Image:
    """Leave the image smooth, with slightly mottled pigment."""
    return _mottled(image, rng, 0.10)


def hatching(image: Image.Image, rng: random.Random) -> Image.Image:
    """Hatch with pencil lines, denser in dark areas."""
    tone = image.convert("L")
    angle = rng.uniform(0.5, 1.1)
    for turn, threshold in ((angle, 150), (angle + 1.3, 85)):
        lines = _lines(image.size, turn, _cell(image) * 0.9, 0.42)
        mask = ImageChops.multiply(
            lines,
            tone.point(
                [255 - level for level in map(levels(threshold - 70, threshold + 60), range(256))]
            ),
        )
        image.paste(
            ImageChops.multiply(image, Image.new("RGB", image.size, (150, 146, 162))), (0, 0), mask
        )
    light = _lines(image.size, angle + 0.7, _cell(image) * 1.3, 0.3)
    image.paste(
        ImageChops.screen(image, Image.new("RGB", image.size, (26, 24, 22))),
        (0, 0),
        ImageChops.multiply(light, tone.point(levels(90, 220))),
    )
    return image


def dots(image: Image.Image, rng: random.Random) -> Image.Image:
    """Paint dots of pure color side by side."""
    cell = _cell(image) * 1.05
    small = _sampled(image, cell)
    pixels = small.load()
    assert pixels is not None
    drawing = image.copy()
    pen = ImageDraw.Draw(drawing)
    for row in range(small.height):
        for column in range(small.width):
            red, green, blue = _channels(pixels[column, row])
            lift = rng.uniform(0.84, 1.2)
            x, y = (
                (column + 0.5 + rng.uniform(-0.3, 0.3)) * cell,
                (row + 0.5 + rng.uniform(-0.3, 0.3)) * cell,
            )
            radius = cell * rng.uniform(0.36, 0.56)
            pen.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=(_clip(red * lift), _clip(green * lift), _clip(blue * lift)),
            )
    return Image.blend(image, drawing, 0.72)


def strokes(image: Image.Image, rng: random.Random) -> Image.Image:
    """Paint short brush strokes that all lean in one direction."""
    wind = rng.uniform(-0.5, 0.5)
    drawing = image
    for share, cell, alpha in ((1.9, _cell(image) * 1.25, 0.6), (1.3, _cell(image) * 0.6, 0.5)):
        small = _sampled(image, cell)
        pixels = small.load()
        assert pixels is not None
        layer = drawing.copy()
        pen = ImageDraw.Draw(layer)
        order = [(column, row) for row in range(small.height) for column in range(small.width)]
        rng.shuffle(order)
        for column, row in order:
            red, green, blue = _channels(pixels[column, row])
            lift = rng.uniform(0.9, 1.12)
            turn, long = wind + rng.gauss(0, 0.25), cell * share * rng.uniform(0.5, 1)
            x, y = (column + rng.random()) * cell, (row + rng.random()) * cell
            dx, dy = math.cos(turn) * long, math.sin(turn) * long
            color = (_clip(red * lift), _clip(green * lift), _clip(blue * lift))
            pen.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=max(1, round(cell * 0.62)))
        drawing = Image.blend(drawing, layer, alpha)
    return drawing


def facets(image: Image.Image, rng: random.Random) -> Image.Image:
    """Cover the image with flat triangles, as if folded from paper."""
    cell = _cell(image) * 2.3
    columns, rows = math.ceil(image.width / cell), math.ceil(image.height / cell)
    small = _sampled(image, cell / 2)
    pixels = small.load()
    assert pixels is not None
    corners = [
        [
            (
                (column + rng.uniform(-0.36, 0.36)) * cell,
                (row + rng.uniform(-0.36, 0.36)) * cell,
            )
            for column in range(columns + 1)
        ]
        for row in range(rows + 1)
    ]
    drawing = image.copy()
    pen = ImageDraw.Draw(drawing)
    for row in range(rows):
        for column in range(columns):
            a, b, c, d = (
                corners[row][column],
                corners[row][column + 1],
                corners[row + 1][column + 1],
                corners[row + 1][column],
            )
            for triangle in (
                ((a, b, c), (a, c, d)) if rng.random() < 0.5 else ((a, b, d), (b, c, d))
            ):
                x, y = (
                    sum(point[0] for point in triangle) / 3,
                    sum(point[1] for point in triangle) / 3,
                )
                sample_point = (
                    min(small.width - 1, max(0, int(2 * x / cell))),
                    min(small.height - 1, max(0, int(2 * y / cell))),
                )
                red, green, blue = _channels(pixels[sample_point])
                lift = rng.uniform(0.92, 1.1)
                pen.polygon(
                    triangle, fill=(_clip(red * lift), _clip(green * lift), _clip(blue * lift))
                )
    return Image.blend(image, drawing, 0.68)


def ink(image: Image.Image, rng: random.Random) -> Image.Image:
    """Paint washes of color under dark outlines."""
    wash = _mottled(image, rng, 0.3)
    # Outlines are found on a smaller copy: they come out as wide as a pen, and the cost stays low.
    scale = max(1.0, min(image.size) / 512)
    small = image.convert("L").resize(
        (max(1, round(image.width / scale)), max(1, round(image.height / scale))),
        Image.Resampling.BILINEAR,
    )
    edges = (
        small.filter(ImageFilter.FIND_EDGES)
        .filter(ImageFilter.GaussianBlur(0.7))
        .point(levels(8, 46, 215))
    )
    # FIND_EDGES leaves the outermost pixels unchanged.
    ImageDraw.Draw(edges).rectangle((0, 0, edges.width - 1, edges.height - 1), outline=0, width=2)
    wash.paste(
        (26, 22, 38), (0, 0, *image.size), edges.resize(image.size, Image.Resampling.BILINEAR)
    )
    return wash


def watercolor(image: Image.Image, rng: random.Random) -> Image.Image:
    """Imitate dried watercolor: soft inside, darker at the rims, on rough paper."""
    half = image.resize((max(1, image.width // 3), max(1, image.height // 3)), Image.Resampling.BOX)
    ran = half.filter(ImageFilter.MedianFilter(5))
    rims = (
        ran.convert("L")
        .filter(ImageFilter.FIND_EDGES)
        .filter(ImageFilter.GaussianBlur(1))
        .point(levels(6, 60, 95))
    )
    wash = ran.resize(image.size, Image.Resampling.BICUBIC)
    wash.paste(
        ImageChops.multiply(wash, wash), (0, 0), rims.resize(image.size, Image.Resampling.BILINEAR)
    )
    return _mottled(Image.blend(image, wash, 0.72), rng, 0.55)


BRUSHES: dict[str, Brush] = {
    "soft": soft,
    "hatching": hatching,
    "dots": dots,
    "strokes": strokes,
    "facets": facets,
    "ink": ink,
    "watercolor": watercolor,
}
# The most common samplers have a fixed brush each; the hash of any other name selects one.
SAMPLERS = {
    "euler": "soft",
    "euler_a": "strokes",
    "heun": "hatching",
    "dpm2": "ink",
    "ddim": "facets",
    "lcm": "dots",
    "dpmpp2m": "watercolor",
}
SAMPLERS |= {
    "euler_ancestral": "strokes",
    "dpmpp_2m": "watercolor",
    "dpm++2m": "watercolor",
    "unipc": "facets",
}


def brush_for(sampler: str) -> str:
    """Return the name of the brush for a sampler; "soft" for an empty name."""
    name = "_".join(sampler.lower().split())
    if not name:
        return "soft"
    return SAMPLERS.get(name) or rng_for("sampler", name).choice(
        [brush for brush in BRUSHES if brush != "soft"]
    )


def apply_brush(image: Image.Image, sampler: str, seed_parts: tuple[object, ...]) -> Image.Image:
    """Return the image painted with the sampler's brush. `image` may be modified."""
    return BRUSHES[brush_for(sampler)](image, rng_for(*seed_parts, "brush", sampler))


def apply_step_blocks(image: Image.Image, steps: int) -> Image.Image:
    """Mix in square blocks that show how few steps were taken; none from 12 steps on."""
    block = round(min(image.size) / (14 * steps))
    if block < 2 or steps >= 12:
        return image
    small = image.resize(
        (max(1, image.width // block), max(1, image.height // block)), Image.Resampling.BOX
    )
    blocks = small.resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image, blocks, min(1.0, 1.25 - 0.12 * steps))


def add_grain(image: Image.Image, rng: random.Random, strength: float = 0.016) -> Image.Image:
    """Add fine grain to `image` in place and return it. Grain also hides banding in gradients.

    A tile of 256 x 256 pixels repeats; it is too large for the repetition to be noticed.
    """
    side = 256
    tile = Image.frombytes("L", (side, side), rng.randbytes(side * side))
    tile = tile.point([round(128 + (level - 128) * strength * 2) for level in range(256)])
    strip = Image.new("L", (image.width, side))
    for left in range(0, image.width, side):
        strip.paste(tile, (left, 0))
    sheet = Image.merge("RGB", (strip, strip, strip))
    # Work in bands, because three copies of a large image would need too much memory.
    for box in bands(image.size, side):
        part = image.crop(box)
        # One addition with an offset adds (grain - 128).
        image.paste(ImageChops.add(part, sheet.crop((0, 0, *part.size)), 1.0, -128), box)
    return image


def bands(size: tuple[int, int], height: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes of the horizontal bands of an image, from the top down."""
    for top in range(0, size[1], height):
        yield (0, top, size[0], min(size[1], top + height))


def _mottled(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    cells = (
        max(1, min(60, 12 * image.width // max(1, min(image.size)))),
        max(1, min(60, 12 * image.height // max(1, min(image.size)))),
    )
    pigment = noise(rng, image.size, cells, 4)
    light = ImageChops.soft_light(image, Image.merge("RGB", (pigment, pigment, pigment)))
    return Image.blend(image, light, strength)


def _lines(size: tuple[int, int], angle: float, pitch: float, share: float) -> Image.Image:
    """Return a mask of parallel lines, at most 4,000 of them whatever the size and angle."""
    sheet = Image.new("L", size)
    pen = ImageDraw.Draw(sheet)
    reach = math.hypot(*size)
    dx, dy = math.cos(angle), math.sin(angle)
    count = min(4000, int(2 * reach / max(1.5, pitch)))
    for index in range(count):
        offset = (index - count / 2) * max(1.5, pitch)
        x, y = size[0] / 2 - dy * offset, size[1] / 2 + dx * offset
        wide = max(1, round(pitch * share))
        pen.line(
            (x - dx * reach, y - dy * reach, x + dx * reach, y + dy * reach), fill=255, width=wide
        )
    return sheet


def _cell(image: Image.Image) -> float:
    # A long strip would need a million marks; larger cells bound their number.
    return max(1.5, min(image.size) / CELLS, math.sqrt(image.width * image.height / 40_000))


def _sampled(image: Image.Image, cell: float) -> Image.Image:
    return image.resize(
        (max(1, math.ceil(image.width / cell)), max(1, math.ceil(image.height / cell))),
        Image.Resampling.BOX,
    )


def _channels(pixel: object) -> tuple[int, int, int]:
    assert isinstance(pixel, tuple)
    return pixel[0], pixel[1], pixel[2]


def _clip(value: float) -> int:
    return min(255, round(value))
