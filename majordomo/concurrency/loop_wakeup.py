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


def make_waker(wake: Callable[[], None]) -> Callable[[], bool]:
    """`wake` in the event loop that runs now, callable from any thread; False when that loop has ended."""
    trio = running_trio()
    soon: Callable[[Callable[[], None]], Any]
    ended: type[BaseException]
    if trio is not None:
        soon, ended = trio.lowlevel.current_trio_token().run_sync_soon, trio.RunFinishedError
    else:
        import asyncio  # the running loop has loaded it

        loop = asyncio.get_running_loop()

        def soon(wake: Callable[[], None]) -> None:
            # From within the same loop, as nearly always, nothing has to be written to the pipe that interrupts its wait.
            try:
                within = asyncio.get_running_loop() is loop
            except RuntimeError:
                within = False
            (loop.call_soon if within else loop.call_soon_threadsafe)(wake)

        ended = RuntimeError

    def call() -> bool:
        try:
            soon(wake)
        except ended:
            return False
        return True

    return call
