"""Masks as every image backend here takes them: grayscale PNGs of the image's size, white = repaint, black = keep."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageFilter, ImageOps

from majordomo.errors import InvalidRequestError
from majordomo.imaging.pixels import Size, decode, ignore_notes, upright_size
from majordomo.imaging.shapes import check_target
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.validation import as_tuple, check_number


def mask_from_alpha(image: ImagePart, *, limits: Limits | None = None) -> ImagePart:
    """White where the image is transparent, black where it is not, gray between: what was rubbed out is painted anew.

    Raises InvalidRequestError (field `image`, code NO_ALPHA) for an image without transparency.
    """
    pixels = decode(image, limits or Limits(), ignore_notes).image
    if pixels.mode != "RGBA":
        raise InvalidRequestError(
            "the image has no transparency to make a mask of", field="image", code="NO_ALPHA"
        )
    return _png(ImageOps.invert(pixels.getchannel("A")))


def mask_rectangle(
    image: ImagePart | Size,
    box: tuple[int, int, int, int],
    *,
    feather: float = 0,
    limits: Limits | None = None,
) -> ImagePart:
    """White within `box` (left, top, right, bottom in pixels; what lies outside is cut off), black else. `image` gives the size, or is it.

    Raises InvalidRequestError (field `box`) for one that is empty or nowhere on the image.
    """
    bounds = limits or Limits()
    size = upright_size(image) if isinstance(image, ImagePart) else _size(image)
    check_target(size, bounds, "image")
    numbers = as_tuple(box, "box")
    if len(numbers) != 4 or not all(
        isinstance(number, int) and not isinstance(number, bool) for number in numbers
    ):
        raise InvalidRequestError("box is left, top, right and bottom in whole pixels", field="box")
    left, top, right, bottom = (
        max(0, numbers[0]),
        max(0, numbers[1]),
        min(size[0], numbers[2]),
        min(size[1], numbers[3]),
    )
    if left >= right or top >= bottom:
        raise InvalidRequestError(
            f"box {numbers} has no pixel of a {size[0]}x{size[1]} image in it", field="box"
        )
    mask = Image.new("L", size)
    mask.paste(255, (left, top, right, bottom))
    return _png(_feathered(mask, feather))


def mask_inverted(mask: ImagePart, *, limits: Limits | None = None) -> ImagePart:
    """Keep what was to be repainted, and the other way round."""
    return _png(ImageOps.invert(_gray(mask, limits or Limits())))


def mask_feathered(mask: ImagePart, radius: float, *, limits: Limits | None = None) -> ImagePart:
    """With soft edges, blurred by `radius` pixels (0 to 1000)."""
    return _png(_feathered(_gray(mask, limits or Limits()), radius))


def _gray(mask: ImagePart, limits: Limits) -> Image.Image:
    image = decode(mask, limits, ignore_notes, "mask").image
    if image.mode == "RGBA":
        if image.getchannel("A").getextrema() != (255, 255):
            raise InvalidRequestError(
                "a mask is grayscale, white = repaint; this one has transparent pixels",
                field="mask",
            )
        image = image.convert("RGB")
    return image.convert("L")


def _feathered(mask: Image.Image, radius: float) -> Image.Image:
    check_number("feather", radius, 0, 1000)
    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask


def _size(size: object) -> Size:
    numbers = as_tuple(size, "image")
    if len(numbers) != 2 or not all(
        isinstance(number, int) and not isinstance(number, bool) and number > 0
        for number in numbers
    ):
        raise InvalidRequestError(
            "image is an image, or its width and height in pixels", field="image"
        )
    return numbers[0], numbers[1]


def _png(image: Image.Image) -> ImagePart:
    held = BytesIO()
    image.save(held, "PNG", compress_level=3)
    return ImagePart(held.getvalue())
