"""What a studio tells while it works, in order: Classified, PlanReady, then of each image Progress, ImageFinished or ImageFailed, and
DerivativeReady; `Done` last and exactly once. A run that gives nothing at all raises instead of Done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from majordomo.backend_status import Loading, Queued
from majordomo.errors import MajordomoError
from majordomo.imagegen import Preview, Step
from majordomo.studio.classifier import Classification
from majordomo.studio.plan import Plan
from majordomo.studio.result import StudioImage, StudioResult

if TYPE_CHECKING:
    from majordomo.imaging.derivation import Derived


@dataclass(frozen=True, slots=True)
class Classified:
    """The brief has been read."""

    classification: Classification


@dataclass(frozen=True, slots=True)
class PlanReady:
    """It is known what will be drawn."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """The image called `name` waits, loads its model, is at a step or can be seen unfinished."""

    name: str
    event: Queued | Loading | Step | Preview


@dataclass(frozen=True, slots=True)
class ImageFinished:
    """An image is finished; what is derived from it comes later."""

    item: StudioImage


@dataclass(frozen=True, slots=True)
class ImageFailed:
    """There is no image `name`, or (stage "derive") none derived from it. `painted`: it failed behind the painter, and a run may begin
    with this; never an image that a moderator did not allow."""

    name: str
    error: MajordomoError
    painted: StudioImage | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class DerivativeReady:
    """A file has been made of the image called `name`."""

    name: str
    derived: Derived


@dataclass(frozen=True, slots=True)
class StudioDone:
    """The end; `outcome` has everything."""

    result: StudioResult


StudioEvent = (
    Classified
    | PlanReady
    | ImageProgress
    | ImageFinished
    | ImageFailed
    | DerivativeReady
    | StudioDone
)
