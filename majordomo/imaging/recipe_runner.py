"""Recipes at work: image in, image out. It decodes and encodes: from an event loop use `apply_async`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from majordomo.concurrency.worker_threads import run_stoppable
from majordomo.errors import CallWarning, InvalidRequestError, JobCancelledError
from majordomo.imaging import files, shapes
from majordomo.imaging import text_overlay as lettering
from majordomo.imaging.operations import STEPS, Recipe, Resize, Sanitize, Step
from majordomo.imaging.pipeline import DecodedImage, Pipeline
from majordomo.imaging.pixels import Size, upright_size
from majordomo.media.image_header import read_orientation
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

_DOES: dict[str, Callable[[Pipeline, Any], None]] = {
    "sanitize": files.sanitize,
    "orient": shapes.orient,
    "resize": shapes.resize,
    "crop": shapes.crop,
    "convert": files.convert,
    "optimize": files.optimize,
    "fit": files.fit,
    "flatten": files.flatten,
    "text": lettering.text,
    "watermark": lettering.watermark,
}
assert _DOES.keys() == STEPS.keys()


@dataclass(frozen=True, slots=True)
class Applied:
    """An image and what is to be told about how it was made: `notes` have a `code`, a `message` and the step's name as `field`."""

    image: ImagePart
    notes: tuple[CallWarning, ...] = ()


def apply(image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None) -> ImagePart:
    """The image after all steps of the recipe, decoded and encoded once at most; itself when there was nothing to do.

    Its kind stays unless a step says otherwise (a GIF that changes becomes a PNG). Pixels are upright, eight bits a channel; the color
    profile stays where it still holds; of an animation that changes the first image is left. An image that is encoded anew keeps what
    it was made with (`ImagePart.parameters`) where that stood in its file, and no other metadata.

    Raises InvalidRequestError naming the field: `image` with code BAD_IMAGE (cannot be decoded) or IMAGE_TOO_LARGE (more than `limits`),
    else a field of the step, which `details["step"]` names; UnsupportedError for a kind that Pillow was built without.
    """
    return apply_with_notes(image, recipe, limits=limits).image


def apply_with_notes(
    image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None
) -> Applied:
    """As `apply`, and what else is to be told: FIRST_FRAME, EIGHT_BITS, COLORS_CONVERTED, PROFILE_DROPPED, ALPHA_FLATTENED, FORMAT_CHANGED,
    ENCODED_ANEW, NOT_ENLARGED, NOT_OPTIMIZED, TEXT_SHRUNK, GLYPHS_MISSING, PARAMETERS_NOT_WRITTEN."""
    return _applied(image, recipe, limits or Limits())


async def apply_async(
    image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None
) -> ImagePart:
    """As `apply`, in one of a bounded number of worker threads. A cancellation does not wait: the thread stops at the next step."""
    return (await apply_async_with_notes(image, recipe, limits=limits)).image


async def apply_async_with_notes(
    image: ImagePart, recipe: Recipe | Step, *, limits: Limits | None = None
) -> Applied:
    """As `apply_with_notes`, in a worker thread."""
    return await run_stoppable(lambda stopped: _applied(image, recipe, limits or Limits(), stopped))


def _applied(
    image: ImagePart, recipe: Recipe | Step, limits: Limits, stopped: threading.Event | None = None
) -> Applied:
    whole = as_recipe(recipe)
    near = _near(image, whole) if isinstance(image, ImagePart) else None
    return run(DecodedImage(image, limits, near=near), whole, stopped)


def as_recipe(recipe: object) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Step):
        return Recipe(recipe)
    raise InvalidRequestError(
        f"a recipe is a Recipe or a step, not {type(recipe).__name__}", field="recipe"
    )


def run(source: DecodedImage, recipe: Recipe, stopped: threading.Event | None = None) -> Applied:
    """The recipe from a source that others may use too."""
    work = Pipeline(source)
    for index, step in enumerate(recipe):
        if stopped is not None and stopped.is_set():
            raise JobCancelledError("nobody waits for this image any more")
        work.step = type(step).__name__.lower()
        try:
            _DOES[work.step](work, step)
        except InvalidRequestError as error:
            error.details.setdefault("step", f"steps[{index}].{work.step}")
            raise
    work.step = ""
    return Applied(work.finish(), tuple(work.notes.values()))


def _near(image: ImagePart, recipe: Recipe) -> Size | None:
    """How small a JPEG may be decoded, when a fast resize is the first that is done to its pixels."""
    for step in recipe:
        if isinstance(step, Resize) and step.fast and image.mime == "image/jpeg":
            box, size, _ = shapes.plan(step, upright_size(image))
            whole = upright_size(image)
            scale = max(size[0] / (box[2] - box[0]), size[1] / (box[3] - box[1]))
            near = (max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale)))
            return (near[1], near[0]) if read_orientation(image.data) >= 5 else near
        if not isinstance(step, Sanitize) or step.orientation == "apply":
            return None  # it may want the pixels first
    return None
