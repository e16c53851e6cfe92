"""Results of image generation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from majordomo.errors import CallWarning, FailedAttempt, NoImageError
from majordomo.media.image_part import ImagePart
from majordomo.usage import sum_known


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a call used, as counted by the backend.

    None means that the backend did not report the value.
    """

    input_tokens: int | None = None
    """All input tokens."""
    output_tokens: int | None = None
    """All output tokens."""
    seconds: float | None = None
    """Time the backend worked, in seconds; network time is not included."""
    text_input_tokens: int | None = None
    """The text tokens in `input_tokens`."""
    image_input_tokens: int | None = None
    """The image tokens in `input_tokens`."""
    cached_tokens: int | None = None
    """The tokens in `input_tokens` that were read from a cache."""
    text_output_tokens: int | None = None
    """The text tokens in `output_tokens`."""
    image_output_tokens: int | None = None
    """The image tokens in `output_tokens`."""
    load_seconds: float | None = None
    """The part of `seconds` spent loading the model."""
    images: int | None = None
    """Number of images; counted by this library when the result is complete."""
    pixels: int | None = None
    """Pixels of all images; counted by this library when the result is complete."""

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Usage:
        """Return the sum of each field; None if any of the usages does not know it."""
        return sum_known(cls, usages)

    def with_image_counts(self, images: Sequence[ImagePart]) -> Usage:
        """Return a copy with `images` and `pixels` counted from these images."""
        return replace(
            self, images=len(images), pixels=sum(image.width * image.height for image in images)
        )


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """What is known about one image of a result."""

    seed: int | None = None
    """The seed that the backend reported (in its reply or the PNG text), else the seed sent; None
    if neither is known."""
    revised_prompt: str | None = None
    """The prompt that the backend used instead of the request's; None if it reported none."""
    requested_size: tuple[int, int] | None = None
    """Requested width and height in pixels; None if the request has no size."""
    sent_size: tuple[int, int] | None = None
    """Width and height sent to the backend in pixels; None if no size was sent."""
    actual_size: tuple[int, int] | None = None
    """Width and height of the image in pixels."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that the backend reported, under its own names."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an image generation. It always has at least one image.

    Raises:
        NoImageError: `images` is empty.
    """

    images: tuple[ImagePart, ...]
    """The images, at least one."""
    details: tuple[ImageDetails, ...] = ()
    """Details of each image: `details[i]` belongs to `images[i]`. Default: only the sizes."""
    warnings: tuple[CallWarning, ...] = ()
    """What the backend could not do as requested."""
    usage: Usage = Usage()
    """The resources that the call used."""
    model: str = ""
    """Id of the model, as reported by the backend or else as requested."""
    provider: str = ""
    """Name of the provider."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The backend's reply without image bytes."""
    failed_attempts: tuple[FailedAttempt, ...] = ()
    """The models of a chain that failed or were skipped before this one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        if not self.images:
            raise NoImageError(
                "a result must have at least one image; got none",
                provider=self.provider or None,
                model=self.model or None,
            )
        if not self.details:
            object.__setattr__(
                self,
                "details",
                tuple(ImageDetails(actual_size=(i.width, i.height)) for i in self.images),
            )

    @property
    def image(self) -> ImagePart:
        """The first image."""
        return self.images[0]
