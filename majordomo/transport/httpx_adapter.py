"""The same requests over somebody else's HTTP: any `httpx.AsyncClient` or `httpx.AsyncBaseTransport` (of httpx or httpx2).

For company proxies, SOCKS, custom TLS or authentication, and in-process applications. Sizes, redirects, error mapping and the total,
first-byte and idle limits are kept as on our own sockets; the connect and queue limits are the client's own, and so is what
it does to its pool when a call is cancelled, or when a server answers what nobody asked.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio

from majordomo.errors import (
    BadResponseError,
    ConfigurationError,
    ConnectionFailedError,
    DeadlineExceededError,
    MajordomoError,
    Phase,
)
from majordomo.transport.base_url import BaseURL, Headers
from majordomo.transport.response import DecodedReply, header_map
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, StreamingBody

LEAVING = 1.0  # seconds for closing an answer
ENDING = 0.25  # seconds for what is pulled of one that was closed


class HTTPXTransport:
    """Transport over `carrier`, which stays the caller's to close."""

    def __init__(self, address: BaseURL, headers: Headers, carrier: Any) -> None:
        if not hasattr(carrier, "handle_async_request") and not (
            hasattr(carrier, "send") and hasattr(carrier, "aclose")
        ):
            raise ConfigurationError(
                "transport is an httpx.AsyncClient or httpx.AsyncBaseTransport, or what stands around a way, as a recorder does",
                details={"field": "transport"},
            )
        self.address = address
        self._headers = headers
        self._carrier = carrier
        self._httpx = _http_library(carrier)
        self._closed = False

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Send, and wait for the head of the answer."""
        if self._closed:
            raise ConfigurationError("the provider is closed", code="CLOSED")
        deadline.start_phase("first_byte")
        response = await self._guarded(self._send(request), deadline)
        deadline.start_phase("idle")
        try:
            return HTTPXReply(response, deadline, self)
        except MajordomoError:
            await response.aclose()
            raise

    async def _send(self, request: HTTPRequest) -> Any:
        url = (
            self.address.origin + ("" if request.from_origin else self.address.path) + request.path
        )
        headers = [
            *self._headers,
            (b"Accept", request.accept.encode()),
            (b"Accept-Encoding", b"identity" if request.stream else b"gzip"),
        ]
        if request.content_type:
            headers.append((b"Content-Type", request.content_type.encode("ascii")))
        body = request.body
        length = len(body) if isinstance(body, bytes) else body.length
        if length or request.method not in ("GET", "HEAD"):
            headers.append((b"Content-Length", b"%d" % length))
        stream = {"content": body} if isinstance(body, bytes) else {"content": _UploadStream(body)}
        made = self._httpx.Request(request.method, url, headers=headers, **stream)
        if hasattr(self._carrier, "handle_async_request"):
            return await self._carrier.handle_async_request(made)
        return await self._carrier.send(made, stream=True, follow_redirects=False)

    async def _guarded(self, work: Any, deadline: Deadline) -> Any:
        """One wait: the limit, and their errors as ours."""
        try:
            with anyio.move_on_after(deadline.next_timeout()):
                return await work
        except MajordomoError:
            raise
        except self._httpx.TimeoutException as error:
            phase: Phase = "idle"
            if isinstance(error, self._httpx.ConnectTimeout):
                phase = "connect"
            elif isinstance(error, self._httpx.PoolTimeout):
                phase = "queue"
            raise DeadlineExceededError(
                "the transport's own limit has passed", phase=phase
            ) from None
        except self._httpx.InvalidURL:  # ours is none of those: the client looks where a redirect leads, though it is not to follow
            raise BadResponseError(
                "the backend redirects to what is no address", code="REDIRECT", retryable=False
            ) from None
        except (self._httpx.HTTPError, self._httpx.StreamError, OSError) as error:
            if isinstance(error, self._httpx.ConnectError) and _is_of_tls(error):
                raise ConnectionFailedError(
                    f"no TLS with {self.address.authority}", code="TLS_FAILED", retryable=False
                ) from None
            raise ConnectionFailedError(
                f"the exchange with {self.address.authority} failed: {type(error).__name__}",
                details={"reused": False, "sent": True},
            ) from None
        raise deadline.exceeded()

    async def aclose(self) -> None:
        self._closed = True


class HTTPXReply(DecodedReply):
    """An answer over a foreign client, decoded and limited as ours are."""

    def __init__(self, response: Any, deadline: Deadline, room: HTTPXTransport) -> None:
        super().__init__(header_map(response.headers.raw))
        self.status: int = response.status_code
        self._response = response
        self._deadline = deadline
        self._room = room
        self._pieces: AsyncIterator[bytes] | None = response.stream.__aiter__()

    async def _raw(self) -> bytes:
        while self._pieces is not None:
            piece = await self._room._guarded(_next(self._pieces), self._deadline)
            if piece is None:
                self._pieces = None
            elif piece:
                whole: bytes = piece
                return whole
        return b""

    async def finish(self) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        with anyio.move_on_after(LEAVING, shield=True):
            pieces, self._pieces = self._pieces, None
            await self._response.aclose()
            if isinstance(pieces, AsyncGenerator):
                # It holds generators of the client's own, which would be left to the collector (trio warns of it) unless it is pulled
                # until it ends; on a connection that was just closed that is at once
                with anyio.move_on_after(ENDING), suppress(Exception):
                    while await _next(pieces) is not None:
                        pass
                await pieces.aclose()


def _is_of_tls(error: BaseException | None) -> bool:
    """Whether its cause is TLS, a certificate perhaps: it would fail again."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await pieces.__anext__()
    except StopAsyncIteration:
        return None


class _UploadStream:
    """An upload that may be sent again, as httpx wants it."""

    def __init__(self, upload: StreamingBody) -> None:
        self._upload = upload

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _each(self._upload.chunks())


async def _each(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _http_library(carrier: Any) -> Any:
    """httpx, or httpx2 when the carrier comes from there."""
    import importlib

    for base in type(carrier).__mro__:
        library = base.__module__.partition(".")[0]
        if library in ("httpx", "httpx2"):
            return importlib.import_module(library)
    import httpx

    return httpx
