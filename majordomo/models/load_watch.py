"""Distinguish a loading model from a hanging one with a free query while a first byte is awaited.

The transport calls the watch of a deadline about once a second (`Deadline.tick`) until the first
byte arrives. While the model loads, the watch switches the deadline to its `load` phase, so that
the load limit counts instead of the one for the first byte, and reports `Loading` events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from majordomo.backend_status import Loading
from majordomo.errors import MajordomoError
from majordomo.models.client import BackendCall

S = TypeVar("S")
# One query serves all calls that wait during this time.
QUERY_INTERVAL_SECONDS = 1.0
# An older state is ignored.
MAX_STATE_AGE_SECONDS = 5.0


class LoadWatch(Generic[S]):
    """Queries the backend's load state and applies it to the deadlines of waiting calls.

    `query(call)` returns what the backend has in memory. `describe_loading(state, model)`
    returns a message when this model is loading, else None. One query serves all calls that wait at
    that time. A query that fails changes nothing.
    """

    def __init__(
        self,
        query: Callable[[BackendCall], Awaitable[S]],
        describe_loading: Callable[[S, str], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._query = query
        self._describe_loading = describe_loading
        self._clock = clock
        self._state: tuple[float, S] | None = None
        self._queried_at = float("-inf")

    async def __call__(self, call: BackendCall) -> None:
        """Query the load state if it is due, and update the deadline of a waiting call."""
        now = self._clock()
        if not 0 <= now - self._queried_at < QUERY_INTERVAL_SECONDS:
            self._queried_at = now
            try:
                state = await self._query(call)
            except MajordomoError:
                return
            self._state = (self._clock(), state)
        if self._state is None or not 0 <= self._clock() - self._state[0] < MAX_STATE_AGE_SECONDS:
            return
        message = self._describe_loading(self._state[1], call.model)
        if message is not None or call.deadline.phase == "load":
            call.deadline.start_phase("load" if message is not None else "first_byte")
        if message is not None and call.emit is not None:
            call.emit(Loading(message, call.deadline.elapsed()))
