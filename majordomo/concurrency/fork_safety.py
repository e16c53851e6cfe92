"""What begins anew in a forked child: a lock may be held by a thread that is not there, and the parent's calls do not run there."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol


class ForkAware(Protocol):
    def reset_after_fork(self) -> None: ...


def register_fork_aware(what: ForkAware) -> None:
    """Have `what.forget()` called in each forked child, for as long as it lives."""
    _forgetful.add(what)


class Lock:
    """A lock for `with` that nobody holds in a forked child, whichever thread held it in the parent."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        register_fork_aware(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if (
            self._lock.locked()
        ):  # else it was forgotten since: whoever forks within the block leaves it twice
            self._lock.release()

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()


_forgetful: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def _after_fork() -> None:
    for what in list(_forgetful):
        what.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
