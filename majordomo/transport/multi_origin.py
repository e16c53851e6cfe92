"""Requests to other origins than the backend's own, for APIs whose results are stored elsewhere.

Theory of operation:

A request without `origin` goes to the provider's own transport unchanged. A request with one is
refused, before anything is sent, unless the origin is on the list that the provider declares and
the request is a GET without a body. It is then rebuilt from its path and its Accept header alone
and sent by a transport that was constructed without the provider's headers, so that neither a key
nor any other header of the provider can travel. That transport has a connection pool of its own. It
connects to the origin that was compared with the list: nothing is parsed twice.

Redirects are not followed, as everywhere else, so a listed origin cannot lead to one that is not
listed. Sizes and times are limited by the caller, as for any other request.

There is one transport for each origin in use, at most `MAX_ORIGINS`: a wildcard lets the backend
choose host names. The one that was constructed first is closed to make room; responses that it is
still receiving end normally.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import BadResponseError, ConfigurationError
from majordomo.transport.base_url import BaseURL
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, Transport

MAX_ORIGINS = 8
_WILDCARD = "://*."


class AllowedOrigins:
    """A list of origins, each `https://host` or `https://*.host` for every subdomain of `host`.

    A port is part of an origin; without one it is the default of the scheme. `http` is allowed only
    where the list says so.

    Raises:
        ConfigurationError: Naming `field`, for anything else.
    """

    def __init__(self, origins: Sequence[str], field: str = "result_origins") -> None:
        if isinstance(origins, str) or not isinstance(origins, Sequence):
            raise ConfigurationError(
                f'{field} must be a list of origins such as "https://*.example.com"; '
                f"got {type(origins).__name__}",
                details={"field": field},
            )
        self._entries = tuple(_parse_entry(origin, field) for origin in origins)

    def find(self, origin: str) -> BaseURL | None:
        """Return the parsed origin if the list allows it, else None."""
        try:
            address = BaseURL.parse(origin, "origin")
        except ConfigurationError:
            return None
        # A path would become part of the request, and would not have been compared.
        if address.path:
            return None
        return address if any(_allows(entry, address) for entry in self._entries) else None


def _parse_entry(text: str, field: str) -> tuple[BaseURL, bool]:
    """Return the address of an entry, and whether it means the subdomains of its host."""
    wildcard = isinstance(text, str) and _WILDCARD in text
    address = BaseURL.parse(text.replace(_WILDCARD, "://", 1) if wildcard else text, field)
    if address.path or "*" in address.host or (wildcard and "." not in address.host):
        raise ConfigurationError(
            f'{field} must contain origins such as "https://example.com" or '
            f'"https://*.example.com"; got {address.origin}{address.path}',
            details={"field": field},
        )
    return address, wildcard


def _allows(entry: tuple[BaseURL, bool], address: BaseURL) -> bool:
    allowed, wildcard = entry
    if (allowed.scheme, allowed.port) != (address.scheme, address.port):
        return False
    return address.host.endswith(f".{allowed.host}") if wildcard else address.host == allowed.host


class MultiOriginTransport:
    """A transport for the backend's own origin and for the other origins that are allowed.

    Args:
        own: The transport of the backend.
        allowed: The other origins.
        make_transport: Returns a transport for another origin, without any header of the provider.
    """

    def __init__(
        self,
        own: Transport,
        allowed: AllowedOrigins,
        make_transport: Callable[[BaseURL], Transport],
    ) -> None:
        self._own = own
        self._allowed = allowed
        self._make_transport = make_transport
        self._others: dict[str, Transport] = {}
        self._closed = False
        self._lock = Lock()

    def open(self, request: HTTPRequest, deadline: Deadline) -> Awaitable[HTTPStream]:
        """Send the request to its origin; see `Transport.open`.

        Raises BadResponseError (`ORIGIN_NOT_ALLOWED`) for an origin that is not on the list.
        """
        if not request.origin:
            return self._own.open(request, deadline)
        return self._open_other(request, deadline)

    async def _open_other(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        address = self._allowed.find(request.origin)
        if address is None:
            raise BadResponseError(
                f"the backend names a file at {_describe(request.origin)}, which is not one of the "
                "origins that this provider may fetch from; nothing was requested",
                code="ORIGIN_NOT_ALLOWED",
            )
        if request.method != "GET" or request.body:
            raise BadResponseError(
                f"other origins are only sent a GET without a body; got {request.method}",
                code="ORIGIN_NOT_ALLOWED",
            )
        transport, surplus = self._transport_for(address)
        for other in surplus:
            await other.aclose()
        # Only what is listed here is sent: a field that is added to HTTPRequest stays at home.
        safe = HTTPRequest(
            "GET",
            request.path,
            accept=request.accept,
            stream=request.stream,
            from_origin=True,
            origin=address.origin,
        )
        return await transport.open(safe, deadline)

    def _transport_for(self, address: BaseURL) -> tuple[Transport, list[Transport]]:
        """Return the transport of an origin, and those to close to make room for it."""
        with self._lock:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            surplus: list[Transport] = []
            if address.origin not in self._others:
                while len(self._others) >= MAX_ORIGINS:
                    surplus.append(self._others.pop(next(iter(self._others))))
                self._others[address.origin] = self._make_transport(address)
            return self._others[address.origin], surplus

    async def aclose(self) -> None:
        """Refuse further requests and close the transports of all origins."""
        with self._lock:
            self._closed = True
            others = list(self._others.values())
        for transport in (self._own, *others):
            await transport.aclose()


def _describe(origin: str) -> str:
    """Return an origin for a message. It came from a backend, so it may hold anything."""
    return repr(origin[:200]) if origin.isprintable() else "an origin with unprintable characters"
