"""Options for image requests, one per field of `Request`, and the types of its keywords.

Written by `scripts/request-options` from the fields of `Request`; do not edit.

Options are meant for defaults of a model: `provider.image_model("sdxl", with_steps(20))`. For a
single call, keyword arguments are shorter: `model.generate(prompt, steps=20)`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from majordomo.imagegen.request import Request
from majordomo.media.image_part import ImagePart
from majordomo.options import with_extra, with_random_seed, with_seed, with_user_id

__all__ = [
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


Option = Callable[[Request], Request]


def _set(**changes: Any) -> Option:
    return lambda request: request.override(**changes)


def with_image_count(n: int | None) -> Option:
    """Set the number of images.

    Args:
        n: 1 to `Limits.max_images` (16 by default). 0 leaves the choice to the backend, which
            usually generates one. None unsets it.
    """
    return _set(n=n)


def with_image_size(size: str | None) -> Option:
    """Set the size of the images; this unsets `aspect` and `megapixels`.

    Args:
        size: `"WIDTHxHEIGHT"` in pixels, within `Limits.max_image_side` (16,384 by default) a side
            and `Limits.max_image_pixels` (40,000,000 by default). Excludes `aspect` and
            `megapixels`. None unsets it.
    """
    return _set(size=size)


def with_steps(steps: int | None) -> Option:
    """Set the number of sampling steps.

    Args:
        steps: 1 to 1000. None unsets it.
    """
    return _set(steps=steps)


def with_cfg_scale(cfg_scale: float | None) -> Option:
    """Set the guidance scale.

    Args:
        cfg_scale: 0 to 1000: a higher value follows the prompt more closely. None unsets it.
    """
    return _set(cfg_scale=cfg_scale)


def with_negative_prompt(negative_prompt: str | None) -> Option:
    """Set the negative prompt.

    Args:
        negative_prompt: What the image should not contain; up to `Limits.max_prompt_characters`
            characters. None unsets it.
    """
    return _set(negative_prompt=negative_prompt)


def with_sampler(sampler: str | None) -> Option:
    """Set the sampler.

    Args:
        sampler: By any of its common names; up to 100 printable characters. None unsets it.
    """
    return _set(sampler=sampler)


def with_scheduler(scheduler: str | None) -> Option:
    """Set the noise schedule.

    Args:
        scheduler: By any of its common names; up to 100 printable characters. None unsets it.
    """
    return _set(scheduler=scheduler)


def with_images(*images: ImagePart) -> Option:
    """Set the input images.

    Args:
        *images: One or up to `Limits.max_images` (16 by default), PNG, JPEG or WebP.
    """
    return _set(images=images)


def with_mask(mask: ImagePart | None) -> Option:
    """Set the mask for inpainting.

    Args:
        mask: Grayscale: white is repainted, black is kept. Needs `images`. None unsets it.
    """
    return _set(mask=mask)


def with_strength(strength: float | None) -> Option:
    """Set the amount of change to `images`.

    Args:
        strength: 0 (none) to 1 (complete). None unsets it.
    """
    return _set(strength=strength)


def with_output_format(output_format: str | None) -> Option:
    """Set the file format of the images.

    Args:
        output_format: `"png"`, `"jpeg"` or `"webp"`. None unsets it.
    """
    return _set(output_format=output_format)


def with_quality(quality: str | None) -> Option:
    """Set the quality level.

    Args:
        quality: A value that the backend defines; up to 100 printable characters. None unsets it.
    """
    return _set(quality=quality)


def with_background(background: str | None) -> Option:
    """Set the background.

    Args:
        background: `"transparent"` or `"opaque"`, if the backend supports it; up to 100 printable
            characters. None unsets it.
    """
    return _set(background=background)


def with_previews(previews: int | None) -> Option:
    """Set the number of unfinished images that a stream emits.

    Args:
        previews: 0 to 100. None unsets it.
    """
    return _set(previews=previews)


def with_aspect(aspect: str | None) -> Option:
    """Set the aspect ratio; this unsets `size`.

    Args:
        aspect: `"WIDTH:HEIGHT"` from 1:16 to 16:1. The size is chosen to suit the model. May be
            combined with `megapixels`. Excludes `size`. None unsets it.
    """
    return _set(aspect=aspect)


def with_megapixels(megapixels: float | None) -> Option:
    """Set the area of the images in millions of pixels; this unsets `size`.

    Args:
        megapixels: 0.004 to `Limits.max_image_pixels` (40 by default). The size is chosen to suit
            the model. May be combined with `aspect`. Excludes `size`. None unsets it.
    """
    return _set(megapixels=megapixels)
