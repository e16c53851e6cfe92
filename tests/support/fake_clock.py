"""A clock that tests move by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.lowlevel import checkpoint

from majordomo.bots import Clock


class FakeClock(Clock):
    """A clock that stands still until `advance` is called.

    `waits` holds the end time and the cancel scope of every running `wait_for`.
    """

    def __init__(self) -> None:
        self.time = 100.0
        self.waits: list[tuple[float, anyio.CancelScope]] = []

    def now(self) -> float:
        return self.time

    async def wait_for(self, seconds: float, wait: Callable[[], Awaitable[object]]) -> bool:
        with anyio.CancelScope() as scope:
            entry = (self.time + seconds, scope)
            self.waits.append(entry)
            try:
                await wait()
            finally:
                self.waits.remove(entry)
        return not scope.cancelled_caught

    async def run_ready_tasks(self) -> None:
        """Let all tasks run until they wait."""
        for _ in range(30):
            await checkpoint()

    async def advance(self, seconds: float) -> None:
        """Move the clock, cancel the waits that have timed out, and let all tasks run."""
        await self.run_ready_tasks()
        self.time += seconds
        for until, scope in list(self.waits):
            if until <= self.time + 1e-9:
                scope.cancel()
        await self.run_ready_tasks()
