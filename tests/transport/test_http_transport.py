"""The HTTP room against a server that sees every byte, on both event loops."""

from __future__ import annotations

import gzip
import logging
import math
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import h11
import pytest
import trustme

import majordomo as md
from majordomo.redaction import Secret
from majordomo.settings import Timeout
from majordomo.transport import BaseURL
from majordomo.transport.base_url import encode_headers
from majordomo.transport.connection import Connection
from majordomo.transport.http_transport import HTTPTransport
from majordomo.transport.httpcore_compat import httpcore
from majordomo.transport.pool import Pool
from majordomo.transport.response import LAST
from majordomo.transport.socket_stream import READ, SocketStream
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream
from tests.support.h11_reference import alone
from tests.support.loopback import Handler, Loopback, Peer, always, whole

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
QUICK = Timeout(connect=2, queue=2, first_byte=2, idle=2, total=5)


def room(server: Loopback | str, **settings: object) -> HTTPTransport:
    url = server if isinstance(server, str) else server.url
    address = BaseURL.parse(url)
    proxy = settings.pop("proxy", None)
    through = BaseURL.parse(proxy) if isinstance(proxy, str) else None
    return HTTPTransport(
        address,
        headers=encode_headers(address, {"Authorization": Secret("Bearer sk-key")}),
        proxy=through,
        **settings,
    )  # type: ignore[arg-type]


def get(path: str = "/", **more: object) -> HTTPRequest:
    return HTTPRequest("GET", path, **more)  # type: ignore[arg-type]


async def body_of(reply: HTTPStream) -> bytes:
    pieces = []
    while piece := await reply.read():
        pieces.append(piece)
    return b"".join(pieces)


async def soonest(work: Callable[[], Awaitable[None]], limit: float) -> float:
    """Seconds that it takes at best: a busy machine is late now and then, a limit that is not kept is missed each time."""
    best = math.inf
    for _ in range(3):
        began = time.monotonic()
        await work()
        best = min(best, time.monotonic() - began)
        if best < limit:
            break
    return best


async def fetch(
    transport: HTTPTransport, request: HTTPRequest | None = None, timeout: Timeout = QUICK
) -> tuple[int, bytes]:
    reply = await transport.open(request or get(), Deadline(timeout))
    try:
        return reply.status, await body_of(reply)
    finally:
        await reply.aclose()


async def test_it_keeps_a_connection_for_the_next_call(serve: Serve) -> None:
    server = serve(always(whole("one"), whole("two")))
    port = room(server)
    assert [await fetch(port), await fetch(port)] == [(200, b"one"), (200, b"two")]
    assert server.connections == 1
    await port.aclose()


async def test_it_sends_head_and_small_body_in_one_packet(serve: Serve) -> None:
    packets: list[bytes] = []

    def handler(peer: Peer) -> None:
        packets.append(peer.socket.recv(1 << 20))
        peer.reply("ok")

    port = room(serve(handler))
    await fetch(port, HTTPRequest("POST", "/x?y=1", b'{"a":1}', "application/json"))
    assert packets[0].startswith(b"POST /x?y=1 HTTP/1.1\r\n")
    assert packets[0].endswith(b'\r\n\r\n{"a":1}')
    head = packets[0].decode().lower()
    for line in (
        "authorization: bearer sk-key",
        "content-type: application/json",
        "content-length: 7",
        "accept-encoding: gzip",
        "accept: application/json",
    ):
        assert f"\r\n{line}\r\n" in head
    assert "cookie" not in head and "origin:" not in head
    await port.aclose()


async def test_it_sends_a_length_with_an_empty_post(serve: Serve) -> None:
    server = serve(always(whole("ok")))
    port = room(server)
    await fetch(port, HTTPRequest("POST", "/unload"))
    assert server.seen[0].headers["content-length"] == "0"
    await port.aclose()


@pytest.mark.parametrize(
    "unasked",
    [
        whole("poison"),
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"x",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\r\n",
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["same packet", "later"])
async def test_it_never_takes_an_answer_nobody_asked_for(
    serve: Serve, unasked: bytes, together: bool
) -> None:
    arrived = threading.Event()

    def handler(peer: Peer) -> None:
        if peer.request() is None:
            return
        if peer.number == 0:
            if together:
                peer.send(whole("one") + unasked)
            else:
                peer.send(whole("one"))
                peer.send(unasked)
            arrived.set()
            if peer.request() is not None:
                peer.reply("from the poisoned connection")
        else:
            peer.reply("two")

    server = serve(handler)
    port = room(server)
    assert await fetch(port) == (200, b"one")
    await anyio.to_thread.run_sync(arrived.wait)
    await anyio.sleep(0.02)  # the loopback delivers what was sent
    assert await fetch(port) == (200, b"two")
    await port.aclose()


LONG_BODY = bytes(range(256)) * 4096  # 1 MiB
FRAMINGS = pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])


def long_answer(chunked: bool) -> bytes:
    if not chunked:
        return whole(LONG_BODY)
    pieces = (LONG_BODY[at : at + 100_000] for at in range(0, len(LONG_BODY), 100_000))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces
    )


@FRAMINGS
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_the_middle_of_a_long_body_is_not_shown_to_the_protocol_library(
    serve: Serve,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    secure: bool,
    chunked: bool,
) -> None:
    """Its copies cost more than all else. The connection is kept, and what stands behind the body is still noticed."""
    shown = 0
    receive_data = h11.Connection.receive_data

    def watched(self: h11.Connection, data: bytes) -> None:
        nonlocal shown
        shown += len(data)
        receive_data(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", watched)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    server = (
        Loopback(always(long_answer(chunked)), context)
        if secure
        else serve(always(long_answer(chunked)))
    )
    port = room(server, tls=trust) if secure else room(server)
    assert [await fetch(port), await fetch(port)] == [(200, LONG_BODY)] * 2
    assert server.connections == 1
    assert shown < 200 if chunked else 2 * LAST < shown <= 2 * (READ + 2 * LAST)
    await port.aclose()
    server.close()


@FRAMINGS
async def test_an_answer_is_whole_when_the_protocol_library_hides_its_state(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(Connection, "_state", lambda self: None)
    port = room(serve(always(long_answer(chunked))))
    assert await fetch(port) == (200, LONG_BODY)
    await port.aclose()


@FRAMINGS
async def test_a_long_body_that_is_cut_is_an_error_with_what_came_before(
    serve: Serve, chunked: bool
) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            if len(peer.server.seen) == 1:
                peer.send(long_answer(chunked)[:-100_000])
                peer.close()
            else:
                peer.reply("fine")

    port = room(serve(handler))
    reply = await port.open(get(), Deadline(QUICK))
    came = b""
    with pytest.raises(md.ConnectionFailedError) as caught:
        while piece := await reply.read():
            came += piece
    assert caught.value.code == "REPLY_CUT"
    assert came == alone([long_answer(chunked)[:-100_000]])[0]
    assert await reply.read() == b""
    await reply.aclose()
    assert await fetch(port) == (200, b"fine")
    await port.aclose()


async def test_a_chunk_longer_than_it_says_cuts_the_answer_and_ends_the_connection(
    serve: Serve,
) -> None:
    handed_on = threading.Event()

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            if peer.number:
                peer.reply("fine")
            else:
                peer.begin()
                peer.send(b"3\r\ntw")
                handed_on.wait(5)
                peer.send(b"ox\r\n0\r\n\r\n")

    server = serve(handler)
    port = room(server)
    reply = await port.open(get(), Deadline(QUICK))
    came = await reply.read()
    handed_on.set()
    with pytest.raises(md.ConnectionFailedError) as caught:
        while piece := await reply.read():
            came += piece
    assert (caught.value.code, came) == ("REPLY_CUT", b"two")
    await reply.aclose()
    assert await fetch(port) == (200, b"fine")
    assert server.connections == 2
    await port.aclose()


async def test_half_a_head_is_no_answer_and_not_nothing(serve: Serve) -> None:
    """Which decides whether the request may be sent again."""
    port = room(
        serve(lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 X\r\ncont"), peer.close()))
    )
    with pytest.raises(md.BadResponseError) as caught:
        await port.open(get(), Deadline(QUICK))
    assert caught.value.code == "NOT_HTTP"
    assert caught.value.details["replied"]
    await port.aclose()


@FRAMINGS
async def test_bytes_behind_a_long_body_end_the_connection(serve: Serve, chunked: bool) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            if peer.number:
                peer.reply("clean")
            else:
                peer.send(long_answer(chunked) + whole("poison"))

    server = serve(handler)
    port = room(server)
    assert await fetch(port) == (200, LONG_BODY)
    assert await fetch(port) == (200, b"clean")
    assert server.connections == 2
    await port.aclose()


@FRAMINGS
@pytest.mark.parametrize("end", ["cancelled", "left", "late"])
async def test_a_long_body_left_in_its_middle_costs_no_place(
    serve: Serve, end: str, chunked: bool
) -> None:
    closed = threading.Event()
    begun = long_answer(chunked)[:-100_000]
    sent = len(alone([begun])[0])

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            if len(peer.server.seen) > 1:
                peer.reply("fine")
                continue
            peer.send(begun)
            if peer.wait_for_close():
                closed.set()
            return

    port = room(serve(handler), connections=1)
    reply = await port.open(
        get(),
        Deadline(
            Timeout(connect=2, queue=2, first_byte=2, idle=0.1 if end == "late" else 2, total=5)
        ),
    )
    came = 0
    while came < sent:
        came += len(await reply.read())
    if end == "cancelled":
        with anyio.move_on_after(0.01) as scope:
            await reply.read()
        assert scope.cancelled_caught
    elif end == "late":
        with pytest.raises(md.DeadlineExceededError):
            await reply.read()
    await reply.aclose()
    assert await anyio.to_thread.run_sync(closed.wait, 2)
    assert await fetch(port) == (200, b"fine")
    await port.aclose()


class OneRead:
    """A stream that gives a whole answer in one read, over a socket that is silent."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.near, self.far = socket.socketpair()

    async def send(self, data: bytes) -> None: ...

    async def receive(self, most: int) -> bytes:
        return self._answer

    def extra(self, attribute: object, default: object = None) -> object:
        return self.near if attribute is anyio.abc.SocketAttribute.raw_socket else default

    async def aclose(self) -> None:
        self.near.close()
        self.far.close()


@pytest.mark.parametrize(("size", "clean"), [(READ - 1, True), (READ, False)])
async def test_a_connection_whose_last_read_filled_its_buffer_is_not_used_again(
    size: int, clean: bool
) -> None:
    """Bytes may wait above the socket then, where no poll sees them."""
    body = b"x" * (READ - 500)
    head = b"HTTP/1.1 200 X\r\ncontent-length: %d\r\n" % len(body)
    stream = OneRead(
        head + b"x-pad: " + b"p" * (size - len(head) - len(body) - 11) + b"\r\n\r\n" + body
    )
    deadline = Deadline(QUICK)
    connection = Connection(
        httpcore.Origin(b"http", b"x", 80), SocketStream(stream, deadline, secure=False)
    )  # type: ignore[arg-type]
    response = await connection.protocol.handle_async_request(
        httpcore.Request("GET", "http://x/", headers=[("Host", "x")])
    )
    await response.aread()
    await response.aclose()
    assert connection.is_clean() is clean
    await stream.aclose()


async def test_a_connection_whose_last_bytes_are_held_back_is_not_used_again() -> None:
    """A body behind the answer to HEAD, which has none: its first byte looks like the size of a chunk that is still to come."""
    stream = OneRead(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n5")
    connection = Connection(
        httpcore.Origin(b"http", b"x", 80), SocketStream(stream, Deadline(QUICK), secure=False)
    )  # type: ignore[arg-type]
    response = await connection.protocol.handle_async_request(
        httpcore.Request("HEAD", "http://x/", headers=[("Host", "x")])
    )
    await response.aread()
    await response.aclose()
    assert not connection.is_clean()
    await stream.aclose()


async def test_a_failed_dial_gives_its_place_back() -> None:
    async def dial(deadline: Deadline) -> Connection:
        raise md.ConnectionFailedError("nobody there")

    pool = Pool(dial, size=1)
    for _ in range(5):
        with pytest.raises(md.ConnectionFailedError, match="nobody there"):
            await pool.acquire(Deadline(Timeout(queue=0.1)))
    await pool.aclose()


async def test_it_takes_a_fresh_connection_when_the_kept_one_was_closed(serve: Serve) -> None:
    closed = threading.Event()

    def handler(peer: Peer) -> None:
        if peer.request() is not None:
            peer.reply(f"{peer.number}")
        peer.close()
        closed.set()

    server = serve(handler)
    port = room(server)
    assert (await fetch(port))[1] == b"0"
    await anyio.to_thread.run_sync(closed.wait)
    await anyio.sleep(0.02)
    assert (await fetch(port))[1] == b"1"
    await port.aclose()


async def test_it_says_who_does_not_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with pytest.raises(
        md.ConnectionFailedError, match=f"cannot connect to 127.0.0.1:{free}"
    ) as caught:
        await fetch(room(f"http://127.0.0.1:{free}"))
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.details["sent"] is False


@pytest.mark.parametrize(
    ("name", "handler"),
    [
        ("first_byte", lambda peer: peer.request() and peer.wait_for_close()),
        ("first_byte", lambda peer: _drip(peer, b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 500)),
        ("first_byte", lambda peer: _forever(peer, b"HTTP/1.1 100 Continue\r\n\r\n")),
        (
            "idle",
            lambda peer: (peer.request(), peer.begin(), peer.chunk(b"x"), peer.wait_for_close()),
        ),
        ("total", lambda peer: (peer.request(), peer.begin(), _forever(peer, b"1\r\nx\r\n"))),
    ],
    ids=["silence", "dripping head", "endless 1xx", "stalled body", "dripping body"],
)
async def test_it_ends_on_time_whatever_the_server_does(
    serve: Serve, name: str, handler: Handler
) -> None:
    port = room(serve(handler))

    async def late() -> None:
        with pytest.raises(md.DeadlineExceededError) as caught:
            await fetch(
                port, timeout=Timeout(connect=1, queue=1, first_byte=0.3, idle=0.3, total=0.6)
            )
        assert caught.value.phase == name
        assert isinstance(caught.value, TimeoutError)

    assert await soonest(late, 0.8) < 0.8
    await port.aclose()


def _drip(peer: Peer, data: bytes) -> None:
    peer.request()
    for byte in data:
        peer.send(bytes([byte]))
        if peer.closed_by_client.wait(0.02):
            return


def _forever(peer: Peer, data: bytes) -> None:
    if not peer.server.seen:
        peer.request()
    for _ in range(300):
        peer.send(data)
        if peer.closed_by_client.wait(0.01):
            return


async def test_it_limits_connecting_with_tcp_and_tls_together(serve: Serve) -> None:
    port = room(serve(lambda peer: peer.wait_for_close()).url.replace("http", "https"))
    with pytest.raises(md.DeadlineExceededError) as caught:
        await fetch(port, timeout=Timeout(connect=0.3, total=5))
    assert caught.value.phase == "connect"


async def test_it_queues_for_a_place_and_says_when_it_took_too_long(serve: Serve) -> None:
    port = room(serve(lambda peer: (peer.request(), peer.wait_for_close())), connections=1)
    first = None
    async with anyio.create_task_group() as group:

        async def occupy() -> None:
            with pytest.raises(md.DeadlineExceededError):
                await fetch(port, timeout=Timeout(first_byte=0.6))

        group.start_soon(occupy)
        await anyio.sleep(0.05)
        with pytest.raises(md.DeadlineExceededError) as caught:
            await fetch(port, timeout=Timeout(queue=0.2, total=5))
        first = caught.value.phase
    assert first == "queue"
    await port.aclose()


async def test_cancelling_closes_the_socket_at_once_and_loses_no_place(serve: Serve) -> None:
    waiting: list[Peer] = []

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if seen.path == "/quick":
                peer.reply("ok")
            else:
                waiting.append(peer)
                peer.wait_for_close()
                return

    server = serve(handler)
    port = room(server, connections=3)
    for turns in range(8):  # each wave is cancelled a few turns of the loop after its start
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(fetch, port, get("/slow"))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    async def twelve() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(fetch, port, get("/slow"))
            await anyio.sleep(0.1)
            group.cancel_scope.cancel()

    assert await soonest(twelve, 0.2) < 0.1 + 0.1
    with anyio.fail_after(1):
        while not all(peer.closed_by_client.is_set() for peer in waiting):
            await anyio.sleep(0.01)
    for _ in range(6):
        assert await fetch(port, get("/quick")) == (200, b"ok")
    await port.aclose()


async def test_streams_left_early_or_cancelled_cost_no_place(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            for _ in range(200):
                peer.chunk(b"data: x\n\n")
                if peer.closed_by_client.wait(0.005):
                    return

    port = room(serve(handler), connections=2)
    for number in range(6):
        reply = await port.open(get(stream=True), Deadline(QUICK))
        if number % 2:
            await reply.read()
        with anyio.CancelScope() as scope:
            if number % 3 == 0:
                scope.cancel()
            await reply.aclose()
            await reply.aclose()
    reply = await port.open(get(stream=True), Deadline(QUICK))
    assert await reply.read()
    await reply.aclose()
    await port.aclose()


async def test_it_reads_to_the_end_after_the_dialects_end_mark(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            peer.chunk(b"data: [DONE]\n\n")
            time.sleep(0.02)  # the last chunk comes in a packet of its own
            peer.end()

    server = serve(handler)
    port = room(server)
    for _ in range(3):
        reply = await port.open(get(stream=True), Deadline(QUICK))
        assert await reply.read() == b"data: [DONE]\n\n"
        await reply.finish()
    assert server.connections == 1
    await port.aclose()


async def test_chunks_that_come_together_are_one_piece_and_half_a_line_is_no_end(
    serve: Serve,
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    heard: list[bytes] = []
    wire = SocketStream(
        await anyio.abc.SocketStream.from_socket(ours), Deadline(QUICK), secure=False
    )

    async def taken() -> None:
        """The reader has everything that was sent."""
        while True:
            try:
                ours.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return
            await anyio.lowlevel.checkpoint()

    async def listen() -> None:
        heard.append(await wire.read(65536))
        while data := await wire.read_chunks():
            heard.append(data)
        heard.append(await wire.read(65536))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        for data in (head + b"3\r\none\r\n3\r\ntwo\r\n", b"5", b"\r\nthree\r\n0\r\n\r\n"):
            theirs.sendall(data)
            with anyio.fail_after(5):
                await taken()
        theirs.close()
    assert heard == [head, b"onetwo", b"three", b"0\r\n\r\n"]
    await wire.aclose()


async def test_it_does_not_wait_for_a_server_that_never_ends_its_stream(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(b"data: [DONE]\n\n")
        peer.wait_for_close()

    server = serve(handler)
    port = room(server)
    reply = await port.open(get(stream=True), Deadline(QUICK))
    await reply.read()
    began = time.monotonic()
    await reply.finish()
    assert time.monotonic() - began < 1
    with anyio.fail_after(1):
        while not server.peers[0].closed_by_client.is_set():
            await anyio.sleep(0.01)
    await port.aclose()


async def test_leaving_a_stalled_stream_takes_no_time(serve: Serve) -> None:
    server = serve(
        lambda peer: (
            peer.request(),
            peer.begin(),
            peer.chunk(b"data: x\n\n"),
            peer.wait_for_close(),
        )
    )
    port = room(server)
    reply = await port.open(get(stream=True), Deadline(Timeout(idle=20)))
    assert await reply.read()
    began = time.monotonic()
    await reply.aclose()
    assert time.monotonic() - began < 0.5
    await port.aclose()


class Endless:
    """A body of many pieces that says how much of it was taken."""

    def __init__(self, pieces: int) -> None:
        self.length = pieces * 65536
        self.taken = 0
        self._pieces = pieces

    def chunks(self):  # type: ignore[no-untyped-def]
        for _ in range(self._pieces):
            self.taken += 1
            yield b"x" * 65536


@pytest.mark.parametrize("pause", [0, 0.3], ids=["while the body leaves", "when the body is stuck"])
async def test_it_reads_the_answer_to_a_body_the_server_does_not_want(
    serve: Serve, pause: float
) -> None:
    def handler(peer: Peer) -> None:
        peer.socket.recv(1000)
        time.sleep(pause)
        peer.reply({"error": "too large"}, 413)
        time.sleep(0.3)
        peer.reset()

    body = Endless(400)
    port = room(serve(handler))
    status, answer = await fetch(port, HTTPRequest("POST", "/x", body, "application/json"))
    assert (status, answer) == (413, b'{"error": "too large"}')
    assert body.taken < 400
    await port.aclose()


async def test_it_sends_a_body_piece_by_piece_with_a_known_length(serve: Serve) -> None:
    server = serve(always(whole("ok")))
    port = room(server)
    await fetch(port, HTTPRequest("POST", "/x", Endless(20), "application/json"))
    assert server.seen[0].body == b"x" * 20 * 65536
    assert "transfer-encoding" not in server.seen[0].headers
    await port.aclose()


async def test_it_decodes_gzip_and_refuses_other_codings(serve: Serve) -> None:
    packed = gzip.compress(b"hello " * 100)
    server = serve(
        always(
            whole(packed, headers={"content-encoding": "gzip"}),
            whole(zlib.compress(b"x"), headers={"content-encoding": "deflate"}),
            whole(packed, headers={"content-encoding": "gzip, gzip"}),
            whole(b"no gzip at all", headers={"content-encoding": "gzip"}),
            whole(packed[:-9], headers={"content-encoding": "gzip"}),
            whole("fine"),
        )
    )
    port = room(server)
    assert (await fetch(port))[1] == b"hello " * 100
    for _ in range(3):
        with pytest.raises(md.BadResponseError, match="gzip"):
            await fetch(port)
    with pytest.raises(md.ConnectionFailedError, match="gzip"):
        await fetch(port)
    assert (await fetch(port))[1] == b"fine"
    await port.aclose()


async def test_a_bomb_comes_in_small_pieces(serve: Serve) -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    port = room(serve(always(whole(bomb, headers={"content-encoding": "gzip"}))))
    reply = await port.open(get(), Deadline(QUICK))
    assert {len(await reply.read()) for _ in range(50)} == {65536}
    await reply.aclose()
    await port.aclose()


async def test_it_follows_no_redirect_and_keeps_no_cookie(serve: Serve) -> None:
    server = serve(
        always(whole(b"", 307, {"location": "/elsewhere", "set-cookie": "a=b"}), whole("ok"))
    )
    port = room(server)
    assert (await fetch(port))[0] == 307
    await fetch(port)
    assert [seen.path for seen in server.seen] == ["/", "/"]
    assert "cookie" not in server.seen[1].headers
    await port.aclose()


async def test_it_ignores_proxies_of_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    port = room(serve(always(whole("direct"))))
    assert (await fetch(port))[1] == b"direct"
    await port.aclose()


async def test_it_goes_through_a_proxy_that_was_asked_for(serve: Serve) -> None:
    proxy = serve(always(whole("by proxy")))
    port = room("http://backend.test:81/base", proxy=proxy.url)
    assert (await fetch(port, get("/x")))[1] == b"by proxy"
    assert proxy.seen[0].path == "http://backend.test:81/base/x"
    assert proxy.seen[0].headers["host"] == "backend.test:81"
    await port.aclose()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def secured(authority: trustme.CA, handler: Handler) -> Loopback:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return Loopback(handler, context)


async def test_it_verifies_certificates(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = secured(authority, always(whole("secure")))
    trusted = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    port = room(server, tls=str(trusted))
    assert await fetch(port) == (200, b"secure")
    assert await fetch(port) == (200, b"secure")
    assert server.connections == 1
    with pytest.raises(md.ConnectionFailedError, match="no TLS") as caught:
        await fetch(room(server))
    assert caught.value.retryable is False
    await port.aclose()
    server.close()


async def test_an_unasked_tls_record_never_becomes_an_answer(authority: trustme.CA) -> None:
    sent = threading.Event()

    def handler(peer: Peer) -> None:
        if peer.request() is None:
            return
        peer.reply(f"{peer.number}")
        if peer.number == 0:
            peer.send(whole("poison"))
            sent.set()
            peer.wait_for_close()

    server = secured(authority, handler)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = room(server, tls=context)
    assert (await fetch(port))[1] == b"0"
    await anyio.to_thread.run_sync(sent.wait)
    await anyio.sleep(0.02)
    assert (await fetch(port))[1] == b"1"
    await port.aclose()
    server.close()


async def test_it_tunnels_tls_through_a_proxy(authority: trustme.CA, serve: Serve) -> None:
    server = secured(authority, always(whole("through")))
    asked: list[bytes] = []

    def handler(peer: Peer) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += peer.socket.recv(1)
        asked.append(head)
        with socket.create_connection(("127.0.0.1", server.port)) as far:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(far, peer.socket))
            back.start()
            _pump(peer.socket, far)
            back.join()

    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = room(server, tls=context, proxy=serve(handler).url)
    assert (await fetch(port))[1] == b"through"
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
    assert b"sk-key" not in asked[0]
    await port.aclose()
    server.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


async def test_a_closed_room_refuses_calls(serve: Serve) -> None:
    port = room(serve(always(whole("ok"))))
    await fetch(port)
    await port.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await fetch(port)


async def test_the_log_names_the_call_and_no_secret(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = room(serve(always(whole("ok"))))
    await fetch(port, get("/v1/models?token=abc"))
    assert any(
        "GET http://127.0.0.1" in line and "/v1/models -> 200" in line for line in caplog.messages
    )
    assert "sk-key" not in caplog.text
    await port.aclose()


@pytest.mark.slow
async def test_a_thousand_at_once_all_arrive(serve: Serve) -> None:
    port = room(serve(always(whole("ok"))))
    arrived: list[bytes] = []
    async with anyio.create_task_group() as group:

        async def one() -> None:
            arrived.append(
                (
                    await fetch(
                        port, timeout=Timeout(connect=5, queue=30, first_byte=30, idle=30, total=60)
                    )
                )[1]
            )

        for _ in range(1000):
            group.start_soon(one)
    assert arrived == [b"ok"] * 1000
    await port.aclose()
