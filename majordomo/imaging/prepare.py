"""Convert images to the form that a backend requires: RGB, upright, small enough, masks.

The functions decode and encode images. Call them from a worker thread, not from an event loop.
"""

from __future__ import annotations

from io import BytesIO
from typing import Literal

from PIL import Image, ImageOps

from majordomo.errors import InvalidRequestError
from majordomo.imaging.pixels import (
    decode_srgb,
    flatten_onto,
    is_lossless,
    open_image,
    to_eight_bits,
)
from majordomo.media.image_containers import png_chunks
from majordomo.media.image_limits import ImageSupport
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

Size = tuple[int, int]
# An image whose longer side has fewer pixels is of no use to a model.
MIN_SIDE = 64
# A mask drawn on a scaled-down copy differs by the rounding of a pixel.
MAX_ASPECT_RATIO_DIFFERENCE = 0.02


def rgb_png(image: ImagePart, limits: Limits) -> ImagePart:
    """Return the image as an upright 8-bit RGB PNG, on white where it is transparent.

    An image that already is one is returned unchanged.

    Raises:
        InvalidRequestError: Field `images`: it cannot be decoded or exceeds the limits.
    """
    if _is_rgb_png(image):
        return image
    return _encode_png(flatten_onto(decode_srgb(image, limits, "images")))


def readable(image: ImagePart, support: ImageSupport, limits: Limits) -> ImagePart:
    """Return the image, of an animation the first frame, in a form that a chat backend can read.

    The result is upright. A lossless image stays lossless (PNG) if its size allows that, and a
    photograph stays a JPEG. An image that is still too large is scaled down in steps of a quarter.

    Raises:
        InvalidRequestError: Field `messages`: it cannot be decoded, or cannot be made small enough
            (code IMAGE_TOO_LARGE).
    """
    pixels = decode_srgb(image, limits, "messages")
    if support.max_side is not None:
        pixels = pixels.copy()
        pixels.thumbnail((support.max_side, support.max_side), Image.Resampling.LANCZOS)
    has_alpha = pixels.mode == "RGBA"
    pixels = pixels if has_alpha else pixels.convert("RGB")
    converted = _encode_png(pixels) if has_alpha or is_lossless(image) else _encode_jpeg(pixels)
    while support.max_bytes is not None and len(converted.data) > support.max_bytes:
        if converted.mime == "image/jpeg":
            pixels = pixels.resize(
                (pixels.width * 3 // 4 or 1, pixels.height * 3 // 4 or 1),
                Image.Resampling.LANCZOS,
            )
        if max(pixels.size) < MIN_SIDE:
            raise InvalidRequestError(
                f"the image does not fit into {support.max_bytes:,} bytes",
                field="messages",
                code="IMAGE_TOO_LARGE",
            )
        converted = _encode_jpeg(flatten_onto(pixels))
    return converted


def mask_for(
    mask: ImagePart, size: Size, kind: Literal["luminance", "alpha"], limits: Limits
) -> ImagePart:
    """Convert a grayscale mask (white = repaint) to the form that a backend requires.

    Args:
        mask: The mask.
        size: Size of the image; the mask is scaled to it.
        kind: `"luminance"` gives an 8-bit grayscale PNG; `"alpha"` gives an RGBA PNG that is
            transparent where the mask is white.
        limits: Size limits for decoding.

    Raises:
        InvalidRequestError: Field `mask`: it has transparent pixels, whose meaning would be
            ambiguous, its aspect ratio differs from the image's, or it cannot be decoded.
    """
    image = open_image(mask, limits, "mask")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (
        255,
        255,
    ):
        raise InvalidRequestError(
            "mask must be grayscale, white = repaint; it has transparent pixels", field="mask"
        )
    ratio = image.width * size[1] / (image.height * size[0])
    if abs(ratio - 1) > MAX_ASPECT_RATIO_DIFFERENCE:
        raise InvalidRequestError(
            f"mask must have the aspect ratio of the {size[0]}x{size[1]} image;"
            f" it is {image.width}x{image.height}",
            field="mask",
        )
    has_wide_pixels = image.mode.startswith("I") or image.mode == "F"
    gray = (to_eight_bits(image) if has_wide_pixels else image).convert("L")
    if gray.size != size:
        gray = gray.resize(size, Image.Resampling.BILINEAR)
    if kind == "luminance":
        return _encode_png(gray)
    transparent = Image.new("RGBA", size, (0, 0, 0, 255))
    transparent.putalpha(ImageOps.invert(gray))
    return _encode_png(transparent)


def _is_rgb_png(image: ImagePart) -> bool:
    """Return whether the header states color type 2 (truecolor) with 8 bits (PNG, IHDR).

    The image must also have no transparent color, no EXIF and no animation.
    """
    data = image.data
    if image.mime != "image/png" or data[24:26] != b"\x08\x02":
        return False
    return not any(kind in (b"tRNS", b"eXIf", b"acTL") for kind, _ in png_chunks(data))


def _encode_png(image: Image.Image) -> ImagePart:
    buffer = BytesIO()
    # The file is sent once, and level 1 takes a third of the time of the default.
    image.save(buffer, "PNG", compress_level=1)
    return ImagePart(buffer.getvalue())


def _encode_jpeg(image: Image.Image) -> ImagePart:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return ImagePart(buffer.getvalue())
