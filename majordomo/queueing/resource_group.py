"""Several models and providers that share one GPU: a lease, within one process."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from majordomo.concurrency.fork_safety import Lock, register_fork_aware
from majordomo.errors import ConfigurationError
from majordomo.queueing.slot_queue import OnPosition, SlotQueue
from majordomo.transport_types import Deadline

POSITION_INTERVAL = 0.02  # seconds between two looks whether a model has been let go of
UNLOAD_SECONDS = (
    30.0  # seconds a backend has to let go of a model before the next one loads all the same
)


@dataclass(frozen=True, slots=True)
class ModelLease:
    """A model of a provider, and what makes the backend let go of its memory, where there is such a thing."""

    provider: int  # which provider object, not which kind: two servers may have models of one name
    model: str
    unload: Callable[[], Awaitable[None]] | None = field(default=None, compare=False)


class ResourceGroup:
    """A GPU, or anything else that models of several providers share: `LlamaSwap(..., gpu=box)`, `Ollama(..., gpu=box)`.

    `places` calls run at once, of chat and images together; the others wait, callers (`with_user_id`) taking turns, and are told their
    position. `queue`: at most this many wait, further ones get OverloadedError (`QUEUE_FULL`) at once. `unload`: before a model begins
    that is not the last one, the backend of each idle one is asked to unload it (llama-swap, Ollama), so that a large one fits. The lease
    holds in this process, in all its event loops and threads. Raises ConfigurationError for numbers that cannot be.
    """

    def __init__(
        self, name: str = "gpu", slots: int = 1, max_queue: int | None = None, unload: bool = False
    ) -> None:
        for field_name, value, least in (("slots", slots, 1), ("max_queue", max_queue, 0)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < least
            ):
                raise ConfigurationError(
                    f"{field_name} is a whole number from {least}", details={"field": field_name}
                )
        if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= 100:
            raise ConfigurationError(
                "a group's name is 1 to 100 printable characters", details={"field": "name"}
            )
        self.name = name
        self.slots = slots
        self.max_queue = max_queue
        self.unload = unload
        self._queue = SlotQueue(slots, max_queue, name)
        self._lock = threading.Lock()
        self._active: Counter[ModelLease] = Counter()
        self._resident: dict[ModelLease, ModelLease] = {}
        self._leaving: Counter[ModelLease] = Counter()
        register_fork_aware(self)

    @property
    def running(self) -> int:
        """Calls that hold a place now."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    async def acquire(
        self,
        deadline: Deadline,
        user_id: str = "",
        on_position: OnPosition = None,
        lease: ModelLease | None = None,
    ) -> None:
        """Wait for a place, and for the memory of others where `unload` says so; `leave` must follow."""
        await self._queue.acquire(deadline, user_id, on_position)
        if lease is None:
            return
        with self._lock:
            self._active[lease] += 1
            idle: list[ModelLease] = []
            if (
                self.unload
            ):  # else nobody asks who is there, and a group must not keep closed providers
                idle = [
                    other
                    for other in self._resident.values()
                    if other != lease and not self._active[other]
                ]
                for other in idle:
                    del self._resident[other]
                self._leaving.update(idle)
                self._resident[lease] = lease
        try:
            while idle:
                await _unload(idle[-1], deadline)
                with self._lock:
                    self._unload_previous(idle.pop())
            # On another place: a call that began now would be cut off by it
            while self._leaving.get(lease) and deadline.remaining() > 0:  # noqa: ASYNC110
                await anyio.sleep(POSITION_INTERVAL)
        except BaseException:
            with self._lock:
                for other in idle:  # they may still be there: whoever comes next asks them again
                    self._unload_previous(other)
                    self._resident.setdefault(other, other)
            self.release(lease)
            raise

    def _unload_previous(self, lease: ModelLease) -> None:
        self._leaving[lease] -= 1
        if self._leaving[lease] <= 0:
            del self._leaving[lease]

    def release(self, lease: ModelLease | None = None) -> None:
        if lease is not None:
            with self._lock:
                self._active[lease] -= 1
                if self._active[lease] <= 0:
                    del self._active[lease]
        self._queue.release()

    def reset_after_fork(self) -> None:
        """In a forked child: see Queue. What is in the GPU's memory is there for the child as well."""
        self._lock = threading.Lock()
        self._active = Counter()
        self._leaving = Counter()

    def __repr__(self) -> str:
        return f"<ResourceGroup {self.name}: {self.running} of {self.slots} running, {self.waiting} waiting>"


async def _unload(holder: ModelLease, deadline: Deadline) -> None:
    """A backend that cannot be asked, or does not answer, is no reason not to try the next model: it may fit."""
    if holder.unload is None:
        return
    with anyio.move_on_after(min(UNLOAD_SECONDS, deadline.remaining())):
        try:
            await holder.unload()
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
            raise ConfigurationError(
                f"group {name!r} is in use with another {setting}", details={"field": "gpu"}
            )
    return group
