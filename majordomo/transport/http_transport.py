"""The HTTP transport of a provider: one origin, headers encoded once, one pool per event loop.

Who closes what: a transport does not own its pools, the event loops do (`_pools` maps the transport
to its pool in the running loop). `aclose` closes the pool of the running loop; the pools of other
loops end with those loops. A pool's connect function must not refer to the transport, so that an
abandoned transport can be collected and its pools with it.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.abc
from anyio.lowlevel import RunVar

from majordomo.errors import (
    BadResponseError,
    ConfigurationError,
    ConnectionFailedError,
    InvalidRequestError,
    MajordomoError,
)
from majordomo.transport.base_url import BaseURL, Headers
from majordomo.transport.connection import Connection
from majordomo.transport.httpcore_compat import httpcore
from majordomo.transport.pool import MAX_CONNECTIONS, Pool
from majordomo.transport.response import HTTPResponse
from majordomo.transport.socket_stream import SocketStream, connect_tcp, start_tls
from majordomo.transport.tls import context_for
from majordomo.transport_types import (
    Deadline,
    HTTPRequest,
    HTTPStream,
    MessageStream,
    StreamingBody,
)

log: logging.Logger = logging.getLogger("majordomo.transport")

_pools: RunVar[WeakKeyDictionary[HTTPTransport, Pool]] = RunVar("majordomo-pools")


class HTTPTransport:
    """The default transport, over sockets and a connection pool of its own.

    `headers` are sent with every request and never elsewhere: there is only one origin.
    """

    def __init__(
        self,
        base_url: BaseURL,
        *,
        headers: Headers,
        tls: str | ssl.SSLContext | None = None,
        proxy: BaseURL | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.base_url = base_url
        self._tls = tls
        self._proxy = proxy
        self._max_connections = max_connections
        self._closed = False
        self._origin = httpcore.Origin(
            base_url.scheme.encode(), base_url.host.encode(), base_url.port
        )
        self._headers = headers

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Send the request and wait for the head of the response.

        Raises ConnectionFailedError, DeadlineExceededError and BadResponseError.
        """
        pool = await self._get_pool()
        connection = await pool.acquire(deadline)
        stream = connection.stream
        stream.begin(deadline)
        deadline.start_phase("first_byte")

        try:
            response = await connection.protocol.handle_async_request(self._encode(request))
            reply = HTTPResponse(response, connection, pool.release)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await connection.aclose()
                await pool.release(connection)
            if isinstance(
                error, (MajordomoError, anyio.get_cancelled_exc_class())
            ) or not isinstance(error, Exception):
                raise
            # Keep only the class of the library's error: h11 quotes the value of a bad header, and
            # that may be a key.
            raise self._translate_error(error, connection) from None
        deadline.start_phase("idle")
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s %s%s -> %d",
                request.method,
                self.base_url.origin,
                request.path.partition("?")[0],
                reply.status,
            )
        return reply

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        """Open a websocket at `path` whose messages have at most `limit` bytes.

        It uses a connection of its own, outside the pool. Raises ConfigurationError
        (`MISSING_EXTRA`) if wsproto is not installed, and the errors of `open`.
        """
        try:
            from majordomo.transport.websocket import WebSocket
        except ImportError:
            raise ConfigurationError(
                "websockets need an extra: pip install 'majordomo-client[comfyui]'",
                code="MISSING_EXTRA",
            ) from None
        if self._closed:
            raise ConfigurationError("the provider is closed", code="CLOSED")
        websocket = WebSocket(
            await _open_stream(self.base_url, self._proxy, self._tls, deadline, tunnel=True),
            deadline,
            limit,
        )
        await websocket.handshake(self.base_url.authority, self.base_url.path + path, self._headers)
        return websocket

    def _encode(self, request: HTTPRequest) -> httpcore.Request:
        target = (
            request.path if request.from_origin else self.base_url.path + request.path
        ).encode("ascii")
        headers = [*self._headers, (b"Accept", request.accept.encode())]
        headers.append((b"Accept-Encoding", b"identity" if request.stream else b"gzip"))
        body = request.body
        if request.content_type:
            headers.append((b"Content-Type", request.content_type.encode("ascii")))
        if isinstance(body, bytes):
            content: Any = body
            length = len(body)
        else:
            content, length = _BodyChunks(body), body.length
        # sd-server delays its response to a POST without Content-Length by 5 s.
        if length or request.method not in ("GET", "HEAD"):
            headers.append((b"Content-Length", b"%d" % length))
        if self._proxy is not None and not self.base_url.secure:
            target = self.base_url.origin.encode() + target
        url = httpcore.URL(
            scheme=self._origin.scheme,
            host=self._origin.host,
            port=self._origin.port,
            target=target,
        )
        return httpcore.Request(request.method.encode(), url, headers=headers, content=content)

    def _translate_error(self, error: Exception, connection: Connection) -> MajordomoError:
        stream = connection.stream
        details = {"reused": connection.used, "sent": stream.sent, "replied": stream.replied}
        if isinstance(error, httpcore.LocalProtocolError):
            return InvalidRequestError(
                "the request cannot be encoded as HTTP; check its headers", field="headers"
            )
        if isinstance(error, httpcore.RemoteProtocolError) and stream.replied:
            return BadResponseError(
                f"the response of {self.base_url.authority} is not valid HTTP",
                code="NOT_HTTP",
                details=details,
            )
        if isinstance(error, (httpcore.NetworkError, httpcore.ProtocolError)):
            return ConnectionFailedError(
                f"{self.base_url.authority} closed the connection without a response",
                details=details,
            )
        return ConnectionFailedError(
            f"the request to {self.base_url.authority} failed: {type(error).__name__}",
            details=details,
        )

    async def _get_pool(self) -> Pool:
        try:
            pools = _pools.get()
        except LookupError:
            pools = WeakKeyDictionary()
            _pools.set(pools)
        pool = pools.get(self)
        if pool is None:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            pool = Pool(self._connect_function(), self._max_connections)
            pools[self] = pool
            await pool.start()
        return pool

    def _connect_function(self) -> Any:
        """Return a function that connects.

        It must not refer to the transport: an unreferenced transport lets go of its pools.
        """
        origin, base_url, proxy, tls = self._origin, self.base_url, self._proxy, self._tls
        return lambda deadline: _connect(origin, base_url, proxy, tls, deadline)

    async def aclose(self) -> None:
        """Refuse further requests and close the connections of this event loop.

        The connections of other event loops end with those loops.
        """
        self._closed = True
        try:
            pools = _pools.get()
        except LookupError:
            return
        pool = pools.get(self)
        if pool is not None:
            await pool.aclose()


async def _connect(
    origin: httpcore.Origin,
    base_url: BaseURL,
    proxy: BaseURL | None,
    tls: str | ssl.SSLContext | None,
    deadline: Deadline,
) -> Connection:
    stream = await _open_stream(base_url, proxy, tls, deadline, tunnel=base_url.secure)
    return Connection(origin, SocketStream(stream, deadline, secure=base_url.secure))


async def _open_stream(
    base_url: BaseURL,
    proxy: BaseURL | None,
    tls: str | ssl.SSLContext | None,
    deadline: Deadline,
    *,
    tunnel: bool,
) -> anyio.abc.ByteStream:
    """Connect with TCP and TLS under one limit.

    With `tunnel`, a proxy is asked for a tunnel (CONNECT) instead of forwarding requests.
    """
    deadline.start_phase("connect")
    peer = proxy or base_url
    stream = None
    try:
        with anyio.move_on_after(deadline.next_timeout()):
            tcp = await connect_tcp(peer.host, peer.port)
            if proxy is not None and proxy.secure:
                tcp = await start_tls(tcp, proxy.host, context_for(tls))
            if proxy is not None and tunnel:
                tcp = await _open_tunnel(tcp, proxy, base_url, deadline)
            stream = (
                await start_tls(tcp, base_url.host, context_for(tls)) if base_url.secure else tcp
            )
    except ssl.SSLError as error:
        reason = (
            error.verify_message
            if isinstance(error, ssl.SSLCertVerificationError)
            else (error.reason or "handshake failed")
        )
        raise ConnectionFailedError(
            f"TLS connection to {peer.authority} failed: {reason}",
            code="TLS_FAILED",
            retryable=False,
        ) from None
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise ConnectionFailedError(
            f"cannot connect to {peer.authority}: {_reason(error)}",
            details={"reused": False, "sent": False, "replied": False},
        ) from None
    if stream is None:
        raise deadline.exceeded()
    return stream


async def _open_tunnel(tcp: Any, proxy: BaseURL, base_url: BaseURL, deadline: Deadline) -> Any:
    """Open a tunnel through a proxy with CONNECT.

    Implemented by hand: the head of the response is small, and what follows belongs to TLS.
    """
    target = (
        f"{base_url.host}:{base_url.port}"
        if ":" not in base_url.host
        else f"[{base_url.host}]:{base_url.port}"
    )
    await tcp.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > 16 * 1024:
            raise OSError("the head of the proxy's response is larger than 16 KiB")
        # Read single bytes: nothing beyond the head may be consumed.
        head += await tcp.receive(1)
    status = head.split(b" ", 2)[1:2]
    if not status or not status[0].startswith(b"2"):
        await anyio.aclose_forcefully(tcp)
        raise OSError(
            f"the proxy refused the tunnel ({status[0].decode('latin-1')[:3] if status else '?'})"
        )
    return tcp


def _reason(error: BaseException) -> str:
    """Describe why connect_tcp failed.

    The cause may be a group with one error for each address that was tried.
    """
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    reason = cause if isinstance(cause, OSError) else error
    if isinstance(reason, OSError):
        # asyncio writes a sentence of its own into strerror.
        return (
            os.strerror(reason.errno) if reason.errno and reason.errno > 0 else reason.strerror
        ) or type(reason).__name__
    return type(reason).__name__


class _BodyChunks:
    """A streaming body as the iterator object that httpcore needs.

    It is not an async generator, because httpcore 1.0 leaves one behind when a request fails half
    way.
    """

    def __init__(self, body: StreamingBody) -> None:
        self._chunks: Iterator[bytes] = body.chunks()

    def __aiter__(self) -> _BodyChunks:
        return self

    async def __anext__(self) -> bytes:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk
