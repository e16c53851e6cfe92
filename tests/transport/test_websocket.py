"""Websockets over our own sockets, against a server that may send anything."""

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


class WebSocketServer:
    """The server side of a websocket."""

    def __init__(self, peer: Peer) -> None:
        request = peer.request()
        assert request is not None
        self.peer = peer
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.protocol.initiate_upgrade_connection(
            [(name.encode(), value.encode()) for name, value in request.headers.items()],
            request.path,
        )
        list(self.protocol.events())
        self.send(AcceptConnection())

    def encode(self, *events: Event) -> bytes:
        return b"".join(self.protocol.send(event) for event in events)

    def send(self, *events: Event) -> None:
        self.peer.send(self.encode(*events))

    def receive(self) -> list[Event]:
        """Return the next events from the client; [] after it has disconnected."""
        while True:
            data = self.peer.receive()
            if not data:
                return []
            self.protocol.receive_data(data)
            if events := list(self.protocol.events()):
                return events


def sending(*events: Event) -> Handler:
    def handler(peer: Peer) -> None:
        WebSocketServer(peer).send(*events)
        peer.wait_for_close()

    return handler


async def connect_websocket(
    url: str, timeout: Timeout = QUICK, limit: int = LIMIT, **settings: Any
) -> MessageStream:
    transport = make_transport(
        BaseURL.parse(url), headers={"Authorization": Secret("Bearer sk-key")}, **settings
    )
    connect = websocket_connector(transport)
    assert connect is not None
    return await connect("/ws?clientId=a", Deadline(timeout), limit)


async def test_messages_are_complete_however_they_are_fragmented(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        server_side = WebSocketServer(peer)
        encoded = server_side.encode(
            TextMessage("grü", message_finished=False),
            Ping(b"x"),
            TextMessage("ße", message_finished=True),
            BytesMessage(b"\0\1", message_finished=False),
            BytesMessage(b"\2"),
            TextMessage(""),
            BytesMessage(b"x" * 500),
        )
        for at in range(len(encoded)):
            peer.send(encoded[at : at + 1])
        received = []
        while not any(isinstance(event, CloseConnection) for event in received):
            received += server_side.receive()
        server_side.send(received[-1].response())  # type: ignore[attr-defined]
        client_events.extend(received)
        closed.set()

    client_events: list[Event] = []
    closed = threading.Event()
    server = serve(handler)
    websocket = await connect_websocket(f"{server.url}/base")
    try:
        await websocket.send("hello")
        assert [await websocket.receive() for _ in range(4)] == ["grüße", b"\0\1\2", "", b"x" * 500]
    finally:
        await websocket.aclose()
        await websocket.aclose()
    assert server.requests[0].path == "/base/ws?clientId=a"
    headers = server.requests[0].headers
    assert (headers["authorization"], headers["host"]) == (
        "Bearer sk-key",
        f"127.0.0.1:{server.port}",
    )
    assert await anyio.to_thread.run_sync(closed.wait, 5)
    assert isinstance(client_events[0], TextMessage)
    assert isinstance(client_events[1], Pong)


async def test_receive_returns_none_after_the_server_has_closed(serve: Serve) -> None:
    websocket = await connect_websocket(
        serve(sending(Ping(), TextMessage("a"), CloseConnection(1001))).url
    )
    assert [await websocket.receive() for _ in range(3)] == ["a", None, None]
    await websocket.aclose()


async def test_a_lost_connection_raises_connection_failed_error(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        WebSocketServer(peer)
        peer.close()

    websocket = await connect_websocket(serve(handler).url)
    try:
        with pytest.raises(md.ConnectionFailedError):
            await websocket.receive()
    finally:
        await websocket.aclose()


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
async def test_invalid_or_oversized_frames_raise_bad_response_error(
    serve: Serve, raw: bytes, code: str
) -> None:
    def handler(peer: Peer) -> None:
        WebSocketServer(peer)
        peer.send(raw)
        peer.wait_for_close()

    websocket = await connect_websocket(serve(handler).url)
    try:
        with pytest.raises(md.BadResponseError) as caught:
            await websocket.receive()
        assert caught.value.code == code
        assert await websocket.receive() is None
    finally:
        await websocket.aclose()


@pytest.mark.parametrize(
    ("response", "error_type"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!", md.NotFoundError),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", md.BadResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", md.BadResponseError),
        (
            (
                b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: wrong\r\n\r\n"
            ),
            md.BadResponseError,
        ),
        (b"nonsense\r\n\r\n", md.BadResponseError),
        (b"", md.MajordomoError),
    ],
)
async def test_a_refused_handshake_raises_a_typed_error(
    serve: Serve, response: bytes, error_type: type[Exception]
) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(response)

    with pytest.raises(error_type):
        await connect_websocket(serve(handler).url)


async def test_first_byte_and_idle_limits_are_enforced(serve: Serve) -> None:
    def stall(peer: Peer) -> None:
        peer.request()
        peer.wait_for_close()

    server = serve(stall)
    with pytest.raises(md.DeadlineExceededError) as caught:
        await connect_websocket(server.url, Timeout(connect=2, first_byte=0.05, idle=2))
    assert caught.value.phase == "first_byte"
    assert await anyio.to_thread.run_sync(server.peers[0].closed_by_client.wait, 5)
    websocket = await connect_websocket(
        serve(sending(TextMessage("a"))).url, Timeout(connect=2, first_byte=2, idle=0.05)
    )
    try:
        assert await websocket.receive() == "a"
        with pytest.raises(md.DeadlineExceededError) as caught:
            await websocket.receive()
        assert caught.value.phase == "idle"
    finally:
        await websocket.aclose()


async def test_a_refused_connection_raises_connection_failed_error() -> None:
    with pytest.raises(md.ConnectionFailedError):
        await connect_websocket("http://127.0.0.1:9")


async def test_a_websocket_can_be_closed_after_a_cancelled_receive(serve: Serve) -> None:
    server = serve(sending())
    websocket = await connect_websocket(server.url)
    with anyio.move_on_after(0.05) as scope:
        await websocket.receive()
    assert scope.cancelled_caught
    await websocket.aclose()
    assert await anyio.to_thread.run_sync(server.peers[0].closed_by_client.wait, 5)


async def test_a_websocket_over_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = Loopback(sending(TextMessage("a")), context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    try:
        websocket = await connect_websocket(f"https://localhost:{server.port}", tls=trust)
        assert await websocket.receive() == "a"
        await websocket.aclose()
    finally:
        server.close()


async def test_a_proxy_is_asked_for_a_tunnel(serve: Serve) -> None:
    def proxy(peer: Peer) -> None:
        request = peer.request()
        assert request is not None
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        WebSocketServer(peer).send(TextMessage(f"{request.method} {request.path}"))
        peer.wait_for_close()

    websocket = await connect_websocket("http://backend.example:8188", proxy=serve(proxy).url)
    try:
        assert await websocket.receive() == "CONNECT backend.example:8188"
    finally:
        await websocket.aclose()


async def test_transports_without_a_websocket(serve: Serve) -> None:
    async with httpx.AsyncClient() as client:
        assert (
            websocket_connector(
                make_transport(BaseURL.parse("http://x"), headers={}, transport=client)
            )
            is None
        )
    transport = make_transport(BaseURL.parse(serve(sending()).url), headers={})
    await transport.aclose()
    connect = websocket_connector(transport)
    assert connect is not None
    with pytest.raises(md.ConfigurationError):
        await connect("/ws", Deadline(QUICK), LIMIT)
