"""A socket that speaks HTTP, and whether it may be used again."""

from __future__ import annotations

from typing import Any

import h11

from majordomo.transport.carrier import httpcore
from majordomo.transport.socket import Wire


class Connection:
    """One wire under httpcore's HTTP/1.1 connection."""

    __slots__ = ("expires", "protocol", "used", "wire")

    def __init__(self, origin: httpcore.Origin, wire: Wire) -> None:
        self.wire: Wire = wire
        self.protocol: httpcore.AsyncHTTP11Connection = httpcore.AsyncHTTP11Connection(origin, wire)
        self.used: bool = False  # whether an answer has been read from it before
        self.expires: float = 0.0

    def is_clean(self) -> bool:
        """Whether the last exchange is over and nothing is left of it: httpcore says idle, h11 holds no trailing data, and the last
        read did not fill its buffer. When h11's state cannot be seen it is not clean: that costs keep-alive, never an answer."""
        if not self.protocol.is_idle() or not self.wire.drained:
            return False
        state: Any = getattr(self.protocol, "_h11_state", None)
        return isinstance(state, h11.Connection) and state.trailing_data[0] == b""

    async def aclose(self) -> None:
        await self.wire.aclose()
