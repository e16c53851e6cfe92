"""Find the process that serves a model id, with a free query whose reply is cached.

A server may give one process several ids (llama-swap's aliases). A resource group has to know that
they are one model: changing from one to the other loads nothing.

The aliases are queried by the first call, and then once a minute at most.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from majordomo.models.cached_query import CachedQuery
from majordomo.models.client import BackendCall
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
        self._processes = CachedQuery(
            query,
            ALIASES_TIMEOUT,
            refresh_seconds=REFRESH_SECONDS,
            retry_seconds=RETRY_SECONDS,
            clock=clock,
        )

    def known(self, model: str) -> str:
        """Return the process id as far as it is known; an unknown id is its own process."""
        return (self._processes.reply or {}).get(model, model)

    async def find(self, call: BackendCall) -> str | None:
        """Return the process id of the model of a call, after a query if one is due.

        None while no query has succeeded: the id may be an alias.
        """
        processes = await self._processes.get(call)
        return None if processes is None else processes.get(call.model, call.model)
