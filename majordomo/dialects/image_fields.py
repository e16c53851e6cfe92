"""Fields of image requests and responses, for every dialect.

Requests are adapted to what a backend accepts; images in responses are checked before use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from majordomo.dialects.request_body import UNSUPPORTED, other_fields, unsupported
from majordomo.errors import BadResponseError, CallWarning, InvalidRequestError
from majordomo.imagegen import ImageDetails, Request
from majordomo.imagegen.geometry import Geometry
from majordomo.media.generation_metadata import read_parameters
from majordomo.media.image_containers import png_chunks, png_text
from majordomo.media.image_header import SENDABLE
from majordomo.media.image_limits import check_size
from majordomo.media.image_part import ImagePart
from majordomo.requests.base import declaration
from majordomo.settings import Limits

# Counts from this value on are ignored.
_MAX_REPORTED_COUNT = 1_000_000


@dataclass(frozen=True, slots=True)
class ImageInputFormat:
    """The format in which a backend accepts input images and masks."""

    rgb_png: bool = False
    """Whether images are converted to RGB PNG; otherwise they are sent unchanged."""
    mask: Literal["luminance", "alpha"] | None = "luminance"
    """The channel that carries the mask; None when the backend accepts no mask."""


def drop_fields(
    request: Request,
    names: Iterable[str],
    reason: str,
    reasons: Mapping[str, str] | None = None,
) -> tuple[Request, list[CallWarning]]:
    """Return the request with these fields unset, and a warning for each that was set.

    `reasons` holds reasons of single fields that differ from `reason`.
    """
    warnings = unsupported(request, names, reason, reasons)
    if not warnings:
        return request, warnings
    defaults = declaration(Request).defaults
    unset: dict[str, Any] = {
        warning.field: defaults[warning.field] for warning in warnings if warning.field
    }
    return replace(request, **unset), warnings


def drop_other_fields(
    request: Request,
    supported: Collection[str],
    reason: str,
    reasons: Mapping[str, str] | None = None,
) -> tuple[Request, list[CallWarning]]:
    """Return the request without the fields that the backend lacks, and a warning for each.

    Only fields that every backend has, such as the prompt, need not be in `supported`.
    """
    return drop_fields(request, other_fields(request, supported), reason, reasons)


def resolve_size(
    request: Request, geometry: Geometry, *, exactly: bool = True
) -> tuple[Request, list[CallWarning]]:
    """Return the request with a size instead of aspect and megapixels, and any warnings.

    With `exactly`, a size that the model does not accept is replaced by the nearest one, with a
    warning; otherwise such a size is left to the backend.
    """
    ratio = request.ratio
    if ratio is not None or request.megapixels is not None:
        # Only the area changes: keep the shape of the input image.
        if ratio is None and request.images:
            ratio = request.images[0].width / request.images[0].height
        width, height = geometry.resolve(ratio, request.megapixels)
        return replace(request, size=f"{width}x{height}", aspect="", megapixels=None), []
    size = request.pixels
    if size is None or not exactly:
        return request, []
    nearest = geometry.nearest(size)
    if nearest == size:
        return request, []
    nearest_text = f"{nearest[0]}x{nearest[1]}"
    warning = CallWarning(
        UNSUPPORTED,
        f"this model does not support size {request.size}; {nearest_text} was requested instead",
        "size",
    )
    return replace(request, size=nearest_text), [warning]


def first_size(request: Request) -> tuple[int, int] | None:
    """Return the size to request in pixels, by default that of the first input image."""
    if (size := request.pixels) is not None:
        return size
    return (request.images[0].width, request.images[0].height) if request.images else None


def parse_image(data: bytes, limits: Limits) -> ImagePart:
    """Parse an image of a response without decoding its pixels.

    Raises BadResponseError for data that is not a PNG, JPEG or WebP image, for a truncated image,
    and for one beyond the limits.
    """
    try:
        image = ImagePart(data)
        check_size(
            image,
            max_pixels=limits.max_image_pixels,
            max_side=limits.max_image_side,
            max_bytes=limits.max_image_bytes,
        )
    except InvalidRequestError as error:
        raise BadResponseError(
            f"the image in the response is unusable: {error.message}", code=error.code
        ) from None
    if image.mime not in SENDABLE:
        raise BadResponseError(
            f"the image in the response must be PNG, JPEG or WebP; got {image.mime}",
            code="NOT_AN_IMAGE",
        )
    if not _is_complete(image):
        raise BadResponseError(
            f"the {image.mime} image in the response is truncated", code="IMAGE_TRUNCATED"
        )
    return image


def parse_base64_image(text: str, limits: Limits) -> ImagePart:
    """Parse an image of a response from base64 or a base64 data URL. Links are never fetched.

    Raises BadResponseError as `parse_image` does, and for invalid base64.
    """
    try:
        data = ImagePart.from_base64(
            text.partition(",")[2] if text.startswith("data:") else text
        ).data
    except InvalidRequestError:
        raise BadResponseError(
            "the response holds invalid base64 instead of an image", code="NOT_AN_IMAGE"
        ) from None
    return parse_image(data, limits)


def parse_preview(text: Any, limits: Limits) -> ImagePart | None:
    """Parse a preview from base64. Return None for an unusable one: the call continues without."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return parse_base64_image(text, limits)
    except BadResponseError:
        return None


def text_chunks(image: ImagePart) -> dict[str, str]:
    """Return the text chunks of a PNG image; empty for other formats."""
    return png_text(image.data) if image.mime == "image/png" else {}


def reported_seed(texts: Mapping[str, str]) -> int | None:
    """Return the seed in an image's text, in the notation of A1111, sd.cpp and ComfyUI."""
    seed = read_parameters(texts).get("seed")
    return seed if isinstance(seed, int) else None


def details_of(
    image: ImagePart, sent_seed: int | None, revised_prompt: str | None = None
) -> ImageDetails:
    """Return an image's details: its text chunks and the seed in them, or else the sent seed."""
    texts = text_chunks(image)
    embedded_seed = reported_seed(texts)
    return ImageDetails(
        seed=embedded_seed if embedded_seed is not None else sent_seed,
        revised_prompt=revised_prompt,
        settings=dict(texts),
    )


def reported_count(value: Any) -> int:
    """Return a backend's count of steps or jobs; 0 for anything that is not a plausible count."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and 0 <= value < _MAX_REPORTED_COUNT else 0


def describe_image(image: ImagePart) -> str:
    """Return the text that replaces an image's bytes in `raw`."""
    return f"<{image.mime}, {len(image.data)} bytes>"


def _is_complete(image: ImagePart) -> bool:
    """Whether the file has its end mark (PNG, JPEG) or the size that its header says (WebP)."""
    data = image.data
    if image.mime == "image/png":
        return any(kind == b"IEND" for kind, _ in png_chunks(data))
    if image.mime == "image/jpeg":
        # Some writers append bytes after the end-of-image marker.
        return b"\xff\xd9" in data[-4096:]
    return len(data) >= int.from_bytes(data[4:8], "little") + 8
