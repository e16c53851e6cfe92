"""What was drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from majordomo.errors import CallWarning, FailedAttempt, NoImageError
from majordomo.media.image_part import ImagePart
from majordomo.usage import sum_known


@dataclass(frozen=True, slots=True)
class Usage:
    """What the images took as the backend counted it; None where it did not say. `seconds` of its work, not of the network.

    Tokens by modality are parts of `input_tokens` and `output_tokens`. `images` and the `pixels` of them all are counted here, when the
    result is whole. `load_seconds` of `seconds` went into loading the model.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    text_input_tokens: int | None = None
    image_input_tokens: int | None = None
    cached_tokens: int | None = None
    text_output_tokens: int | None = None
    image_output_tokens: int | None = None
    load_seconds: float | None = None
    images: int | None = None
    pixels: int | None = None

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Usage:
        """Of each field the sum; None when any of them did not say."""
        return sum_known(cls, usages)

    def drew(self, images: Sequence[ImagePart]) -> Usage:
        """The same, with these images counted."""
        return replace(
            self, images=len(images), pixels=sum(image.width * image.height for image in images)
        )


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """What is known of one image: sizes as (width, height) asked for, sent and got; the seed it was really drawn from.

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
    """At least one image, always; `details[i]` belongs to `images[i]`. `raw` is the backend's reply with image bytes elided.

    `tried` says which members of a chain were passed over before this one drew.
    """

    images: tuple[ImagePart, ...]
    details: tuple[ImageDetails, ...] = ()
    warnings: tuple[CallWarning, ...] = ()
    usage: Usage = Usage()
    model: str = ""
    provider: str = ""
    raw: Any = field(default=None, repr=False, compare=False)
    failed_attempts: tuple[FailedAttempt, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        if not self.images:
            raise NoImageError(
                "a result without an image",
                provider=self.provider or None,
                model=self.model or None,
            )
        if not self.details:
            object.__setattr__(
                self,
                "details",
                tuple(ImageDetails(size_got=(i.width, i.height)) for i in self.images),
            )

    @property
    def image(self) -> ImagePart:
        """The first image."""
        return self.images[0]
