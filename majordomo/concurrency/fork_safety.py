"""Reset state in a forked child.

In the child, a lock may be held by a thread that does not exist there, and the parent's calls do
not run.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol


class ForkAware(Protocol):
    """An object with state to reset in a forked child."""

    def reset_after_fork(self) -> None:
        """Reset the state. Called in the child, in its only thread."""
        ...


def register_fork_aware(instance: ForkAware) -> None:
    """Call `instance.reset_after_fork()` in each forked child, for as long as the object lives."""
    _fork_aware.add(instance)


class Lock:
    """A lock for `with` blocks that is free in a forked child, even if the parent held it."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        register_fork_aware(self)

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

    def reset_after_fork(self) -> None:
        """Replace the lock by a free one."""
        self._lock = threading.Lock()


_fork_aware: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def _after_fork() -> None:
    for instance in list(_fork_aware):
        instance.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
