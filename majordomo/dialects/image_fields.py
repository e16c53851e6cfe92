"""Images in requests and answers: what a backend can take of a request, and what of its answer can be believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from majordomo.dialects.request_body import UNSUPPORTED, unsupported
from majordomo.errors import BadResponseError, CallWarning, InvalidRequestError
from majordomo.imagegen import ImageDetails, Request
from majordomo.imagegen.geometry import Geometry
from majordomo.media.generation_metadata import read_parameters
from majordomo.media.image_containers import png_chunks, png_text
from majordomo.media.image_header import SENDABLE
from majordomo.media.image_limits import check_size
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

_DEFAULT = Request("")


@dataclass(frozen=True, slots=True)
class ImageInputFormat:
    """How a backend wants its images: as RGB PNG or as they are, and its mask's kind (None: it takes none)."""

    rgb_png: bool = False
    mask: Literal["luminance", "alpha"] | None = "luminance"


def drop_fields(
    request: Request, names: Iterable[str], reason: str
) -> tuple[Request, list[CallWarning]]:
    """The request with these fields unset, and a warning for each that was set."""
    warnings = unsupported(request, names, reason)
    if not warnings:
        return request, warnings
    unset: dict[str, Any] = {
        warning.field: getattr(_DEFAULT, warning.field) for warning in warnings if warning.field
    }
    return replace(request, **unset), warnings


def resolve_size(
    request: Request, geometry: Geometry, *, exactly: bool = True
) -> tuple[Request, list[CallWarning]]:
    """The request with a size instead of aspect and megapixels, and with one that the model takes.

    `exactly`: a size the model does not take is replaced by the nearest, with a warning; else it is left to the backend.
    """
    ratio = request.ratio
    if ratio is not None or request.megapixels is not None:
        if ratio is None and request.images:  # a new area for the image at hand keeps its shape
            ratio = request.images[0].width / request.images[0].height
        width, height = geometry.resolve(ratio, request.megapixels)
        return replace(request, size=f"{width}x{height}", aspect="", megapixels=None), []
    size = request.pixels
    if size is None or not exactly:
        return request, []
    near = geometry.nearest(size)
    if near == size:
        return request, []
    words = f"{near[0]}x{near[1]}"
    warning = CallWarning(
        UNSUPPORTED,
        f"size {request.size} is none this model draws; {words} was asked for instead",
        "size",
    )
    return replace(request, size=words), [warning]


def first_size(request: Request) -> tuple[int, int] | None:
    """Width and height to ask for: what the request says, else the size of the image it begins with."""
    if (size := request.pixels) is not None:
        return size
    return (request.images[0].width, request.images[0].height) if request.images else None


def parse_image(data: bytes, limits: Limits) -> ImagePart:
    """An image from an answer. Raises BadResponseError when it is none, is cut off, or is larger than the limits; nothing is decoded."""
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
            f"the answer's image is unusable: {error.message}", code=error.code
        ) from None
    if image.mime not in SENDABLE:
        raise BadResponseError(
            f"the answer's image is a {image.mime}; PNG, JPEG and WebP are received",
            code="NOT_AN_IMAGE",
        )
    if not _is_whole(image):
        raise BadResponseError(
            f"the answer's {image.mime} image is cut off", code="IMAGE_TRUNCATED"
        )
    return image


def parse_base64_image(text: str, limits: Limits) -> ImagePart:
    """The same from base64 or a base64 data URL. A link is never fetched."""
    try:
        data = ImagePart.from_base64(
            text.partition(",")[2] if text.startswith("data:") else text
        ).data
    except InvalidRequestError:
        raise BadResponseError(
            "what should be an image in base64 is none", code="NOT_AN_IMAGE"
        ) from None
    return parse_image(data, limits)


def parse_preview(text: Any, limits: Limits) -> ImagePart | None:
    """An unfinished image in base64, or None: one that cannot be shown is no reason to stop."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return parse_base64_image(text, limits)
    except BadResponseError:
        return None


def base64_text(image: ImagePart) -> dict[str, str]:
    """The text chunks of a PNG, {} for anything else."""
    return png_text(image.data) if image.mime == "image/png" else {}


def reported_seed(texts: Mapping[str, str]) -> int | None:
    """The seed that the image's own text names, as A1111, stable-diffusion.cpp and ComfyUI write it."""
    seed = read_parameters(texts).get("seed")
    return seed if isinstance(seed, int) else None


def details_of(
    image: ImagePart, sent_seed: int | None, revised_prompt: str | None = None
) -> ImageDetails:
    """What an image tells of itself: its texts, and the seed that they name, else the one that was sent."""
    texts = base64_text(image)
    told = reported_seed(texts)
    return ImageDetails(
        seed=told if told is not None else sent_seed,
        revised_prompt=revised_prompt,
        settings=dict(texts),
    )


def reported_count(value: Any) -> int:
    """A number of steps or jobs that a backend tells; 0 for anything that is none."""
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000
        else 0
    )


def describe_image(image: ImagePart) -> str:
    """What stands in `raw` where an image's bytes were."""
    return f"<{image.mime}, {len(image.data)} bytes>"


def _is_whole(image: ImagePart) -> bool:
    data = image.data
    if image.mime == "image/png":
        return any(kind == b"IEND" for kind, _ in png_chunks(data))
    if image.mime == "image/jpeg":
        return b"\xff\xd9" in data[-4096:]  # some writers add bytes behind the end-of-image mark
    return len(data) >= int.from_bytes(data[4:8], "little") + 8
