"""Wake an event loop from another thread."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def running_trio() -> Any:
    """Return the module trio if trio runs the current task, else None.

    Another thread may be in the middle of importing trio.
    """
    lowlevel: Any = getattr(sys.modules.get("trio"), "lowlevel", None)
    in_task = getattr(lowlevel, "in_trio_task", None)
    return sys.modules["trio"] if in_task is not None and in_task() else None


def make_waker(wake: Callable[[], None]) -> Callable[[], bool]:
    """Return a function that schedules `wake` in the event loop that runs now.

    It may be called from any thread, and returns False if that loop has ended.
    """
    trio = running_trio()
    schedule: Callable[[Callable[[], None]], Any]
    loop_ended: type[BaseException]
    if trio is not None:
        schedule = trio.lowlevel.current_trio_token().run_sync_soon
        loop_ended = trio.RunFinishedError
    else:
        # The running loop has imported it already.
        import asyncio

        loop = asyncio.get_running_loop()

        def schedule(wake: Callable[[], None]) -> None:
            # In the same loop, which is the usual case, nothing has to be written to the pipe that
            # interrupts the loop's wait.
            try:
                in_loop = asyncio.get_running_loop() is loop
            except RuntimeError:
                in_loop = False
            (loop.call_soon if in_loop else loop.call_soon_threadsafe)(wake)

        loop_ended = RuntimeError

    def wake_loop() -> bool:
        try:
            schedule(wake)
        except loop_ended:
            return False
        return True

    return wake_loop
