"""A fair queue in which calls of all event loops and threads wait for slots.

Theory of operation:

* A lock protects a `FairQueue`; it is held for its short steps only, never while waiting.
* No anyio object is shared between event loops: each waiting call has its own event and is woken in
  its own loop through `make_waker`.
* A call that is admitted owns one slot until `release`. A call that leaves `acquire` with an error
  is withdrawn first, which also returns a slot that it received in the same moment.
* After a fork, the child starts with all slots free.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from inspect import isawaitable

import anyio

from majordomo.concurrency.fork_safety import Lock
from majordomo.concurrency.loop_wakeup import make_waker
from majordomo.errors import OverloadedError
from majordomo.queueing.fair_queue import FairQueue
from majordomo.queueing.waiter import ProviderLimit, Waiter
from majordomo.transport_types import Deadline

OnPosition = Callable[[int], object] | None


def queue_full_error(waiting: int, where: str = "") -> OverloadedError:
    """Return the error for a full queue. It is raised at once instead of after a useless wait."""
    return OverloadedError(
        f"the queue{where} is full: {waiting:,} calls are waiting; try again later",
        code="QUEUE_FULL",
        details={"waiting": waiting},
    )


class SlotQueue:
    """A fair queue with waiting.

    Args:
        slots: Calls that run at once.
        max_queue: Calls that may wait; None means no limit.
        name: Name of the queue for error messages.
        max_batch_calls: See `FairQueue`.
        max_batch_seconds: See `FairQueue`.
        clock: Returns seconds of a clock that is never set.
    """

    def __init__(
        self,
        slots: int,
        max_queue: int | None = None,
        name: str = "",
        *,
        max_batch_calls: int = 1,
        max_batch_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = slots
        self.max_queue = max_queue
        self.name = name
        self._max_batch_calls = max_batch_calls
        self._max_batch_seconds = max_batch_seconds
        self._clock = clock
        self._reset()
        self._lock = Lock(self._reset)

    def _reset(self) -> None:
        """Free all slots: the calls of a parent process do not run in a forked child."""
        self._queue = FairQueue(self.slots, self._max_batch_calls, self._max_batch_seconds)

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        return self._queue.waiting

    @property
    def running(self) -> int:
        """The number of calls that hold a slot."""
        return self.slots - self._queue.free

    def positions(self, user_id: str) -> tuple[int, ...]:
        """Return the positions of a user's waiting calls, from 1."""
        with self._lock:
            return self._queue.positions(user_id, self._clock())

    def would_wait(self, limit: ProviderLimit | None = None) -> bool:
        """Return whether a new call with this limit would have to wait."""
        return not self._queue.free or not self._queue.is_ready(limit)

    def check_not_full(self, limit: ProviderLimit | None = None) -> None:
        """Raise OverloadedError (`QUEUE_FULL`) if no further call with this limit may wait."""
        if self.max_queue is not None and self._queue.waiting >= self.max_queue:
            raise queue_full_error(self._queue.waiting, f" for {self.name}" if self.name else "")
        if limit is not None and limit.max_queue is not None:
            waiting = self._queue.waiting_with(limit)
            if waiting >= limit.max_queue:
                raise queue_full_error(waiting, " of the provider")

    async def acquire(
        self,
        deadline: Deadline,
        user_id: str = "",
        on_position: OnPosition = None,
        model: Hashable = None,
        limit: ProviderLimit | None = None,
    ) -> None:
        """Wait for a slot, within the queue limit; `release` with the same limit must follow.

        Calls of the same `model` are batched. `on_position` is called with the position, from 1,
        when it changes, and awaited if it is an async function. Beyond the first 10 it is not
        called for every move.

        Raises:
            DeadlineExceededError: The queue limit has passed (phase queue).
            OverloadedError: At once, when the queue is full (`QUEUE_FULL`).
        """
        with self._lock:
            now = self._clock()
            if self._queue.take_free(model, limit, now):
                return
            self.check_not_full(limit)
            moved = anyio.Event()
            waiter = Waiter(
                user_id,
                lambda: wake(),
                model=model,
                limit=limit,
                listens=on_position is not None,
            )
            wake = make_waker(lambda: moved.set())
            self._queue.acquire(waiter, now)
        deadline.start_phase("queue")
        reported = 0
        try:
            while not waiter.admitted:
                moved = anyio.Event()
                if on_position is not None and waiter.position not in (0, reported):
                    reported = waiter.position
                    result = on_position(reported)
                    if isawaitable(result):
                        await result
                # It may have been admitted before the new event was created.
                if waiter.admitted:
                    break
                with anyio.move_on_after(deadline.next_timeout()) as scope:
                    await moved.wait()
                if scope.cancelled_caught and not waiter.admitted:
                    raise deadline.exceeded()
        except BaseException:
            with self._lock:
                self._queue.withdraw(waiter, self._clock())
            raise

    def release(self, limit: ProviderLimit | None = None) -> None:
        """Release a slot to the next waiter."""
        with self._lock:
            self._queue.release(self._clock(), limit)
