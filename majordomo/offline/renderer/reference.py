"""Images that come with a request: made to fit, lending their colors, worked over, and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageOps, ImageStat

from majordomo.media.image_part import ImagePart
from majordomo.offline.renderer.brushes import bands, brushed
from majordomo.offline.renderer.canvas import noise
from majordomo.offline.renderer.palette import dice

PAINTED_PIXELS = 4_400_000  # a larger image is painted over in a smaller copy


def image_in(part: ImagePart, size: tuple[int, int]) -> Image.Image:
    """The image, cropped around its middle to the shape of `size` and resized; untouched when it fits. RGB, or RGBA when it has alpha."""
    image = _plain(part.to_pil())
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def mask_of(part: ImagePart, size: tuple[int, int]) -> Image.Image:
    """Grayscale, resized to the image: white is repainted, black is kept, gray is something of both."""
    image = part.to_pil()
    if (
        image.mode.startswith("I;16") or image.mode == "I"
    ):  # sixteen bits would be cut off at 255 instead of scaled
        image = image.convert("I").point(lambda level: level / 257).convert("L")
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA").convert("RGB")
    image = image.convert("L")
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def palette_moved(image: Image.Image, parts: Sequence[ImagePart], share: float) -> Image.Image:
    """The image with its colors moved towards those of other images: the same middle and spread in each channel."""
    samples = [
        _plain(part.to_pil()).convert("RGB").resize((48, 48), Image.Resampling.BOX)
        for part in parts
    ]
    sheet = Image.new("RGB", (48, 48 * len(samples)))
    for index, sample in enumerate(samples):
        sheet.paste(sample, (0, 48 * index))
    return image.point(_table(image, sheet, share))


def reworked(
    init: Image.Image, drawing: Image.Image, strength: float, sampler: str, root: tuple[object, ...]
) -> Image.Image:
    """The first image changed by `strength` into the drawing: at 0 it stays, at 1 nothing of it is left.

    Between, the drawing takes on its colors and comes through in patches, and what stays is painted with the same brush.
    """
    if strength <= 0:
        return init
    if strength >= 1:
        return drawing
    sample = init.convert("RGB").resize((64, 64), Image.Resampling.BOX)
    table = _table(drawing, sample, 1 - strength)
    scale = min(1.0, math.sqrt(PAINTED_PIXELS / (init.width * init.height)))
    small = (max(1, round(init.width * scale)), max(1, round(init.height * scale)))
    painted = brushed(init.convert("RGB").resize(small, Image.Resampling.BOX), sampler, root)
    # 0 everywhere at strength 0, 255 everywhere at strength 1, and cloudy between
    reveal = [
        round(min(255.0, max(0.0, 255 * 1.6 * strength - 0.6 * level))) for level in range(256)
    ]
    patches = noise(dice(*root, "patches"), small, (5, 5), 4).point(reveal)
    mode = "RGBA" if "RGBA" in (init.mode, drawing.mode) else "RGB"
    result = Image.new(mode, init.size)
    for box in bands(
        init.size, 512
    ):  # band by band, since half a dozen large images at once would fill the memory
        part = (box[2] - box[0], box[3] - box[1])
        source = (
            0.0,
            box[1] * small[1] / init.height,
            float(small[0]),
            box[3] * small[1] / init.height,
        )
        before, after = init.crop(box), drawing.crop(box)
        colors = before.convert("RGB")
        kept = Image.blend(
            colors,
            painted.resize(part, Image.Resampling.BILINEAR, box=source),
            min(1.0, 1.6 * strength),
        )
        through = patches.resize(part, Image.Resampling.BILINEAR, box=source)
        mixed = Image.composite(after.convert("RGB").point(table), kept, through)
        if mode == "RGBA":
            mixed.putalpha(Image.composite(_alpha(after), _alpha(before), through))
        result.paste(mixed, box)
    return result


def masked(init: Image.Image, result: Image.Image, mask: Image.Image) -> Image.Image:
    """The result where the mask is white, the first image, to the bit, where it is black."""
    mode = "RGBA" if "RGBA" in (result.mode, init.mode) else "RGB"
    final = Image.new(mode, init.size)
    for box in bands(init.size, 512):
        final.paste(
            Image.composite(
                result.crop(box).convert(mode), init.crop(box).convert(mode), mask.crop(box)
            ),
            box,
        )
    return final


def _alpha(image: Image.Image) -> Image.Image:
    return image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)


def _plain(image: Image.Image) -> Image.Image:
    mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)


def _table(image: Image.Image, sample: Image.Image, share: float) -> list[int]:
    """For each channel, what each level becomes when middle and spread move towards those of the sample."""
    own = ImageStat.Stat(image.resize((64, 64), Image.Resampling.BOX).convert("RGB"))
    other = ImageStat.Stat(sample)
    table: list[int] = []
    for channel in range(3):
        spread = min(2.2, max(0.45, (other.stddev[channel] + 1) / (own.stddev[channel] + 1)))
        table += [
            round(
                min(
                    255.0,
                    max(
                        0.0,
                        level
                        + share
                        * ((level - own.mean[channel]) * spread + other.mean[channel] - level),
                    ),
                )
            )
            for level in range(256)
        ]
    return table
