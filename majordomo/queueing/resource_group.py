"""Several models and providers that share one GPU: a lease, within one process."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from majordomo.concurrency.fork_safety import Lock, forget_after_fork
from majordomo.errors import ConfigurationError
from majordomo.queueing.slot_queue import Queue, TellPosition
from majordomo.transport_types import Deadline

LOOK = 0.02  # seconds between two looks whether a model has been let go of
RELEASE_TIME = 30.0  # seconds a backend has to let go of a model before the next one loads all the same


@dataclass(frozen=True, slots=True)
class Holder:
    """A model of a provider, and what makes the backend let go of its memory, where there is such a thing."""

    provider: int  # which provider object, not which kind: two servers may have models of one name
    model: str
    release: Callable[[], Awaitable[None]] | None = field(default=None, compare=False)


class ResourceGroup:
    """A GPU, or anything else that models of several providers share: `LlamaSwap(..., gpu=box)`, `Ollama(..., gpu=box)`.

    `places` calls run at once, of chat and pictures together; the others wait, callers (`with_caller`) taking turns, and are told their
    position. `queue`: at most this many wait, further ones get OverloadedError (`QUEUE_FULL`) at once. `unload`: before a model begins
    that is not the last one, the backend of each idle one is asked to unload it (llama-swap, Ollama), so that a large one fits. The lease
    holds in this process, in all its event loops and threads. Raises ConfigurationError for numbers that cannot be.
    """

    def __init__(self, name: str = "gpu", places: int = 1, queue: int | None = None, unload: bool = False) -> None:
        for field_name, value, least in (("places", places, 1), ("queue", queue, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigurationError(f"{field_name} is a whole number from {least}", details={"field": field_name})
        if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= 100:
            raise ConfigurationError("a group's name is 1 to 100 printable characters", details={"field": "name"})
        self.name = name
        self.places = places
        self.queue = queue
        self.unload = unload
        self._queue = Queue(places, queue, name)
        self._lock = threading.Lock()
        self._active: Counter[Holder] = Counter()
        self._resident: dict[Holder, Holder] = {}
        self._leaving: Counter[Holder] = Counter()
        forget_after_fork(self)

    @property
    def running(self) -> int:
        """Calls that hold a place now."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    async def enter(self, deadline: Deadline, caller: str = "", tell: TellPosition = None, holder: Holder | None = None) -> None:
        """Wait for a place, and for the memory of others where `unload` says so; `leave` must follow."""
        await self._queue.enter(deadline, caller, tell)
        if holder is None:
            return
        with self._lock:
            self._active[holder] += 1
            idle: list[Holder] = []
            if self.unload:  # else nobody asks who is there, and a group must not keep closed providers
                idle = [other for other in self._resident.values() if other != holder and not self._active[other]]
                for other in idle:
                    del self._resident[other]
                self._leaving.update(idle)
                self._resident[holder] = holder
        try:
            while idle:
                await _release(idle[-1], deadline)
                with self._lock:
                    self._left(idle.pop())
            # On another place: a call that began now would be cut off by it
            while self._leaving.get(holder) and deadline.left() > 0:  # noqa: ASYNC110 (it may be an event loop of another thread's)
                await anyio.sleep(LOOK)
        except BaseException:
            with self._lock:
                for other in idle:  # they may still be there: whoever comes next asks them again
                    self._left(other)
                    self._resident.setdefault(other, other)
            self.leave(holder)
            raise

    def _left(self, holder: Holder) -> None:
        self._leaving[holder] -= 1
        if self._leaving[holder] <= 0:
            del self._leaving[holder]

    def leave(self, holder: Holder | None = None) -> None:
        if holder is not None:
            with self._lock:
                self._active[holder] -= 1
                if self._active[holder] <= 0:
                    del self._active[holder]
        self._queue.leave()

    def forget(self) -> None:
        """In a forked child: see Queue. What is in the GPU's memory is there for the child as well."""
        self._lock = threading.Lock()
        self._active = Counter()
        self._leaving = Counter()

    def __repr__(self) -> str:
        return f"<ResourceGroup {self.name}: {self.running} of {self.places} running, {self.waiting} waiting>"


async def _release(holder: Holder, deadline: Deadline) -> None:
    """A backend that cannot be asked, or does not answer, is no reason not to try the next model: it may fit."""
    if holder.release is None:
        return
    with anyio.move_on_after(min(RELEASE_TIME, deadline.left())):
        try:
            await holder.release()
        except Exception:  # not ours alone: it is another provider's way of asking, perhaps from another event loop than it was made for
            return


_named: weakref.WeakValueDictionary[str, ResourceGroup] = weakref.WeakValueDictionary()
_lock = Lock()


def named_group(name: str, **settings: Any) -> ResourceGroup:
    """The group of this name, which lives as long as a provider uses it; made with these settings when there is none yet.

    Raises ConfigurationError for settings that cannot be, or are others than those it was made with.
    """
    wanted = ResourceGroup(name, **settings)
    with _lock:
        group = _named.setdefault(name, wanted)
    for setting in settings:
        if getattr(group, setting) != getattr(wanted, setting):
            raise ConfigurationError(f"group {name!r} is in use with another {setting}", details={"field": "gpu"})
    return group
