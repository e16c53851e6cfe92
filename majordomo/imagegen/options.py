"""One option per field of a Request, for presets: `provider.image_model("sdxl", with_steps(20))`. Calls read better with keywords."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from majordomo.imagegen.request import Request
from majordomo.media.image_part import ImagePart
from majordomo.options import with_extra, with_random_seed, with_seed, with_user_id

__all__ = [
    "Option",
    "with_aspect",
    "with_background",
    "with_cfg_scale",
    "with_extra",
    "with_image_count",
    "with_image_size",
    "with_images",
    "with_mask",
    "with_megapixels",
    "with_negative_prompt",
    "with_output_format",
    "with_previews",
    "with_quality",
    "with_random_seed",
    "with_sampler",
    "with_scheduler",
    "with_seed",
    "with_steps",
    "with_strength",
    "with_user_id",
]

Option = Callable[[Request], Request]


def _set(**changes: Any) -> Option:
    return lambda request: request.override(**changes)


def with_image_count(n: int | None) -> Option:
    """How many images to draw."""
    return _set(n=n)


def with_image_size(size: str | None) -> Option:
    """Width and height in pixels, "1024x768"."""
    return _set(size=size)


def with_aspect(aspect: str | None) -> Option:
    """The shape, "16:9"; the size is worked out as the model likes it."""
    return _set(aspect=aspect)


def with_megapixels(megapixels: float | None) -> Option:
    """The area in millions of pixels; the size is worked out as the model likes it."""
    return _set(megapixels=megapixels)


def with_steps(steps: int | None) -> Option:
    """How many steps to draw in."""
    return _set(steps=steps)


def with_cfg_scale(cfg_scale: float | None) -> Option:
    """How closely the prompt is followed."""
    return _set(cfg_scale=cfg_scale)


def with_negative_prompt(negative_prompt: str | None) -> Option:
    """What should not be in the image."""
    return _set(negative_prompt=negative_prompt)


def with_sampler(sampler: str | None) -> Option:
    """The sampler, by any of its usual names."""
    return _set(sampler=sampler)


def with_scheduler(scheduler: str | None) -> Option:
    """The schedule of the noise, by any of its usual names."""
    return _set(scheduler=scheduler)


def with_images(*images: ImagePart) -> Option:
    """Images to start from."""
    return _set(images=images)


def with_mask(mask: ImagePart | None) -> Option:
    """Grayscale, white = repaint."""
    return _set(mask=mask)


def with_strength(strength: float | None) -> Option:
    """How much of `images` may change, from 0 to 1."""
    return _set(strength=strength)


def with_output_format(output_format: str | None) -> Option:
    """The kind of file: "png", "jpeg" or "webp"."""
    return _set(output_format=output_format)


def with_quality(quality: str | None) -> Option:
    """How much effort to spend, in the backend's own words."""
    return _set(quality=quality)


def with_background(background: str | None) -> Option:
    """ "transparent" or "opaque", where the backend knows it."""
    return _set(background=background)


def with_previews(previews: int | None) -> Option:
    """How many unfinished images a stream shows."""
    return _set(previews=previews)
