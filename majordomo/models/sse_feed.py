"""What a backend tells about itself for as long as somebody listens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from majordomo.concurrency.loop_lifetime import LoopGuard, close_with_loop
from majordomo.errors import MajordomoError, StreamBrokenError
from majordomo.framing.lines import EventDecoder
from majordomo.models.client import BackendClient
from majordomo.settings import Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream

T = TypeVar("T")
LISTENING = Timeout(
    connect=5, queue=30, first_byte=30, idle=math.inf, total=math.inf
)  # news may not come for days


class SSEFeed(Generic[T]):
    """A stream of server-sent events as a source: `read(data)` is what one event says, None when it is no news."""

    def __init__(self, client: BackendClient, path: str, read: Callable[[bytes], T | None]) -> None:
        self._client = client
        self._path = path
        self._read = read
        self._events = EventDecoder(client.limits.max_event_bytes)
        self._stream: HTTPStream | None = None
        self._tie: LoopGuard | None = None

    async def next_events(self) -> Sequence[T]:
        """Raises StreamBrokenError when the backend ends it: a feed has no end of its own."""
        try:
            if self._stream is None:
                request = HTTPRequest("GET", self._path, accept="text/event-stream", stream=True)
                self._stream = await self._client.open(request, self._client.deadline(LISTENING))
                self._tie = await close_with_loop(self._stream)
            while piece := await self._stream.read():
                if news := [
                    told
                    for data in self._events.feed(piece)
                    if (told := self._read(data)) is not None
                ]:
                    return news
            raise StreamBrokenError("the backend ended its feed")
        except MajordomoError as error:
            raise self._client.with_context(error).with_traceback(
                None
            ) from None  # without its frames: they hold what came

    async def aclose(self) -> None:
        try:
            if self._stream is not None:
                await self._stream.aclose()
        finally:
            if self._tie is not None:
                await self._tie.aclose()
