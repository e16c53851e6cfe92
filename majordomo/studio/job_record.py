"""What is known of one job, and what it has told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import anyio

from majordomo import imagegen
from majordomo.errors import MajordomoError
from majordomo.studio.events import (
    Classified,
    DerivativeReady,
    ImageFailed,
    ImageFinished,
    ImageProgress,
    PlanReady,
    StudioEvent,
)
from majordomo.studio.result import StudioResult

State = Literal["queued", "processing", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class StudioJobStatus:
    """A job as it is now. `position` counts from 1 while it is queued. `stage` is what it is at, `step` of `total` over all its images so
    far, `images` how many are ready. Times are seconds since the epoch, None where they lie ahead; `expires` is when it is forgotten.
    `error` is a failure as `{"error", "code", "details"}`; of a job that is done, what kept it from being stored.
    """

    id: str
    state: State
    position: int | None = None
    stage: str = ""
    step: int = 0
    total: int = 0
    images: int = 0
    submitted: float = 0.0
    began: float | None = None
    ended: float | None = None
    expires: float | None = None
    user_id: str = ""
    error: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class JobRecord:
    """A job's own page. Progress is kept as its latest state per image, so that it stays small however long the job takes."""

    def __init__(self, job: str, submitted: float, user_id: str = "") -> None:
        self.id = job
        self.submitted = submitted
        self.user_id = user_id
        self.state: State = "queued"
        self.stage: str = ""
        self.began: float | None = None
        self.ended: float | None = None
        self.error: MajordomoError | None = None
        self.outcome: StudioResult | None = None  # None too when it is in the store
        self.stored = False
        self._news: anyio.Event | None = None
        self._told: dict[int, StudioEvent] = {}  # by number, in order
        self._latest: dict[tuple[str, type], int] = {}  # of progress, the number of its latest
        self._number = 0
        self._steps: dict[str, tuple[int, int]] = {}
        self._images = 0

    @property
    def over(self) -> bool:
        return self.state in ENDED

    def begin(self, now: float) -> None:
        self.state, self.began, self.stage = "processing", now, "classify"
        self._wake()

    def end(self, state: State, now: float, error: MajordomoError | None = None) -> None:
        self.state, self.ended, self.error = state, now, error
        if error is not None and state == "failed":
            self.stage = str(error.details.get("stage", self.stage))
        if state != "done":
            self.outcome = None
        if self.stored or state != "done":
            self._told.clear()  # their images are in the store, or nobody's
            self._latest.clear()
        self._wake()

    def emit(self, event: StudioEvent) -> None:
        self._number += 1
        match event:
            case Classified():
                self.stage = "plan"
            case PlanReady():
                self.stage = "paint"
            case ImageProgress(name, told):
                key = (name, type(told))
                self._told.pop(self._latest.get(key, 0), None)
                self._latest[key] = self._number
                if isinstance(told, imagegen.Step):
                    self._steps[name] = (told.step, told.total)
            case ImageFinished():
                self._images += 1
                self.stage = "derive"
            case ImageFailed() | DerivativeReady():
                pass
        self._told[self._number] = event
        self._wake()

    def since(self, number: int) -> tuple[int, Sequence[StudioEvent]]:
        """What was told after event `number`, and the number of the last."""
        return self._number, [event for at, event in self._told.items() if at > number]

    async def changed(self) -> None:
        if self._news is None:
            self._news = anyio.Event()
        await self._news.wait()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def status(self, position: int | None, ttl: float) -> StudioJobStatus:
        taken = (
            self.state == "queued" and position is None
        )  # the engine has it in hand, and has not come to it
        return StudioJobStatus(
            self.id,
            "processing" if taken else self.state,
            position,
            self.stage if self.state in ("processing", "failed") else "",
            sum(step for step, _ in self._steps.values()),
            sum(total for _, total in self._steps.values()),
            self._images,
            self.submitted,
            self.began,
            self.ended,
            None if self.ended is None else self.ended + ttl,
            self.user_id,
            None if self.error is None else self.error.to_dict(),
        )

    def to_dict(self) -> dict[str, Any]:
        """What the store keeps of it."""
        return {
            "id": self.id,
            "user_id": self.user_id,
            "submitted": self.submitted,
            "began": self.began,
            "ended": self.ended,
            "steps": [list(pair) for pair in self._steps.values()],
            "images_ready": self._images,
        }

    @classmethod
    def kept(cls, job: str, values: dict[str, Any]) -> JobRecord:
        """A job that is done, from the store. Raises KeyError, TypeError or ValueError for what is none."""
        record = cls(job, float(values["submitted"]), str(values["user_id"]))
        record.state, record.stored = "done", True
        record.began, record.ended = float(values["began"]), float(values["ended"])
        record._images = int(values["images_ready"])
        record._steps = {
            str(at): (int(step), int(total)) for at, (step, total) in enumerate(values["steps"])
        }
        return record


def again(error: MajordomoError) -> MajordomoError:
    """The same error to raise once more: one object raised in two places would carry both traces."""
    twin = error.__class__.__new__(error.__class__)
    Exception.__init__(twin, error.message)
    twin.__dict__.update(error.__dict__)
    twin.__cause__ = error.__cause__
    return twin
