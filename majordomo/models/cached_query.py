"""A free query within calls, whose reply is cached.

The first call sends the query, and others wait for it; so does one call whenever the reply is too
old. A query that fails changes nothing, and is repeated by a call after a pause: its reply only
improves a call, which works without it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from majordomo.errors import MajordomoError
from majordomo.models.client import BackendCall
from majordomo.queueing.slot_queue import SlotQueue
from majordomo.settings import Timeout

T = TypeVar("T")


class CachedQuery(Generic[T]):
    """A query whose reply is cached. Works across event loops and threads.

    Args:
        query: Sends the query and returns its decoded reply.
        timeout: The limits of the query, and of waiting for that of another call.
        refresh_seconds: How long a reply is used.
        retry_seconds: How long there is no query after one that failed.
        clock: Returns seconds of a clock that is never set.
    """

    def __init__(
        self,
        query: Callable[[BackendCall], Awaitable[T]],
        timeout: Timeout,
        *,
        refresh_seconds: float,
        retry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reply: T | None = None
        """The last reply; None before the first."""
        self._query = query
        self._timeout = timeout
        self._refresh_seconds = refresh_seconds
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._due_at = float("-inf")
        # One query at a time; an anyio lock would belong to one event loop.
        self._querying = SlotQueue(1)

    async def get(self, call: BackendCall) -> T | None:
        """Return the last reply, after a query if one is due; None if none has succeeded."""
        if self._is_due():
            child = call.child(self._timeout)
            try:
                await self._querying.acquire(child.deadline)
            except MajordomoError:
                return self.reply
            try:
                if self._is_due():
                    await self._refresh(child)
            finally:
                self._querying.release()
        return self.reply

    def _is_due(self) -> bool:
        return self._clock() >= self._due_at

    async def _refresh(self, call: BackendCall) -> None:
        try:
            self.reply = await self._query(call)
        except MajordomoError:
            self._due_at = self._clock() + self._retry_seconds
        else:
            self._due_at = self._clock() + self._refresh_seconds
