"""What a studio tells while it works, in order: Classified, PlanReady, then of each picture Progress, PictureReady or PictureFailed, and
DerivativeReady; `Done` last and exactly once. A run that gives nothing at all raises instead of Done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from majordomo.backend_status import Loading, Queued
from majordomo.errors import MajordomoError
from majordomo.imagegen import Preview, Step
from majordomo.studio.classifier import Classification
from majordomo.studio.plan import Plan
from majordomo.studio.result import Outcome, Picture

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
class Progress:
    """The picture called `name` waits, loads its model, is at a step or can be seen unfinished."""

    name: str
    event: Queued | Loading | Step | Preview


@dataclass(frozen=True, slots=True)
class PictureReady:
    """A picture is finished; what is derived from it comes later."""

    picture: Picture


@dataclass(frozen=True, slots=True)
class PictureFailed:
    """There is no picture `name`, or (stage "derive") none derived from it. `painted`: it failed behind the painter, and a run may begin
    with this; never a picture that a moderator did not allow."""

    name: str
    error: MajordomoError
    painted: Picture | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class DerivativeReady:
    """A file has been made of the picture called `name`."""

    name: str
    derived: Derived


@dataclass(frozen=True, slots=True)
class Done:
    """The end; `outcome` has everything."""

    outcome: Outcome


StudioEvent = Classified | PlanReady | Progress | PictureReady | PictureFailed | DerivativeReady | Done
