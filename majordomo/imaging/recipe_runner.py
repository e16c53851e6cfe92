"""Apply recipes to images.

The blocking functions decode and encode images; use `apply_async` in an event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from majordomo.concurrency.worker_threads import run_stoppable
from majordomo.errors import CallWarning, InvalidRequestError, JobCancelledError
from majordomo.imaging import files, shapes, text_overlay
from majordomo.imaging.operations import STEPS, Recipe, Resize, Sanitize, Step
from majordomo.imaging.pipeline import DecodedImage, Pipeline
from majordomo.imaging.pixels import Size, upright_size
from majordomo.media.image_header import read_orientation
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

_STEP_FUNCTIONS: dict[str, Callable[[Pipeline, Any], None]] = {
    "sanitize": files.sanitize,
    "orient": shapes.orient,
    "resize": shapes.resize,
    "crop": shapes.crop,
    "convert": files.convert,
    "optimize": files.optimize,
    "fit": files.fit,
    "flatten": files.flatten,
    "text": text_overlay.text,
    "watermark": text_overlay.watermark,
}
assert _STEP_FUNCTIONS.keys() == STEPS.keys()


@dataclass(frozen=True, slots=True)
class Applied:
    """An image and the side effects of the recipe that produced it."""

    image: ImagePart
    """The image."""
    notes: tuple[CallWarning, ...] = ()
    """Side effects: each has a `code`, a `message`, and the name of the step as `field`."""


def apply(image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None) -> ImagePart:
    """Apply a recipe to an image.

    The image is decoded and encoded at most once, and returned unchanged if nothing is to be done.
    Its format stays unless a step changes it; a GIF that changes becomes a PNG. The pixels of the
    result are upright with eight bits a channel. The color profile is kept where it still applies.
    Of an animation that changes, the first frame is kept. A re-encoded image keeps the generation
    parameters that its file contained (`ImagePart.parameters`), and no other metadata.

    Args:
        image: The image.
        recipe: The recipe, or a single step.
        limits: Size limits for the image and for the result. Default: `Limits()`.

    Returns:
        The image after all steps.

    Raises:
        InvalidRequestError: Field `image`: it cannot be decoded (code BAD_IMAGE) or exceeds the
            limits (code IMAGE_TOO_LARGE). Other fields: a setting of a step, which
            `details["step"]` names.
        UnsupportedError: Pillow does not support a format.

    Example:
        ```python
        small = apply(image, Resize(1024, how="long_side") + Convert("webp"))
        ```
    """
    return apply_with_notes(image, recipe, limits=limits).image


def apply_with_notes(
    image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None
) -> Applied:
    """Apply a recipe to an image and report its side effects.

    The codes of notes are FIRST_FRAME, EIGHT_BITS, COLORS_CONVERTED, PROFILE_DROPPED,
    ALPHA_FLATTENED, FORMAT_CHANGED, RE_ENCODED, NOT_ENLARGED, NOT_OPTIMIZED, TEXT_SHRUNK,
    GLYPHS_MISSING and PARAMETERS_NOT_WRITTEN.

    Args:
        image: The image.
        recipe: The recipe, or a single step.
        limits: Size limits for the image and for the result. Default: `Limits()`.

    Returns:
        The image after all steps, and the notes.

    Raises:
        InvalidRequestError: See `apply`.
        UnsupportedError: See `apply`.
    """
    return _apply(image, recipe, limits or Limits())


async def apply_async(
    image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None
) -> ImagePart:
    """Apply a recipe in a worker thread: the async version of `apply`.

    The number of worker threads is bounded. Cancellation does not wait: the thread stops before the
    next step.

    Args:
        image: The image.
        recipe: The recipe, or a single step.
        limits: Size limits for the image and for the result. Default: `Limits()`.

    Returns:
        The image after all steps.

    Raises:
        InvalidRequestError: See `apply`.
        UnsupportedError: See `apply`.
    """
    return (await apply_async_with_notes(image, recipe, limits=limits)).image


async def apply_async_with_notes(
    image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None
) -> Applied:
    """Apply a recipe in a worker thread: the async version of `apply_with_notes`.

    Args:
        image: The image.
        recipe: The recipe, or a single step.
        limits: Size limits for the image and for the result. Default: `Limits()`.

    Returns:
        The image after all steps, and the notes.

    Raises:
        InvalidRequestError: See `apply`.
        UnsupportedError: See `apply`.
    """
    return await run_stoppable(lambda stopped: _apply(image, recipe, limits or Limits(), stopped))


def _apply(
    image: ImagePart, recipe: Recipe | Step, limits: Limits, stopped: threading.Event | None = None
) -> Applied:
    recipe = as_recipe(recipe)
    min_size = _min_decoded_size(image, recipe) if isinstance(image, ImagePart) else None
    return run(DecodedImage(image, limits, min_size=min_size), recipe, stopped)


def as_recipe(recipe: object) -> Recipe:
    """Return a recipe or a single step as a recipe; raise InvalidRequestError for other values."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Step):
        return Recipe(recipe)
    raise InvalidRequestError(
        f"recipe must be a Recipe or a step; got {type(recipe).__name__}", field="recipe"
    )


def run(source: DecodedImage, recipe: Recipe, stopped: threading.Event | None = None) -> Applied:
    """Apply a recipe to a source that other recipes may share.

    Raises:
        JobCancelledError: `stopped` was set before a step.
    """
    pipeline = Pipeline(source)
    for index, step in enumerate(recipe):
        if stopped is not None and stopped.is_set():
            raise JobCancelledError("the caller was cancelled and no longer needs this image")
        pipeline.step = type(step).__name__.lower()
        try:
            _STEP_FUNCTIONS[pipeline.step](pipeline, step)
        except InvalidRequestError as error:
            error.details.setdefault("step", f"steps[{index}].{pipeline.step}")
            raise
    pipeline.step = ""
    return Applied(pipeline.finish(), tuple(pipeline.notes.values()))


def _min_decoded_size(image: ImagePart, recipe: Recipe) -> Size | None:
    """Return the smallest size at which a JPEG may be decoded.

    It may be decoded at less than its full size if a fast resize is the first step that needs its
    pixels; otherwise None is returned.
    """
    for step in recipe:
        if isinstance(step, Resize) and step.fast and image.mime == "image/jpeg":
            full = upright_size(image)
            plan = shapes.plan_resize(step, full)
            left, top, right, bottom = plan.box
            scale = max(plan.size[0] / (right - left), plan.size[1] / (bottom - top))
            width, height = max(1, round(full[0] * scale)), max(1, round(full[1] * scale))
            return (height, width) if read_orientation(image.data) >= 5 else (width, height)
        if not isinstance(step, Sanitize) or step.orientation == "apply":
            return None
    return None
