"""Image work beside an event loop: as many at once as there are processors, over all loops and threads of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import anyio

from majordomo.concurrency.loop_wakeup import make_waker

T = TypeVar("T")
MAX_WORKERS = os.cpu_count() or 1
_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()


async def in_thread(work: Callable[..., T], *arguments: object, **options: object) -> T:
    """`work(*arguments, **options)` in a worker thread, as in `await in_thread(contact_sheet, images, columns=3)`. A cancellation does not
    wait: what has not begun is never done, what runs goes on unheard."""
    return await run_stoppable(lambda stopped: work(*arguments, **options))


async def run_stoppable(work: Callable[[threading.Event], T]) -> T:
    """As `in_thread`; the event that `work` is given is set when nobody waits any more, so that it may stop where it likes."""
    done, stopped = anyio.Event(), threading.Event()
    wake = make_waker(done.set)
    future: Future[T] = _threads().submit(work, stopped)
    future.add_done_callback(lambda _: wake())
    try:
        await done.wait()
    except BaseException:
        stopped.set()
        future.cancel()
        raise
    return future.result()


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(MAX_WORKERS, "majordomo-imaging")
        return _pool


def _after_fork() -> None:
    """The parent's threads are not in a forked child."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
