"""What an image stream tells, in order: Queued, Loading, then Step and Preview as they come, `Done` last and exactly once."""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.backend_status import Loading, Queued
from majordomo.imagegen.result import Result
from majordomo.media.image_part import ImagePart


@dataclass(frozen=True, slots=True)
class Step:
    """Step `step` of `total` is finished; `step` counts from 1."""

    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """The unfinished image number `index` (from 0 within the batch)."""

    image: ImagePart
    index: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The end; always the last event."""

    result: Result


ImageEvent = Queued | Loading | Step | Preview | Done
