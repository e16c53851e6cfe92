"""Masks for inpainting.

All image backends of this library accept the same kind of mask: a grayscale PNG of the size of the
image, in which white is repainted and black is kept.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageFilter, ImageOps

from majordomo.errors import InvalidRequestError
from majordomo.imaging.pixels import Size, decode, ignore_notes, upright_size
from majordomo.imaging.shapes import check_target
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.validation import as_tuple, check_number

# In pixels.
MAX_FEATHER = 1000


def mask_from_alpha(image: ImagePart, *, limits: Limits | None = None) -> ImagePart:
    """Create a mask from transparency, so that erased areas are repainted.

    The mask is white where the image is transparent, black where it is opaque, and gray between.

    Args:
        image: An image with transparency.
        limits: Size limits for decoding. Default: `Limits()`.

    Returns:
        A grayscale PNG.

    Raises:
        InvalidRequestError: Field `image`: it has no transparency (code NO_ALPHA), cannot be
            decoded, or exceeds the limits.
    """
    pixels = decode(image, limits or Limits(), ignore_notes).image
    if pixels.mode != "RGBA":
        raise InvalidRequestError(
            "image must have transparency to create a mask from", field="image", code="NO_ALPHA"
        )
    return _encode_png(ImageOps.invert(pixels.getchannel("A")))


def mask_rectangle(
    image: ImagePart | Size,
    box: tuple[int, int, int, int],
    *,
    feather: float = 0,
    limits: Limits | None = None,
) -> ImagePart:
    """Create a mask that is white within a rectangle and black elsewhere.

    Args:
        image: An image, or the width and height of the mask in pixels.
        box: Left, top, right and bottom in pixels; parts outside of the image are cut off.
        feather: Blur radius of the edges in pixels, 0 to 1000.
        limits: Largest size of the mask. Default: `Limits()`.

    Returns:
        A grayscale PNG.

    Raises:
        InvalidRequestError: Field `box`: it has no pixel of the image. Field `image` or `feather`:
            not valid.
    """
    limits = limits or Limits()
    size = upright_size(image) if isinstance(image, ImagePart) else _check_image_size(image)
    check_target(size, limits, "image")
    numbers = as_tuple(box, "box")
    if len(numbers) != 4 or not all(
        isinstance(number, int) and not isinstance(number, bool) for number in numbers
    ):
        raise InvalidRequestError(
            "box must be left, top, right and bottom as integers in pixels;"
            f" got {repr(numbers)[:80]}",
            field="box",
        )
    left, top, right, bottom = (
        max(0, numbers[0]),
        max(0, numbers[1]),
        min(size[0], numbers[2]),
        min(size[1], numbers[3]),
    )
    if left >= right or top >= bottom:
        raise InvalidRequestError(
            f"box must include a pixel of the {size[0]}x{size[1]} image; got {numbers}",
            field="box",
        )
    mask = Image.new("L", size)
    mask.paste(255, (left, top, right, bottom))
    return _encode_png(_feather(mask, feather))


def mask_inverted(mask: ImagePart, *, limits: Limits | None = None) -> ImagePart:
    """Swap the repainted and the kept areas of a mask.

    Args:
        mask: A grayscale mask.
        limits: Size limits for decoding. Default: `Limits()`.

    Returns:
        A grayscale PNG.

    Raises:
        InvalidRequestError: Field `mask`: it has transparent pixels, cannot be decoded, or exceeds
            the limits.
    """
    return _encode_png(ImageOps.invert(_decode_gray(mask, limits or Limits())))


def mask_feathered(mask: ImagePart, radius: float, *, limits: Limits | None = None) -> ImagePart:
    """Blur the edges of a mask.

    Args:
        mask: A grayscale mask.
        radius: Blur radius in pixels, 0 to 1000.
        limits: Size limits for decoding. Default: `Limits()`.

    Returns:
        A grayscale PNG.

    Raises:
        InvalidRequestError: Field `mask`: as for `mask_inverted`. Field `feather`: the radius is
            out of range.
    """
    return _encode_png(_feather(_decode_gray(mask, limits or Limits()), radius))


def _decode_gray(mask: ImagePart, limits: Limits) -> Image.Image:
    image = decode(mask, limits, ignore_notes, "mask").image
    if image.mode == "RGBA":
        if image.getchannel("A").getextrema() != (255, 255):
            raise InvalidRequestError(
                "mask must be grayscale, white = repaint; it has transparent pixels",
                field="mask",
            )
        image = image.convert("RGB")
    return image.convert("L")


def _feather(mask: Image.Image, radius: float) -> Image.Image:
    check_number("feather", radius, 0, MAX_FEATHER)
    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask


def _check_image_size(size: object) -> Size:
    numbers = as_tuple(size, "image")
    if len(numbers) != 2 or not all(
        isinstance(number, int) and not isinstance(number, bool) and number > 0
        for number in numbers
    ):
        raise InvalidRequestError(
            f"image must be an image, or its width and height in pixels; got {repr(numbers)[:80]}",
            field="image",
        )
    return numbers[0], numbers[1]


def _encode_png(image: Image.Image) -> ImagePart:
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return ImagePart(buffer.getvalue())
