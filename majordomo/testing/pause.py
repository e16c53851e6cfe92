"""A step of a script that waits for the test, so that no test has to sleep.

A pause has two latches: the script sets `_reached` and waits for `_released`, and the test does
the opposite. A latch that is set stays set.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from majordomo.concurrency.fork_safety import Lock
from majordomo.concurrency.loop_wakeup import make_waker
from majordomo.testing.errors import ScriptError


class _Latch:
    """An event that stays set. It can be awaited in any event loop and set from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
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
    """A step of a script: what follows is emitted after the test calls `release()`.

    Works across threads, and so for sync calls too. A released pause stays released: create one
    for each use.

    Example:
        ```pycon
        >>> pause = Pause()
        >>> model = ScriptedChatModel([["Good ", pause, "evening"]])
        ```
    """

    def __init__(self) -> None:
        self._reached = _Latch()
        self._released = _Latch()

    def release(self) -> None:
        """Let the script continue.

        May be called from any thread, before the pause is reached, and more than once.
        """
        self._released.set()

    async def reached(self) -> None:
        """Wait until the script reaches this pause; everything before it has been emitted."""
        await self._reached.wait()

    def reached_sync(self, seconds: float = 10) -> None:
        """Block until the script reaches this pause.

        Args:
            seconds: Maximum time to wait.

        Raises:
            ScriptError: The pause was not reached in time (PAUSE_NOT_REACHED).
        """
        if not self._reached.wait_sync(seconds):
            raise ScriptError(
                f"the script did not reach this pause within {seconds:g} s",
                code="PAUSE_NOT_REACHED",
            )

    async def pass_through(self) -> None:
        """Mark the pause as reached and wait for its release; called by the script."""
        self._reached.set()
        await self._released.wait()

    def __repr__(self) -> str:
        if self._released.is_set():
            state = "released"
        else:
            state = "reached" if self._reached.is_set() else "not reached"
        return f"<Pause, {state}>"
