"""How a thread tells an event loop that something has happened."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def running_trio() -> Any:
    """trio, when it runs this task; else None. Another thread may be half way through importing it."""
    lowlevel: Any = getattr(sys.modules.get("trio"), "lowlevel", None)
    in_task = getattr(lowlevel, "in_trio_task", None)
    return sys.modules["trio"] if in_task is not None and in_task() else None


def waker(wake: Callable[[], None]) -> Callable[[], bool]:
    """`wake` in the event loop that runs now, callable from any thread; False when that loop has ended."""
    trio = running_trio()
    if trio is not None:
        soon: Callable[[Callable[[], None]], Any] = trio.lowlevel.current_trio_token().run_sync_soon
        ended: type[BaseException] = trio.RunFinishedError
    else:
        import asyncio  # the running loop has loaded it

        soon, ended = asyncio.get_running_loop().call_soon_threadsafe, RuntimeError

    def call() -> bool:
        try:
            soon(wake)
        except ended:
            return False
        return True

    return call
