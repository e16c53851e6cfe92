"""Wait for a condition that no event announces, such as a request that reached a server thread."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Return when `condition()` is true; raise TimeoutError after `seconds`."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.001)
