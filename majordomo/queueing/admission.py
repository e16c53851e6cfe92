"""Admission control of one provider: slots, rate limits, and the GPU that it shares.

Theory of operation:

* A call acquires, in this order: a slot of the provider (`max_concurrency`, waiting in a
  `SlotQueue`), its turn by the rate limits (`RateLimiter`), and a slot of the resource group. Each
  of them is optional.
* In a resource group, the slots of the provider are a limit in the queue of the group
  (`ProviderLimit`). In a queue of their own, most calls would wait before the group, which could
  not see them when it decides which model is next.
* If a later step fails or is cancelled, the earlier ones are undone before the error is raised:
  a failed `acquire` holds nothing.
* The returned `Admission` owns all of it. Its owner calls `release` once; further calls do nothing.
  `release` undoes the steps in reverse order and records the tokens that the call used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from majordomo.queueing.rate_limiter import RateLimiter
from majordomo.queueing.resource_group import ModelLease, ResourceGroup
from majordomo.queueing.slot_queue import OnPosition, SlotQueue
from majordomo.queueing.waiter import ProviderLimit
from majordomo.transport_types import Deadline


class Admission:
    """Permission to run one call, released once."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[int | None], None] | None) -> None:
        self._release = release

    def release(self, tokens: int | None = None) -> None:
        """End the call, which used `tokens` tokens (None: unknown). Further calls do nothing."""
        release, self._release = self._release, None
        if release is not None:
            release(tokens)


class AdmissionControl:
    """What each call of one provider waits for: a slot, the rate limits, and the shared GPU."""

    def __init__(
        self,
        max_concurrency: int | None,
        *,
        max_queue: int | None = None,
        rate_limiter: RateLimiter | None = None,
        resource_group: ResourceGroup | None = None,
    ) -> None:
        self.max_concurrency = max_concurrency
        self._queue = (
            SlotQueue(max_concurrency, max_queue)
            if max_concurrency is not None and resource_group is None
            else None
        )
        self._limit = ProviderLimit(max_concurrency, max_queue)
        self._rate_limiter = rate_limiter
        self._resource_group = resource_group

    @property
    def shared(self) -> bool:
        """Whether the provider shares a GPU, so that it matters which model is loaded."""
        return self._resource_group is not None

    @property
    def waits(self) -> bool:
        """Whether a new call would have to wait in a queue."""
        if self._resource_group is not None:
            return self._resource_group.would_wait(self._limit)
        return self._queue is not None and self._queue.would_wait()

    async def acquire(
        self,
        deadline: Deadline,
        on_position: OnPosition = None,
        *,
        user_id: str = "",
        lease: ModelLease | None = None,
    ) -> Admission:
        """Wait until the call may run. The caller must release the returned admission.

        `lease` is the model that the call loads into the shared GPU.

        Raises:
            DeadlineExceededError: The queue limit has passed (phase queue).
            OverloadedError: A queue is full (`QUEUE_FULL`).
            RateLimitError: The rate limits allow the call only after the queue limit
                (`LOCAL_RATE_LIMIT`).
        """
        if self._queue is None and self._rate_limiter is None and self._resource_group is None:
            return Admission(None)
        queue, rate_limiter, group = self._queue, self._rate_limiter, self._resource_group
        if queue is not None:
            await queue.acquire(deadline, user_id, on_position)
        undo: Callable[[], None] | None = None
        try:
            if rate_limiter is not None:
                undo = await rate_limiter.acquire(deadline, user_id)
            if group is not None:
                await group.acquire(deadline, user_id, on_position, lease, self._limit)
        except BaseException:
            if undo is not None:
                undo()
            if queue is not None:
                queue.release()
            raise

        def release(tokens: int | None) -> None:
            if group is not None:
                group.release(lease, self._limit)
            if rate_limiter is not None:
                rate_limiter.record_tokens(user_id, tokens)
            if queue is not None:
                queue.release()

        return Admission(release)

    @asynccontextmanager
    async def admitted(
        self,
        deadline: Deadline,
        on_position: OnPosition = None,
        *,
        user_id: str = "",
        lease: ModelLease | None = None,
    ) -> AsyncIterator[Admission]:
        """Hold an admission during an `async with` block. See `acquire`."""
        admission = await self.acquire(deadline, on_position, user_id=user_id, lease=lease)
        try:
            yield admission
        finally:
            admission.release()
