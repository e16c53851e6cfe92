"""Time, as the kit needs it; a test brings its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


class Clock:
    """The running event loop's clock, in seconds."""

    def now(self) -> float:
        return anyio.current_time()

    async def within(self, seconds: float, wait: Callable[[], Awaitable[object]]) -> bool:
        """`await wait()`, given up after `seconds`. Whether it came to its end."""
        with anyio.move_on_after(seconds) as scope:
            await wait()
        return not scope.cancelled_caught

    async def sleep(self, seconds: float) -> None:
        await self.within(seconds, anyio.sleep_forever)
