"""A stream that is read in slices, so that its first events are delivered early.

A server that is faster than its reader fills a network read with thousands of events. Decoding all
of them before the first one is delivered would multiply the time to the first event.
"""

from __future__ import annotations

from anyio.lowlevel import checkpoint

from majordomo.transport_types import HTTPStream

FIRST_SLICE_BYTES = 1024


class SlicedStream:
    """Reads a stream; a large chunk in slices, each twice as long as the one before.

    Growing slices keep the first one small and the number of batches low. Between two slices other
    tasks run: one of them may deliver the events of the first slice.
    """

    __slots__ = ("_chunk", "_position", "_size", "_stream")

    def __init__(self, stream: HTTPStream) -> None:
        self._stream = stream
        self._chunk = b""
        self._position = 0
        self._size = FIRST_SLICE_BYTES

    async def read(self) -> bytes:
        """Return the next bytes; b"" at the end. Raises what the stream raises."""
        if self._chunk:
            await checkpoint()
        else:
            chunk = await self._stream.read()
            if len(chunk) <= FIRST_SLICE_BYTES:
                return chunk
            self._chunk, self._position, self._size = chunk, 0, FIRST_SLICE_BYTES
        end = self._position + self._size
        next_slice = self._chunk[self._position : end]
        self._position, self._size = end, self._size * 2
        if end >= len(self._chunk):
            self._chunk = b""
        return next_slice
