"""What was drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from majordomo.errors import CallWarning, NoImageError, Tried
from majordomo.media import ImagePart


@dataclass(frozen=True, slots=True)
class Usage:
    """What the picture cost as the backend counted it; None where it did not say. `seconds` of its work, not of the network."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """What is known of one picture: sizes as (width, height) asked for, sent and got; the seed it was really drawn from.

    `seed` is what the backend told (reply, PNG text), else what was sent, else None. `settings` are the backend's own words.
    """

    seed: int | None = None
    revised_prompt: str | None = None
    size_asked: tuple[int, int] | None = None
    size_sent: tuple[int, int] | None = None
    size_got: tuple[int, int] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """At least one picture, always; `details[i]` belongs to `images[i]`. `raw` is the backend's reply with picture bytes elided.

    `tried` says which members of a chain were passed over before this one drew.
    """

    images: tuple[ImagePart, ...]
    details: tuple[ImageDetails, ...] = ()
    warnings: tuple[CallWarning, ...] = ()
    usage: Usage = Usage()
    model: str = ""
    provider: str = ""
    raw: Any = field(default=None, repr=False, compare=False)
    tried: tuple[Tried, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        if not self.images:
            raise NoImageError("a result without a picture", provider=self.provider or None, model=self.model or None)
        if not self.details:
            object.__setattr__(self, "details", tuple(ImageDetails(size_got=(i.width, i.height)) for i in self.images))

    @property
    def image(self) -> ImagePart:
        """The first picture."""
        return self.images[0]
