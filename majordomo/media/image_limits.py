"""Size limits for images, and the image formats that a backend accepts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from majordomo.errors import InvalidRequestError
from majordomo.media.image_header import SENDABLE
from majordomo.settings import Limits

if TYPE_CHECKING:
    from majordomo.media.image_part import ImagePart


def check_size(
    image: ImagePart,
    *,
    max_pixels: int,
    max_side: int,
    max_bytes: int | None = None,
    field: str = "data",
) -> None:
    """Raise InvalidRequestError if an image exceeds the limits, judged by its header alone."""
    if max_bytes is not None and len(image.data) > max_bytes:
        raise InvalidRequestError(
            f"the image has {len(image.data):,} bytes, more than the limit of {max_bytes:,}",
            field=field,
            code="IMAGE_TOO_LARGE",
        )
    check_area((image.width, image.height), max_pixels=max_pixels, max_side=max_side, field=field)


def check_area(
    size: tuple[int, int], *, max_pixels: int, max_side: int, field: str = "data"
) -> None:
    """Raise InvalidRequestError if a size in pixels exceeds the limits."""
    if max(size) > max_side or size[0] * size[1] > max_pixels:
        raise InvalidRequestError(
            f"the image is {size[0]}x{size[1]}, more than the limit of {max_pixels:,} pixels"
            f" or {max_side:,} pixels a side",
            field=field,
            code="IMAGE_TOO_LARGE",
        )


def check_sendable(image: ImagePart, limits: Limits, field: str) -> None:
    """Raise InvalidRequestError if an image exceeds the limits or is not a PNG, JPEG or WebP."""
    check_size(
        image,
        max_pixels=limits.max_image_pixels,
        max_side=limits.max_image_side,
        max_bytes=limits.max_image_bytes,
        field=field,
    )
    if image.mime not in SENDABLE:
        raise InvalidRequestError(
            f"{field} must be PNG, JPEG or WebP; got {image.mime}",
            field=field,
            code="NOT_SENDABLE",
        )


@dataclass(frozen=True, slots=True)
class ImageSupport:
    """The images that a chat backend can read."""

    mimes: Collection[str] = SENDABLE
    """Accepted media types. Default: PNG, JPEG and WebP."""
    max_bytes: int | None = None
    """Largest encoded size of one image in bytes; None if the backend documents no limit."""
    max_side: int | None = None
    """Longest side of one image in pixels; None if the backend documents no limit."""

    def accepts(self, image: ImagePart) -> bool:
        """Return whether the image can be sent unchanged."""
        if self.max_bytes is not None and len(image.data) > self.max_bytes:
            return False
        if self.max_side is not None and max(image.width, image.height) > self.max_side:
            return False
        return image.mime in self.mimes


# The formats that every decoder supports; llama.cpp's does not support WebP.
PNG_AND_JPEG = ImageSupport(("image/png", "image/jpeg"))
COMMON_FORMATS = ImageSupport()
