"""Building blocks of the transports in this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio.lowlevel

from majordomo.errors import ConfigurationError, MajordomoError
from majordomo.transport_types import Transport


class WrappingTransport:
    """A transport around `inner`, which it closes."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self._closed = False

    def check_open(self) -> None:
        """Raise `ConfigurationError` (CLOSED) after `aclose`."""
        if self._closed:
            raise ConfigurationError("the provider is closed", code="CLOSED")

    async def aclose(self) -> None:
        """Close the inner transport and refuse further requests."""
        self._closed = True
        await self.inner.aclose()


class FakeReply:
    """A response from memory: the chunks, then the end, or `error` in its place."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        chunks: Sequence[bytes] = (),
        error: MajordomoError | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self._chunks = [chunk for chunk in chunks if chunk]
        self._error = error
        self._next_index = 0

    async def read(self) -> bytes:
        """Return the next chunk; empty at the end."""
        await anyio.lowlevel.checkpoint()
        if self._next_index < len(self._chunks):
            self._next_index += 1
            return self._chunks[self._next_index - 1]
        if self._error is not None:
            raise self._error
        return b""

    async def finish(self) -> None:
        """Do nothing: no resource is open."""

    async def aclose(self) -> None:
        """Do nothing: no resource is open."""
