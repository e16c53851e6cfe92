"""A response while it arrives.

Theory of operation:

* `HTTPResponse` owns the connection until the message has ended or failed, or the response is
  closed. Then it gives the connection back to the pool, exactly once (`_end`). A message that has
  arrived completely with its head never owns it.
* A response that is closed early closes the socket.
* Decoding (gzip) is separate: `DecodedResponse` decodes what `_read_raw` returns.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping

import anyio

from majordomo.errors import BadResponseError, ConnectionFailedError, MajordomoError, plain_text
from majordomo.transport.connection import Connection
from majordomo.transport.socket_stream import ConnectionLostError

MAX_DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 0.25
MAX_INFLATED_BYTES = 64 * 1024


class DecodedResponse(ABC):
    """A response that is decoded while it is read. Subclasses return the raw chunks."""

    __slots__ = ("_inflate", "headers")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers: Mapping[str, str] = headers
        self._inflate = inflater(headers)

    async def read(self) -> bytes:
        """Return the next decoded chunk, or b"" at the end of the message.

        A chunk is never empty otherwise. Raises typed errors, after which the connection is closed.
        """
        inflate = self._inflate
        while True:
            if inflate is not None and (chunk := inflate.next_chunk()):
                return chunk
            raw = await self._read_raw()
            if inflate is None:
                return raw
            if raw:
                inflate.feed(raw)
            else:
                return inflate.finish()

    @abstractmethod
    async def _read_raw(self) -> bytes:
        """Return the next chunk as received, b"" at the end."""


Release = Callable[[Connection], Awaitable[None]]


class HTTPResponse(DecodedResponse):
    """A response on a connection of our own pool.

    It is not a generator: it can be abandoned at any point and closed twice.
    """

    __slots__ = ("_connection", "_content", "_release", "status")

    def __init__(self, connection: Connection, content: bytes, release: Release) -> None:
        super().__init__(connection.response.headers)
        self.status: int = connection.response.status
        # The beginning of the body, which arrived with the head.
        self._content = content
        # None after the message has ended or failed.
        self._connection: Connection | None = connection
        self._release = release

    async def release_if_complete(self) -> None:
        """Release the connection if the whole message has arrived."""
        if self._connection is not None and self._connection.response.complete:
            await self._end()

    async def _read_raw(self) -> bytes:
        content, self._content = self._content, b""
        connection = self._connection
        if content or connection is None:
            return content
        response = connection.response
        try:
            while not (content or response.complete or response.failed):
                content = await connection.receive()
        except BaseException as error:
            await self._end()
            if isinstance(error, ConnectionLostError):
                raise _reply_cut_error() from None
            raise
        if response.failed and not content:
            await self._end()
            raise _reply_cut_error()
        await self.release_if_complete()
        return content

    async def _end(self) -> None:
        """Release the connection; the pool closes it if the message is not complete."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._release(connection)

    async def finish(self) -> None:
        """End a response whose content is complete, for example after a stream's end marker.

        Reads the little that may still arrive; without that, the connection could not be reused.
        """
        self._content = b""
        if self._connection is None:
            return
        remaining = MAX_DRAIN_BYTES
        with anyio.move_on_after(DRAIN_SECONDS):
            try:
                while remaining > 0 and (chunk := await self._read_raw()):
                    remaining -= len(chunk)
            except MajordomoError:
                return
        await self.aclose()

    async def aclose(self) -> None:
        """Close the response at any point. Calling it twice is allowed.

        If the message is not complete, this closes the socket.
        """
        self._content = b""
        await self._end()


def _reply_cut_error() -> ConnectionFailedError:
    return ConnectionFailedError(
        "the connection was lost before the response was complete",
        code="REPLY_CUT",
        details={"replied": True},
    )


class Inflater:
    """Incremental gzip decoder.

    It returns at most 64 KiB at a time, so that the caller, which counts bytes, detects a
    decompression bomb before it fills the memory.
    """

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)

    def feed(self, raw: bytes) -> None:
        """Add received bytes."""
        self._input = self._zlib.unconsumed_tail + raw

    _input = b""

    def next_chunk(self) -> bytes:
        """Return the next decoded chunk; b"" when more input is needed."""
        if not self._input:
            return b""
        try:
            chunk = self._zlib.decompress(self._input, MAX_INFLATED_BYTES)
        except zlib.error:
            raise BadResponseError(
                "the response declares gzip but is not valid gzip", code="BAD_ENCODING"
            ) from None
        # zlib would collect everything that follows.
        if self._zlib.unused_data:
            raise BadResponseError(
                "the response continues after the end of its gzip data", code="BAD_ENCODING"
            )
        self._input = self._zlib.unconsumed_tail
        return chunk

    def finish(self) -> bytes:
        """Return b"", or raise ConnectionFailedError if the gzip data is incomplete."""
        if not self._zlib.eof:
            raise ConnectionFailedError(
                "the response ended before its gzip data did",
                code="REPLY_CUT",
                details={"replied": True},
            )
        return b""


def inflater(headers: Mapping[str, str]) -> Inflater | None:
    """Return a decoder for the response's content coding; None if there is none.

    Raises BadResponseError for any coding but gzip, because no other was requested.
    """
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip"):
        return Inflater()
    raise BadResponseError(
        f"the response has content coding {plain_text(coding, 40)!r}; only gzip was requested",
        code="BAD_ENCODING",
    )
