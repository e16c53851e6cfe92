"""One HTTP/1.1 connection, and whether it can be reused."""

from __future__ import annotations

from typing import Any

import h11

from majordomo.transport.httpcore_compat import httpcore
from majordomo.transport.socket_stream import SocketStream


class Connection:
    """A socket stream and httpcore's HTTP/1.1 connection over it."""

    __slots__ = ("expires", "protocol", "stream", "used")

    def __init__(self, origin: httpcore.Origin, stream: SocketStream) -> None:
        self.stream: SocketStream = stream
        self.protocol: httpcore.AsyncHTTP11Connection = httpcore.AsyncHTTP11Connection(
            origin, stream
        )
        # Whether a response has been read from this connection before.
        self.used: bool = False
        # When the pool closes the idle connection, by the pool's clock.
        self.expires: float = 0.0

    def is_clean(self) -> bool:
        """Return whether the last exchange is over and left nothing behind.

        httpcore reports idle, h11 holds no trailing data, and the last read did not fill its
        buffer. A connection whose h11 state is not accessible is not clean: that costs keep-alive,
        never a response.
        """
        if not self.protocol.is_idle() or not self.stream.drained:
            return False
        state = self._h11_connection()
        return state is not None and state.trailing_data[0] == b""

    def expected(self) -> int:
        """Return how many bytes of a body with Content-Length h11 waits for.

        h11 need not see all of them. 0 if h11 holds received bytes, and so must see the next ones,
        or if its state is not accessible: that costs time, never a response.
        """
        remaining = getattr(self._body_reader(), "_remaining", None)
        state = self._h11_connection()
        return (
            remaining
            if state is not None and isinstance(remaining, int) and not state.trailing_data[0]
            else 0
        )

    def consumed(self, count: int) -> None:
        """Tell h11 that `count` of the expected bytes were read without it."""
        reader = self._body_reader()
        reader._remaining -= count

    def awaits_chunks(self) -> bool:
        """Return whether h11 waits for a chunk of the body.

        False if its state is not accessible.
        """
        return getattr(self._body_reader(), "_bytes_in_chunk", None) == 0

    def _h11_connection(self) -> h11.Connection | None:
        state: Any = getattr(self.protocol, "_h11_state", None)
        return state if isinstance(state, h11.Connection) else None

    def _body_reader(self) -> Any:
        """Return h11's reader of the current body."""
        return getattr(self._h11_connection(), "_reader", None)

    async def aclose(self) -> None:
        """Close the socket. Calling it twice is allowed."""
        await self.stream.aclose()
