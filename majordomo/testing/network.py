"""No network: every connection of any library in this process is refused, with an error that says where to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from majordomo.errors import MajordomoError
from majordomo.testing.errors import NetworkForbiddenError

# Not the internet: pipes between processes, and what the kernel tells
LOCAL_FAMILIES = {
    getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG") if hasattr(socket, name)
}
CONNECTING = ("connect", "connect_ex", "sendto", "sendmsg")
LOOKING_UP = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody wanted to reach `host`; `port` is None where only its name was looked up."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass
class NoNetwork:
    """What `no_network()` gives: `forbidden` lists the attempts in order, of all threads. `allow_loopback` may be set meanwhile."""

    allow_loopback: bool = False
    forbidden: list[Attempt] = field(default_factory=list)

    def check(self, host: str, port: int | None) -> None:
        """Raise NetworkForbiddenError unless this is the loopback, and that is allowed."""
        if self.allow_loopback and is_loopback(host):
            return
        attempt = Attempt(host, port)
        self.forbidden.append(attempt)
        raise NetworkForbiddenError(
            f"no network in this test: something wanted to reach {attempt}", host=host, port=port
        )


@contextmanager
def no_network(*, allow_loopback: bool = False) -> Iterator[NoNetwork]:
    """While inside, every connection and every look-up of a name raises NetworkForbiddenError, whichever library makes it.

    Looks at Python's sockets, which is where asyncio, trio, httpx, requests, urllib3 and aiohttp connect; what is connected already stays
    so, and other processes are not watched. Unix sockets are no network. May be nested.
    """
    guard = NoNetwork(allow_loopback)
    with ExitStack() as undo:
        for name in CONNECTING:
            connecting = _connecting(
                guard, getattr(socket.socket, name), sends=name.startswith("send")
            )
            undo.callback(_replace(socket.socket, name, connecting))
        for name in LOOKING_UP:
            looking_up = _looking_up(guard, getattr(socket, name), ports=name == "getaddrinfo")
            undo.callback(_replace(socket, name, looking_up))
        yield guard


def is_loopback(host: str) -> bool:
    """Whether it is this machine: 127.0.0.0/8, ::1, localhost, and the unspecified address, which connects to it."""
    address = _address(host)
    if address is None:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _replace(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute; returns what puts back what was there, be it that nothing was."""
    own = vars(owner)
    had, before = name in own, own.get(name)
    setattr(owner, name, value)
    return (lambda: setattr(owner, name, before)) if had else (lambda: delattr(owner, name))


def _connecting(
    guard: NoNetwork, original: Callable[..., Any], *, sends: bool
) -> Callable[..., Any]:
    def guarded(self: socket.socket, *given: Any) -> Any:
        # sendto(data[, flags], address), sendmsg(buffers[, ancdata[, flags[, address]]]): without an address it goes where connect went
        address = given[-1] if given and (not sends or isinstance(given[-1], tuple)) else None
        if address is not None and self.family not in LOCAL_FAMILIES:
            host, port = (
                (address[0], address[1])
                if isinstance(address, tuple) and len(address) > 1
                else (address, None)
            )
            try:
                guard.check(_text(host), port if isinstance(port, int) else None)
            except MajordomoError:
                if not sends:
                    self.close()  # whoever connects closes only after an OSError, and the socket would be left to the collector
                raise
        return original(self, *given)

    return guarded


def _looking_up(
    guard: NoNetwork, original: Callable[..., Any], *, ports: bool
) -> Callable[..., Any]:
    def guarded(host: Any, *given: Any, **named: Any) -> Any:
        # A number is looked up nowhere; nothing at all is this machine's own address, for a server
        if host and _address(_text(host)) is None:
            port = (given[0] if given else named.get("port")) if ports else None
            guard.check(
                _text(host),
                int(port)
                if isinstance(port, int) or (isinstance(port, str) and port.isdigit())
                else None,
            )
        return original(host, *given, **named)

    return guarded


def _text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
