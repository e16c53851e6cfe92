"""Image generation requests, and the checks that need no backend."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from majordomo.errors import InvalidRequestError
from majordomo.media.image_limits import check_sendable
from majordomo.media.image_part import ImagePart, as_image_part
from majordomo.options import SEED_LIMIT
from majordomo.requests.base import BaseRequest, check_fields
from majordomo.requests.fields import (
    Choice,
    Extra,
    Field,
    Integer,
    Name,
    Number,
    Observed,
    Prose,
    UserId,
    shorten,
)
from majordomo.settings import Limits
from majordomo.validation import as_tuple

# Compiled at the first use, not while the package is imported.
_SIZE = r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})"
_RATIO = r"([0-9]{1,4}(?:\.[0-9]{1,4})?):([0-9]{1,4}(?:\.[0-9]{1,4})?)"


def _parse_size(size: object) -> tuple[int, int] | None:
    """Return width and height, or None for no size. Raises InvalidRequestError."""
    if not size:
        return None
    match = re.fullmatch(_SIZE, size) if isinstance(size, str) else None
    if match is None:
        raise InvalidRequestError(
            f'size must be "WIDTHxHEIGHT" in pixels, for example "1024x768"; got {shorten(size)}',
            field="size",
        )
    return int(match[1]), int(match[2])


def _parse_ratio(aspect: object) -> float | None:
    """Return width divided by height, or None for no aspect. Raises InvalidRequestError."""
    if not aspect:
        return None
    match = re.fullmatch(_RATIO, aspect) if isinstance(aspect, str) else None
    width, height = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not width or not height or not 1 / 16 <= width / height <= 16:
        raise InvalidRequestError(
            'aspect must be "WIDTH:HEIGHT" from 1:16 to 16:1, for example "16:9";'
            f" got {shorten(aspect)}",
            field="aspect",
        )
    return width / height


class Prompt(Prose):
    """A text that is not empty."""

    __slots__ = ()

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check the length, and that there is more than white space."""
        Prose.check(self, name, value, limits)
        if not value.strip():
            raise InvalidRequestError(f"{name} must not be empty", field=name)


class Size(Field):
    """`"WIDTHxHEIGHT"` in pixels."""

    __slots__ = ()

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check form, sides and area."""
        if (size := _parse_size(value)) and (
            max(size) > limits.max_image_side or size[0] * size[1] > limits.max_image_pixels
        ):
            raise InvalidRequestError(
                f"size {value} is more than the limit of {limits.max_image_pixels:,} pixels"
                f" or {limits.max_image_side:,} pixels a side",
                field=name,
            )


class Aspect(Field):
    """`"WIDTH:HEIGHT"`."""

    __slots__ = ()

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check form and range."""
        _parse_ratio(value)


class Images(Field):
    """Input images; a single one is accepted."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "count"
    keyword_type: ClassVar[str] = "Sequence[ImagePart]"
    item_type: ClassVar[str] = "ImagePart"

    def convert(self, name: str, value: Any) -> tuple[ImagePart, ...]:
        """Return the images as a tuple."""
        return (value,) if isinstance(value, ImagePart) else as_tuple(value, name)

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check their number, and each image."""
        if len(value) > limits.max_images:
            raise InvalidRequestError(
                f"{name} must have at most {limits.max_images} items; got {len(value)}", field=name
            )
        for image in value:
            check_sendable(as_image_part(image, name), limits, name)

    def to_json(self, value: Any) -> list[str]:
        """Return the images as base64."""
        return [image.to_base64() for image in value]

    def from_json(self, value: Any) -> tuple[ImagePart, ...]:
        """Restore each image."""
        return tuple(ImagePart.from_base64(text) for text in value)


class Mask(Field):
    """A mask."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "presence"

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check the image."""
        check_sendable(as_image_part(value, name), limits, name)

    def to_json(self, value: Any) -> str:
        """Return the image as base64."""
        return str(value.to_base64())

    def from_json(self, value: Any) -> ImagePart:
        """Restore the image."""
        return ImagePart.from_base64(value)


# The annotations of the fields are read at run time, so they must not become text: no
# `from __future__ import annotations` here.
@dataclass(frozen=True, slots=True)
class Request(BaseRequest):
    """An image generation request.

    A field left at its default is not sent; the backend's own default applies. 0 and 0.0 are values
    and are sent, unless they are the default; None and "" are not sent. Ranges are checked when the
    request is sent, not when it is constructed.

    Raises:
        InvalidRequestError: `images` is not a sequence or `extra` is not a mapping with text keys.

    Example:
        ```python
        request = Request("a red fox", size="1024x768", steps=20, seed=7)
        result = await model.generate(request)
        ```
    """

    prompt: Annotated[str, Prompt(universal=True)]
    """What the image shows; not empty, up to `Limits.max_prompt_characters` (1,000,000 by default)
    characters."""
    n: Annotated[
        int,
        Integer(
            0, lambda limits: limits.max_images, universal=True, option="image_count", example=2
        ),
    ] = 0
    """Number of images, 1 to `Limits.max_images` (16 by default). 0 leaves the choice to the
    backend, which usually generates one."""
    size: Annotated[
        str,
        Size(
            universal=True,
            excludes=("aspect", "megapixels"),
            option="image_size",
            example="1040x800",
        ),
    ] = ""
    """Size of the images, `"WIDTHxHEIGHT"` in pixels, within `Limits.max_image_side` (16,384 by
    default) a side and `Limits.max_image_pixels` (40,000,000 by default). Excludes `aspect` and
    `megapixels`."""
    steps: Annotated[int | None, Integer(1, 1000, example=24)] = None
    """Number of sampling steps, 1 to 1000."""
    cfg_scale: Annotated[float | None, Number(0, 1000, example=4.5)] = None
    """Guidance scale, 0 to 1000: a higher value follows the prompt more closely."""
    negative_prompt: Annotated[str, Prose(example="rain")] = ""
    """Negative prompt: what the image should not contain; up to `Limits.max_prompt_characters`
    characters."""
    sampler: Annotated[str, Name(example="euler_a")] = ""
    """Sampler, by any of its common names; up to 100 printable characters."""
    seed: Annotated[int | None, Integer(0, SEED_LIMIT - 1, example=7)] = None
    """Seed of the random numbers, 0 to 2**63-1."""
    scheduler: Annotated[str, Name(example="karras")] = ""
    """Noise schedule, by any of its common names; up to 100 printable characters."""
    images: Annotated[tuple[ImagePart, ...], Images(universal=True)] = ()
    """Input images: one or up to `Limits.max_images` (16 by default), PNG, JPEG or WebP."""
    mask: Annotated[ImagePart | None, Mask(universal=True)] = None
    """Mask for inpainting, grayscale: white is repainted, black is kept. Needs `images`."""
    strength: Annotated[float | None, Number(0, 1, example=0.5)] = None
    """Amount of change to `images`, 0 (none) to 1 (complete)."""
    output_format: Annotated[str, Choice(("png", "jpeg", "webp"), example="webp")] = ""
    """File format of the images: `"png"`, `"jpeg"` or `"webp"`."""
    quality: Annotated[str, Name(example="high")] = ""
    """Quality level, a value that the backend defines; up to 100 printable characters."""
    background: Annotated[str, Name(example="transparent")] = ""
    """Background: `"transparent"` or `"opaque"`, if the backend supports it; up to 100 printable
    characters."""
    previews: Annotated[int, Integer(0, 100, example=2)] = 0
    """Number of unfinished images that a stream emits, 0 to 100."""
    extra: Annotated[Mapping[str, Any], Extra(universal=True)] = field(default_factory=dict)
    """Values merged deeply into the request body of the backend. Those under the name of a
    provider, as in `{"automatic1111": {...}}`, are sent to that provider only."""
    aspect: Annotated[str, Aspect(universal=True, excludes=("size",), example="3:2")] = ""
    """Aspect ratio, `"WIDTH:HEIGHT"` from 1:16 to 16:1. The size is chosen to suit the model. May
    be combined with `megapixels`. Excludes `size`."""
    megapixels: Annotated[
        float | None,
        Number(
            0.004,
            lambda limits: limits.max_image_pixels / 1e6,
            universal=True,
            excludes=("size",),
            example=0.5,
        ),
    ] = None
    """Area of the images in millions of pixels, 0.004 to `Limits.max_image_pixels` (40 by default).
    The size is chosen to suit the model. May be combined with `aspect`. Excludes `size`."""
    user_id: Annotated[str, UserId(universal=True)] = ""
    """End-user id for fair queueing, rate limits and accounting, up to 256 printable characters.
    Never sent to the backend."""

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Requested width and height in pixels, or None.

        Raises:
            InvalidRequestError: Field `size`: not of the form `"WIDTHxHEIGHT"`.
        """
        return _parse_size(self.size)

    @property
    def ratio(self) -> float | None:
        """Width divided by height as requested by `aspect`, or None.

        Raises:
            InvalidRequestError: Field `aspect`: not of the form `"WIDTH:HEIGHT"`, or out of range.
        """
        return _parse_ratio(self.aspect)


def check_request(request: Request, limits: Limits) -> None:
    """Raise InvalidRequestError, naming the field, if no backend can accept the request.

    Call it before anything is sent.
    """
    check_fields(request, limits)
    if request.size and (request.aspect or request.megapixels is not None):
        raise InvalidRequestError(
            "size cannot be combined with aspect or megapixels: set one or the other",
            field="aspect",
        )
    if request.mask is not None and not request.images:
        raise InvalidRequestError("mask needs an image to repaint: set images too", field="mask")
