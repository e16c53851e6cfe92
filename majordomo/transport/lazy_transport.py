"""The front door: all is checked when a provider is made; the room itself, and httpcore with it, is loaded at the first call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError, UnsupportedError
from majordomo.redaction import Secret
from majordomo.transport.base_url import BaseURL, encode_headers
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
    """A Transport that is made when it is first used, once, whichever thread comes first."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._transport: Transport | None = None
        self._closed = False
        self._lock = Lock()

    def open(self, request: HTTPRequest, deadline: Deadline) -> Awaitable[HTTPStream]:
        """See Transport. No coroutine of its own: the port's is handed on."""
        return (self._transport or self._made()).open(request, deadline)

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        """See Connect. Raises UnsupportedError for a port without websockets."""
        connect = websocket_connector(self._transport or self._made())
        if connect is None:
            raise UnsupportedError("this transport has no websockets", code="NO_WEBSOCKET")
        return await connect(path, deadline, limit)

    async def aclose(self) -> None:
        with self._lock:
            self._closed = True
        if self._transport is not None:
            await self._transport.aclose()

    def _made(self) -> Transport:
        with self._lock:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            if self._transport is None:
                self._transport = self._make()
            return self._transport


def make_transport(
    address: BaseURL,
    *,
    headers: Mapping[str, Secret],
    tls: str | ssl.SSLContext | None = None,
    proxy: str | None = None,
    transport: Any = None,
    redact: Callable[[str], str] = str,
) -> Transport:
    """The way to a backend: sockets of our own, or `transport`, which is a Wrapper, a Transport or any httpx client or transport.

    A Wrapper is told `hide`, which takes the provider's keys out of a text. Raises ConfigurationError for headers, a proxy or a
    combination that cannot be.
    """
    if hasattr(transport, "wrap"):
        wrapper: TransportWrapper = transport
        port = make_transport(
            address, headers=headers, tls=tls, proxy=proxy, transport=wrapper.inner, redact=redact
        )
        return wrapper.wrap(port, address.path, redact)
    encoded = encode_headers(address, headers)
    if transport is None:
        through = BaseURL.parse(proxy, "proxy") if proxy is not None else None

        def make() -> Transport:
            from majordomo.transport.http_transport import (
                HTTPTransport,  # not before the first call: it costs 20 ms
            )

            return HTTPTransport(address, headers=encoded, tls=tls, proxy=through)

        return LazyTransport(make)
    if tls is not None or proxy is not None:
        raise ConfigurationError(
            "with transport=, tls and proxy are its business", details={"field": "transport"}
        )
    if hasattr(transport, "open") and hasattr(transport, "aclose"):
        own: Transport = transport
        return own
    from majordomo.transport.httpx_adapter import HTTPXTransport  # imports httpx

    return HTTPXTransport(address, encoded, transport)
