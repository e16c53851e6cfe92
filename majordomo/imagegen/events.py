"""Events of an image stream.

Order: `Queued`, `Loading`, then `Step` and `Preview` as they arrive; `Done` is last and is emitted
exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.backend_status import Loading, Queued
from majordomo.imagegen.result import Result
from majordomo.media.image_part import ImagePart

__all__ = ["Done", "ImageEvent", "Loading", "Preview", "Queued", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """A sampling step has finished."""

    step: int
    """Number of the finished step, counted from 1."""
    total: int
    """Total number of steps."""


@dataclass(frozen=True, slots=True)
class Preview:
    """An unfinished image."""

    image: ImagePart
    """The image so far; it may be smaller than the final one."""
    index: int = 0
    """Index of the image within the batch, counted from 0."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the stream; always the last event."""

    result: Result
    """The complete result."""


ProgressEvent = Queued | Loading | Step | Preview
ImageEvent = ProgressEvent | Done
