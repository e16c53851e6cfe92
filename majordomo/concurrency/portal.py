"""The sync API: one event loop in one daemon thread per process.

Theory of operation:

* The first blocking call starts a daemon thread that runs `anyio.run` with a `BlockingPortal`.
  Thread and portal live until the process ends; nothing closes them. A daemon thread never delays
  the end of the interpreter.
* If the thread cannot start an event loop, the call raises its error, and the next blocking call
  tries again.
* `run` starts a coroutine in that loop and blocks the calling thread until it is done. An exception
  in the calling thread, such as KeyboardInterrupt, cancels the coroutine, which cleans up as after
  any cancellation. On Windows, Ctrl-C does not end the wait for a lock, so there the calling thread
  waits in short turns, between which the interpreter raises the KeyboardInterrupt.
* It works while an event loop runs in the calling thread, because it uses a loop of its own. In the
  portal's own thread a blocking call would wait for itself, so it raises RuntimeError.
* After a fork, the child forgets the parent's portal and starts its own at its first blocking call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from majordomo.concurrency.fork_safety import Lock

if TYPE_CHECKING:
    from concurrent.futures import Future

    from anyio.from_thread import BlockingPortal

T = TypeVar("T")
# Seconds after which the calling thread wakes up; -1, which is for ever, where a signal does it.
_WAIT_SECONDS: float = 0.2 if os.name == "nt" else -1

_portal: BlockingPortal | None = None
_thread: threading.Thread | None = None


def _reset_after_fork() -> None:
    """Forget the portal in a forked child, where its thread does not exist."""
    global _portal, _thread
    _portal = _thread = None


_lock = Lock(_reset_after_fork)


def run(function: Callable[[], Awaitable[T]]) -> T:
    """Return the result of `await function()`, run in the portal's event loop.

    A KeyboardInterrupt in the calling thread cancels it.
    """
    portal = _get_portal()
    # A KeyboardInterrupt may be raised in any line that waits. Here it leaves no lock of the future
    # taken, as it could inside `future.result(timeout)`.
    running = threading.Lock()
    running.acquire()
    future: Future[T] = portal.start_task_soon(function)
    try:
        future.add_done_callback(lambda _: running.release())
        while not running.acquire(timeout=_WAIT_SECONDS):
            pass
        return future.result()
    except BaseException:
        if not future.done():
            # The task receives an ordinary cancellation and cleans up.
            future.cancel()
        raise


def is_portal_thread() -> bool:
    """Return whether this is the portal's thread, in which a blocking call would deadlock."""
    return _thread is threading.current_thread()


def is_running() -> bool:
    """Return whether the portal was started in this process."""
    return _portal is not None


def _get_portal() -> BlockingPortal:
    global _portal, _thread
    # Not imported before the first blocking call.
    from concurrent.futures import Future

    if is_portal_thread():
        raise RuntimeError(
            "a blocking call was made inside the event loop of the sync API;"
            " use the async method instead"
        )
    with _lock:
        if _portal is None:
            ready: Future[BlockingPortal] = Future()
            _thread = threading.Thread(
                target=_serve, args=(ready,), name="majordomo-portal", daemon=True
            )
            try:
                _thread.start()
                _portal = ready.result()
            except BaseException:
                _thread = None
                raise
        return _portal


def _serve(ready: Future[BlockingPortal]) -> None:
    """Run the portal's event loop; set the portal, or the error that prevents it, on `ready`."""
    try:
        import anyio
        from anyio.from_thread import BlockingPortal

        async def main() -> None:
            async with BlockingPortal() as portal:
                ready.set_result(portal)
                await portal.sleep_until_stopped()

        anyio.run(main)
    except BaseException as error:
        if ready.done():
            raise
        # An event loop needs file descriptors, for example, and there may be none.
        ready.set_exception(error)
