"""A feed of server-sent events about a backend, open until the user leaves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from majordomo.concurrency.loop_lifetime import LoopGuard, close_with_loop
from majordomo.errors import MajordomoError, StreamBrokenError
from majordomo.framing.lines import EventDecoder
from majordomo.models.client import BackendClient
from majordomo.models.sliced_stream import SlicedStream
from majordomo.settings import Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream

T = TypeVar("T")
# There may be no event for days.
FEED_TIMEOUT = Timeout(connect=5, queue=30, first_byte=30, idle=math.inf, total=math.inf)


class SSEFeed(Generic[T]):
    """The values in a stream of server-sent events, as an event source.

    `decode(data)` returns the value of one event, or None for an event to skip.
    """

    def __init__(
        self, client: BackendClient, path: str, decode: Callable[[bytes], T | None]
    ) -> None:
        self._client = client
        self._path = path
        self._decode = decode
        self._events = EventDecoder(client.limits.max_event_bytes)
        self._stream: HTTPStream | None = None
        self._reader: SlicedStream | None = None
        self._guard: LoopGuard | None = None

    @property
    def result(self) -> None:
        """A feed has no result."""

    async def next_events(self) -> Sequence[T]:
        """Return the next values. Raises StreamBrokenError when the backend ends the feed."""
        try:
            if self._stream is None:
                request = HTTPRequest("GET", self._path, accept="text/event-stream", stream=True)
                self._stream = await self._client.call(FEED_TIMEOUT).open(request)
                self._guard = await close_with_loop(self._stream)
                self._reader = SlicedStream(self._stream)
            assert self._reader is not None
            while chunk := await self._reader.read():
                if values := [
                    value
                    for data in self._events.feed(chunk)
                    if (value := self._decode(data)) is not None
                ]:
                    return values
            raise StreamBrokenError("the backend ended its feed")
        except MajordomoError as error:
            # The frames of the traceback hold what was received, which may quote a key.
            raise self._client.with_context(error).with_traceback(None) from None

    async def aclose(self) -> None:
        """Close the HTTP stream."""
        try:
            if self._stream is not None:
                await self._stream.aclose()
        finally:
            if self._guard is not None:
                await self._guard.aclose()
