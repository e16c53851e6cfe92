"""Transport over any `httpx.AsyncClient` or `httpx.AsyncBaseTransport` (of httpx or httpx2).

For company proxies, SOCKS, custom TLS or authentication, and in-process applications. Sizes,
redirects, error mapping and the total, first-byte and idle limits are those of our own transport.
The connect and queue limits are the client's own, and so is what it does to its pool when a call is
cancelled, or when a server sends a response without a request.
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
from majordomo.transport.response import DecodedResponse
from majordomo.transport.response_head import header_map
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, StreamingBody

# Time limit for closing a response.
CLOSE_SECONDS = 1.0
# Time limit for reading the rest of a closed response.
DRAIN_SECONDS = 0.25


class HTTPXTransport:
    """Transport over an httpx client or transport, which is not closed here."""

    def __init__(self, base_url: BaseURL, headers: Headers, client: Any) -> None:
        if not hasattr(client, "handle_async_request") and not (
            hasattr(client, "send") and hasattr(client, "aclose")
        ):
            raise ConfigurationError(
                "transport must be an httpx.AsyncClient, an httpx.AsyncBaseTransport, a Transport"
                f" or a TransportWrapper; got {type(client).__name__}",
                details={"field": "transport"},
            )
        self.base_url = base_url
        self._headers = headers
        self._client = client
        self._httpx = _import_http_library(client)
        self._closed = False

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Send the request and wait for the head of the response."""
        if self._closed:
            raise ConfigurationError("the provider is closed", code="CLOSED")
        self.base_url.refuse_other_origin(request.origin)
        deadline.start_phase("first_byte")
        response = await self._wait(self._send(request), deadline)
        deadline.start_phase("idle")
        try:
            return HTTPXResponse(response, deadline, self)
        except MajordomoError:
            await response.aclose()
            raise

    async def _send(self, request: HTTPRequest) -> Any:
        url = (
            self.base_url.origin
            + ("" if request.from_origin else self.base_url.path)
            + request.path
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
        outgoing = self._httpx.Request(request.method, url, headers=headers, **stream)
        if hasattr(self._client, "handle_async_request"):
            return await self._client.handle_async_request(outgoing)
        # The client's own authentication is for the backend, not for other origins.
        auth = {"auth": None} if request.origin else {}
        return await self._client.send(outgoing, stream=True, follow_redirects=False, **auth)

    async def _wait(self, awaitable: Any, deadline: Deadline) -> Any:
        """Await under the current limit, and translate the errors of httpx."""
        try:
            with anyio.move_on_after(deadline.next_timeout()):
                return await awaitable
        except MajordomoError:
            raise
        except self._httpx.TimeoutException as error:
            phase: Phase = "idle"
            if isinstance(error, self._httpx.ConnectTimeout):
                phase = "connect"
            elif isinstance(error, self._httpx.PoolTimeout):
                phase = "queue"
            raise DeadlineExceededError(
                "a time limit of the httpx transport has passed", phase=phase
            ) from None
        except self._httpx.InvalidURL:
            # Our URL is valid. The client parses the target of a redirect, though it must not
            # follow it.
            raise BadResponseError(
                "the backend redirects to an invalid URL", code="REDIRECT", retryable=False
            ) from None
        except (self._httpx.HTTPError, self._httpx.StreamError, OSError) as error:
            if isinstance(error, self._httpx.ConnectError) and _is_tls_error(error):
                raise ConnectionFailedError(
                    f"TLS connection to {self.base_url.authority} failed",
                    code="TLS_FAILED",
                    retryable=False,
                ) from None
            raise ConnectionFailedError(
                f"the request to {self.base_url.authority} failed: {type(error).__name__}",
                details={"reused": False, "sent": True},
            ) from None
        raise deadline.exceeded()

    async def aclose(self) -> None:
        """Refuse further requests. The httpx client stays open: its owner closes it."""
        self._closed = True


class HTTPXResponse(DecodedResponse):
    """A response from an httpx client, decoded and limited as those of our own transport."""

    def __init__(self, response: Any, deadline: Deadline, transport: HTTPXTransport) -> None:
        super().__init__(header_map(response.headers.raw))
        self.status: int = response.status_code
        self._response = response
        self._deadline = deadline
        self._transport = transport
        self._chunks: AsyncIterator[bytes] | None = response.stream.__aiter__()

    async def _read_raw(self) -> bytes:
        while self._chunks is not None:
            received = await self._transport._wait(_next(self._chunks), self._deadline)
            if received is None:
                self._chunks = None
            elif received:
                chunk: bytes = received
                return chunk
        return b""

    async def finish(self) -> None:
        """Close the response."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the response at any point. Calling it twice is allowed."""
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            chunks, self._chunks = self._chunks, None
            await self._response.aclose()
            if isinstance(chunks, AsyncGenerator):
                # It holds generators of the client, which would be left to the garbage collector
                # (trio warns about that) unless it is read to its end. On a connection that was
                # just closed that ends at once.
                with anyio.move_on_after(DRAIN_SECONDS), suppress(Exception):
                    while await _next(chunks) is not None:
                        pass
                await chunks.aclose()


def _is_tls_error(error: BaseException | None) -> bool:
    """Return whether TLS is the cause, for example a certificate: a retry would fail again."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await chunks.__anext__()
    except StopAsyncIteration:
        return None


class _UploadStream:
    """A replayable streaming body in the form that httpx needs."""

    def __init__(self, body: StreamingBody) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _iterate(self._body.chunks())


async def _iterate(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _import_http_library(client: Any) -> Any:
    """Return the module httpx, or httpx2 when the client belongs to it."""
    import importlib

    for base in type(client).__mro__:
        library = base.__module__.partition(".")[0]
        if library in ("httpx", "httpx2"):
            return importlib.import_module(library)
    import httpx

    return httpx
