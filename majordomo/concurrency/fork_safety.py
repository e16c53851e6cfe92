"""Fork safety: a lock that is free in a forked child, where it resets the state that it protects.

In the child, a lock may be held by a thread that does not exist there, and the parent's calls do
not run. So every lock of this library is a `Lock`, which knows how to reset its state. Platforms
without `os.register_at_fork` cannot fork, and need nothing.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from inspect import ismethod
from types import TracebackType


class Lock:
    """A lock for `with` blocks that is free in a forked child, even if the parent held it.

    Args:
        reset: Resets the state that the lock protects. Called in the child, in its only thread,
            when all locks are free. Of a method, the object is not kept alive.
    """

    __slots__ = ("__weakref__", "_get_reset", "_lock")

    def __init__(self, reset: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._get_reset: Callable[[], Callable[[], None] | None] = (
            weakref.WeakMethod(reset) if ismethod(reset) else lambda: reset
        )
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After a fork inside the block, the lock was replaced in the child, and there is nothing to
        # release.
        if self._lock.locked():
            self._lock.release()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _after_fork() -> None:
    locks = list(_locks)
    for lock in locks:
        lock._lock = threading.Lock()
    for lock in locks:
        reset = lock._get_reset()
        if reset is not None:
            reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
