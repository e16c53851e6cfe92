"""Find the process that serves a model id, with a free query whose reply is cached.

A server may give one process several ids (llama-swap's aliases). A resource group has to know that
they are one model: changing from one to the other loads nothing.

The first call queries the ids, and others wait for it; so does one call after each
REFRESH_SECONDS. A query that fails changes nothing, and is repeated after RETRY_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from majordomo.errors import MajordomoError
from majordomo.models.client import BackendCall
from majordomo.queueing.slot_queue import SlotQueue
from majordomo.settings import Timeout

# The server's configuration may change while this program runs.
REFRESH_SECONDS = 60.0
RETRY_SECONDS = 5.0
# A call must not wait long for a query that only makes it cheaper.
ALIASES_TIMEOUT = Timeout(connect=2, queue=5, first_byte=2, idle=2, total=5)


class ModelAliases:
    """Maps model ids to the id of their process. Works across event loops and threads.

    `query(call)` returns the process id of each alias.
    """

    def __init__(
        self,
        query: Callable[[BackendCall], Awaitable[Mapping[str, str]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._query = query
        self._clock = clock
        self._processes: Mapping[str, str] = {}
        self._due_at = float("-inf")
        # One query at a time; an anyio lock would belong to one event loop.
        self._querying = SlotQueue(1)

    def known(self, model: str) -> str:
        """Return the process id as far as it is known; an unknown id is its own process."""
        return self._processes.get(model, model)

    async def find(self, call: BackendCall) -> str:
        """Return the process id of the model of a call, after a query if one is due."""
        if self._clock() >= self._due_at:
            child = call.child(ALIASES_TIMEOUT)
            try:
                await self._querying.acquire(child.deadline)
            except MajordomoError:
                return self.known(call.model)
            try:
                if self._clock() >= self._due_at:
                    await self._refresh(child)
            finally:
                self._querying.release()
        return self.known(call.model)

    async def _refresh(self, call: BackendCall) -> None:
        try:
            self._processes = await self._query(call)
        except MajordomoError:
            self._due_at = self._clock() + RETRY_SECONDS
        else:
            self._due_at = self._clock() + REFRESH_SECONDS
