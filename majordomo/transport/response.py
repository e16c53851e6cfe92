"""A response while it arrives.

Theory of operation:

* `HTTPResponse` owns the connection from the head of the response until the message has ended or
  failed, or the reply is closed. Then it closes httpcore's stream and gives the connection back to
  the pool, exactly once (`_end`).
* Content arrives in one of two ways: through httpcore's iterator, or directly from the socket
  stream while h11 only counts bytes (`_read_body_directly`). h11 always sees the end of the
  message.
* A response that is closed early closes the socket first, so that httpcore's clean-up ends at once.
* Decoding (gzip) is separate: `DecodedResponse` decodes what `_read_raw` returns.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import anyio

from majordomo.errors import BadResponseError, ConnectionFailedError, MajordomoError, plain_text
from majordomo.transport.chunks import BadChunkError
from majordomo.transport.connection import Connection
from majordomo.transport.httpcore_compat import httpcore
from majordomo.transport.socket_stream import READ_BYTES

MAX_DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 0.25
MAX_INFLATED_BYTES = 64 * 1024
# From so many digits of Content-Length on, h11 does not see all of the body.
LONG_BODY_DIGITS = 6
# h11 always sees so many last bytes of a long body, and with them its end.
TAIL_BYTES = 16 * 1024


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


class HTTPResponse(DecodedResponse):
    """A response on a connection of our own pool.

    It is not a generator: it can be abandoned at any point and closed twice.
    """

    __slots__ = (
        "_body",
        "_body_begun",
        "_chunked",
        "_connection",
        "_ended",
        "_long",
        "_release",
        "_stream",
        "status",
    )

    def __init__(
        self,
        response: httpcore.Response,
        connection: Connection,
        release: Callable[[Connection], Awaitable[None]],
    ) -> None:
        super().__init__(header_map(response.headers))
        self.status: int = response.status
        stream: Any = response.stream
        self._stream = stream
        self._body: AsyncIterator[bytes] | None = stream.__aiter__()
        self._connection = connection
        self._release = release
        self._ended = False
        # Whether the body was requested from httpcore.
        self._body_begun = False
        self._chunked = connection.awaits_chunks()
        self._long = len(self.headers.get("content-length", "")) >= LONG_BODY_DIGITS

    async def _read_raw(self) -> bytes:
        if self._body is None:
            return b""
        if (self._chunked or self._long) and (chunk := await self._read_body_directly()):
            return chunk
        self._body_begun = True
        try:
            chunk = await self._body.__anext__()
            while not chunk:
                chunk = await self._body.__anext__()
        except StopAsyncIteration:
            self._body = None
            await self._end()
            return b""
        except BaseException as error:
            self._body = None
            await self._end()
            if isinstance(error, (httpcore.NetworkError, httpcore.ProtocolError)):
                raise _reply_cut_error() from None
            raise
        return chunk

    async def _read_body_directly(self) -> bytes:
        """Return the next part of a long or chunked body, read from the socket without h11.

        h11 would copy it four times, and only counts it. Returns b"" where h11 must see what
        comes: what it holds already, and the end.
        """
        connection = self._connection
        try:
            if self._chunked:
                chunk = await connection.stream.read_chunks()
                self._chunked = bool(chunk)
                return chunk
            max_bytes = connection.expected() - TAIL_BYTES
            if max_bytes <= 0:
                return b""
            chunk = await connection.stream.read_available(min(max_bytes, READ_BYTES))
        except BaseException as error:
            await self.aclose()
            if isinstance(error, (httpcore.NetworkError, BadChunkError)):
                raise _reply_cut_error() from None
            raise
        connection.consumed(len(chunk))
        return chunk

    async def _end(self) -> None:
        """Close httpcore's stream and release the connection, when the message ended or failed.

        Closing the stream decides whether the connection is idle.
        """
        if self._ended:
            return
        self._ended = True
        try:
            await self._stream.aclose()
        finally:
            # If cancelled here, the connection is not clean, and the pool closes it (shielded).
            await self._release(self._connection)

    async def finish(self) -> None:
        """End a response whose content is complete, for example after a stream's end marker.

        Reads the little that may still arrive; without that, the connection could not be reused.
        """
        if self._body is None:
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

        If the message is not complete, the socket is closed first, so that httpcore's clean-up ends
        at once.
        """
        if self._ended:
            return
        with anyio.CancelScope(shield=True):
            if self._body is not None:
                await self._connection.aclose()
                # httpcore leaves an inner generator to the garbage collector unless it is read to
                # its end. On a closed socket that ends at once.
                try:
                    while self._body_begun:
                        await self._body.__anext__()
                except (
                    StopAsyncIteration,
                    httpcore.NetworkError,
                    httpcore.ProtocolError,
                    MajordomoError,
                ):
                    pass
                except RuntimeError:
                    # "already running": the event loop is ending and is about to close it.
                    pass
                self._body = None
            await self._end()


def _reply_cut_error() -> ConnectionFailedError:
    return ConnectionFailedError(
        "the connection was lost before the response was complete",
        code="REPLY_CUT",
        details={"replied": True},
    )


def header_map(headers: Any) -> Mapping[str, str]:
    """Return the headers with lower-case names; join the values of a repeated one by commas."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


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
