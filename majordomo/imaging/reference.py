"""Pictures that come with a request: made to fit, lending their colours, worked over, and masks."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps, ImageStat

from majordomo.imaging.brushes import brushed
from majordomo.imaging.canvas import noise
from majordomo.imaging.palette import dice
from majordomo.media import ImagePart


def picture_in(part: ImagePart, size: tuple[int, int]) -> Image.Image:
    """The picture, cropped around its middle to the shape of `size` and resized; untouched when it fits. RGB, or RGBA when it has alpha."""
    image = _plain(part.to_pil())
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def mask_of(part: ImagePart, size: tuple[int, int]) -> Image.Image:
    """Greyscale, resized to the picture: white is repainted, black is kept, grey is something of both."""
    image = part.to_pil()
    if image.mode.startswith("I;16") or image.mode == "I":  # sixteen bits would be cut off at 255 instead of scaled
        image = image.convert("I").point(lambda level: level / 257).convert("L")
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA").convert("RGB")
    image = image.convert("L")
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def palette_moved(image: Image.Image, parts: Sequence[ImagePart], share: float) -> Image.Image:
    """The picture with its colours moved towards those of other pictures: the same middle and spread in each channel."""
    samples = [_plain(part.to_pil()).convert("RGB").resize((48, 48), Image.Resampling.BOX) for part in parts]
    sheet = Image.new("RGB", (48, 48 * len(samples)))
    for index, sample in enumerate(samples):
        sheet.paste(sample, (0, 48 * index))
    return _moved(image, sheet, share)


def reworked(init: Image.Image, drawing: Image.Image, strength: float, sampler: str, root: tuple[object, ...]) -> Image.Image:
    """The first picture changed by `strength` into the drawing: at 0 it stays, at 1 nothing of it is left.

    Between, the drawing takes on its colours and comes through in patches, and what stays is painted with the same brush.
    """
    if strength <= 0:
        return init
    if strength >= 1:
        return drawing
    mode = "RGBA" if "RGBA" in (init.mode, drawing.mode) else "RGB"
    colours = init.convert("RGB")
    toned = _moved(drawing.convert("RGB"), colours.resize((64, 64), Image.Resampling.BOX), 1 - strength)
    painted = Image.blend(colours, brushed(colours.copy(), sampler, root), min(1.0, 1.6 * strength))
    patches = noise(dice(*root, "patches"), init.size, (5, 5), 4)
    # 0 everywhere at strength 0, 255 everywhere at strength 1, and cloudy between
    through = patches.point([round(min(255.0, max(0.0, 255 * 1.6 * strength - 0.6 * level))) for level in range(256)])
    result = Image.composite(toned, painted, through)
    if mode == "RGBA":
        result.putalpha(Image.composite(drawing.convert("RGBA").getchannel("A"), init.convert("RGBA").getchannel("A"), through))
    return result


def _plain(image: Image.Image) -> Image.Image:
    return image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")


def _moved(image: Image.Image, sample: Image.Image, share: float) -> Image.Image:
    own = ImageStat.Stat(image.resize((64, 64), Image.Resampling.BOX))
    other = ImageStat.Stat(sample)
    table: list[int] = []
    for channel in range(3):
        spread = min(2.2, max(0.45, (other.stddev[channel] + 1) / (own.stddev[channel] + 1)))
        table += [
            round(min(255.0, max(0.0, level + share * ((level - own.mean[channel]) * spread + other.mean[channel] - level))))
            for level in range(256)
        ]
    return image.point(table)
