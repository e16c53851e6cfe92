"""Blocking of all network access in this process, with an error that names the target."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from majordomo.errors import MajordomoError
from majordomo.testing.errors import NetworkForbiddenError

# Sockets that do not reach a network: pipes between processes and kernel interfaces.
LOCAL_FAMILIES = {
    getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG") if hasattr(socket, name)
}
CONNECT_FUNCTIONS = ("connect", "connect_ex", "sendto", "sendmsg")
# Through these, asyncio connects and sends on Windows, without the functions of the socket.
PROACTOR_FUNCTIONS = ("connect", "sendto")
LOOKUP_FUNCTIONS = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to access the network."""

    host: str
    """Host name or IP address."""
    port: int | None = None
    """Port; None when only the name was looked up."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass
class NoNetwork:
    """The value of `no_network()`."""

    allow_loopback: bool = False
    """Whether addresses of this machine are allowed. May be changed at any time."""
    forbidden: list[Attempt] = field(default_factory=list)
    """The refused attempts of all threads, in order."""

    def check(self, host: str, port: int | None) -> None:
        """Raise `NetworkForbiddenError` unless `host` is loopback and loopback is allowed."""
        if self.allow_loopback and is_loopback(host):
            return
        attempt = Attempt(host, port)
        self.forbidden.append(attempt)
        raise NetworkForbiddenError(
            f"network access is forbidden in this test; attempted to reach {attempt}",
            host=host,
            port=port,
        )


@contextmanager
def no_network(*, allow_loopback: bool = False) -> Iterator[NoNetwork]:
    """Refuse every connection and every name lookup inside the block, by any library.

    This replaces functions of Python's sockets, through which asyncio, trio, httpx, requests,
    urllib3 and aiohttp connect. Existing connections, Unix sockets and other processes are not
    affected. Blocks may be nested.

    Args:
        allow_loopback: Allow addresses of this machine.

    Yields:
        The guard, whose `forbidden` lists the refused attempts.

    Raises:
        NetworkForbiddenError: In the code that tries to connect or to look up a name.

    Example:
        ```pycon
        >>> with no_network() as network:
        ...     run_program()
        >>> assert network.forbidden == []
        ```
    """
    # Imported here because the plugin for pytest loads this module in every run.
    import asyncio

    guard = NoNetwork(allow_loopback)
    with ExitStack() as undo:
        undo.callback(_replace(socket, "socketpair", _allow_pair(socket.socketpair)))
        # Windows has no `sendmsg`.
        for name in [name for name in CONNECT_FUNCTIONS if hasattr(socket.socket, name)]:
            guarded_function = _guard_connect(
                guard, getattr(socket.socket, name), sends=name.startswith("send")
            )
            undo.callback(_replace(socket.socket, name, guarded_function))
        proactor = getattr(asyncio, "IocpProactor", None)
        for name in PROACTOR_FUNCTIONS if proactor is not None else ():
            guarded_function = _guard_proactor(guard, getattr(proactor, name))
            undo.callback(_replace(proactor, name, guarded_function))
        for name in LOOKUP_FUNCTIONS:
            guarded_function = _guard_lookup(
                guard, getattr(socket, name), ports=name == "getaddrinfo"
            )
            undo.callback(_replace(socket, name, guarded_function))
        yield guard


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine.

    That is 127.0.0.0/8, ::1, localhost, and the unspecified address, which connects to it.
    """
    address = _address(host)
    if address is None:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped_address = getattr(address, "ipv4_mapped", None) or address
    return mapped_address.is_loopback or mapped_address.is_unspecified


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _replace(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute and return a function that restores or deletes it."""
    attributes = vars(owner)
    existed, previous = name in attributes, attributes.get(name)
    setattr(owner, name, value)
    return (lambda: setattr(owner, name, previous)) if existed else (lambda: delattr(owner, name))


def _guard_connect(
    guard: NoNetwork, original: Callable[..., Any], *, sends: bool
) -> Callable[..., Any]:
    def guarded(self: socket.socket, *args: Any) -> Any:
        # sendto(data[, flags], address), sendmsg(buffers[, ancdata[, flags[, address]]]):
        # without an address, the data goes to the connected peer.
        address = args[-1] if args and (not sends or isinstance(args[-1], tuple)) else None
        try:
            _check_address(guard, self, address)
        except MajordomoError:
            # Libraries close the socket only after an OSError; without this, the garbage collector
            # would have to.
            if not sends:
                self.close()
            raise
        return original(self, *args)

    return guarded


def _guard_proactor(guard: NoNetwork, original: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: Any, conn: socket.socket, *args: Any, **options: Any) -> Any:
        # connect(conn, address), sendto(conn, data, flags, addr). asyncio closes the socket.
        address = options.get("addr", args[-1] if args else None)
        if isinstance(address, tuple):
            _check_address(guard, conn, address)
        return original(self, conn, *args, **options)

    return guarded


def _check_address(guard: NoNetwork, sock: socket.socket, address: Any) -> None:
    if address is None or sock.family in LOCAL_FAMILIES or getattr(_pair, "opening", False):
        return
    host, port = (
        (address[0], address[1])
        if isinstance(address, tuple) and len(address) > 1
        else (address, None)
    )
    guard.check(_to_text(host), port if isinstance(port, int) else None)


# Whether the current thread is opening a pair of connected sockets.
_pair = threading.local()


def _allow_pair(original: Callable[..., Any]) -> Callable[..., Any]:
    """Allow `socketpair`, which every event loop calls.

    On Windows, a pair is two sockets of this process that are connected by TCP.
    """

    def allowed(*args: Any, **options: Any) -> Any:
        outer = getattr(_pair, "opening", False)
        _pair.opening = True
        try:
            return original(*args, **options)
        finally:
            _pair.opening = outer

    return allowed


def _guard_lookup(
    guard: NoNetwork, original: Callable[..., Any], *, ports: bool
) -> Callable[..., Any]:
    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        # An IP address needs no lookup; an empty host means this machine, for a server.
        if host and _address(_to_text(host)) is None:
            port = (args[0] if args else kwargs.get("port")) if ports else None
            guard.check(
                _to_text(host),
                int(port)
                if isinstance(port, int) or (isinstance(port, str) and port.isdigit())
                else None,
            )
        return original(host, *args, **kwargs)

    return guarded


def _to_text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
