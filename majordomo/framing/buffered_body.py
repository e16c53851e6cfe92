"""An answer that is read as a whole."""

from __future__ import annotations

from majordomo.errors import BadResponseError


class BufferedBody:
    """Holds an answer of up to `limit` bytes. `feed` raises BadResponseError (`TOO_LARGE`) beyond it."""

    __slots__ = ("_held", "_limit", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._limit:
            raise BadResponseError(
                f"the answer is larger than the limit of {self._limit:,} bytes", code="TOO_LARGE"
            )
        self._held.append(chunk)

    def body(self) -> bytes:
        return b"".join(self._held)
