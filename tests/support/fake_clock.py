"""A clock that moves when it is told to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.lowlevel import checkpoint

from majordomo.bots import Clock


class FakeClock(Clock):
    def __init__(self) -> None:
        self.time = 100.0
        self.waits: list[tuple[float, anyio.CancelScope]] = []

    def now(self) -> float:
        return self.time

    async def within(self, seconds: float, wait: Callable[[], Awaitable[object]]) -> bool:
        with anyio.CancelScope() as scope:
            entry = (self.time + seconds, scope)
            self.waits.append(entry)
            try:
                await wait()
            finally:
                self.waits.remove(entry)
        return not scope.cancelled_caught

    async def settle(self) -> None:
        """Let everybody who can go on do so."""
        for _ in range(30):
            await checkpoint()

    async def advance(self, seconds: float) -> None:
        await self.settle()
        self.time += seconds
        for until, scope in list(self.waits):
            if until <= self.time + 1e-9:
                scope.cancel()
        await self.settle()
