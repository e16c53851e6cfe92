"""An answer while it arrives."""

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
from majordomo.transport.socket_stream import READ

DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 0.25
INFLATE = 64 * 1024
MAX_CHUNK = 6  # digits of a Content-Length from which on h11 does not see all of the body
LAST = 16 * 1024  # bytes of a long body that h11 always sees, the end with them


class DecodedReply(ABC):
    """Reads pieces of an answer through its content coding; whoever carries the answer gives them raw."""

    __slots__ = ("_inflate", "headers")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers: Mapping[str, str] = headers
        self._inflate = inflater(headers)

    async def read(self) -> bytes:
        """The next decoded piece, never empty; b"" at the end. Raises typed errors, after which the connection is gone."""
        inflate = self._inflate
        while True:
            if inflate is not None and (piece := inflate.more()):
                return piece
            raw = await self._raw()
            if inflate is None:
                return raw
            if raw:
                inflate.feed(raw)
            else:
                return inflate.end()

    @abstractmethod
    async def _raw(self) -> bytes:
        """The next piece as it came, b"" at the end."""


class HTTPReply(DecodedReply):
    """Status, headers and decoded pieces. Not a generator: it can be left at any point, and closed twice."""

    __slots__ = (
        "_begun",
        "_chunked",
        "_connection",
        "_done",
        "_give_back",
        "_long",
        "_pieces",
        "_stream",
        "status",
    )

    def __init__(
        self,
        response: httpcore.Response,
        connection: Connection,
        give_back: Callable[[Connection], Awaitable[None]],
    ) -> None:
        super().__init__(header_map(response.headers))
        self.status: int = response.status
        stream: Any = response.stream
        self._stream = stream
        self._pieces: AsyncIterator[bytes] | None = stream.__aiter__()
        self._connection = connection
        self._give_back = give_back
        self._done = False
        self._begun = False  # whether httpcore has been asked for a piece of the body
        self._chunked = connection.awaits_chunks()
        self._long = len(self.headers.get("content-length", "")) >= MAX_CHUNK

    async def _raw(self) -> bytes:
        if self._pieces is None:
            return b""
        if (self._chunked or self._long) and (piece := await self._middle()):
            return piece
        self._begun = True
        try:
            piece = await self._pieces.__anext__()
            while not piece:
                piece = await self._pieces.__anext__()
        except StopAsyncIteration:
            self._pieces = None
            await self._over()
            return b""
        except BaseException as error:
            self._pieces = None
            await self._over()
            if isinstance(error, (httpcore.NetworkError, httpcore.ProtocolError)):
                raise _cut() from None
            raise
        return piece

    async def _middle(self) -> bytes:
        """The next piece of a long body or of one in chunks, straight from the wire: h11 would copy it four times, and only counts it. b""
        where h11 must see what comes: what it holds already, and the end."""
        connection = self._connection
        try:
            if self._chunked:
                piece = await connection.wire.read_chunks()
                self._chunked = bool(piece)
                return piece
            most = connection.expected() - LAST
            if most <= 0:
                return b""
            piece = await connection.wire.read_available(min(most, READ))
        except BaseException as error:
            await self.aclose()
            if isinstance(error, (httpcore.NetworkError, BadChunkError)):
                raise _cut() from None
            raise
        connection.consumed(len(piece))
        return piece

    async def _over(self) -> None:
        """The message has ended or failed: httpcore's stream is closed (it decides whether the connection is idle), the slot goes back."""
        if self._done:
            return
        self._done = True
        try:
            await self._stream.aclose()
        finally:  # cancelled meanwhile, the connection is not clean: giving it back closes it under a shield of its own
            await self._give_back(self._connection)

    async def finish(self) -> None:
        """The dialect has its end mark: read the little that may still come, else the connection is lost to the next call."""
        if self._pieces is None:
            return
        left = DRAIN_BYTES
        with anyio.move_on_after(DRAIN_SECONDS):
            try:
                while left > 0 and (piece := await self._raw()):
                    left -= len(piece)
            except MajordomoError:
                return
        await self.aclose()

    async def aclose(self) -> None:
        """Leave. When the message is not over, the socket is closed first: what httpcore then still does ends at once."""
        if self._done:
            return
        with anyio.CancelScope(shield=True):
            if self._pieces is not None:
                await self._connection.aclose()
                # httpcore leaves an inner generator to the collector unless it is pulled until it ends; on a closed wire that is at once
                try:
                    while self._begun:
                        await self._pieces.__anext__()
                except (
                    StopAsyncIteration,
                    httpcore.NetworkError,
                    httpcore.ProtocolError,
                    MajordomoError,
                ):
                    pass
                except RuntimeError:  # "already running": the loop ends, and is about to close it
                    pass
                self._pieces = None
            await self._over()


def _cut() -> ConnectionFailedError:
    return ConnectionFailedError(
        "the connection was lost in the middle of the answer",
        code="REPLY_CUT",
        details={"replied": True},
    )


def header_map(headers: Any) -> Mapping[str, str]:
    """Lower-case names; a repeated header's values joined by commas."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


class Inflater:
    """gzip, at most 64 KiB at a time, so that a bomb is noticed by whoever counts before it fills the memory."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)

    def feed(self, raw: bytes) -> None:
        self._input = self._zlib.unconsumed_tail + raw

    _input = b""

    def more(self) -> bytes:
        """The next decoded piece; b"" when more input is needed."""
        if not self._input:
            return b""
        try:
            piece = self._zlib.decompress(self._input, INFLATE)
        except zlib.error:
            raise BadResponseError(
                "the answer says gzip and is none", code="BAD_ENCODING"
            ) from None
        if self._zlib.unused_data:  # zlib would keep all that comes
            raise BadResponseError(
                "the answer goes on behind the end of its gzip", code="BAD_ENCODING"
            )
        self._input = self._zlib.unconsumed_tail
        return piece

    def end(self) -> bytes:
        if not self._zlib.eof:
            raise ConnectionFailedError(
                "the answer ended before its gzip did", code="REPLY_CUT", details={"replied": True}
            )
        return b""


def inflater(headers: Mapping[str, str]) -> Inflater | None:
    """What decodes the answer's content coding. Raises BadResponseError for any but gzip: it was never asked for."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip"):
        return Inflater()
    raise BadResponseError(
        f"the answer is coded as {plain_text(coding, 40)!r}; only gzip was asked for",
        code="BAD_ENCODING",
    )
