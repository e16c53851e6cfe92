"""Where jobs wait and are worked on. The one here lives in the process; a durable one keeps the same few promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from majordomo.concurrency.task_stream import spawn
from majordomo.errors import ConfigurationError, InvalidRequestError, OverloadedError
from majordomo.studio.inputs import StudioInput
from majordomo.validation import check_number


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A job to do: `id`, what it begins with, what is wished over it, for whom, and when it was submitted (seconds since the epoch)."""

    id: str
    input: StudioInput
    overrides: Mapping[str, Any] = field(default_factory=dict)
    user_id: str = ""
    submitted: float = 0.0


Work = Callable[[JobOrder], Awaitable[None]]


class JobEngine(Protocol):
    """Each order that is put is worked on once, in order, unless it is cancelled before. `work` never raises but when it is cancelled."""

    def open(self, work: Work) -> None:
        """Called once, before anything is put."""

    async def put(self, order: JobOrder) -> None:
        """Take an order; returns at once. Raises OverloadedError (QUEUE_FULL)."""

    def waiting(self) -> Sequence[str]:
        """The ids of orders not begun, the next one first."""

    async def cancel(self, job: str) -> None:
        """Withdraw an order, or cancel its work and wait until that has ended. An unknown or finished one is no error."""

    async def aclose(self) -> None:
        """Cancel everything."""


class _JobSlot:
    """A job that is worked on."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()


class InProcessEngine:
    """`places` jobs at once, `most` waiting. Belongs to one event loop, and ends with it.

    Raises ConfigurationError for numbers that make no sense.
    """

    def __init__(self, max_concurrency: int = 1, max_queue: int = 1000) -> None:
        try:
            check_number("max_concurrency", max_concurrency, 1, 1000, whole=True)
            check_number("max_queue", max_queue, 1, 10**7, whole=True)
        except InvalidRequestError as error:
            raise ConfigurationError(error.message, details=error.details) from None
        self._free = max_concurrency
        self._most = max_queue
        self._waiting: dict[str, JobOrder] = {}
        self._running: dict[str, _JobSlot] = {}
        self._work: Work | None = None
        self._closed = False

    def open(self, work: Work) -> None:
        if self._work is not None:
            raise ConfigurationError("an engine serves one Jobs")
        self._work = work

    async def put(self, order: JobOrder) -> None:
        if self._closed:
            raise ConfigurationError("the engine is closed", code="CLOSED")
        if len(self._waiting) >= self._most:
            raise OverloadedError(
                f"{len(self._waiting):,} jobs wait already",
                code="QUEUE_FULL",
                details={"waiting": len(self._waiting)},
            )
        self._waiting[order.id] = order
        self._advance()

    def waiting(self) -> Sequence[str]:
        return tuple(self._waiting)

    async def cancel(self, job: str) -> None:
        if self._waiting.pop(job, None) is not None:
            return
        if (place := self._running.get(job)) is not None:
            place.scope.cancel()
            await place.over.wait()

    async def aclose(self) -> None:
        self._closed = True
        self._waiting.clear()
        running = list(self._running.values())
        for place in running:
            place.scope.cancel()
        with anyio.CancelScope(shield=True):  # their clean-up bounds itself
            for place in running:
                await place.over.wait()

    def _advance(self) -> None:
        while self._free and self._waiting and not self._closed:
            order = self._waiting.pop(next(iter(self._waiting)))
            self._free -= 1
            place = self._running[order.id] = _JobSlot()
            spawn(_runner(self, order, place))

    async def _run(self, order: JobOrder, place: _JobSlot) -> None:
        assert self._work is not None
        try:
            with place.scope:
                await self._work(order)
        except BaseException:
            self._closed = True  # the loop itself ends: nothing begins any more
            raise
        finally:
            del self._running[order.id]
            self._free += 1
            place.over.set()
            self._advance()


def _runner(engine: InProcessEngine, order: JobOrder, place: _JobSlot) -> Callable[[], Any]:
    return lambda: engine._run(order, place)
