"""Slices of a large chunk of a stream, so that its first events are delivered early.

A server that is faster than its reader fills a network read with thousands of events. Decoding all
of them before the first one is delivered would multiply the time to the first event.
"""

from __future__ import annotations

FIRST_SLICE_BYTES = 1024


class Slices:
    """Splits a chunk into slices, each twice as long as the one before.

    Growing slices keep the first one small and the number of batches low.
    """

    __slots__ = ("_chunk", "_position", "_size")

    def __init__(self) -> None:
        self._chunk = b""
        self._position = 0
        self._size = FIRST_SLICE_BYTES

    def split(self, chunk: bytes) -> bytes:
        """Return the first slice of a new chunk and keep the rest for `next`."""
        if len(chunk) <= FIRST_SLICE_BYTES:
            return chunk
        self._chunk, self._position, self._size = chunk, 0, FIRST_SLICE_BYTES
        return self.next()

    def next(self) -> bytes:
        """Return the next slice; b"" when there is no more."""
        if not self._chunk:
            return b""
        end = self._position + self._size
        piece = self._chunk[self._position : end]
        self._position, self._size = end, self._size * 2
        if end >= len(self._chunk):
            self._chunk = b""
        return piece
