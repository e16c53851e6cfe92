"""Whether a call may go now: `max_concurrency`, `max_queue`, `rate` and the GPU it shares with others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from majordomo.queueing.rate_limiter import RateLimiter
from majordomo.queueing.resource_group import ModelLease, ResourceGroup
from majordomo.queueing.slot_queue import OnPosition, SlotQueue
from majordomo.transport_types import Deadline


class Admission:
    """Permission to call; given back once."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[int | None], None] | None) -> None:
        self._release = release

    def release(self, tokens: int | None = None) -> None:
        """The call is over, and has used so many tokens. A second time does nothing."""
        leave, self._release = self._release, None
        if leave is not None:
            leave(tokens)


class AdmissionControl:
    """All that one provider's calls wait for, in this order: a place of its own, its rate, the GPU."""

    def __init__(
        self,
        max_concurrency: int | None,
        *,
        max_queue: int | None = None,
        rate_limiter: RateLimiter | None = None,
        resource_group: ResourceGroup | None = None,
    ) -> None:
        self.max_concurrency = max_concurrency
        self._queue = SlotQueue(max_concurrency, max_queue) if max_concurrency is not None else None
        self._rate_limiter = rate_limiter
        self._resource_group = resource_group

    @property
    def shared(self) -> bool:
        """Whether it matters which model is in the GPU."""
        return self._resource_group is not None

    @property
    def waits(self) -> bool:
        """Whether a call that comes now would stand in a line."""
        queues = [queue for queue in (self._queue, self._resource_group) if queue is not None]
        return any(queue.waiting or queue.running >= queue.slots for queue in queues)

    async def acquire(
        self,
        deadline: Deadline,
        on_position: OnPosition = None,
        *,
        user_id: str = "",
        lease: ModelLease | None = None,
    ) -> Admission:
        """Wait for all of it; the place must be left. `holder` says which model will be in the GPU.

        Raises DeadlineExceededError (phase queue), OverloadedError (`QUEUE_FULL`) and RateLimitError (`LOCAL_RATE_LIMIT`) when our own
        rate allows the call only after the queue limit.
        """
        if self._queue is None and self._rate_limiter is None and self._resource_group is None:
            return Admission(None)
        queue, meters, gpu = self._queue, self._rate_limiter, self._resource_group
        if queue is not None:
            await queue.acquire(deadline, user_id, on_position)
        undo: Callable[[], None] | None = None
        try:
            if meters is not None:
                undo = await meters.acquire(deadline, user_id)
            if gpu is not None:
                await gpu.acquire(deadline, user_id, on_position, lease)
        except BaseException:
            if undo is not None:
                undo()
            if queue is not None:
                queue.release()
            raise

        def leave(tokens: int | None) -> None:
            if gpu is not None:
                gpu.release(lease)
            if meters is not None:
                meters.record_tokens(user_id, tokens)
            if queue is not None:
                queue.release()

        return Admission(leave)

    @asynccontextmanager
    async def admitted(
        self,
        deadline: Deadline,
        on_position: OnPosition = None,
        *,
        user_id: str = "",
        lease: ModelLease | None = None,
    ) -> AsyncIterator[Admission]:
        place = await self.acquire(deadline, on_position, user_id=user_id, lease=lease)
        try:
            yield place
        finally:
            place.release()
