"""What should be derived from an image, as values; no pixel is touched here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from majordomo.errors import InvalidRequestError
from majordomo.imaging.operations import Convert, ImageFormat, Recipe, Resize, Sanitize, Step

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Derivative:
    """One file to make: a `recipe`, and behind it, as a shorthand, the longer side `size` in pixels, the kind `format`, and its
    `quality`."""

    name: str
    recipe: Recipe | Step = field(default_factory=Recipe)
    size: int | None = None
    format: ImageFormat | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidRequestError(
                "the name of a derivative is 1 to 64 letters, digits, - and _", field="name"
            )
        if not isinstance(self.recipe, (Recipe, Step)):
            raise InvalidRequestError(
                f"a recipe is a Recipe or a step, not {type(self.recipe).__name__}", field="recipe"
            )
        if self.quality is not None and self.format is None:
            raise InvalidRequestError("a quality needs a format", field="quality")
        self.whole  # noqa: B018

    @property
    def whole(self) -> Recipe:
        """All steps."""
        recipe = self.recipe if isinstance(self.recipe, Recipe) else Recipe(self.recipe)
        if self.size is not None:
            recipe += Resize(self.size, how="long_side")
        return recipe + Convert(self.format, self.quality) if self.format is not None else recipe


STANDARD_SET = (
    Derivative("thumbnail", Recipe(Sanitize()), size=256, format="webp", quality=80),
    Derivative("web", Recipe(Sanitize()), size=1600, format="webp"),
    Derivative("original", Recipe(Sanitize())),
)
