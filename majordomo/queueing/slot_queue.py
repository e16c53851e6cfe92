"""A fair queue in which calls of all event loops and threads wait for slots.

Theory of operation:

* A lock protects a `FairQueue`; it is held for its O(1) steps only, never while waiting.
* No anyio object is shared between event loops: each waiting call has its own event and is woken in
  its own loop through `make_waker`.
* A call that is admitted owns one slot until `release`. A call that leaves `acquire` with an error
  is withdrawn first, which also returns a slot that it received in the same moment.
* After a fork, the child starts with all slots free.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from majordomo.concurrency.fork_safety import Lock
from majordomo.concurrency.loop_wakeup import make_waker
from majordomo.queueing.fair_queue import FairQueue, Waiter
from majordomo.queueing.rate_limiter import queue_full_error
from majordomo.transport_types import Deadline

OnPosition = Callable[[int], None] | None


class SlotQueue:
    """A fair queue with waiting; at most `max_queue` calls wait at once (None: no limit)."""

    def __init__(self, slots: int, max_queue: int | None = None, name: str = "") -> None:
        self.slots = slots
        self.max_queue = max_queue
        self.name = name
        self._reset()
        self._lock = Lock(self._reset)

    def _reset(self) -> None:
        """Free all slots: the calls of a parent process do not run in a forked child."""
        self._queue = FairQueue(self.slots)

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        return self._queue.waiting

    @property
    def running(self) -> int:
        """The number of calls that hold a slot."""
        return self.slots - self._queue.free

    async def acquire(
        self, deadline: Deadline, user_id: str = "", on_position: OnPosition = None
    ) -> None:
        """Wait for a slot, within the queue limit; `release` must follow.

        `on_position` is called with the position, from 1, when it changes. Beyond the first 10 it
        is not called for every move.

        Raises:
            DeadlineExceededError: The queue limit has passed (phase queue).
            OverloadedError: At once, when the queue is full (`QUEUE_FULL`).
        """
        with self._lock:
            if self._queue.free and not self._queue.waiting:
                self._queue.free -= 1
                return
            if self.max_queue is not None and self._queue.waiting >= self.max_queue:
                raise queue_full_error(
                    self._queue.waiting, f" for {self.name}" if self.name else ""
                )
            moved = anyio.Event()
            waiter = Waiter(user_id, lambda: wake(), listens=on_position is not None)
            wake = make_waker(lambda: moved.set())
            if self._queue.acquire(waiter):
                return
        deadline.start_phase("queue")
        reported = 0
        try:
            while not waiter.admitted:
                moved = anyio.Event()
                if on_position is not None and waiter.position not in (0, reported):
                    reported = waiter.position
                    on_position(reported)
                # It may have been admitted before the new event was created.
                if waiter.admitted:
                    break
                with anyio.move_on_after(deadline.next_timeout()) as scope:
                    await moved.wait()
                if scope.cancelled_caught and not waiter.admitted:
                    raise deadline.exceeded()
        except BaseException:
            with self._lock:
                self._queue.withdraw(waiter)
            raise

    def release(self) -> None:
        """Release a slot to the next waiter."""
        with self._lock:
            self._queue.release()
