"""The state and the events of one job."""

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
FINAL_STATES = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class StudioJobStatus:
    """The status of a job at one moment.

    Times are in seconds since the epoch.
    """

    id: str
    """The job's id."""
    state: State
    """`"queued"`, `"processing"`, `"done"`, `"failed"` or `"cancelled"`."""
    position: int | None = None
    """Position in the queue, from 1; None unless the job is queued."""
    stage: str = ""
    """The current stage, or the one that failed; "" in other states."""
    step: int = 0
    """Completed steps, summed over all images so far."""
    total: int = 0
    """All steps, summed over all images so far."""
    images: int = 0
    """Number of finished images."""
    submitted_at: float = 0.0
    """When the job was submitted."""
    started_at: float | None = None
    """When processing started; None before."""
    ended_at: float | None = None
    """When the job reached a final state; None before."""
    expires_at: float | None = None
    """When the job and its files are removed; None until the job has ended."""
    user_id: str = ""
    """The user who submitted the job; "" when unknown."""
    error: dict[str, Any] | None = None
    """The failure as `{"error", "code", "details"}`. In state "done": why the result could not be
    stored."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


class JobRecord:
    """The mutable record of a job.

    Of progress events only the latest per image and type is kept, so that a record stays small
    however long its job takes.
    """

    def __init__(self, job: str, submitted_at: float, user_id: str = "") -> None:
        self.id = job
        self.submitted_at = submitted_at
        self.user_id = user_id
        self.state: State = "queued"
        self.stage: str = ""
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.error: MajordomoError | None = None
        # None before the job is done, and after its result has been moved to the store.
        self.result: StudioResult | None = None
        self.stored = False
        self._change: anyio.Event | None = None
        # The kept events by number, in order, and the number of the latest progress event by image
        # name and type.
        self._events: dict[int, StudioEvent] = {}
        self._latest: dict[tuple[str, type], int] = {}
        self._number = 0
        self._steps: dict[str, tuple[int, int]] = {}
        self._images = 0

    @property
    def ended(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in FINAL_STATES

    def start(self, now: float) -> None:
        """Record that processing starts."""
        self.state, self.started_at, self.stage = "processing", now, "classify"
        self._notify()

    def end(self, state: State, now: float, error: MajordomoError | None = None) -> None:
        """Record that the job ended in a final state."""
        self.state, self.ended_at, self.error = state, now, error
        if error is not None and state == "failed":
            self.stage = str(error.details.get("stage", self.stage))
        if state != "done":
            self.result = None
        if self.stored or state != "done":
            # The events hold images, which are in the store or not needed any more.
            self._events.clear()
            self._latest.clear()
        self._notify()

    def emit(self, event: StudioEvent) -> None:
        """Record an event of the run."""
        self._number += 1
        match event:
            case Classified():
                self.stage = "plan"
            case PlanReady():
                self.stage = "generate"
            case ImageProgress(name, progress):
                key = (name, type(progress))
                self._events.pop(self._latest.get(key, 0), None)
                self._latest[key] = self._number
                if isinstance(progress, imagegen.Step):
                    self._steps[name] = (progress.step, progress.total)
            case ImageFinished():
                self._images += 1
                self.stage = "derive"
            case ImageFailed() | DerivativeReady():
                pass
        self._events[self._number] = event
        self._notify()

    def events_since(self, number: int) -> tuple[int, Sequence[StudioEvent]]:
        """Return the number of the last event, and the kept events after event `number`."""
        return self._number, [
            event for event_number, event in self._events.items() if event_number > number
        ]

    async def wait_for_change(self) -> None:
        """Wait until the record changes."""
        if self._change is None:
            self._change = anyio.Event()
        await self._change.wait()

    def _notify(self) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None

    def status(self, position: int | None, ttl: float) -> StudioJobStatus:
        """Return the status.

        `position` is None when the engine does not list the job. `ttl` is how many seconds an ended
        job is kept.
        """
        # The engine has taken the job from its queue but has not started it yet.
        is_starting = self.state == "queued" and position is None
        return StudioJobStatus(
            self.id,
            "processing" if is_starting else self.state,
            position,
            self.stage if self.state in ("processing", "failed") else "",
            sum(step for step, _ in self._steps.values()),
            sum(total for _, total in self._steps.values()),
            self._images,
            self.submitted_at,
            self.started_at,
            self.ended_at,
            None if self.ended_at is None else self.ended_at + ttl,
            self.user_id,
            None if self.error is None else self.error.to_dict(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what the store keeps of the record, as plain JSON values."""
        return {
            "id": self.id,
            "user_id": self.user_id,
            "submitted_at": self.submitted_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "steps": [list(pair) for pair in self._steps.values()],
            "images": self._images,
        }

    @classmethod
    def from_dict(cls, job: str, values: dict[str, Any]) -> JobRecord:
        """Create the record of a job that is done from the store's values.

        Raises KeyError, TypeError or ValueError for other values.
        """
        record = cls(job, float(values["submitted_at"]), str(values["user_id"]))
        record.state, record.stored = "done", True
        record.started_at = float(values["started_at"])
        record.ended_at = float(values["ended_at"])
        record._images = int(values["images"])
        record._steps = {
            str(index): (int(step), int(total))
            for index, (step, total) in enumerate(values["steps"])
        }
        return record


def copy_error(error: MajordomoError) -> MajordomoError:
    """Return a copy to raise again: one object raised twice would carry both tracebacks."""
    copy = error.__class__.__new__(error.__class__)
    Exception.__init__(copy, error.message)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy
