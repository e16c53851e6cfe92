"""What the kit's transports share: they stand around another, are closed once, and answer from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio.lowlevel

from majordomo.errors import ConfigurationError, MajordomoError
from majordomo.transport_types import Transport


class WrappingTransport:
    """A Transport around `port`, which it closes."""

    def __init__(self, transport: Transport) -> None:
        self.port = transport
        self._closed = False

    def check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the provider is closed", code="CLOSED")

    async def aclose(self) -> None:
        self._closed = True
        await self.port.aclose()


class FakeReply:
    """An answer from memory: these pieces, then the end, or `error` in its place."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        pieces: Sequence[bytes] = (),
        error: MajordomoError | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self._pieces = [piece for piece in pieces if piece]
        self._error = error
        self._at = 0

    async def read(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self._at < len(self._pieces):
            self._at += 1
            return self._pieces[self._at - 1]
        if self._error is not None:
            raise self._error
        return b""

    async def finish(self) -> None:
        """Nothing is left open."""

    async def aclose(self) -> None:
        """Nothing is left open."""
