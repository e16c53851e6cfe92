"""Whether a call may go now: `max_concurrency`, `max_queue`, `rate` and the GPU it shares with others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from majordomo.queueing.rate_limiter import Meters
from majordomo.queueing.resource_group import Holder, ResourceGroup
from majordomo.queueing.slot_queue import Queue, TellPosition
from majordomo.transport_types import Deadline


class Place:
    """Permission to call; given back once."""

    __slots__ = ("_leave",)

    def __init__(self, leave: Callable[[int | None], None] | None) -> None:
        self._leave = leave

    def leave(self, tokens: int | None = None) -> None:
        """The call is over, and has used so many tokens. A second time does nothing."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave(tokens)


class Gate:
    """All that one provider's calls wait for, in this order: a place of its own, its rate, the GPU."""

    def __init__(
        self, places: int | None, *, most: int | None = None, meters: Meters | None = None, gpu: ResourceGroup | None = None
    ) -> None:
        self.places = places
        self._queue = Queue(places, most) if places is not None else None
        self._meters = meters
        self._gpu = gpu

    @property
    def shared(self) -> bool:
        """Whether it matters which model is in the GPU."""
        return self._gpu is not None

    @property
    def waits(self) -> bool:
        """Whether a call that comes now would stand in a line."""
        queues = [queue for queue in (self._queue, self._gpu) if queue is not None]
        return any(queue.waiting or queue.running >= queue.places for queue in queues)

    async def enter(
        self,
        deadline: Deadline,
        tell: TellPosition = None,
        *,
        caller: str = "",
        holder: Holder | None = None,
    ) -> Place:
        """Wait for all of it; the place must be left. `holder` says which model will be in the GPU.

        Raises DeadlineExceededError (phase queue), OverloadedError (`QUEUE_FULL`) and RateLimitError (`LOCAL_RATE_LIMIT`) when our own
        rate allows the call only after the queue limit.
        """
        if self._queue is None and self._meters is None and self._gpu is None:
            return Place(None)
        queue, meters, gpu = self._queue, self._meters, self._gpu
        if queue is not None:
            await queue.enter(deadline, caller, tell)
        undo: Callable[[], None] | None = None
        try:
            if meters is not None:
                undo = await meters.enter(deadline, caller)
            if gpu is not None:
                await gpu.enter(deadline, caller, tell, holder)
        except BaseException:
            if undo is not None:
                undo()
            if queue is not None:
                queue.leave()
            raise

        def leave(tokens: int | None) -> None:
            if gpu is not None:
                gpu.leave(holder)
            if meters is not None:
                meters.spent(caller, tokens)
            if queue is not None:
                queue.leave()

        return Place(leave)

    @asynccontextmanager
    async def place(
        self, deadline: Deadline, tell: TellPosition = None, *, caller: str = "", holder: Holder | None = None
    ) -> AsyncIterator[Place]:
        place = await self.enter(deadline, tell, caller=caller, holder=holder)
        try:
            yield place
        finally:
            place.leave()
