"""A line in which calls wait, from all event loops and threads: nothing of anyio is shared, who waits is woken in its own loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from majordomo.concurrency.fork_safety import register_fork_aware
from majordomo.concurrency.loop_wakeup import make_waker
from majordomo.queueing.fair_queue import FairQueue, Waiter
from majordomo.queueing.rate_limiter import queue_full_error
from majordomo.transport_types import Deadline

OnPosition = Callable[[int], None] | None


class SlotQueue:
    """A line of `places` with somebody to wait in it; at most `most` wait at once (None: no bound)."""

    def __init__(self, slots: int, max_queue: int | None = None, name: str = "") -> None:
        self.slots = slots
        self.max_queue = max_queue
        self.name = name
        self._lock = threading.Lock()
        self._line = FairQueue(slots)
        register_fork_aware(self)

    @property
    def waiting(self) -> int:
        return self._line.waiting

    @property
    def running(self) -> int:
        return self.slots - self._line.free

    async def acquire(
        self, deadline: Deadline, user_id: str = "", on_position: OnPosition = None
    ) -> None:
        """Wait for a place, at most as long as the queue limit allows; `leave` must follow. `tell` hears the position when
        it changes, from 1; beyond the first 10 not every move is told.

        Raises DeadlineExceededError (phase queue), and OverloadedError (`QUEUE_FULL`) at once when as many wait as may.
        """
        with self._lock:
            if self._line.free and not self._line.waiting:
                self._line.free -= 1
                return
            if self.max_queue is not None and self._line.waiting >= self.max_queue:
                raise queue_full_error(self._line.waiting, f" for {self.name}" if self.name else "")
            moved = anyio.Event()
            mine = Waiter(user_id, lambda: wake(), listens=on_position is not None)
            wake = make_waker(lambda: moved.set())
            if self._line.acquire(mine):
                return
        deadline.start_phase("queue")
        told = 0
        try:
            while not mine.admitted:
                moved = anyio.Event()
                if on_position is not None and mine.position not in (0, told):
                    told = mine.position
                    on_position(told)
                if mine.admitted:  # between the last look and the new event
                    break
                with anyio.move_on_after(deadline.next_timeout()) as scope:
                    await moved.wait()
                if scope.cancelled_caught and not mine.admitted:
                    raise deadline.exceeded()
        except BaseException:
            with self._lock:
                self._line.withdraw(mine)
            raise

    def release(self) -> None:
        """Give the place to the next in line."""
        with self._lock:
            self._line.release()

    def reset_after_fork(self) -> None:
        """In a forked child: what the parent's calls hold is not held here."""
        self._lock = threading.Lock()
        self._line = FairQueue(self.slots)
