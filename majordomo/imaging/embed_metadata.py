"""What an image was made with, written into its file: the text "parameters" that image programs read. No pixel is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from majordomo.errors import InvalidRequestError
from majordomo.media.generation_metadata import write_parameters
from majordomo.media.image_header import with_metadata
from majordomo.media.image_part import ImagePart


def embed_parameters(image: ImagePart, parameters: Mapping[str, Any] | None = None) -> ImagePart:
    """The image with these canonical fields (prompt, negative_prompt, steps, seed, ...) in its file: a text chunk in a PNG, the EXIF
    UserComment in a JPEG or WebP, instead of what stood there. None: what is known of it (`image.parameters`).

    Raises InvalidRequestError: field `image` (code UNSUPPORTED_FORMAT) for a GIF or AVIF, (code BAD_IMAGE) for a WebP that is cut off,
    `parameters` when there are none, or more than a JPEG holds.
    """
    if not isinstance(image, ImagePart):
        raise InvalidRequestError(
            f"an image is an ImagePart, not {type(image).__name__}", field="image"
        )
    values = image.parameters if parameters is None else parameters
    if not isinstance(values, Mapping) or not values:
        raise InvalidRequestError("there are no parameters to write", field="parameters")
    try:
        return ImagePart(with_metadata(image.data, write_parameters(values))).with_parameters(
            values
        )
    except InvalidRequestError as error:
        if error.code == "TEXT_TOO_LONG":
            raise InvalidRequestError(error.message, field="parameters", code=error.code) from None
        code = "BAD_IMAGE" if error.code == "BAD_IMAGE" else "UNSUPPORTED_FORMAT"
        raise InvalidRequestError(error.message, field="image", code=code) from None
