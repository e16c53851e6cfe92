"""What is done to a painted image: recipe, text, mark, and what is derived from it. The one file here that stands on imaging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from majordomo.errors import CallWarning, ConfigurationError, InvalidRequestError
from majordomo.imaging.derivative import Derivative
from majordomo.imaging.operations import Convert, Fit, Optimize, Recipe, Step, Text, Watermark
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.validation import as_tuple

if TYPE_CHECKING:
    from majordomo.imaging.derivation import Derived
    from majordomo.imaging.recipe_runner import Applied

# How a text gets over the image: True for a plain one at the bottom, a step to put the words into, or a function from words to a step
Overlay = bool | Text | Callable[[str], Step]
_LETTERS = 0.12  # of the shorter side: a title, which is what a brief mostly wants written
_LAST = (
    Convert,
    Optimize,
    Fit,
)  # these care for the file, and so come behind everything that paints


@dataclass(frozen=True, slots=True)
class Finisher:
    """The settings of the last stages."""

    recipe: Recipe
    derivatives: tuple[Derivative, ...]
    overlay: Overlay
    watermark: Watermark | None
    limits: Limits

    def steps(self, text: str) -> Recipe:
        """The whole recipe for an image that is to carry `text`: text and mark come before the steps that only care for the file."""
        added: list[Step] = []
        if text and self.overlay is not False:
            added.append(_lettered(self.overlay, text))
        if self.watermark is not None:
            added.append(self.watermark)
        steps = list(self.recipe)
        at = next(
            (index for index, step in enumerate(steps) if isinstance(step, _LAST)), len(steps)
        )
        return Recipe(*steps[:at], *added, *steps[at:])

    async def finish(
        self, image: ImagePart, text: str
    ) -> tuple[ImagePart, tuple[CallWarning, ...]]:
        recipe = self.steps(text)
        if not len(recipe):
            return image, ()
        from majordomo.imaging.recipe_runner import (
            apply_async_with_notes,  # Pillow, when there is something to do
        )

        applied: Applied = await apply_async_with_notes(image, recipe, limits=self.limits)
        return applied.image, applied.notes

    async def derive(self, image: ImagePart, stem: str) -> list[Derived]:
        if not self.derivatives:
            return []
        from majordomo.imaging.derivation import derive_async

        return await derive_async(image, self.derivatives, stem=stem, limits=self.limits)


def _lettered(overlay: Any, text: str) -> Step:
    if overlay is True:
        return Text(text, size=_LETTERS)
    if isinstance(overlay, Text):
        return replace(overlay, text=text)
    step = overlay(text)
    if not isinstance(step, Step):
        raise InvalidRequestError(
            f"an overlay gives a step, not {type(step).__name__}", field="overlay"
        )
    return step


def finisher(
    recipe: Recipe | Step | str | None,
    derivatives: Sequence[Derivative],
    overlay: Overlay,
    watermark: Watermark | ImagePart | str | None,
    limits: Limits,
) -> Finisher:
    """Checked. A recipe may be a line ("resize=1024,convert=webp"), a watermark a text or an image. Raises InvalidRequestError or
    ConfigurationError naming the field."""
    if isinstance(recipe, str):
        recipe = Recipe.parse(recipe)
    recipe = Recipe() if recipe is None else Recipe(recipe) if isinstance(recipe, Step) else recipe
    if not isinstance(recipe, Recipe):
        raise ConfigurationError(
            f"a recipe is a Recipe, a step or a line, not {type(recipe).__name__}",
            details={"field": "recipe"},
        )
    wanted = as_tuple(derivatives, "derivatives")
    for derivative in wanted:
        if not isinstance(derivative, Derivative):
            raise ConfigurationError(
                f"a derivative is a Derivative, not {type(derivative).__name__}",
                details={"field": "derivatives"},
            )
    if len({derivative.name.lower() for derivative in wanted}) != len(wanted):
        raise ConfigurationError(
            "two derivatives have the same name", details={"field": "derivatives"}
        )
    if not isinstance(overlay, (bool, Text)) and not callable(overlay):
        raise ConfigurationError(
            "overlay is True, a Text step, or a function from words to a step",
            details={"field": "overlay"},
        )
    if isinstance(watermark, (str, ImagePart)):
        watermark = (
            Watermark(watermark) if isinstance(watermark, str) else Watermark(image=watermark)
        )
    if watermark is not None and not isinstance(watermark, Watermark):
        raise ConfigurationError(
            "watermark is a Watermark, a text or an image", details={"field": "watermark"}
        )
    return Finisher(recipe, wanted, overlay, watermark, limits)
