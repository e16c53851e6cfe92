"""A provider's way to its backend: one origin, headers made once, one pool per event loop."""

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
from majordomo.transport.response import HTTPReply
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
    """The Transport over sockets of our own. `headers` go with every request and never elsewhere: there is only this one origin."""

    def __init__(
        self,
        address: BaseURL,
        *,
        headers: Headers,
        tls: str | ssl.SSLContext | None = None,
        proxy: BaseURL | None = None,
        connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.address = address
        self._tls = tls
        self._proxy = proxy
        self._connections = connections
        self._closed = False
        self._origin = httpcore.Origin(address.scheme.encode(), address.host.encode(), address.port)
        self._headers = headers

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Send, and wait for the head of the answer. Raises ConnectionFailedError, DeadlineExceededError, BadResponseError."""
        pool = await self._pool()
        connection = await pool.acquire(deadline)
        wire = connection.wire
        wire.begin(deadline)
        deadline.start_phase("first_byte")

        try:
            response = await connection.protocol.handle_async_request(self._request(request))
            reply = HTTPReply(response, connection, pool.release)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await connection.aclose()
                await pool.release(connection)
            if isinstance(
                error, (MajordomoError, anyio.get_cancelled_exc_class())
            ) or not isinstance(error, Exception):
                raise
            # Of theirs only the class is kept: h11 quotes a bad header's value, and that may be a key
            raise self._failed(error, connection) from None
        deadline.start_phase("idle")
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s %s%s -> %d",
                request.method,
                self.address.origin,
                request.path.partition("?")[0],
                reply.status,
            )
        return reply

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        """A websocket at `path`, on a connection of its own beside the pool; its messages have at most `limit` bytes.

        Raises ConfigurationError (MISSING_EXTRA) without wsproto, and as `open` does.
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
        socket = WebSocket(
            await _stream(self.address, self._proxy, self._tls, deadline, tunnelled=True),
            deadline,
            limit,
        )
        await socket.handshake(self.address.authority, self.address.path + path, self._headers)
        return socket

    def _request(self, request: HTTPRequest) -> httpcore.Request:
        target = (request.path if request.from_origin else self.address.path + request.path).encode(
            "ascii"
        )
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
        if length or request.method not in (
            "GET",
            "HEAD",
        ):  # a POST without it is answered 5 s late by sd-server
            headers.append((b"Content-Length", b"%d" % length))
        if self._proxy is not None and not self.address.secure:
            target = self.address.origin.encode() + target
        url = httpcore.URL(
            scheme=self._origin.scheme,
            host=self._origin.host,
            port=self._origin.port,
            target=target,
        )
        return httpcore.Request(request.method.encode(), url, headers=headers, content=content)

    def _failed(self, error: Exception, connection: Connection) -> MajordomoError:
        wire = connection.wire
        details = {"reused": connection.used, "sent": wire.sent, "replied": wire.replied}
        if isinstance(error, httpcore.LocalProtocolError):
            return InvalidRequestError("the request cannot be put into HTTP", field="headers")
        if isinstance(error, httpcore.RemoteProtocolError) and wire.replied:
            return BadResponseError(
                f"{self.address.authority} answers with what is no HTTP",
                code="NOT_HTTP",
                details=details,
            )
        if isinstance(error, (httpcore.NetworkError, httpcore.ProtocolError)):
            return ConnectionFailedError(
                f"{self.address.authority} closed the connection without an answer", details=details
            )
        return ConnectionFailedError(
            f"the exchange with {self.address.authority} failed: {type(error).__name__}",
            details=details,
        )

    async def _pool(self) -> Pool:
        try:
            pools = _pools.get()
        except LookupError:
            pools = WeakKeyDictionary()
            _pools.set(pools)
        pool = pools.get(self)
        if pool is None:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            pool = Pool(self._dial_function(), self._connections)
            pools[self] = pool
            await pool.start()
        return pool

    def _dial_function(self) -> Any:
        """A function that connects. It must not hold the room: a room that nobody holds any more lets its pools go."""
        origin, address, proxy, tls = self._origin, self.address, self._proxy, self._tls
        return lambda deadline: _connect(origin, address, proxy, tls, deadline)

    async def aclose(self) -> None:
        """Refuse further calls, and close the connections of this event loop; those of other loops end with their loops."""
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
    address: BaseURL,
    proxy: BaseURL | None,
    tls: str | ssl.SSLContext | None,
    deadline: Deadline,
) -> Connection:
    stream = await _stream(address, proxy, tls, deadline, tunnelled=address.secure)
    return Connection(origin, SocketStream(stream, deadline, secure=address.secure))


async def _stream(
    address: BaseURL,
    proxy: BaseURL | None,
    tls: str | ssl.SSLContext | None,
    deadline: Deadline,
    *,
    tunnelled: bool,
) -> anyio.abc.ByteStream:
    """TCP and TLS under one limit. `tunnelled`: a proxy is asked for a tunnel, not for answers."""
    deadline.start_phase("connect")
    near = proxy or address
    stream = None
    try:
        with anyio.move_on_after(deadline.next_timeout()):
            tcp = await connect_tcp(near.host, near.port)
            if proxy is not None and proxy.secure:
                tcp = await start_tls(tcp, proxy.host, context_for(tls))
            if proxy is not None and tunnelled:
                tcp = await _tunnel(tcp, proxy, address, deadline)
            stream = await start_tls(tcp, address.host, context_for(tls)) if address.secure else tcp
    except ssl.SSLError as error:
        reason = (
            error.verify_message
            if isinstance(error, ssl.SSLCertVerificationError)
            else (error.reason or "handshake failed")
        )
        raise ConnectionFailedError(
            f"no TLS with {near.authority}: {reason}", code="TLS_FAILED", retryable=False
        ) from None
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise ConnectionFailedError(
            f"cannot connect to {near.authority}: {_reason(error)}",
            details={"reused": False, "sent": False, "replied": False},
        ) from None
    if stream is None:
        raise deadline.exceeded()
    return stream


async def _tunnel(tcp: Any, proxy: BaseURL, address: BaseURL, deadline: Deadline) -> Any:
    """CONNECT through a proxy, by hand: the answer's head is small, and what follows belongs to TLS."""
    target = (
        f"{address.host}:{address.port}"
        if ":" not in address.host
        else f"[{address.host}]:{address.port}"
    )
    await tcp.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > 16 * 1024:
            raise OSError("the proxy talks too much")
        head += await tcp.receive(1)  # not a byte beyond the head may be taken
    status = head.split(b" ", 2)[1:2]
    if not status or not status[0].startswith(b"2"):
        await anyio.aclose_forcefully(tcp)
        raise OSError(f"the proxy refused ({status[0].decode('latin-1')[:3] if status else '?'})")
    return tcp


def _reason(error: BaseException) -> str:
    """In words what connect_tcp keeps in a cause, which may be a group of one error per address tried."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else error
    if isinstance(found, OSError):
        # asyncio puts a sentence of its own into strerror
        return (
            os.strerror(found.errno) if found.errno and found.errno > 0 else found.strerror
        ) or type(found).__name__
    return type(found).__name__


class _BodyChunks:
    """An upload as httpcore wants it: an iterator object. (httpcore 1.0 leaves an async generator behind when it fails half way.)"""

    def __init__(self, upload: StreamingBody) -> None:
        self._pieces: Iterator[bytes] = upload.chunks()

    def __aiter__(self) -> _BodyChunks:
        return self

    async def __anext__(self) -> bytes:
        piece = next(self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        return piece
