"""Image generation requests, and the checks that need no backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from majordomo.errors import InvalidRequestError
from majordomo.media.image_limits import check_sendable
from majordomo.media.image_part import ImagePart, as_image_part
from majordomo.options import SEED_LIMIT
from majordomo.settings import Limits
from majordomo.validation import as_extra, as_tuple, check_number, check_text, check_user_id

_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_RATIO = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,4})?):([0-9]{1,4}(?:\.[0-9]{1,4})?)")
_SIZE_FIELDS = ("size", "aspect", "megapixels")
_OUTPUT_FORMATS = ("png", "jpeg", "webp")


class Overrides(TypedDict, total=False):
    """The fields of a `Request` that a call may set by keyword; None unsets a field.

    Each key is documented at the field of `Request` with the same name.
    """

    n: int | None
    size: str | None
    steps: int | None
    cfg_scale: float | None
    negative_prompt: str | None
    sampler: str | None
    seed: int | None
    scheduler: str | None
    images: Sequence[ImagePart] | None
    mask: ImagePart | None
    strength: float | None
    output_format: str | None
    quality: str | None
    background: str | None
    previews: int | None
    extra: Mapping[str, Any] | None
    aspect: str | None
    megapixels: float | None
    user_id: str | None


@dataclass(frozen=True, slots=True)
class Request:
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

    prompt: str
    """What the image shows; not empty, up to `Limits.max_prompt_characters` (1,000,000 by default)
    characters."""
    n: int = 0
    """Number of images, 1 to `Limits.max_images` (16 by default). 0 leaves the choice to the
    backend, which usually generates one."""
    size: str = ""
    """`"WIDTHxHEIGHT"` in pixels, within `Limits.max_image_side` (16,384 by default) a side and
    `Limits.max_image_pixels` (40,000,000 by default). Excludes `aspect` and `megapixels`."""
    steps: int | None = None
    """Number of sampling steps, 1 to 1000."""
    cfg_scale: float | None = None
    """Guidance scale, 0 to 1000: a higher value follows the prompt more closely."""
    negative_prompt: str = ""
    """What the image should not contain; up to `Limits.max_prompt_characters` characters."""
    sampler: str = ""
    """Sampler, by any of its common names; up to 100 printable characters."""
    seed: int | None = None
    """Seed of the random numbers, 0 to 2**63-1."""
    scheduler: str = ""
    """Noise schedule, by any of its common names; up to 100 printable characters."""
    images: tuple[ImagePart, ...] = ()
    """Input images: PNG, JPEG or WebP, up to `Limits.max_images`. A single image is accepted."""
    mask: ImagePart | None = None
    """Mask for inpainting, grayscale: white is repainted, black is kept. Needs `images`."""
    strength: float | None = None
    """How much `images` may change, 0 (not at all) to 1 (completely)."""
    output_format: str = ""
    """File format of the result: `"png"`, `"jpeg"` or `"webp"`."""
    quality: str = ""
    """Quality level, a value that the backend defines; up to 100 printable characters."""
    background: str = ""
    """`"transparent"` or `"opaque"`, if the backend supports it; up to 100 printable characters."""
    previews: int = 0
    """Number of unfinished images that a stream emits, 0 to 100."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Values merged deeply into the request body of the backend. Those under the name of a
    provider, as in `{"automatic1111": {...}}`, are sent to that provider only."""
    aspect: str = ""
    """Aspect ratio, `"WIDTH:HEIGHT"` from 1:16 to 16:1. The size is chosen to suit the model. May
    be combined with `megapixels`. Excludes `size`."""
    megapixels: float | None = None
    """Area in millions of pixels, 0.004 to `Limits.max_image_pixels` (40 by default). The size is
    chosen to suit the model. May be combined with `aspect`. Excludes `size`."""
    user_id: str = ""
    """End-user id for fair queueing, rate limits and accounting, up to 256 printable characters.
    Never sent to the backend."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "images",
            (self.images,)
            if isinstance(self.images, ImagePart)
            else as_tuple(self.images, "images"),
        )
        as_extra(self.extra)

    def apply(self, *options: Callable[[Request], Request]) -> Request:
        """Return the request changed by each option in turn."""
        request = self
        for option in options:
            request = option(request)
        return request

    def override(self, **changes: Any) -> Request:
        """Return a copy with these fields set; None resets a field to its default.

        Setting `size` unsets `aspect` and `megapixels`, and the reverse.

        Raises:
            TypeError: A keyword is not a field of the request.
        """
        if not changes:
            return self
        values: dict[str, Any] = {
            name: _DEFAULTS.get(name) if value is None else value for name, value in changes.items()
        }
        if any(changes.get(name) for name in _SIZE_FIELDS):
            values = {**_unset_conflicting_size(values), **values}
        return replace(self, **values)

    def with_defaults(self, options: Sequence[Callable[[Request], Request]]) -> Request:
        """Return this request with the options of the model as defaults.

        Fields that this request sets override what the options set. An option may change the
        prompt.
        """
        if not options:
            return self
        defaults = Request(self.prompt).apply(*options)
        own_values = {
            name: getattr(self, name)
            for name in _DEFAULTS
            if getattr(self, name) != _DEFAULTS[name]
        }
        return replace(defaults, **{**_unset_conflicting_size(own_values), **own_values})

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Requested width and height in pixels, or None.

        Raises:
            InvalidRequestError: Field `size`: not of the form `"WIDTHxHEIGHT"`.
        """
        if not self.size:
            return None
        match = _SIZE.fullmatch(self.size) if isinstance(self.size, str) else None
        if match is None:
            raise InvalidRequestError(
                f'size must be "WIDTHxHEIGHT" in pixels, for example "1024x768";'
                f" got {_shorten(self.size)}",
                field="size",
            )
        return int(match[1]), int(match[2])

    @property
    def ratio(self) -> float | None:
        """Width divided by height as requested by `aspect`, or None.

        Raises:
            InvalidRequestError: Field `aspect`: not of the form `"WIDTH:HEIGHT"`, or out of range.
        """
        if not self.aspect:
            return None
        match = _RATIO.fullmatch(self.aspect) if isinstance(self.aspect, str) else None
        width, height = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
        if not width or not height or not 1 / 16 <= width / height <= 16:
            raise InvalidRequestError(
                f'aspect must be "WIDTH:HEIGHT" from 1:16 to 16:1, for example "16:9";'
                f" got {_shorten(self.aspect)}",
                field="aspect",
            )
        return width / height


def _shorten(value: object) -> str:
    """Return the repr of a value, cut to a length that suits an error message."""
    return repr(value)[:80]


def _unset_conflicting_size(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the fields that conflict with the size, aspect or area set here."""
    if values.get("size"):
        return {"aspect": "", "megapixels": None}
    return {"size": ""} if values.get("aspect") or values.get("megapixels") else {}


_DEFAULTS: dict[str, Any] = {
    f.name: getattr(Request(""), f.name) for f in fields(Request) if f.name != "prompt"
}


def fields_set(request: Request) -> tuple[str, ...]:
    """Return the names of the fields, other than the prompt, that are not at their default."""
    return tuple(name for name, default in _DEFAULTS.items() if getattr(request, name) != default)


def check_request(request: Request, limits: Limits) -> None:
    """Raise InvalidRequestError, naming the field, if no backend can accept the request.

    Call it before anything is sent.
    """
    check_text(request.prompt, "prompt", limits.max_prompt_characters)
    if not request.prompt.strip():
        raise InvalidRequestError("prompt must not be empty", field="prompt")
    check_number("n", request.n, 0, limits.max_images, integer=True)
    if (size := request.pixels) and (
        max(size) > limits.max_image_side or size[0] * size[1] > limits.max_image_pixels
    ):
        raise InvalidRequestError(
            f"size {request.size} is more than the limit of {limits.max_image_pixels:,} pixels"
            f" or {limits.max_image_side:,} pixels a side",
            field="size",
        )
    if request.size and (request.aspect or request.megapixels is not None):
        raise InvalidRequestError(
            "size cannot be combined with aspect or megapixels: set one or the other",
            field="aspect",
        )
    request.ratio  # noqa: B018 - reading it validates `aspect`
    check_user_id(request.user_id)
    check_number("megapixels", request.megapixels, 0.004, limits.max_image_pixels / 1e6)
    check_number("steps", request.steps, 1, 1000, integer=True)
    check_number("cfg_scale", request.cfg_scale, 0, 1000)
    check_number("seed", request.seed, 0, SEED_LIMIT - 1, integer=True)
    check_number("strength", request.strength, 0, 1)
    check_number("previews", request.previews, 0, 100, integer=True)
    check_text(request.negative_prompt, "negative_prompt", limits.max_prompt_characters)
    for name in ("sampler", "scheduler", "quality", "background"):
        value = getattr(request, name)
        check_text(value, name, 100)
        if not value.isprintable():
            raise InvalidRequestError(f"{name} must not contain control characters", field=name)
    if request.output_format not in ("", *_OUTPUT_FORMATS):
        raise InvalidRequestError(
            f"output_format must be one of {', '.join(_OUTPUT_FORMATS)};"
            f" got {_shorten(request.output_format)}",
            field="output_format",
        )
    if len(request.images) > limits.max_images:
        raise InvalidRequestError(
            f"images must have at most {limits.max_images} items; got {len(request.images)}",
            field="images",
        )
    for image in request.images:
        check_sendable(as_image_part(image, "images"), limits, "images")
    if request.mask is not None:
        check_sendable(as_image_part(request.mask, "mask"), limits, "mask")
        if not request.images:
            raise InvalidRequestError(
                "mask needs an image to repaint: set images too", field="mask"
            )
