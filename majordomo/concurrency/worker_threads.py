"""Worker threads for image processing, beside an event loop.

At most as many jobs run at once as there are processors, over all event loops and threads of the
process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import anyio

from majordomo.concurrency.fork_safety import Lock
from majordomo.concurrency.loop_wakeup import make_waker

T = TypeVar("T")
MAX_WORKERS = os.cpu_count() or 1
_executor: ThreadPoolExecutor | None = None


def _reset_after_fork() -> None:
    """Forget the executor in a forked child, where its threads do not exist."""
    global _executor
    _executor = None


_lock = Lock(_reset_after_fork)


async def in_thread(function: Callable[..., T], *arguments: object, **options: object) -> T:
    """Run a blocking function in a worker thread and return its result.

    At most as many functions run at once as there are processors; others wait. A cancellation does
    not wait: a function that has not started never runs, and one that runs continues, but its
    result is discarded.

    Args:
        function: The function to call.
        *arguments: Its positional arguments.
        **options: Its keyword arguments.

    Example:
        ```python
        sheet = await imaging.in_thread(imaging.contact_sheet, images, columns=3)
        ```
    """
    return await run_stoppable(lambda stopped: function(*arguments, **options))


async def run_stoppable(function: Callable[[threading.Event], T]) -> T:
    """Run `function(stopped)` in a worker thread; see `in_thread`.

    The event `stopped` is set when the caller no longer waits, so that the function can end early.
    """
    done, stopped = anyio.Event(), threading.Event()
    wake = make_waker(done.set)
    future: Future[T] = _get_executor().submit(function, stopped)
    future.add_done_callback(lambda _: wake())
    try:
        await done.wait()
    except BaseException:
        stopped.set()
        future.cancel()
        raise
    return future.result()


def _get_executor() -> ThreadPoolExecutor:
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(MAX_WORKERS, "majordomo-imaging")
        return _executor
