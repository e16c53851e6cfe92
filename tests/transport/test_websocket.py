"""Websockets over our own sockets, against a server that sends what it likes."""

from __future__ import annotations

import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
import trustme
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)

import majordomo as md
from majordomo.redaction import Secret
from majordomo.settings import Timeout
from majordomo.transport import BaseURL, make_transport
from majordomo.transport_types import Deadline, MessageStream, websocket_connector
from tests.support.loopback import Handler, Loopback, Peer

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
QUICK = Timeout(connect=2, queue=2, first_byte=2, idle=2, total=5)
LIMIT = 1000


class Talker:
    """The server's end."""

    def __init__(self, peer: Peer) -> None:
        seen = peer.request()
        assert seen is not None
        self.peer = peer
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.protocol.initiate_upgrade_connection(
            [(name.encode(), value.encode()) for name, value in seen.headers.items()], seen.path
        )
        list(self.protocol.events())
        self.say(AcceptConnection())

    def bytes_of(self, *events: Event) -> bytes:
        return b"".join(self.protocol.send(event) for event in events)

    def say(self, *events: Event) -> None:
        self.peer.send(self.bytes_of(*events))

    def hear(self) -> list[Event]:
        """The next events of the client; [] when it has gone."""
        while True:
            data = self.peer._held or self.peer.socket.recv(1 << 16)
            self.peer._held = b""
            if not data:
                return []
            self.protocol.receive_data(data)
            if events := list(self.protocol.events()):
                return events


def saying(*events: Event) -> Handler:
    def handler(peer: Peer) -> None:
        Talker(peer).say(*events)
        peer.wait_for_close()

    return handler


async def connected(
    url: str, timeout: Timeout = QUICK, limit: int = LIMIT, **settings: Any
) -> MessageStream:
    port = make_transport(
        BaseURL.parse(url), headers={"Authorization": Secret("Bearer sk-key")}, **settings
    )
    connect = websocket_connector(port)
    assert connect is not None
    return await connect("/ws?clientId=a", Deadline(timeout), limit)


async def test_messages_come_whole_whatever_their_pieces(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        talker = Talker(peer)
        pieces = talker.bytes_of(
            TextMessage("grü", message_finished=False),
            Ping(b"x"),
            TextMessage("ße", message_finished=True),
            BytesMessage(b"\0\1", message_finished=False),
            BytesMessage(b"\2"),
            TextMessage(""),
            BytesMessage(b"x" * 500),
        )
        for at in range(len(pieces)):
            peer.send(pieces[at : at + 1])
        heard = []
        while not any(isinstance(event, CloseConnection) for event in heard):
            heard += talker.hear()
        talker.say(heard[-1].response())  # type: ignore[attr-defined]
        outcome.extend(heard)
        ended.set()

    outcome: list[Event] = []
    ended = threading.Event()
    server = serve(handler)
    socket = await connected(f"{server.url}/base")
    try:
        await socket.send("hello")
        assert [await socket.receive() for _ in range(4)] == ["grüße", b"\0\1\2", "", b"x" * 500]
    finally:
        await socket.aclose()
        await socket.aclose()
    assert server.seen[0].path == "/base/ws?clientId=a"
    headers = server.seen[0].headers
    assert (headers["authorization"], headers["host"]) == (
        "Bearer sk-key",
        f"127.0.0.1:{server.port}",
    )
    assert await anyio.to_thread.run_sync(ended.wait, 5)
    assert isinstance(outcome[0], TextMessage)
    assert isinstance(outcome[1], Pong)


async def test_the_other_sides_end(serve: Serve) -> None:
    socket = await connected(serve(saying(Ping(), TextMessage("a"), CloseConnection(1001))).url)
    assert [await socket.receive() for _ in range(3)] == ["a", None, None]
    await socket.aclose()


async def test_a_lost_connection(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        Talker(peer)
        peer.close()

    socket = await connected(serve(handler).url)
    try:
        with pytest.raises(md.ConnectionFailedError):
            await socket.receive()
    finally:
        await socket.aclose()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x81\x7f" + struct.pack(">Q", 1 << 40) + b"x" * 2000, "TOO_LARGE"),
        (b"\x82\x7e" + struct.pack(">H", 1001) + b"x" * 1001, "TOO_LARGE"),
        (
            (b"\x02\x7e" + struct.pack(">H", 400) + b"x" * 400)
            + (b"\x00\x7e" + struct.pack(">H", 400) + b"x" * 400) * 2,
            "TOO_LARGE",
        ),
        (b"\xff\xff\xff", "NOT_WEBSOCKET"),
        (b"\x81\x02\xff\xff", "NOT_WEBSOCKET"),
        (b"\x80\x01x", "NOT_WEBSOCKET"),
    ],
    ids=[
        "endless",
        "too large",
        "too many pieces",
        "reserved bits",
        "no UTF-8",
        "nothing to continue",
    ],
)
async def test_frames_that_cannot_be(serve: Serve, raw: bytes, code: str) -> None:
    def handler(peer: Peer) -> None:
        Talker(peer)
        peer.send(raw)
        peer.wait_for_close()

    socket = await connected(serve(handler).url)
    try:
        with pytest.raises(md.BadResponseError) as caught:
            await socket.receive()
        assert caught.value.code == code
        assert await socket.receive() is None
    finally:
        await socket.aclose()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!", md.NotFoundError),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", md.BadResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", md.BadResponseError),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
            md.BadResponseError,
        ),
        (b"nonsense\r\n\r\n", md.BadResponseError),
        (b"", md.MajordomoError),
    ],
)
async def test_no_websocket_there(serve: Serve, answer: bytes, kind: type[Exception]) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    with pytest.raises(kind):
        await connected(serve(handler).url)


async def test_time_limits(serve: Serve) -> None:
    def silent(peer: Peer) -> None:
        peer.request()
        peer.wait_for_close()

    server = serve(silent)
    with pytest.raises(md.DeadlineExceededError) as caught:
        await connected(server.url, Timeout(connect=2, first_byte=0.05, idle=2))
    assert caught.value.phase == "first_byte"
    assert await anyio.to_thread.run_sync(server.peers[0].closed_by_client.wait, 5)
    socket = await connected(
        serve(saying(TextMessage("a"))).url, Timeout(connect=2, first_byte=2, idle=0.05)
    )
    try:
        assert await socket.receive() == "a"
        with pytest.raises(md.DeadlineExceededError) as caught:
            await socket.receive()
        assert caught.value.phase == "idle"
    finally:
        await socket.aclose()


async def test_nobody_there() -> None:
    with pytest.raises(md.ConnectionFailedError):
        await connected("http://127.0.0.1:9")


async def test_a_cancelled_wait_leaves_a_socket_that_closes(serve: Serve) -> None:
    server = serve(saying())
    socket = await connected(server.url)
    with anyio.move_on_after(0.05) as scope:
        await socket.receive()
    assert scope.cancelled_caught
    await socket.aclose()
    assert await anyio.to_thread.run_sync(server.peers[0].closed_by_client.wait, 5)


async def test_over_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = Loopback(saying(TextMessage("a")), context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    try:
        socket = await connected(f"https://localhost:{server.port}", tls=trust)
        assert await socket.receive() == "a"
        await socket.aclose()
    finally:
        server.close()


async def test_through_a_proxy_it_asks_for_a_tunnel(serve: Serve) -> None:
    def proxy(peer: Peer) -> None:
        asked = peer.request()
        assert asked is not None
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        Talker(peer).say(TextMessage(f"{asked.method} {asked.path}"))
        peer.wait_for_close()

    socket = await connected("http://backend.example:8188", proxy=serve(proxy).url)
    try:
        assert await socket.receive() == "CONNECT backend.example:8188"
    finally:
        await socket.aclose()


async def test_who_has_none(serve: Serve) -> None:
    async with httpx.AsyncClient() as client:
        assert (
            websocket_connector(
                make_transport(BaseURL.parse("http://x"), headers={}, transport=client)
            )
            is None
        )
    port = make_transport(BaseURL.parse(serve(saying()).url), headers={})
    await port.aclose()
    connect = websocket_connector(port)
    assert connect is not None
    with pytest.raises(md.ConfigurationError):
        await connect("/ws", Deadline(QUICK), LIMIT)
