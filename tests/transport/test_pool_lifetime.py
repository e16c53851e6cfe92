"""Pools end with their event loop: no socket left, no warning, on asyncio and trio."""

from __future__ import annotations

import gc
import os
import ssl
from collections.abc import Callable

import anyio
import pytest

from majordomo import ConfigurationError
from majordomo.settings import Timeout
from majordomo.transport import BaseURL
from majordomo.transport.base_url import encode_headers
from majordomo.transport.connection import Connection
from majordomo.transport.http_transport import HTTPTransport
from majordomo.transport.tls import context_for
from majordomo.transport_types import Deadline, HTTPRequest
from tests.support.loopback import Handler, Loopback, always, whole

Serve = Callable[[Handler], Loopback]


def plain_room(server: Loopback) -> HTTPTransport:
    address = BaseURL.parse(server.url)
    return HTTPTransport(address, headers=encode_headers(address, {}))


async def fetch(transport: HTTPTransport) -> bytes:
    reply = await transport.open(HTTPRequest("GET", "/"), Deadline(Timeout(total=5)))
    body = b""
    while piece := await reply.read():
        body += piece
    await reply.aclose()
    return body


def sockets() -> int:
    """Sockets this process holds to other processes or itself, listening ones apart."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_runs_without_a_close_leave_no_socket_and_warn_of_nothing(
    serve: Serve, backend: str
) -> None:
    server = serve(always(whole("ok")))
    port = plain_room(server)
    for _ in range(2):
        assert anyio.run(fetch, port, backend=backend) == b"ok"
        assert server.peers[-1].closed_by_client.wait(2)
    gc.collect()
    assert server.connections == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("rooms", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_rooms_leave_no_file_descriptor(serve: Serve, backend: str, rooms: int) -> None:
    server = serve(always(whole("ok")))

    async def main() -> None:
        for _ in range(rooms):
            port = plain_room(server)
            await fetch(port)
            await port.aclose()

    anyio.run(main, backend=backend)
    gc.collect()
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)
        peer.close()
    before = sockets()
    anyio.run(main, backend=backend)
    gc.collect()
    for peer in server.peers:
        peer.closed_by_client.wait(2)
        peer.close()
    assert sockets() <= before + 1


def test_a_connection_whose_protocol_state_cannot_be_seen_is_not_used_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests on one private attribute of httpcore; a renamed one costs keep-alive, and is noticed here."""
    server = serve(always(whole("ok")))

    async def twice() -> None:
        port = plain_room(server)
        await fetch(port)
        await fetch(port)
        await port.aclose()

    anyio.run(twice)
    assert server.connections == 1, "keep-alive is lost: httpcore may have renamed _h11_state"

    class Renamed:
        def __init__(self, real: object) -> None:
            self._real = real

        def __getattr__(self, name: str) -> object:
            if name == "_h11_state":
                raise AttributeError(name)
            return getattr(self._real, name)

    clean = Connection.is_clean

    def blind(self: Connection) -> bool:
        self.protocol = Renamed(self.protocol)  # type: ignore[assignment]
        return clean(self)

    monkeypatch.setattr(Connection, "is_clean", blind)
    anyio.run(twice)
    assert server.connections == 3


def test_addresses_are_read_once_and_strictly() -> None:
    assert BaseURL.parse("http://gpu-box:8080/base/").path == "/base"
    assert BaseURL.parse("https://[::1]").authority == "[::1]"
    assert BaseURL.parse("http://bücher.test").host == "xn--bcher-kva.test"
    for bad in (
        "gpu-box:8080",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://u:sk-secret@x",
        "http://x/?q=1",
        "http://x\r\ny",
        "http://a b",
        5,
    ):
        with pytest.raises(ConfigurationError) as caught:
            BaseURL.parse(bad)  # type: ignore[arg-type]
        assert "sk-secret" not in str(caught.value)


def test_one_tls_context_is_shared_by_all_who_trust_the_same() -> None:
    first = context_for(None)
    assert context_for(None) is first
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    own = ssl.create_default_context()
    assert context_for(own) is own
    with pytest.raises(ConfigurationError):
        context_for("/no/such/file.pem")
