"""Finish generated images: recipe, text, watermark and derivatives.

This is the only module of the package that imports `majordomo.imaging` at runtime for processing.
"""

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

# How text is written over an image: True for plain text at the bottom, a Text step whose text is
# replaced, or a function from the text to a step.
Overlay = bool | Text | Callable[[str], Step]
# Fraction of the shorter side: the size of a title, which most briefs ask for.
_TEXT_SIZE = 0.12
# Steps about the encoded file. Everything that changes pixels has to come before them.
_ENCODING_STEPS = (Convert, Optimize, Fit)


@dataclass(frozen=True, slots=True)
class Finisher:
    """The settings of the stages "finish" and "derive"."""

    recipe: Recipe
    derivatives: tuple[Derivative, ...]
    overlay: Overlay
    watermark: Watermark | None
    limits: Limits

    def recipe_for(self, text: str) -> Recipe:
        """Return the recipe with the steps for `text` and watermark added.

        The added steps come before the steps that only concern the encoded file.
        """
        added: list[Step] = []
        if text and self.overlay is not False:
            added.append(_text_step(self.overlay, text))
        if self.watermark is not None:
            added.append(self.watermark)
        steps = list(self.recipe)
        position = next(
            (index for index, step in enumerate(steps) if isinstance(step, _ENCODING_STEPS)),
            len(steps),
        )
        return Recipe(*steps[:position], *added, *steps[position:])

    async def finish(
        self, image: ImagePart, text: str
    ) -> tuple[ImagePart, tuple[CallWarning, ...]]:
        """Return the finished image and notes about it."""
        recipe = self.recipe_for(text)
        if not len(recipe):
            return image, ()
        # Imported here because it loads Pillow, which an empty recipe does not need.
        from majordomo.imaging.recipe_runner import apply_async_with_notes

        applied: Applied = await apply_async_with_notes(image, recipe, limits=self.limits)
        return applied.image, applied.notes

    async def derive(self, image: ImagePart, stem: str) -> list[Derived]:
        """Return the derivatives; their file names start with `stem`."""
        if not self.derivatives:
            return []
        # Imported here because it loads Pillow.
        from majordomo.imaging.derivation import derive_async

        return await derive_async(image, self.derivatives, stem=stem, limits=self.limits)


def _text_step(overlay: Any, text: str) -> Step:
    if overlay is True:
        return Text(text, size=_TEXT_SIZE)
    if isinstance(overlay, Text):
        return replace(overlay, text=text)
    step = overlay(text)
    if not isinstance(step, Step):
        raise InvalidRequestError(
            f"an overlay function must return a step; got a {type(step).__name__}", field="overlay"
        )
    return step


def create_finisher(
    recipe: Recipe | Step | str | None,
    derivatives: Sequence[Derivative],
    overlay: Overlay,
    watermark: Watermark | ImagePart | str | None,
    limits: Limits,
) -> Finisher:
    """Validate the settings and return a finisher.

    A recipe may be a text ("resize=1024,convert=webp"), a watermark a text or an image. Raises
    InvalidRequestError or ConfigurationError naming the field.
    """
    if isinstance(recipe, str):
        recipe = Recipe.parse(recipe)
    recipe = Recipe() if recipe is None else Recipe(recipe) if isinstance(recipe, Step) else recipe
    if not isinstance(recipe, Recipe):
        raise ConfigurationError(
            f"recipe must be a Recipe, a step or a text; got a {type(recipe).__name__}",
            details={"field": "recipe"},
        )
    checked = as_tuple(derivatives, "derivatives")
    for derivative in checked:
        if not isinstance(derivative, Derivative):
            raise ConfigurationError(
                f"derivatives must be Derivative objects; got a {type(derivative).__name__}",
                details={"field": "derivatives"},
            )
    if len({derivative.name.lower() for derivative in checked}) != len(checked):
        raise ConfigurationError(
            "derivatives must have different names", details={"field": "derivatives"}
        )
    if not isinstance(overlay, (bool, Text)) and not callable(overlay):
        raise ConfigurationError(
            "overlay must be True, a Text step or a function from a text to a step;"
            f" got a {type(overlay).__name__}",
            details={"field": "overlay"},
        )
    if isinstance(watermark, (str, ImagePart)):
        watermark = (
            Watermark(watermark) if isinstance(watermark, str) else Watermark(image=watermark)
        )
    if watermark is not None and not isinstance(watermark, Watermark):
        raise ConfigurationError(
            f"watermark must be a Watermark, a text or an image; got a {type(watermark).__name__}",
            details={"field": "watermark"},
        )
    return Finisher(recipe, checked, overlay, watermark, limits)
