"""The clock of this package. Tests replace it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


class Clock:
    """The clock of the running event loop, in seconds.

    Override `now` and `wait_for` in tests.
    """

    def now(self) -> float:
        """Return the current time in seconds."""
        return anyio.current_time()

    async def wait_for(self, seconds: float, wait: Callable[[], Awaitable[object]]) -> bool:
        """Await `wait()`, and cancel it after `seconds`.

        Returns:
            Whether `wait()` finished in time.
        """
        with anyio.move_on_after(seconds) as scope:
            await wait()
        return not scope.cancelled_caught

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`."""
        await self.wait_for(seconds, anyio.sleep_forever)
