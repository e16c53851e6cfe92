"""Derivatives of an image as values. This module processes no pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from majordomo.errors import InvalidRequestError
from majordomo.imaging.operations import Convert, ImageFormat, Recipe, Resize, Sanitize, Step

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Derivative:
    """A file to derive from an image: a recipe, followed by an optional size and format.

    Raises:
        InvalidRequestError: A field has an invalid value.

    Example:
        ```python
        Derivative("thumbnail", Recipe(Sanitize()), size=256, format="webp", quality=80)
        ```
    """

    name: str
    """1 to 64 letters, digits, `-` and `_`; the first one is a letter or a digit."""
    recipe: Recipe | Step = field(default_factory=Recipe)
    """Steps to apply first. Default: none."""
    size: int | None = None
    """Length of the longer side in pixels, 1 to 65,535. Default: the size is not changed."""
    format: ImageFormat | None = None
    """File format, see `Convert`. Default: the format is not changed."""
    quality: int | None = None
    """Quality of a lossy `format`, 1 to 100. Default: see `Convert`."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidRequestError(
                "the name of a derivative must be 1 to 64 letters, digits, - and _;"
                f" got {repr(self.name)[:100]}",
                field="name",
            )
        if not isinstance(self.recipe, (Recipe, Step)):
            raise InvalidRequestError(
                f"recipe must be a Recipe or a step; got {type(self.recipe).__name__}",
                field="recipe",
            )
        if self.quality is not None and self.format is None:
            raise InvalidRequestError(
                f'quality needs a format, for example "webp"; got quality {self.quality!r} alone',
                field="quality",
            )
        self.full_recipe  # noqa: B018 - reading it validates `size`, `format` and `quality`

    @property
    def full_recipe(self) -> Recipe:
        """The recipe with the steps for `size`, `format` and `quality` added."""
        recipe = self.recipe if isinstance(self.recipe, Recipe) else Recipe(self.recipe)
        if self.size is not None:
            recipe += Resize(self.size, how="long_side")
        return recipe + Convert(self.format, self.quality) if self.format is not None else recipe


STANDARD_SET = (
    Derivative("thumbnail", Recipe(Sanitize()), size=256, format="webp", quality=80),
    Derivative("web", Recipe(Sanitize()), size=1600, format="webp"),
    Derivative("original", Recipe(Sanitize())),
)
