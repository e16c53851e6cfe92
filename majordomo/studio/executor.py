"""Execute jobs. The engine here lives in the process; a durable one implements the same protocol.

`InProcessEngine` keeps orders in two dicts: waiting, with their waiters in a `FairQueue`, and
running, with a cancel scope each. An order is in at most one of them. The queue decides which order
is next and wakes it, which starts its job; a finished job releases its slot. Once the engine is
closed, or the event loop ends, no order starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from majordomo.concurrency.task_stream import spawn_loop_task
from majordomo.errors import ConfigurationError, InvalidRequestError
from majordomo.queueing.fair_queue import FairQueue
from majordomo.queueing.slot_queue import queue_full_error
from majordomo.queueing.waiter import Waiter
from majordomo.studio.inputs import StudioInput
from majordomo.validation import check_number


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A submitted job."""

    id: str
    """The job's id."""
    input: StudioInput
    """The first argument of `Studio.run`."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """The keyword arguments of `Studio.run`."""
    user_id: str = ""
    """The user who submitted the job; "" when unknown."""
    submitted_at: float = 0.0
    """When the job was submitted, in seconds since the epoch."""


JobHandler = Callable[[JobOrder], Awaitable[None]]


class JobEngine(Protocol):
    """Executes each order once, unless it is cancelled before.

    The engine decides on the order; the orders of one user are executed in the order of `put`.
    """

    def open(self, handler: JobHandler) -> None:
        """Set the function that executes an order. Called once, before any `put`.

        The handler raises only when it is cancelled.
        """

    async def put(self, order: JobOrder) -> None:
        """Accept an order and return at once.

        Raises:
            OverloadedError: The queue is full (QUEUE_FULL).
        """

    def waiting(self) -> Sequence[str]:
        """Return the ids of orders that have not started, the next one first."""

    async def cancel(self, job: str) -> None:
        """Withdraw an order, or cancel its execution and wait until that has ended.

        An unknown or finished job is not an error.
        """

    async def aclose(self) -> None:
        """Cancel everything."""


class _RunningJob:
    """A job in execution."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()


class InProcessEngine:
    """An engine in the current process. It belongs to one event loop and ends with it.

    Users take turns: each user with a waiting order gets a slot before any user gets a second.

    Args:
        max_concurrency: Jobs executed at the same time, 1 to 1,000.
        max_queue: Jobs waiting, 1 to 10,000,000.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(self, max_concurrency: int = 1, max_queue: int = 1000) -> None:
        try:
            check_number("max_concurrency", max_concurrency, 1, 1000, integer=True)
            check_number("max_queue", max_queue, 1, 10**7, integer=True)
        except InvalidRequestError as error:
            raise ConfigurationError(error.message, details=error.details) from None
        self._queue = FairQueue(max_concurrency)
        self._max_queue = max_queue
        self._waiting: dict[str, Waiter] = {}
        self._running: dict[str, _RunningJob] = {}
        self._handler: JobHandler | None = None
        self._closed = False

    def open(self, handler: JobHandler) -> None:
        """Set the function that executes an order.

        Raises:
            ConfigurationError: The engine belongs to another Jobs.
        """
        if self._handler is not None:
            raise ConfigurationError("the engine is already in use; create one for each Jobs")
        self._handler = handler

    async def put(self, order: JobOrder) -> None:
        """Accept an order and return at once.

        Raises:
            ConfigurationError: The engine is closed (CLOSED).
            OverloadedError: The queue is full (QUEUE_FULL).
        """
        if self._closed:
            raise ConfigurationError("the engine is closed", code="CLOSED")
        if self._queue.waiting >= self._max_queue:
            raise queue_full_error(self._queue.waiting)
        waiter = Waiter(order.user_id, lambda: self._start(order))
        self._waiting[order.id] = waiter
        if self._queue.acquire(waiter):
            self._start(order)

    def waiting(self) -> Sequence[str]:
        """Return the ids of orders that have not started, the next one first."""
        ids = {waiter: job for job, waiter in self._waiting.items()}
        return tuple(ids[waiter] for waiter in self._queue.waiters())

    async def cancel(self, job: str) -> None:
        """Withdraw an order, or cancel its execution and wait until that has ended."""
        if (waiter := self._waiting.pop(job, None)) is not None:
            self._queue.withdraw(waiter)
        elif (running := self._running.get(job)) is not None:
            running.scope.cancel()
            await running.ended.wait()

    async def aclose(self) -> None:
        """Cancel everything and wait until it has ended."""
        self._closed = True
        for waiter in self._waiting.values():
            self._queue.withdraw(waiter)
        self._waiting.clear()
        running = list(self._running.values())
        for job in running:
            job.scope.cancel()
        # Shielded: the cleanup of each job has its own time limit.
        with anyio.CancelScope(shield=True):
            for job in running:
                await job.ended.wait()

    def _start(self, order: JobOrder) -> bool:
        """Start the job of an order that owns a slot; return False if no order may start."""
        if self._closed:
            return False
        del self._waiting[order.id]
        running = self._running[order.id] = _RunningJob()

        def end_early(error: BaseException) -> None:
            # The event loop ends before the first step of the task.
            self._closed = True
            self._end(order, running)

        spawn_loop_task(lambda: self._run(order, running), end_early)
        return True

    async def _run(self, order: JobOrder, running: _RunningJob) -> None:
        assert self._handler is not None
        try:
            with running.scope:
                await self._handler(order)
        except BaseException:
            # Only the end of the event loop gets here: nothing may start any more.
            self._closed = True
            raise
        finally:
            self._end(order, running)

    def _end(self, order: JobOrder, running: _RunningJob) -> None:
        del self._running[order.id]
        running.ended.set()
        self._queue.release()
