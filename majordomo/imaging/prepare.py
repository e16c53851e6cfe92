"""Images as a backend wants them: RGB, upright, masks of one kind and of the image's size. It decodes: work for a worker thread."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

from PIL import Image, ImageOps

from majordomo.errors import InvalidRequestError
from majordomo.imaging.pixels import (
    as_srgb,
    decode,
    eight_bit,
    flatten_onto,
    ignore_notes,
    is_lossless,
    open_image,
)
from majordomo.media.image_containers import png_chunks
from majordomo.media.image_limits import ImageSupport
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

Size = tuple[int, int]
_SMALLEST = 64  # pixels a side below which an image is no use to a model
_SHAPE_TOLERANCE = 0.02  # a mask drawn on a shrunk copy is off by a pixel's rounding


def rgb_png(image: ImagePart, limits: Limits) -> ImagePart:
    """The image as an 8-bit RGB PNG, turned as its EXIF says, on white where it is transparent; itself when it is that already."""
    if _is_rgb_png(image):
        return image
    return _png(flatten_onto(_seen(image, limits, "images")))


def readable(picture: ImagePart, reads: ImageSupport, limits: Limits) -> ImagePart:
    """The image (of several frames the first) in a form that a chat backend reads, upright, and no larger than it takes.

    Pixels that were kept exactly stay exact (PNG) as long as size allows; a photograph stays one (JPEG). Only then it is shrunk, by
    quarters. Raises InvalidRequestError (field `messages`) for what cannot be decoded, or never gets small enough.
    """
    image = _seen(picture, limits, "messages")
    if reads.max_side is not None:
        image = image.copy()
        image.thumbnail((reads.max_side, reads.max_side), Image.Resampling.LANCZOS)
    clear = image.mode == "RGBA"
    image = image if clear else image.convert("RGB")
    made = _png(image) if clear or is_lossless(picture) else _jpeg(image)
    while reads.max_bytes is not None and len(made.data) > reads.max_bytes:
        if made.mime == "image/jpeg":
            image = image.resize(
                (image.width * 3 // 4 or 1, image.height * 3 // 4 or 1), Image.Resampling.LANCZOS
            )
        if max(image.size) < _SMALLEST:
            raise InvalidRequestError(
                f"the image does not fit into {reads.max_bytes:,} bytes",
                field="messages",
                code="IMAGE_TOO_LARGE",
            )
        made = _jpeg(flatten_onto(image))
    return made


def mask_for(
    mask: ImagePart, size: Size, kind: Literal["luminance", "alpha"], limits: Limits
) -> ImagePart:
    """A canonical mask (grayscale, white = repaint) of the size of its image: as an 8-bit grayscale PNG, or as a hole, RGBA with
    alpha = 255 - white.

    Raises InvalidRequestError (field `mask`) for one with transparency, whose meaning could only be guessed, and for one of another shape
    than the image.
    """
    image = open_image(mask, limits, "mask")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (
        255,
        255,
    ):
        raise InvalidRequestError(
            "a mask is grayscale, white = repaint; this one has transparent pixels", field="mask"
        )
    if abs(image.width * size[1] / (image.height * size[0]) - 1) > _SHAPE_TOLERANCE:
        raise InvalidRequestError(
            f"the mask is {image.width}x{image.height}, of another shape than the image's {size[0]}x{size[1]}",
            field="mask",
        )
    gray = (eight_bit(image) if image.mode.startswith("I") or image.mode == "F" else image).convert(
        "L"
    )
    if gray.size != size:
        gray = gray.resize(size, Image.Resampling.BILINEAR)
    if kind == "luminance":
        return _png(gray)
    hole = Image.new("RGBA", size, (0, 0, 0, 255))
    hole.putalpha(ImageOps.invert(gray))
    return _png(hole)


def _seen(image: ImagePart, limits: Limits, field: str) -> Image.Image:
    """As people see it: upright, in sRGB."""
    return as_srgb(decode(image, limits, ignore_notes, field), ignore_notes).image


def _is_rgb_png(image: ImagePart) -> bool:
    """By the header: color type 2 (truecolor) of 8 bits (PNG, IHDR), nothing made transparent, not turned."""
    data = image.data
    if image.mime != "image/png" or data[24:26] != b"\x08\x02":
        return False
    return not any(kind in (b"tRNS", b"eXIf", b"acTL") for kind, _ in png_chunks(data))


def _png(image: Image.Image) -> ImagePart:
    held = BytesIO()
    image.save(held, "PNG", compress_level=1)  # it travels once; a third of the default's time
    return ImagePart(held.getvalue())


def _jpeg(image: Image.Image) -> ImagePart:
    held = BytesIO()
    image.save(held, "JPEG", quality=92, subsampling=0)
    return ImagePart(held.getvalue())
