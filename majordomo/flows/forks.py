"""What begins anew in a forked child: a lock may be held by a thread that is not there, and the parent's calls do not run there."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgets(Protocol):
    def forget(self) -> None: ...


def forget_after_fork(what: Forgets) -> None:
    """Have `what.forget()` called in each forked child, for as long as it lives."""
    _forgetful.add(what)


_forgetful: weakref.WeakSet[Forgets] = weakref.WeakSet()


def _after_fork() -> None:
    for what in list(_forgetful):
        what.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
