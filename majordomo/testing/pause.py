"""A place in a script where it waits for the test: a step, not a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from majordomo.concurrency.loop_wakeup import make_waker
from majordomo.testing.errors import ScriptError


class _Latch:
    """Once set, set for ever; may be awaited in any event loop and set from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._wakers: list[Callable[[], object]] = []

    def set(self) -> None:
        with self._lock:
            self._set.set()
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def is_set(self) -> bool:
        return self._set.is_set()

    async def wait(self) -> None:
        event = anyio.Event()
        with self._lock:
            if self._set.is_set():
                return
            self._wakers.append(make_waker(event.set))
        await event.wait()

    def wait_sync(self, seconds: float) -> bool:
        return self._set.wait(seconds)


class Pause:
    """Stands in a script; what comes after it is told once the test says `release()`. Works across threads, for the blocking calls too.

    A released pause stays released: make one for each place.
    """

    def __init__(self) -> None:
        self._reached = _Latch()
        self._released = _Latch()

    def release(self) -> None:
        """Let the script go on. May be called before it is reached, from any thread, and twice."""
        self._released.set()

    async def reached(self) -> None:
        """Wait until the script stands here: everything before has been told."""
        await self._reached.wait()

    def reached_sync(self, seconds: float = 10) -> None:
        """The same, blocking. Raises ScriptError when that takes longer than `seconds`."""
        if not self._reached.wait_sync(seconds):
            raise ScriptError(
                f"the script did not come to this pause within {seconds:g} s",
                code="PAUSE_NOT_REACHED",
            )

    async def pass_through(self) -> None:
        """What a script does here: say that it is reached, wait for the release."""
        self._reached.set()
        await self._released.wait()

    def __repr__(self) -> str:
        return f"<Pause, {'released' if self._released.is_set() else 'reached' if self._reached.is_set() else 'not reached'}>"
