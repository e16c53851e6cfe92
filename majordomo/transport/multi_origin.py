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

There is one transport for each origin. A wildcard lets the backend choose host names, so when a
request has its response, the least recently used transports above `MAX_ORIGINS` are closed, except
those that are opening a request. A transport is taken and counted as in use under the lock, so that
none is closed between its choice and its use. A response that has begun needs its transport no
longer: it ends normally after the transport was closed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

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


@dataclass(slots=True)
class _OtherOrigin:
    """The transport of another origin."""

    transport: Transport
    opening: int = 0
    """The number of requests that have no response yet."""


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
        # The least recently used one first.
        self._others: OrderedDict[str, _OtherOrigin] = OrderedDict()
        self._closed = False
        self._lock = Lock(self._reset)

    def _reset(self) -> None:
        """Forget all requests: those of a parent process do not run in a forked child."""
        for other in self._others.values():
            other.opening = 0

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
        # Only what is listed here is sent: a field that is added to HTTPRequest stays at home.
        safe = HTTPRequest(
            "GET",
            request.path,
            accept=request.accept,
            stream=request.stream,
            from_origin=True,
            origin=address.origin,
        )
        other = self._acquire(address)
        try:
            return await other.transport.open(safe, deadline)
        finally:
            await self._release(other)

    def _acquire(self, address: BaseURL) -> _OtherOrigin:
        """Return an origin with its transport, which is not closed before `_release`."""
        with self._lock:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            other = self._others.get(address.origin)
            if other is None:
                other = _OtherOrigin(self._make_transport(address))
                self._others[address.origin] = other
            self._others.move_to_end(address.origin)
            other.opening += 1
            return other

    async def _release(self, other: _OtherOrigin) -> None:
        """End the use of a transport, and close the surplus ones."""
        with self._lock:
            other.opening -= 1
            idle = [origin for origin, entry in self._others.items() if not entry.opening]
            surplus = idle[: max(0, len(self._others) - MAX_ORIGINS)]
            removed = [self._others.pop(origin).transport for origin in surplus]
        # A cancelled call closes them too: nothing else refers to them.
        with anyio.CancelScope(shield=True):
            for transport in removed:
                await transport.aclose()

    async def aclose(self) -> None:
        """Refuse further requests and close the transports of all origins."""
        with self._lock:
            self._closed = True
            others = [other.transport for other in self._others.values()]
            self._others.clear()
        for transport in (self._own, *others):
            await transport.aclose()


def _describe(origin: str) -> str:
    """Return an origin for a message. It came from a backend, so it may hold anything."""
    return repr(origin[:200]) if origin.isprintable() else "an origin with unprintable characters"
