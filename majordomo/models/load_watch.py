"""Loading or hanging? While a first byte is awaited, a free question to the backend tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from majordomo.backend_status import Loading
from majordomo.errors import MajordomoError
from majordomo.models.client import OnLoading
from majordomo.transport_types import Deadline

S = TypeVar("S")
CHECK_INTERVAL = 1.0  # seconds for which one answer serves all calls that wait
MAX_AGE = 5.0  # seconds after which an answer says nothing any more


class LoadWatch(Generic[S]):
    """`look(deadline)` asks the backend what it has in memory; `loading(seen, model)` is a word for it when this model loads, else None.

    While it loads, the load limit counts instead of the one for the first byte, and Loading is told. A question that fails is no news.
    """

    def __init__(
        self,
        look: Callable[[Deadline], Awaitable[S]],
        loading: Callable[[S, str], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._look = look
        self._loading = loading
        self._clock = clock
        self._seen: tuple[float, S] | None = None
        self._asked = float("-inf")

    async def __call__(self, model: str, deadline: Deadline, on_loading: OnLoading) -> None:
        now = self._clock()
        if not 0 <= now - self._asked < CHECK_INTERVAL:
            self._asked = now
            try:
                seen = await self._look(deadline)
            except MajordomoError:
                return
            self._seen = (self._clock(), seen)
        if self._seen is None or not 0 <= self._clock() - self._seen[0] < MAX_AGE:
            return
        word = self._loading(self._seen[1], model)
        if word is not None or deadline.phase == "load":
            deadline.start_phase("load" if word is not None else "first_byte")
        if word is not None and on_loading is not None:
            on_loading(Loading(word, deadline.elapsed()))
