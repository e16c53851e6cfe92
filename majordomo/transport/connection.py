"""A socket that speaks HTTP, and whether it may be used again."""

from __future__ import annotations

from typing import Any

import h11

from majordomo.transport.httpcore_compat import httpcore
from majordomo.transport.socket_stream import SocketStream


class Connection:
    """One wire under httpcore's HTTP/1.1 connection."""

    __slots__ = ("expires", "protocol", "used", "wire")

    def __init__(self, origin: httpcore.Origin, wire: SocketStream) -> None:
        self.wire: SocketStream = wire
        self.protocol: httpcore.AsyncHTTP11Connection = httpcore.AsyncHTTP11Connection(origin, wire)
        self.used: bool = False  # whether an answer has been read from it before
        self.expires: float = 0.0

    def is_clean(self) -> bool:
        """Whether the last exchange is over and nothing is left of it: httpcore says idle, h11 holds no trailing data, and the last
        read did not fill its buffer. When h11's state cannot be seen it is not clean: that costs keep-alive, never an answer."""
        if not self.protocol.is_idle() or not self.wire.drained:
            return False
        state = self._state()
        return state is not None and state.trailing_data[0] == b""

    def expected(self) -> int:
        """Bytes of a body with a Content-Length that h11 waits for, holding none of them: it need not see all of them. 0 when it must, or
        when its state cannot be seen: that costs time, never an answer."""
        remaining = getattr(self._reader(), "_remaining", None)
        state = self._state()
        return (
            remaining
            if state is not None and isinstance(remaining, int) and not state.trailing_data[0]
            else 0
        )

    def consumed(self, count: int) -> None:
        """So many of the bytes that are owed were read past h11."""
        reader = self._reader()
        reader._remaining -= count

    def awaits_chunks(self) -> bool:
        """Whether h11 waits for a chunk of the body. False when its state cannot be seen."""
        return getattr(self._reader(), "_bytes_in_chunk", None) == 0

    def _state(self) -> h11.Connection | None:
        state: Any = getattr(self.protocol, "_h11_state", None)
        return state if isinstance(state, h11.Connection) else None

    def _reader(self) -> Any:
        """What h11 reads the present body with."""
        return getattr(self._state(), "_reader", None)

    async def aclose(self) -> None:
        await self.wire.aclose()
