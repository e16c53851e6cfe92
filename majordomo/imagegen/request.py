"""What a caller wants drawn, and the checks that need no backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from majordomo.errors import InvalidRequestError
from majordomo.media.image_limits import check_sendable
from majordomo.media.image_part import ImagePart
from majordomo.options import SEEDS
from majordomo.settings import Limits
from majordomo.validation import as_extra, as_tuple, check_number, check_text, check_user_id

_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_RATIO = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,4})?):([0-9]{1,4}(?:\.[0-9]{1,4})?)")
_SHAPE = ("size", "aspect", "megapixels")


class Overrides(TypedDict, total=False):
    """The fields of a Request that a call may set by keyword; None unsets."""

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
    """What a caller wants drawn. A field at its default leaves the choice to the backend and is never on the wire.

    n images (0: the backend's default, usually 1), size "WIDTHxHEIGHT" in pixels, steps 1 to 1,000, cfg_scale 0 to 1,000 (how
    strongly the prompt rules), seed 0 to 2**63-1, strength 0 to 1 (how much of `images` may change), mask grayscale (white =
    repaint), output_format "png", "jpeg" or "webp", previews: how many unfinished images a stream should show. Instead of a size:
    aspect "WIDTH:HEIGHT" (1:16 to 16:1) and megapixels (millions of pixels), either or both, from which the size is worked out as
    the model likes it; setting one way unsets the other. extra: what goes into a backend's body as it is,
    `{"automatic1111": {...}}` for that provider only. caller: for whom it is drawn, up to 256 characters, never sent. 0, 0.0 are
    values and are sent; None and "" are not.
    """

    prompt: str
    n: int = 0
    size: str = ""
    steps: int | None = None
    cfg_scale: float | None = None
    negative_prompt: str = ""
    sampler: str = ""
    seed: int | None = None
    scheduler: str = ""
    images: tuple[ImagePart, ...] = ()
    mask: ImagePart | None = None
    strength: float | None = None
    output_format: str = ""
    quality: str = ""
    background: str = ""
    previews: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    aspect: str = ""
    megapixels: float | None = None
    user_id: str = ""

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
        """The request changed by each option in turn; this one stays as it is."""
        request = self
        for option in options:
            request = option(request)
        return request

    def override(self, **changes: Any) -> Request:
        """The request with these fields set; None puts a field back to its default. An unknown name is a TypeError."""
        if not changes:
            return self
        known: dict[str, Any] = {
            name: _DEFAULTS.get(name) if value is None else value for name, value in changes.items()
        }
        if any(changes.get(name) for name in _SHAPE):
            known = {**_other_shape(known), **known}
        return replace(self, **known)

    def with_defaults(self, options: Sequence[Callable[[Request], Request]]) -> Request:
        """This request's own fields over what `options` (given when the model was made) set. An option may rewrite the prompt."""
        if not options:
            return self
        below = Request(self.prompt).apply(*options)
        ours = {
            name: getattr(self, name)
            for name in _DEFAULTS
            if getattr(self, name) != _DEFAULTS[name]
        }
        return replace(below, **{**_other_shape(ours), **ours})

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Width and height asked for, or None. Raises InvalidRequestError (field `size`) when `size` is no size."""
        if not self.size:
            return None
        found = _SIZE.fullmatch(self.size) if isinstance(self.size, str) else None
        if found is None:
            raise InvalidRequestError(
                'size is "WIDTHxHEIGHT" in pixels, for example "1024x768"', field="size"
            )
        return int(found[1]), int(found[2])

    @property
    def ratio(self) -> float | None:
        """Width by height asked for through `aspect`, or None. Raises InvalidRequestError (field `aspect`) when it is none."""
        if not self.aspect:
            return None
        found = _RATIO.fullmatch(self.aspect) if isinstance(self.aspect, str) else None
        width, height = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
        if not width or not height or not 1 / 16 <= width / height <= 16:
            raise InvalidRequestError(
                'aspect is "WIDTH:HEIGHT" from 1:16 to 16:1, for example "16:9"', field="aspect"
            )
        return width / height


def _other_shape(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that undo the other way of saying how large: a size over an aspect from below, or the reverse."""
    if given.get("size"):
        return {"aspect": "", "megapixels": None}
    return {"size": ""} if given.get("aspect") or given.get("megapixels") else {}


_DEFAULTS: dict[str, Any] = {
    f.name: getattr(Request(""), f.name) for f in fields(Request) if f.name != "prompt"
}


def fields_set(request: Request) -> tuple[str, ...]:
    """The names of the fields, other than the prompt, that are not at their default."""
    return tuple(name for name, default in _DEFAULTS.items() if getattr(request, name) != default)


def check_request(request: Request, limits: Limits) -> None:
    """Raise InvalidRequestError, naming the field, for anything no backend can take. Nothing has been sent then."""
    check_text(request.prompt, "prompt", limits.max_prompt_characters)
    if not request.prompt.strip():
        raise InvalidRequestError("prompt is empty", field="prompt")
    check_number("n", request.n, 0, limits.max_images, whole=True)
    if (size := request.pixels) and (
        max(size) > limits.max_image_side or size[0] * size[1] > limits.max_image_pixels
    ):
        raise InvalidRequestError(
            f"size {request.size} is more than the limit of {limits.max_image_pixels:,} pixels or {limits.max_image_side:,} a side",
            field="size",
        )
    if request.size and (request.aspect or request.megapixels is not None):
        raise InvalidRequestError(
            "size says how large already: aspect and megapixels are for when it is unset",
            field="aspect",
        )
    request.ratio  # noqa: B018
    check_user_id(request.user_id)
    check_number("megapixels", request.megapixels, 0.004, limits.max_image_pixels / 1e6)
    check_number("steps", request.steps, 1, 1000, whole=True)
    check_number("cfg_scale", request.cfg_scale, 0, 1000)
    check_number("seed", request.seed, 0, SEEDS - 1, whole=True)
    check_number("strength", request.strength, 0, 1)
    check_number("previews", request.previews, 0, 100, whole=True)
    check_text(request.negative_prompt, "negative_prompt", limits.max_prompt_characters)
    for name in ("sampler", "scheduler", "quality", "background"):
        value = getattr(request, name)
        check_text(value, name, 100)
        if not value.isprintable():
            raise InvalidRequestError(f"{name} holds a control character", field=name)
    if request.output_format not in ("", "png", "jpeg", "webp"):
        raise InvalidRequestError("output_format is png, jpeg or webp", field="output_format")
    if len(request.images) > limits.max_images:
        raise InvalidRequestError(f"at most {limits.max_images} images", field="images")
    for image in request.images:
        _check_image(image, "images", limits)
    if request.mask is not None:
        _check_image(request.mask, "mask", limits)
        if not request.images:
            raise InvalidRequestError(
                "a mask needs an image to repaint: set images too", field="mask"
            )


def _check_image(image: object, name: str, limits: Limits) -> None:
    if not isinstance(image, ImagePart):
        raise InvalidRequestError(
            f"{name} holds ImagePart values, not {type(image).__name__}", field=name
        )
    check_sendable(image, limits, name)
