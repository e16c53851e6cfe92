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
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.abc
from anyio.lowlevel import RunVar

from majordomo.errors import (
    BadResponseError,
    ConfigurationError,
    ConnectionFailedError,
    MajordomoError,
)
from majordomo.transport.base_url import BaseURL, Headers
from majordomo.transport.connection import Connection
from majordomo.transport.pool import MAX_CONNECTIONS, Pool
from majordomo.transport.request_head import encode_header_lines, encode_request_head
from majordomo.transport.response import HTTPResponse
from majordomo.transport.socket_stream import (
    ConnectionLostError,
    SocketStream,
    connect_tcp,
    start_tls,
)
from majordomo.transport.tls import context_for
from majordomo.transport_types import (
    Deadline,
    HTTPRequest,
    HTTPStream,
    MessageStream,
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
        self._headers = headers
        self._header_lines = encode_header_lines(headers)
        # Of a request target; a proxy needs the whole URL of a request that it forwards.
        self._target_prefix = base_url.origin if proxy and not base_url.secure else ""

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Send the request and wait for the head of the response.

        Raises ConnectionFailedError, DeadlineExceededError and BadResponseError.
        """
        self.base_url.refuse_other_origin(request.origin)
        head = encode_request_head(request, self._target(request), self._header_lines)
        pool = await self._get_pool()
        connection = await pool.acquire(deadline)
        deadline.start_phase("first_byte")
        try:
            content = await connection.exchange(request.method, head, request.body, deadline)
            if not connection.response.status:
                raise self._invalid_response_error(connection)
            reply = HTTPResponse(connection, content, pool.release)
        except BaseException as error:
            await pool.release(connection)
            if isinstance(
                error, (MajordomoError, anyio.get_cancelled_exc_class())
            ) or not isinstance(error, Exception):
                raise
            raise self._connection_error(error, connection) from None
        await reply.release_if_complete()
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

    def _target(self, request: HTTPRequest) -> str:
        path = request.path if request.from_origin else self.base_url.path + request.path
        return self._target_prefix + path

    def _invalid_response_error(self, connection: Connection) -> MajordomoError:
        if not connection.stream.replied:
            return self._connection_error(ConnectionLostError(), connection)
        return BadResponseError(
            f"the response of {self.base_url.authority} is not valid HTTP:"
            f" {connection.response.failed}",
            code="NOT_HTTP",
            details=_retry_details(connection),
        )

    def _connection_error(self, error: Exception, connection: Connection) -> MajordomoError:
        authority = self.base_url.authority
        return ConnectionFailedError(
            f"{authority} closed the connection without a response"
            if isinstance(error, ConnectionLostError)
            else f"the request to {authority} failed: {type(error).__name__}",
            details=_retry_details(connection),
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
        base_url, proxy, tls = self.base_url, self._proxy, self._tls
        return lambda deadline: _connect(base_url, proxy, tls, deadline)

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


def _retry_details(connection: Connection) -> dict[str, bool]:
    stream = connection.stream
    return {"reused": connection.used, "sent": stream.sent, "replied": stream.replied}


async def _connect(
    base_url: BaseURL,
    proxy: BaseURL | None,
    tls: str | ssl.SSLContext | None,
    deadline: Deadline,
) -> Connection:
    stream = await _open_stream(base_url, proxy, tls, deadline, tunnel=base_url.secure)
    secure = base_url.secure or (proxy is not None and proxy.secure)
    return Connection(SocketStream(stream, deadline, secure=secure))


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
            try:
                stream = await _prepare(tcp, base_url, proxy, tls, tunnel=tunnel)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(tcp)
                raise
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


async def _prepare(
    stream: anyio.abc.ByteStream,
    base_url: BaseURL,
    proxy: BaseURL | None,
    tls: str | ssl.SSLContext | None,
    *,
    tunnel: bool,
) -> anyio.abc.ByteStream:
    """Start TLS and open the tunnel, as needed. The caller closes `stream` if that fails."""
    if proxy is not None and proxy.secure:
        stream = await start_tls(stream, proxy.host, context_for(tls))
    if proxy is not None and tunnel:
        await _open_tunnel(stream, base_url)
    if base_url.secure:
        stream = await start_tls(stream, base_url.host, context_for(tls))
    return stream


async def _open_tunnel(stream: anyio.abc.ByteStream, base_url: BaseURL) -> None:
    """Open a tunnel through a proxy with CONNECT.

    Implemented by hand: the head of the response is small, and what follows belongs to TLS.
    """
    target = (
        f"{base_url.host}:{base_url.port}"
        if ":" not in base_url.host
        else f"[{base_url.host}]:{base_url.port}"
    )
    await stream.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > 16 * 1024:
            raise OSError("the head of the proxy's response is larger than 16 KiB")
        # Read single bytes: nothing beyond the head may be consumed.
        head += await stream.receive(1)
    status = head.split(b" ", 2)[1:2]
    if not status or not status[0].startswith(b"2"):
        raise OSError(
            f"the proxy refused the tunnel ({status[0].decode('latin-1')[:3] if status else '?'})"
        )


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
