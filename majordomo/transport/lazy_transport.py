"""Lazy construction of the transport.

All settings are checked when a provider is constructed. The transport itself, and h11 with it, is
loaded at the first call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError, UnsupportedError
from majordomo.redaction import Secret
from majordomo.transport.base_url import BaseURL, encode_headers
from majordomo.transport.multi_origin import AllowedOrigins, MultiOriginTransport
from majordomo.transport_types import (
    Deadline,
    HTTPRequest,
    HTTPStream,
    MessageStream,
    Transport,
    TransportWrapper,
    websocket_connector,
)

if TYPE_CHECKING:
    import ssl


class LazyTransport:
    """A transport that is constructed at its first use, exactly once across all threads."""

    def __init__(self, construct: Callable[[], Transport]) -> None:
        self._construct = construct
        self._transport: Transport | None = None
        self._closed = False
        self._lock = Lock()

    def open(self, request: HTTPRequest, deadline: Deadline) -> Awaitable[HTTPStream]:
        """Open the request with the inner transport, without a coroutine of its own."""
        return (self._transport or self._get_transport()).open(request, deadline)

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        """Open a websocket, whose messages have at most `limit` bytes, with the inner transport.

        Raises UnsupportedError if the inner transport does not support websockets.
        """
        connect = websocket_connector(self._transport or self._get_transport())
        if connect is None:
            raise UnsupportedError(
                "this transport does not support websockets", code="NO_WEBSOCKET"
            )
        return await connect(path, deadline, limit)

    async def aclose(self) -> None:
        """Refuse further requests and close the inner transport, if it was constructed."""
        with self._lock:
            self._closed = True
        if self._transport is not None:
            await self._transport.aclose()

    def _get_transport(self) -> Transport:
        with self._lock:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            if self._transport is None:
                self._transport = self._construct()
            return self._transport


class _SharedTransport:
    """A transport for one of several origins that share it; closing it does nothing."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def open(self, request: HTTPRequest, deadline: Deadline) -> Awaitable[HTTPStream]:
        return self._inner.open(request, deadline)

    async def aclose(self) -> None:
        """Do nothing: the other origins still need the transport."""


def make_transport(
    base_url: BaseURL,
    *,
    headers: Mapping[str, Secret],
    tls: str | ssl.SSLContext | None = None,
    proxy: str | None = None,
    transport: Any = None,
    redact: Callable[[str], str] = str,
    other_origins: Sequence[str] = (),
) -> Transport:
    """Return the transport of a provider.

    Args:
        base_url: The base URL of the backend.
        headers: Headers of every request.
        tls: A file of CA certificates, an SSL context, or None for the public CAs.
        proxy: The URL of an HTTP proxy; None for a direct connection.
        transport: A TransportWrapper, a Transport, or any httpx client or transport to use. None
            uses our own.
        redact: Removes the provider's secrets from a text; passed to a TransportWrapper.
        other_origins: Other origins that a request may name; see `multi_origin`.

    Raises:
        ConfigurationError: For invalid headers, an invalid proxy, an invalid origin, or a
            combination that is not supported.
    """
    if hasattr(transport, "wrap"):
        wrapper: TransportWrapper = transport
        inner = make_transport(
            base_url,
            headers=headers,
            tls=tls,
            proxy=proxy,
            transport=wrapper.inner,
            redact=redact,
            other_origins=other_origins,
        )
        return wrapper.wrap(inner, base_url.path, redact)
    if other_origins:
        own = make_transport(base_url, headers=headers, tls=tls, proxy=proxy, transport=transport)

        def make_other(origin: BaseURL) -> Transport:
            other = make_transport(origin, headers={}, tls=tls, proxy=proxy, transport=transport)
            # A Transport of the user serves all origins. It is closed once, with `own`.
            return _SharedTransport(other) if other is own else other

        return MultiOriginTransport(own, AllowedOrigins(other_origins), make_other)
    encoded = encode_headers(base_url, headers)
    if transport is None:
        proxy_url = BaseURL.parse(proxy, "proxy") if proxy is not None else None

        def construct() -> Transport:
            # Importing this takes 20 ms, so it waits for the first call.
            from majordomo.transport.http_transport import HTTPTransport

            return HTTPTransport(base_url, headers=encoded, tls=tls, proxy=proxy_url)

        return LazyTransport(construct)
    if tls is not None or proxy is not None:
        raise ConfigurationError(
            "tls and proxy cannot be combined with transport=; configure them on the transport",
            details={"field": "transport"},
        )
    if hasattr(transport, "open") and hasattr(transport, "aclose"):
        custom: Transport = transport
        return custom
    # This imports httpx.
    from majordomo.transport.httpx_adapter import HTTPXTransport

    return HTTPXTransport(base_url, encoded, transport)
