"""Pictures as a backend wants them: RGB, upright, masks of one kind and of the picture's size. It decodes: work for a worker thread."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

from PIL import Image, ImageOps

from majordomo.errors import InvalidRequestError
from majordomo.media import ImagePart, png_chunks
from majordomo.settings import Limits

Size = tuple[int, int]
_SHAPE_TOLERANCE = 0.02  # a mask drawn on a shrunk copy is off by a pixel's rounding


def rgb_png(picture: ImagePart, limits: Limits) -> ImagePart:
    """The picture as an 8-bit RGB PNG, turned as its EXIF says, on white where it is transparent; itself when it is that already."""
    if _is_rgb_png(picture):
        return picture
    image = ImageOps.exif_transpose(_decode(picture, limits, "images"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
        image = flat
    elif image.mode.startswith("I") or image.mode == "F":
        image = eight_bit(image)
    return _png(image.convert("RGB"))


def mask_for(mask: ImagePart, size: Size, kind: Literal["luminance", "alpha"], limits: Limits) -> ImagePart:
    """A canonical mask (greyscale, white = repaint) of the size of its picture: as an 8-bit greyscale PNG, or as a hole, RGBA with
    alpha = 255 - white.

    Raises InvalidRequestError (field `mask`) for one with transparency, whose meaning could only be guessed, and for one of another shape
    than the picture.
    """
    image = _decode(mask, limits, "mask")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InvalidRequestError("a mask is greyscale, white = repaint; this one has transparent pixels", field="mask")
    if abs(image.width * size[1] / (image.height * size[0]) - 1) > _SHAPE_TOLERANCE:
        raise InvalidRequestError(
            f"the mask is {image.width}x{image.height}, of another shape than the picture's {size[0]}x{size[1]}", field="mask"
        )
    grey = (eight_bit(image) if image.mode.startswith("I") or image.mode == "F" else image).convert("L")
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BILINEAR)
    if kind == "luminance":
        return _png(grey)
    hole = Image.new("RGBA", size, (0, 0, 0, 255))
    hole.putalpha(ImageOps.invert(grey))
    return _png(hole)


def _decode(picture: ImagePart, limits: Limits, field: str) -> Image.Image:
    try:
        return picture.to_pil(max_pixels=limits.pixels, max_side=limits.side)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, field=field, code=error.code) from None


def eight_bit(image: Image.Image) -> Image.Image:
    """16 bits a pixel scaled down; Pillow's own conversion cuts everything above 255 to white."""
    return image.convert("I").point(lambda level: level / 257).convert("L")


def _is_rgb_png(picture: ImagePart) -> bool:
    """By the header: colour type 2 (truecolour) of 8 bits (PNG, IHDR), nothing made transparent, not turned."""
    data = picture.data
    if picture.mime != "image/png" or data[24:26] != b"\x08\x02":
        return False
    return not any(kind in (b"tRNS", b"eXIf", b"acTL") for kind, _ in png_chunks(data))


def _png(image: Image.Image) -> ImagePart:
    held = BytesIO()
    image.save(held, "PNG", compress_level=1)  # it travels once; a third of the default's time
    return ImagePart(held.getvalue())
