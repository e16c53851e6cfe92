"""Input images and masks of a request: resizing, color transfer, blending and masking."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageOps, ImageStat

from majordomo.media.image_part import ImagePart
from majordomo.offline.renderer.brushes import apply_brush, bands
from majordomo.offline.renderer.canvas import noise
from majordomo.offline.renderer.palette import rng_for

# A larger input image is painted over in a smaller copy.
MAX_BRUSHED_PIXELS = 4_400_000


def fit_image(part: ImagePart, size: tuple[int, int]) -> Image.Image:
    """Crop an image around its center to the shape of `size` and resize it.

    Returns:
        An RGB image, or RGBA when the input has transparency; unchanged when the size fits.
    """
    image = _to_rgb_or_rgba(part.to_pil())
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def load_mask(part: ImagePart, size: tuple[int, int]) -> Image.Image:
    """Return a mask as grayscale, resized to `size`: white is repainted, black kept, gray mixed."""
    image = part.to_pil()
    # Pillow would clip sixteen bits at 255 instead of scaling them.
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.convert("I").point(lambda level: level / 257).convert("L")
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA").convert("RGB")
    image = image.convert("L")
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def match_palette(image: Image.Image, parts: Sequence[ImagePart], share: float) -> Image.Image:
    """Move the mean and spread of each color channel towards those of other images."""
    samples = [
        _to_rgb_or_rgba(part.to_pil()).convert("RGB").resize((48, 48), Image.Resampling.BOX)
        for part in parts
    ]
    sheet = Image.new("RGB", (48, 48 * len(samples)))
    for index, sample in enumerate(samples):
        sheet.paste(sample, (0, 48 * index))
    return image.point(_transfer_table(image, sheet, share))


def blend_with_init(
    init: Image.Image,
    drawing: Image.Image,
    strength: float,
    sampler: str,
    seed_parts: tuple[object, ...],
) -> Image.Image:
    """Turn the input image into the drawing, by `strength`: 0 returns `init`, 1 returns `drawing`.

    In between, the drawing takes on the colors of the input image and shows through in patches,
    and the rest of the input image is painted with the same brush.
    """
    if strength <= 0:
        return init
    if strength >= 1:
        return drawing
    sample = init.convert("RGB").resize((64, 64), Image.Resampling.BOX)
    table = _transfer_table(drawing, sample, 1 - strength)
    scale = min(1.0, math.sqrt(MAX_BRUSHED_PIXELS / (init.width * init.height)))
    small = (max(1, round(init.width * scale)), max(1, round(init.height * scale)))
    brushed_init = apply_brush(
        init.convert("RGB").resize(small, Image.Resampling.BOX), sampler, seed_parts
    )
    # 0 everywhere at strength 0, 255 everywhere at strength 1, and patchy in between.
    reveal = [
        round(min(255.0, max(0.0, 255 * 1.6 * strength - 0.6 * level))) for level in range(256)
    ]
    patches = noise(rng_for(*seed_parts, "patches"), small, (5, 5), 4).point(reveal)
    mode = "RGBA" if "RGBA" in (init.mode, drawing.mode) else "RGB"
    result = Image.new(mode, init.size)
    # Work in bands, because half a dozen copies of a large image would need too much memory.
    for box in bands(init.size, 512):
        part = (box[2] - box[0], box[3] - box[1])
        source = (
            0.0,
            box[1] * small[1] / init.height,
            float(small[0]),
            box[3] * small[1] / init.height,
        )
        before, after = init.crop(box), drawing.crop(box)
        colors = before.convert("RGB")
        background = Image.blend(
            colors,
            brushed_init.resize(part, Image.Resampling.BILINEAR, box=source),
            min(1.0, 1.6 * strength),
        )
        through = patches.resize(part, Image.Resampling.BILINEAR, box=source)
        mixed = Image.composite(after.convert("RGB").point(table), background, through)
        if mode == "RGBA":
            mixed.putalpha(Image.composite(_alpha(after), _alpha(before), through))
        result.paste(mixed, box)
    return result


def apply_mask(init: Image.Image, result: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the result where the mask is white, and the exact input image where it is black."""
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


def _to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)


def _transfer_table(image: Image.Image, sample: Image.Image, share: float) -> list[int]:
    """Return a lookup table that moves mean and spread of each channel towards the sample's."""
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
