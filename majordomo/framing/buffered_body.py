"""A response body that is buffered completely."""

from __future__ import annotations

from majordomo.errors import BadResponseError


class BufferedBody:
    """Collects a response body of at most `limit` bytes."""

    __slots__ = ("_chunks", "_limit", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Add a chunk. Raises BadResponseError (`TOO_LARGE`) beyond the limit."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise BadResponseError(
                f"the response is larger than the limit of {self._limit:,} bytes", code="TOO_LARGE"
            )
        self._chunks.append(chunk)

    def body(self) -> bytes:
        """Return the body."""
        return b"".join(self._chunks)
