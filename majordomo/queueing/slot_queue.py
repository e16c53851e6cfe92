"""A line in which calls wait, from all event loops and threads: nothing of anyio is shared, who waits is woken in its own loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from majordomo.concurrency.fork_safety import forget_after_fork
from majordomo.concurrency.loop_wakeup import waker
from majordomo.queueing.fair_queue import Line, Ticket
from majordomo.queueing.rate_limiter import queue_full
from majordomo.transport_types import Deadline

TellPosition = Callable[[int], None] | None


class Queue:
    """A line of `places` with somebody to wait in it; at most `most` wait at once (None: no bound)."""

    def __init__(self, places: int, most: int | None = None, name: str = "") -> None:
        self.places = places
        self.most = most
        self.name = name
        self._lock = threading.Lock()
        self._line = Line(places)
        forget_after_fork(self)

    @property
    def waiting(self) -> int:
        return self._line.waiting

    @property
    def running(self) -> int:
        return self.places - self._line.free

    async def enter(self, deadline: Deadline, caller: str = "", tell: TellPosition = None) -> None:
        """Wait for a place, at most as long as the queue limit allows; `leave` must follow. `tell` hears the position when
        it changes, from 1; beyond the first 10 not every move is told.

        Raises DeadlineExceededError (phase queue), and OverloadedError (`QUEUE_FULL`) at once when as many wait as may.
        """
        with self._lock:
            if self._line.free and not self._line.waiting:
                self._line.free -= 1
                return
            if self.most is not None and self._line.waiting >= self.most:
                raise queue_full(self._line.waiting, f" for {self.name}" if self.name else "")
            moved = anyio.Event()
            mine = Ticket(caller, lambda: wake(), listens=tell is not None)
            wake = waker(lambda: moved.set())
            if self._line.enter(mine):
                return
        deadline.enter("queue")
        told = 0
        try:
            while not mine.admitted:
                moved = anyio.Event()
                if tell is not None and mine.position not in (0, told):
                    told = mine.position
                    tell(told)
                if mine.admitted:  # between the last look and the new event
                    break
                with anyio.move_on_after(deadline.wait()) as scope:
                    await moved.wait()
                if scope.cancelled_caught and not mine.admitted:
                    raise deadline.exceeded()
        except BaseException:
            with self._lock:
                self._line.withdraw(mine)
            raise

    def leave(self) -> None:
        """Give the place to the next in line."""
        with self._lock:
            self._line.leave()

    def forget(self) -> None:
        """In a forked child: what the parent's calls hold is not held here."""
        self._lock = threading.Lock()
        self._line = Line(self.places)
