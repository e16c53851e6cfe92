"""Options for image requests, one per field of `Request`.

Options are meant for defaults of a model: `provider.image_model("sdxl", with_steps(20))`. For a
single call, keyword arguments are shorter: `model.generate(prompt, steps=20)`.
"""

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
    """Set the number of images.

    Args:
        n: 1 to `Limits.max_images` (16 by default); 0 or None leaves the choice to the backend,
            which usually generates one.
    """
    return _set(n=n)


def with_image_size(size: str | None) -> Option:
    """Set the size of the images; this unsets `aspect` and `megapixels`.

    Args:
        size: `"WIDTHxHEIGHT"` in pixels, for example `"1024x768"`; None leaves the choice to the
            backend.
    """
    return _set(size=size)


def with_aspect(aspect: str | None) -> Option:
    """Set the aspect ratio; this unsets `size`. The size is chosen to suit the model.

    Args:
        aspect: `"WIDTH:HEIGHT"` from 1:16 to 16:1, for example `"16:9"`; None unsets it.
    """
    return _set(aspect=aspect)


def with_megapixels(megapixels: float | None) -> Option:
    """Set the area of the images; this unsets `size`. The size is chosen to suit the model.

    Args:
        megapixels: Millions of pixels, from 0.004 to `Limits.max_image_pixels` (40 by default);
            None unsets it.
    """
    return _set(megapixels=megapixels)


def with_steps(steps: int | None) -> Option:
    """Set the number of sampling steps.

    Args:
        steps: 1 to 1000; None leaves the choice to the backend.
    """
    return _set(steps=steps)


def with_cfg_scale(cfg_scale: float | None) -> Option:
    """Set the guidance scale: how closely the image follows the prompt.

    Args:
        cfg_scale: 0 to 1000, a higher value follows the prompt more closely; None leaves the choice
            to the backend.
    """
    return _set(cfg_scale=cfg_scale)


def with_negative_prompt(negative_prompt: str | None) -> Option:
    """Set the negative prompt: what the image should not contain.

    Args:
        negative_prompt: Up to `Limits.max_prompt_characters` (1,000,000 by default) characters;
            None or "" for none.
    """
    return _set(negative_prompt=negative_prompt)


def with_sampler(sampler: str | None) -> Option:
    """Set the sampler.

    Args:
        sampler: Any of its common names, up to 100 printable characters; None leaves the choice to
            the backend.
    """
    return _set(sampler=sampler)


def with_scheduler(scheduler: str | None) -> Option:
    """Set the noise schedule.

    Args:
        scheduler: Any of its common names, up to 100 printable characters; None leaves the choice
            to the backend.
    """
    return _set(scheduler=scheduler)


def with_images(*images: ImagePart) -> Option:
    """Set the input images.

    Args:
        *images: Up to `Limits.max_images` (16 by default) PNG, JPEG or WebP images.
    """
    return _set(images=images)


def with_mask(mask: ImagePart | None) -> Option:
    """Set the mask for inpainting; the request needs `images` too.

    Args:
        mask: A grayscale image: white is repainted, black is kept. None for no mask.
    """
    return _set(mask=mask)


def with_strength(strength: float | None) -> Option:
    """Set how much the input images may change.

    Args:
        strength: 0 (not at all) to 1 (completely); None leaves the choice to the backend.
    """
    return _set(strength=strength)


def with_output_format(output_format: str | None) -> Option:
    """Set the file format of the images.

    Args:
        output_format: `"png"`, `"jpeg"` or `"webp"`; None leaves the choice to the backend.
    """
    return _set(output_format=output_format)


def with_quality(quality: str | None) -> Option:
    """Set the quality level.

    Args:
        quality: A value that the backend defines, up to 100 printable characters; None leaves the
            choice to the backend.
    """
    return _set(quality=quality)


def with_background(background: str | None) -> Option:
    """Set the background, if the backend supports it.

    Args:
        background: `"transparent"` or `"opaque"`; None leaves the choice to the backend.
    """
    return _set(background=background)


def with_previews(previews: int | None) -> Option:
    """Set how many unfinished images a stream emits.

    Args:
        previews: 0 to 100; None means 0.
    """
    return _set(previews=previews)
