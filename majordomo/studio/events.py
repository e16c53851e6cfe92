"""Events of a run.

Order: Classified, PlanReady, then for each image ImageProgress, ImageFinished or ImageFailed, and
DerivativeReady. StudioDone is last and occurs exactly once. A run without any image raises an error
instead of emitting StudioDone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from majordomo.errors import MajordomoError
from majordomo.imagegen.events import ProgressEvent
from majordomo.studio.classifier import Classification
from majordomo.studio.plan import Plan
from majordomo.studio.result import StudioImage, StudioResult

if TYPE_CHECKING:
    from majordomo.imaging.derivation import Derived


@dataclass(frozen=True, slots=True)
class Classified:
    """The brief has been classified."""

    classification: Classification
    """What the classifier read from the brief."""


@dataclass(frozen=True, slots=True)
class PlanReady:
    """Prompts and settings are ready."""

    plan: Plan
    """The plan that the images are generated from."""


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """An image is queued, its model is loading, it is at a step, or it has a preview."""

    name: str
    """Name of the image."""
    event: ProgressEvent
    """The event of the image model."""


@dataclass(frozen=True, slots=True)
class ImageFinished:
    """An image is finished; its derivatives follow."""

    item: StudioImage
    """The finished image, still without derivatives."""


@dataclass(frozen=True, slots=True)
class ImageFailed:
    """An image, or with stage "derive" its derivatives, could not be made."""

    name: str
    """Name of the image."""
    error: MajordomoError
    """The failure; `details` have stage, input and help."""
    item: StudioImage | None = field(default=None, compare=False)
    """The generated image when only a later stage failed; a new run can start from it. None when
    there is no image or a moderator did not allow it."""


@dataclass(frozen=True, slots=True)
class DerivativeReady:
    """A file has been derived from an image."""

    name: str
    """Name of the image."""
    derived: Derived
    """The derived file."""


@dataclass(frozen=True, slots=True)
class StudioDone:
    """The run has ended."""

    result: StudioResult
    """Everything that was made, and what failed."""


StudioEvent = (
    Classified
    | PlanReady
    | ImageProgress
    | ImageFinished
    | ImageFailed
    | DerivativeReady
    | StudioDone
)
