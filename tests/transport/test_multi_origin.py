"""Requests to other origins: only listed ones, only GET, and nothing of the provider's own."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import majordomo as md
from majordomo.errors import BadResponseError, ConfigurationError
from majordomo.redaction import Secret
from majordomo.settings import HOSTED
from majordomo.testing import Recorder, Replay
from majordomo.transport import BaseURL, make_transport
from majordomo.transport.multi_origin import MAX_ORIGINS, AllowedOrigins, MultiOriginTransport
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, Transport
from tests.support.loopback import Handler, Loopback, Peer, http_response, reply_with

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
KEY = "sk-very/secret+key="
HEADERS = {"Authorization": Secret(f"Key {KEY}"), "x-other": Secret("of the user")}
LIST = ["https://fal.media", "https://*.fal.media", "https://cdn.example:8443", "http://lab.test"]
ALLOWED = [
    "https://fal.media",
    "https://fal.media:443",
    "https://v3.fal.media",
    "https://a.b.fal.media",
    "HTTPS://V3.FAL.MEDIA",
    "https://cdn.example:8443",
    "http://lab.test",
    "http://lab.test:80",
]
REFUSED = [
    "",
    "https://",
    "https://evil.test",
    "https://fal.media.evil.test",
    "https://evilfal.media",
    "https://fal.media@evil.test",
    "https://user:password@fal.media",
    "https://fal.media:8443",
    "https://fal.media:99999",
    "https://fal.media.",
    "https://v3.fal.media.",
    "https://.fal.media",
    "https://v3..fal.media",
    "http://fal.media",
    "http://v3.fal.media",
    "https://lab.test",
    "http://a.lab.test",
    "https://cdn.example",
    "http://cdn.example:8443",
    "https://sub.cdn.example:8443",
    "https://f\u0430l.media",  # a Cyrillic letter
    "https://xn--fl-6kc.media",
    "https://fal\u3002media.evil.test",
    "https://127.0.0.1",
    "https://[::1]",
    "https://2130706433",
    "https://localhost",
    "https://169.254.169.254",
    "https://fal.media/path",
    "https://fal.media?query",
    "https://fal.media#fragment",
    "https://fal.media\\@evil.test",
    "https://fal.media\r\nx: y",
    "https://fal.media\t",
    "https://fal%2Emedia",
    "file:///etc/passwd",
    "ftp://fal.media",
    "gopher://fal.media",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "//fal.media",
    "fal.media",
]


@pytest.mark.parametrize("origin", ALLOWED)
def test_a_listed_origin_is_found(origin: str) -> None:
    address = AllowedOrigins(LIST).find(origin)
    assert address is not None
    assert address.origin == origin.lower().removesuffix(":443").removesuffix(":80")


@pytest.mark.parametrize("origin", REFUSED)
def test_any_other_origin_is_not_found(origin: str) -> None:
    assert AllowedOrigins(LIST).find(origin) is None


@pytest.mark.parametrize(
    "entries",
    [
        "https://fal.media",
        5,
        None,
        [5],
        [""],
        ["*"],
        ["https://*"],
        ["https://*.media"],
        ["https://*.*.media"],
        ["https://a.*.media"],
        ["https://fal.*"],
        ["https://fal.media/files"],
        ["https://fal.media?query"],
        ["https://key@fal.media"],
        ["ftp://fal.media"],
        ["fal.media"],
        ["*.fal.media"],
        [".fal.media"],
    ],
)
def test_an_invalid_list_is_refused(entries: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AllowedOrigins(entries)
    assert caught.value.details == {"field": "result_origins"}


def transport_for(own: str, *origins: str, **settings: Any) -> Transport:
    return make_transport(
        BaseURL.parse(own), headers=HEADERS, other_origins=origins or (own,), **settings
    )


def get(origin: str, path: str = "/file?sig=1") -> HTTPRequest:
    return HTTPRequest("GET", path, accept="image/*", from_origin=True, origin=origin)


async def read(reply: HTTPStream) -> bytes:
    try:
        chunks = []
        while chunk := await reply.read():
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        await reply.aclose()


async def test_another_origin_gets_none_of_the_headers(serve: Serve) -> None:
    own, other = serve(reply_with(http_response("own"))), serve(reply_with(http_response("other")))
    transport = transport_for(own.url + "/base", other.url)
    try:
        assert await read(await transport.open(HTTPRequest("GET", "/x"), Deadline(HOSTED))) == (
            b"own"
        )
        assert await read(await transport.open(get(other.url), Deadline(HOSTED))) == b"other"
    finally:
        await transport.aclose()
    [first], [second] = own.requests, other.requests
    assert (first.path, first.headers["authorization"], first.headers["x-other"]) == (
        "/base/x",
        f"Key {KEY}",
        "of the user",
    )
    assert (second.method, second.path, second.headers) == (
        "GET",
        "/file?sig=1",
        {
            "host": other.url.removeprefix("http://"),
            "user-agent": "majordomo",
            "accept": "image/*",
            "accept-encoding": "gzip",
        },
    )


async def test_connections_of_another_origin_are_kept_apart_and_reused(serve: Serve) -> None:
    own, other = serve(reply_with(http_response("own"))), serve(reply_with(http_response("other")))
    transport = transport_for(own.url, other.url)
    for _ in range(3):
        await read(await transport.open(get(other.url), Deadline(HOSTED)))
    await transport.aclose()
    assert (own.connections, other.connections) == (0, 1)


async def test_a_request_to_an_unlisted_origin_is_refused_before_anything_is_sent(
    serve: Serve,
) -> None:
    own, other = serve(reply_with(http_response("own"))), serve(reply_with(http_response("other")))
    transport = transport_for(own.url, "https://fal.media")
    with pytest.raises(BadResponseError) as caught:
        await transport.open(get(other.url, "/file?sig=secret-signature"), Deadline(HOSTED))
    await transport.aclose()
    assert caught.value.code == "ORIGIN_NOT_ALLOWED"
    assert other.url in caught.value.message
    assert "signature" not in repr(caught.value.to_dict())
    assert (own.connections, other.connections) == (0, 0)


@pytest.mark.parametrize(
    "request_",
    [
        HTTPRequest("POST", "/x", b"{}", from_origin=True),
        HTTPRequest("PUT", "/x", from_origin=True),
        HTTPRequest("DELETE", "/x", from_origin=True),
        HTTPRequest("GET", "/x", b"body", from_origin=True),
    ],
    ids=lambda request: f"{request.method} {request.body!r}",
)
async def test_only_a_plain_get_is_sent_to_another_origin(
    serve: Serve, request_: HTTPRequest
) -> None:
    other = serve(reply_with(http_response("other")))
    transport = transport_for("http://127.0.0.1:9", other.url)
    with pytest.raises(BadResponseError, match="GET"):
        await transport.open(replace(request_, origin=other.url), Deadline(HOSTED))
    await transport.aclose()
    assert other.connections == 0


async def test_a_redirect_is_returned_and_not_followed(serve: Serve) -> None:
    target = serve(reply_with(http_response("target")))
    other = serve(reply_with(http_response(b"", 302, {"location": target.url})))
    transport = transport_for("http://127.0.0.1:9", other.url, target.url)
    reply = await transport.open(get(other.url), Deadline(HOSTED))
    await reply.aclose()
    await transport.aclose()
    assert (reply.status, target.connections) == (302, 0)


async def test_the_authentication_of_an_httpx_client_is_not_sent_to_another_origin() -> None:
    sent: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, headers={"set-cookie": "a=b"}, content=b"ok")

    client = httpx.AsyncClient(
        transport=httpx.MockTransport(respond),
        auth=("user", "password"),
        headers={"x-client": "secret"},
        cookies={"session": "secret"},
        follow_redirects=True,
    )
    async with client:
        transport = transport_for("http://own.test", "http://other.test", transport=client)
        await read(await transport.open(HTTPRequest("GET", "/"), Deadline(HOSTED)))
        await read(await transport.open(get("http://other.test"), Deadline(HOSTED)))
    own, other = sent
    assert own.headers["authorization"].startswith("Basic ")
    assert dict(other.headers) == {
        "host": "other.test",
        "user-agent": "majordomo",
        "accept": "image/*",
        "accept-encoding": "gzip",
    }


async def test_a_transport_of_the_user_gets_the_request_with_its_origin() -> None:
    class Custom:
        def __init__(self) -> None:
            self.requests: list[HTTPRequest] = []

        def open(self, request: HTTPRequest, deadline: Deadline) -> Awaitable[HTTPStream]:
            self.requests.append(request)
            raise ConfigurationError("stop here")

        async def aclose(self) -> None: ...

    custom = Custom()
    transport = transport_for("http://own.test", "http://other.test", transport=custom)
    with pytest.raises(ConfigurationError, match="stop here"):
        await transport.open(get("http://other.test"), Deadline(HOSTED))
    with pytest.raises(BadResponseError):
        await transport.open(get("http://evil.test"), Deadline(HOSTED))
    assert [request.origin for request in custom.requests] == ["http://other.test"]


async def test_a_transport_of_the_user_is_closed_once_and_with_the_provider() -> None:
    class Custom:
        closed = 0

        async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
            raise BadResponseError("nothing")

        async def aclose(self) -> None:
            self.closed += 1

    custom = Custom()
    transport = transport_for("http://own.test", "http://*.lab.test", transport=custom)
    for number in range(MAX_ORIGINS + 1):
        with pytest.raises(BadResponseError, match="nothing"):
            await transport.open(get(f"http://v{number}.lab.test"), Deadline(HOSTED))
    assert custom.closed == 0
    await transport.aclose()
    assert custom.closed == 1


async def test_files_of_another_origin_are_recorded_and_replayed(
    serve: Serve, tmp_path: Path
) -> None:
    other = serve(reply_with(http_response("other")))
    for wrapper in (Recorder(tmp_path), Replay(tmp_path)):
        transport = transport_for("http://127.0.0.1:9", other.url, transport=wrapper)
        assert await read(await transport.open(get(other.url), Deadline(HOSTED))) == b"other"
        await transport.aclose()
    assert len(other.requests) == 1


async def test_a_closed_transport_refuses_every_origin(serve: Serve) -> None:
    own, used, unused = (serve(reply_with(http_response("reply"))) for _ in range(3))
    transport = transport_for(own.url, used.url, unused.url)
    await read(await transport.open(get(used.url), Deadline(HOSTED)))
    await transport.aclose()
    for request in (HTTPRequest("GET", "/"), get(used.url), get(unused.url)):
        with pytest.raises(ConfigurationError, match="closed"):
            await transport.open(request, Deadline(HOSTED))
    assert (own.connections, used.connections, unused.connections) == (0, 1, 0)


class CountingTransport:
    """Answers nothing, and says whether it was closed."""

    def __init__(self, address: BaseURL) -> None:
        self.host = address.host
        self.closed = False

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        raise BadResponseError("nothing")

    async def aclose(self) -> None:
        self.closed = True


async def test_the_number_of_other_origins_is_bounded() -> None:
    created: list[CountingTransport] = []

    def make(address: BaseURL) -> CountingTransport:
        created.append(CountingTransport(address))
        return created[-1]

    own = CountingTransport(BaseURL.parse("https://own.test"))
    transport = MultiOriginTransport(own, AllowedOrigins(["https://*.fal.media"]), make)
    for number in [*range(MAX_ORIGINS + 5), MAX_ORIGINS + 4]:
        with pytest.raises(BadResponseError, match="nothing"):
            await transport.open(get(f"https://v{number}.fal.media"), Deadline(HOSTED))
    assert [other.host for other in created if other.closed] == [
        f"v{n}.fal.media" for n in range(5)
    ]
    assert len(created) == MAX_ORIGINS + 5
    await transport.aclose()
    assert all(other.closed for other in (own, *created))


async def test_origins_in_parallel_use_are_not_closed_before_their_responses(
    serve: Serve,
) -> None:
    servers = [serve(reply_with(http_response(f"reply {n}"))) for n in range(MAX_ORIGINS + 5)]
    transport = transport_for("http://127.0.0.1:9", *(server.url for server in servers))
    bodies: list[bytes] = []

    async def fetch(server: Loopback) -> None:
        bodies.append(await read(await transport.open(get(server.url), Deadline(HOSTED))))

    # From the second round on there are idle connections, so that closing a transport takes time.
    for _ in range(3):
        async with anyio.create_task_group() as group:
            for server in servers:
                group.start_soon(fetch, server)
    await transport.aclose()
    assert sorted(bodies) == sorted(
        f"reply {n}".encode() for n in range(len(servers)) for _ in "123"
    )


class SlowTransport:
    """Takes time to open a request and to be closed, and opens none when it is closed."""

    def __init__(self) -> None:
        self.opening = 0
        self.refuses = False
        self.closed = False

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        assert not self.refuses
        self.opening += 1
        try:
            await anyio.sleep(0.01)
        finally:
            self.opening -= 1
        raise BadResponseError("nothing")

    async def aclose(self) -> None:
        assert not self.opening
        self.refuses = True
        await anyio.sleep(0.01)
        self.closed = True


async def test_a_transport_that_opens_a_request_is_not_closed() -> None:
    created: list[SlowTransport] = []

    def make(address: BaseURL) -> SlowTransport:
        created.append(SlowTransport())
        return created[-1]

    transport = MultiOriginTransport(SlowTransport(), AllowedOrigins(["https://*.fal.media"]), make)

    async def fetch(number: int) -> None:
        with pytest.raises(BadResponseError, match="nothing"):
            await transport.open(get(f"https://v{number}.fal.media"), Deadline(HOSTED))

    for first in (0, 5):
        async with anyio.create_task_group() as group:
            for number in range(first, first + MAX_ORIGINS + 5):
                group.start_soon(fetch, number)
        assert sum(not other.closed for other in created) == MAX_ORIGINS
    await transport.aclose()
    assert all(other.closed for other in created)


async def test_a_cancelled_request_still_closes_what_it_removed() -> None:
    created: list[SlowTransport] = []

    def make(address: BaseURL) -> SlowTransport:
        created.append(SlowTransport())
        return created[-1]

    transport = MultiOriginTransport(SlowTransport(), AllowedOrigins(["https://*.fal.media"]), make)
    for number in range(MAX_ORIGINS + 2):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await transport.open(get(f"https://v{number}.fal.media"), Deadline(HOSTED))
        assert scope.cancelled_caught
    assert [other.closed for other in created] == [True, True] + [False] * MAX_ORIGINS
    await transport.aclose()


async def test_a_response_ends_normally_after_its_transport_was_closed(serve: Serve) -> None:
    may_end = threading.Event()

    def reply_slowly(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(b"first ")
        may_end.wait(10)
        peer.chunk(b"second")
        peer.end()
        peer.request()

    slow = serve(reply_slowly)
    fast = [serve(reply_with(http_response("reply"))) for _ in range(MAX_ORIGINS)]
    transport = transport_for("http://127.0.0.1:9", slow.url, *(server.url for server in fast))
    reply = await transport.open(get(slow.url), Deadline(HOSTED))
    for server in fast:
        await read(await transport.open(get(server.url), Deadline(HOSTED)))
    may_end.set()
    assert await read(reply) == b"first second"
    assert await read(await transport.open(get(fast[-1].url), Deadline(HOSTED))) == b"reply"
    # The least recently used transport was closed, and the others were not.
    assert slow.peers[0].closed_by_client.wait(5)
    assert fast[-1].connections == 1
    await transport.aclose()


async def test_the_least_recently_used_transport_is_closed_first() -> None:
    created: list[CountingTransport] = []

    def make(address: BaseURL) -> CountingTransport:
        created.append(CountingTransport(address))
        return created[-1]

    own = CountingTransport(BaseURL.parse("https://own.test"))
    transport = MultiOriginTransport(own, AllowedOrigins(["https://*.fal.media"]), make)
    for number in [*range(MAX_ORIGINS), 0, MAX_ORIGINS]:
        with pytest.raises(BadResponseError, match="nothing"):
            await transport.open(get(f"https://v{number}.fal.media"), Deadline(HOSTED))
    assert [other.host for other in created if other.closed] == ["v1.fal.media"]


async def test_a_provider_without_other_origins_refuses_none_of_its_own_requests(
    serve: Serve,
) -> None:
    server = serve(reply_with(http_response({"data": [{"id": "m"}]})))
    async with md.OpenAICompatible(server.url + "/v1") as provider:
        assert [model.id for model in await provider.models()] == ["m"]
