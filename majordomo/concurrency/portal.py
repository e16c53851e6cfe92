"""The blocking color: one event loop in one daemon thread per process, started at the first blocking call.

Safe after fork (the child starts its own), works while a loop runs in the calling thread, lets KeyboardInterrupt cancel the call, and
never holds up the end of the interpreter.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

    from anyio.from_thread import BlockingPortal

T = TypeVar("T")

_lock = threading.Lock()
_portal: BlockingPortal | None = None
_thread: threading.Thread | None = None


def run(function: Callable[[], Awaitable[T]]) -> T:
    """The result of `await function()` in the portal's loop. A KeyboardInterrupt here cancels it there."""
    portal = _started()
    future: Future[T] = portal.start_task_soon(function)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()  # the task sees an ordinary cancellation, and cleans up
        raise


def is_portal_thread() -> bool:
    """Whether this is the portal's own thread, where a blocking call would wait for itself."""
    return _thread is threading.current_thread()


def is_running() -> bool:
    return _portal is not None


def _started() -> BlockingPortal:
    global _portal, _thread
    from concurrent.futures import Future  # not before the first blocking call

    if is_portal_thread():
        raise RuntimeError(
            "a blocking call inside the blocking call's own event loop; use the async one"
        )
    with _lock:
        if _portal is None:
            ready: Future[BlockingPortal] = Future()
            _thread = threading.Thread(
                target=_serve, args=(ready,), name="majordomo-portal", daemon=True
            )
            _thread.start()
            _portal = ready.result()
        return _portal


def _serve(ready: Future[BlockingPortal]) -> None:
    import anyio
    from anyio.from_thread import BlockingPortal

    async def main() -> None:
        async with BlockingPortal() as portal:
            ready.set_result(portal)
            await portal.sleep_until_stopped()

    anyio.run(main)


def _forget() -> None:
    """In a forked child: the parent's thread does not exist here."""
    global _portal, _thread, _lock
    _portal = _thread = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
