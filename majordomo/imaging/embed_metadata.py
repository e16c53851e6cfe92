"""Write generation parameters into image files. Pixels do not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from majordomo.errors import InvalidRequestError
from majordomo.media.generation_metadata import write_parameters
from majordomo.media.image_header import with_metadata
from majordomo.media.image_part import ImagePart, as_image_part


def embed_parameters(image: ImagePart, parameters: Mapping[str, Any] | None = None) -> ImagePart:
    """Write generation parameters into the file, replacing those that it has.

    They become the text "parameters" that image programs read: a text chunk in a PNG, the EXIF
    UserComment in a JPEG or WebP.

    Args:
        image: A PNG, JPEG or WebP.
        parameters: The canonical fields: prompt, negative_prompt, steps, seed, ... Default: the
            image's own, `image.parameters`.

    Returns:
        The image with the parameters in its file.

    Raises:
        InvalidRequestError: Field `image`: a GIF or AVIF (code UNSUPPORTED_FORMAT), or a WebP that
            is cut off (code BAD_IMAGE). Field `parameters`: there are none, or more than a JPEG can
            hold (code TEXT_TOO_LONG).
    """
    as_image_part(image, "image")
    values = image.parameters if parameters is None else parameters
    if not isinstance(values, Mapping) or not values:
        raise InvalidRequestError(
            "parameters must be a mapping that is not empty;"
            f" got {'an empty one' if isinstance(values, Mapping) else type(values).__name__}",
            field="parameters",
        )
    try:
        return ImagePart(with_metadata(image.data, write_parameters(values))).with_parameters(
            values
        )
    except InvalidRequestError as error:
        if error.code == "TEXT_TOO_LONG":
            raise InvalidRequestError(error.message, field="parameters", code=error.code) from None
        code = "BAD_IMAGE" if error.code == "BAD_IMAGE" else "UNSUPPORTED_FORMAT"
        raise InvalidRequestError(error.message, field="image", code=code) from None
