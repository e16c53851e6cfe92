"""Resource groups: models of several providers share one GPU, within one process."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError
from majordomo.queueing.slot_queue import OnPosition, SlotQueue
from majordomo.queueing.waiter import ProviderLimit
from majordomo.transport_types import Deadline
from majordomo.validation import describe

# Seconds between two checks whether a model was unloaded.
UNLOAD_CHECK_SECONDS = 0.02
# Time limit for a backend to unload a model. After it, the next model loads all the same.
UNLOAD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ModelLease:
    """A model that uses a resource group."""

    server: str
    """Address of the server: two servers may have models with the same name."""
    model: str
    """Id of the model. Two ids of the same process have to be made one before."""
    unload: Callable[[], Awaitable[None]] | None = field(default=None, compare=False)
    """Asks the backend to unload the model. None when the backend cannot."""
    verified: bool = True
    """Whether `model` is known to be the id of a process. False where the server could not say: the
    id may be another name of any of its models."""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the model; it keeps no provider alive."""
        return self.server, self.model


class ResourceGroup:
    """A GPU, or another resource, that models of several providers share.

    At most `slots` calls run at once, chat and images together. Others wait in a queue, and receive
    their position. Calls for the model that is loaded go first, up to `max_batch_calls` or
    `max_batch_seconds`, so that models are loaded rarely; then the model that has waited longest is
    next. Among the calls of a model, user ids (`with_user_id`) take turns. The group works across
    all event loops and threads of this process.

    Args:
        name: Name for error messages, 1 to 100 printable characters.
        slots: Calls that run at once, from 1.
        max_queue: Calls that may wait, from 0; None means no limit. Further calls raise
            `OverloadedError` (`QUEUE_FULL`) at once.
        unload: Before a call to another model than the last one, ask the backends of idle models to
            unload them (llama-swap, Ollama), so that a large model fits.
        max_batch_calls: Calls of one model that are admitted in a row while calls for other models
            wait, from 1; 0 turns this off, for models that are loaded at the same time.
        max_batch_seconds: Seconds after which no further call of the loaded model goes before a
            waiting call for another model, from 0.

    Raises:
        ConfigurationError: If an argument is out of range.

    Example:
        ```python
        import majordomo as md

        box = md.ResourceGroup("box", unload=True)
        chat_provider = md.Ollama(gpu=box)
        image_provider = md.LlamaSwap("http://localhost:8080", gpu=box)
        ```
    """

    def __init__(
        self,
        name: str = "gpu",
        slots: int = 1,
        max_queue: int | None = None,
        unload: bool = False,
        *,
        max_batch_calls: int = 20,
        max_batch_seconds: float = 60.0,
    ) -> None:
        for field_name, value, minimum, optional in (
            ("slots", slots, 1, False),
            ("max_queue", max_queue, 0, True),
            ("max_batch_calls", max_batch_calls, 0, False),
        ):
            if (value is not None or not optional) and (
                isinstance(value, bool) or not isinstance(value, int) or value < minimum
            ):
                raise ConfigurationError(
                    f"{field_name} must be an integer from {minimum}; got {describe(value)}",
                    details={"field": field_name},
                )
        # NaN fails the comparison.
        if (
            isinstance(max_batch_seconds, bool)
            or not isinstance(max_batch_seconds, (int, float))
            or not max_batch_seconds >= 0
        ):
            raise ConfigurationError(
                f"max_batch_seconds must be a number from 0; got {describe(max_batch_seconds)}",
                details={"field": "max_batch_seconds"},
            )
        if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= 100:
            raise ConfigurationError(
                f"name must be 1 to 100 printable characters; got {describe(name)}",
                details={"field": "name"},
            )
        self.name = name
        self.slots = slots
        self.max_queue = max_queue
        self.unload = unload
        self.max_batch_calls = max_batch_calls
        self.max_batch_seconds = max_batch_seconds
        self._queue = SlotQueue(
            slots,
            max_queue,
            name,
            max_batch_calls=max_batch_calls,
            max_batch_seconds=max_batch_seconds,
        )
        # Models that are loaded stay known in a forked child.
        self._resident: dict[ModelLease, ModelLease] = {}
        self._reset()
        self._lock = Lock(self._reset)

    def _reset(self) -> None:
        """Forget all calls: those of a parent process do not run in a forked child."""
        self._active: Counter[ModelLease] = Counter()
        self._unloading: Counter[ModelLease] = Counter()

    @property
    def running(self) -> int:
        """The number of calls that hold a slot."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        return self._queue.waiting

    def would_wait(self, limit: ProviderLimit | None = None) -> bool:
        """Return whether a new call with this limit would have to wait."""
        return self._queue.would_wait(limit)

    async def acquire(
        self,
        deadline: Deadline,
        user_id: str = "",
        on_position: OnPosition = None,
        lease: ModelLease | None = None,
        limit: ProviderLimit | None = None,
    ) -> None:
        """Wait for a slot and, with `unload`, until idle models are unloaded.

        `release` with the same lease and limit must follow.
        """
        model = lease.key if lease is not None and self.max_batch_calls else None
        await self._queue.acquire(deadline, user_id, on_position, model, limit)
        if lease is None:
            return
        with self._lock:
            self._active[lease] += 1
            idle: list[ModelLease] = []
            # Without `unload`, loaded models are not tracked: the group must not keep closed
            # providers alive.
            if self.unload:
                # A lease that is not verified may use any model of its server.
                uncertain = {used.server for used in self._active if not used.verified}
                idle = [
                    other
                    for other in self._resident.values()
                    if other != lease and not self._active[other] and other.server not in uncertain
                ]
                for other in idle:
                    del self._resident[other]
                self._unloading.update(idle)
                # Unloading it later could unload a model that is in use under another id.
                if lease.verified:
                    self._resident[lease] = lease
        try:
            while idle:
                await _unload(idle[-1], deadline)
                with self._lock:
                    self._count_unloaded(idle.pop())
            # A call in another slot may be unloading this model, and would cut off a call that
            # started now.
            # No anyio event can be awaited, because the other call may run in another event loop.
            while self._is_unloading(lease) and deadline.remaining() > 0:  # noqa: ASYNC110
                await anyio.sleep(UNLOAD_CHECK_SECONDS)
        except BaseException:
            with self._lock:
                # These models may still be loaded; the next call asks for them again.
                for other in idle:
                    self._count_unloaded(other)
                    self._resident.setdefault(other, other)
            self.release(lease, limit)
            raise

    def _is_unloading(self, lease: ModelLease) -> bool:
        """Return whether a model that the lease uses, or may use, is being unloaded."""
        with self._lock:
            return lease in self._unloading or (
                not lease.verified
                and any(lease.server == other.server for other in self._unloading)
            )

    def _count_unloaded(self, lease: ModelLease) -> None:
        self._unloading[lease] -= 1
        if self._unloading[lease] <= 0:
            del self._unloading[lease]

    def release(self, lease: ModelLease | None = None, limit: ProviderLimit | None = None) -> None:
        """Release a slot, and the use of its model."""
        if lease is not None:
            with self._lock:
                self._active[lease] -= 1
                if self._active[lease] <= 0:
                    del self._active[lease]
        self._queue.release(limit)

    def __repr__(self) -> str:
        return (
            f"<ResourceGroup {self.name}: {self.running} of {self.slots} running,"
            f" {self.waiting} waiting>"
        )


async def _unload(lease: ModelLease, deadline: Deadline) -> None:
    """Ask the backend to unload a model. Failures are ignored, because the next model may fit."""
    if lease.unload is None:
        return
    with anyio.move_on_after(min(UNLOAD_SECONDS, deadline.remaining())):
        try:
            await lease.unload()
        except Exception:
            # Any exception: the function belongs to another provider, and may run in another event
            # loop than that provider was created for.
            return


_groups: weakref.WeakValueDictionary[str, ResourceGroup] = weakref.WeakValueDictionary()
_lock = Lock()


def named_group(name: str, **settings: Any) -> ResourceGroup:
    """Return the resource group with this name; create it with these settings if there is none.

    A group lives as long as a provider uses it.

    Raises:
        ConfigurationError: If a setting is out of range, or differs from that of the existing
            group.
    """
    new_group = ResourceGroup(name, **settings)
    with _lock:
        group = _groups.setdefault(name, new_group)
    for setting in settings:
        if getattr(group, setting) != getattr(new_group, setting):
            raise ConfigurationError(
                f"resource group {name!r} exists with another value of {setting};"
                " use the same settings or another name",
                details={"field": "gpu"},
            )
    return group
