"""Any httpx client or transport as `transport=`."""

from __future__ import annotations

import gzip
import json
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx
import pytest

import majordomo as md
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    reply_with,
)

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]


class ByteChunks(httpx.AsyncByteStream):
    def __init__(self, *chunks: bytes, pause: float = 0) -> None:
        self._chunks = chunks
        self._pause = pause

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            await anyio.sleep(self._pause)
            yield chunk


def make_provider(
    respond: Callable[[httpx.Request], httpx.Response], **settings: Any
) -> md.OpenAICompatible:
    transport = httpx.MockTransport(respond)
    return md.OpenAICompatible(
        "http://backend.test/v1",
        api_key="sk-key",
        transport=transport,
        retries=md.Retries(attempts=1),
        **settings,
    )


async def test_a_call_over_an_httpx_transport_sends_the_usual_request(
    image: Callable[[], md.ImagePart],
) -> None:
    received_requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        received_requests.append(request)
        return httpx.Response(200, json=chat_completion("hi"))

    async with make_provider(respond) as backend:
        reply = await backend.model("m").generate([md.user("look", image())])
    assert reply.text == "hi"
    assert (received_requests[0].url, received_requests[0].headers["authorization"]) == (
        "http://backend.test/v1/chat/completions",
        "Bearer sk-key",
    )
    body = json.loads(await received_requests[0].aread())
    assert body["messages"][0]["content"][1]["image_url"]["url"] == image().to_data_url()
    assert "cookie" not in received_requests[0].headers


async def test_a_stream_over_an_httpx_transport_has_the_usual_events() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200,
            headers={"content-type": "text/event-stream"},
            stream=ByteChunks(
                delta("Good ") + delta("eve"), delta("ning"), delta({}, "stop") + DONE
            ),
        )

    async with make_provider(respond) as backend, backend.model("m").stream("hi") as stream:
        events = [event async for event in stream]
    assert len(events) == 4
    assert stream.reply.text == "Good evening"


async def test_sizes_redirects_codings_and_errors_are_handled_as_in_our_own_transport() -> None:
    cases: list[tuple[httpx.Response | Exception, type[md.MajordomoError]]] = [
        (httpx.Response(302, headers={"location": "http://evil.test"}), md.BadResponseError),
        (httpx.Response(401, json={"error": {"message": "no"}}), md.AuthenticationError),
        (httpx.Response(200, stream=ByteChunks(b"x" * 2000)), md.BadResponseError),
        (
            httpx.Response(
                200,
                headers={"content-encoding": "gzip"},
                stream=ByteChunks(gzip.compress(b" " * 5000)),
            ),
            md.BadResponseError,
        ),
        (httpx.ConnectError("no route to sk-key"), md.ConnectionFailedError),
        (httpx.ReadError("gone"), md.ConnectionFailedError),
        (httpx.ConnectTimeout("slow"), md.DeadlineExceededError),
    ]

    def respond(request: httpx.Request) -> httpx.Response:
        response = cases[0][0]
        if isinstance(response, Exception):
            raise response
        return response

    async with make_provider(respond, limits=md.Limits(max_reply_bytes=1000)) as backend:
        while cases:
            with pytest.raises(cases[0][1]) as caught:
                await backend.model("m").generate("hi")
            assert "sk-key" not in str(caught.value)
            assert caught.value.__cause__ is None
            del cases[0]


async def test_first_byte_and_idle_limits_are_enforced() -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        if b"stall" in await request.aread():
            return httpx.Response(200, stream=ByteChunks(b"{", b"}", pause=1))
        await anyio.sleep_forever()
        return httpx.Response(200)

    async with make_provider(slow, timeout=md.Timeout(first_byte=0.2, idle=0.3)) as backend:  # type: ignore[arg-type]
        for text, phase in (("wait", "first_byte"), ("stall", "idle")):
            with pytest.raises(md.DeadlineExceededError) as caught:
                await backend.model("m").generate(text)
            assert caught.value.phase == phase


async def test_an_existing_client_is_used_and_left_open(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.reply(chat_completion("hi"), headers={"set-cookie": "a=b"})

    server = serve(handler)
    async with httpx.AsyncClient(trust_env=False) as client:
        async with md.OpenAICompatible(server.url + "/v1", transport=client) as backend:
            assert (await backend.model("m").generate("hi")).text == "hi"
            assert (await backend.model("m").generate("hi")).text == "hi"
        assert "cookie" not in server.requests[1].headers
        assert not client.is_closed
        with pytest.raises(md.ConfigurationError, match="closed"):
            await backend.model("m").generate("hi")


async def test_tls_and_proxy_cannot_be_combined_with_a_transport() -> None:
    for settings in ({"proxy": "http://x"}, {"tls": "ca.pem"}):
        with pytest.raises(md.ConfigurationError):
            make_provider(lambda request: httpx.Response(200), **settings)
    with pytest.raises(md.ConfigurationError):
        md.OpenAICompatible("http://x/v1", transport=object())
    for fake in ({"proxy": "http://x"}, {"tls": "ca.pem"}):
        with pytest.raises(md.ConfigurationError):
            md.OpenAICompatible(
                "http://x/v1", transport=types.SimpleNamespace(open=None, aclose=None), **fake
            )


async def test_an_in_process_application_can_be_the_backend() -> None:
    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send(
            {
                "type": "http.response.body",
                "body": json.dumps(chat_completion(scope["path"])).encode(),
            }
        )

    backend = md.OpenAICompatible("http://app.test/v1", transport=httpx.ASGITransport(application))
    assert (await backend.model("m").generate("hi")).text == "/v1/chat/completions"


async def test_a_fake_transport_takes_six_lines() -> None:
    class FakeTransport:
        async def open(self, request: Any, deadline: Any) -> Any:
            return self

        status, headers, chunks = (
            200,
            {"content-type": "application/json"},
            [json.dumps(chat_completion("fake")).encode(), b""],
        )

        async def read(self) -> bytes:
            return self.chunks.pop(0)

        async def finish(self) -> None: ...

        async def aclose(self) -> None: ...

    assert (
        await md.OpenAICompatible("http://x/v1", transport=FakeTransport())
        .model("m")
        .generate("hi")
    ).text == "fake"


async def test_a_wrapper_receives_the_base_path_and_a_redactor_and_wraps_its_inner_transport(
    serve: Serve,
) -> None:
    server = serve(reply_with(http_response(chat_completion("hi"))))
    received: list[Any] = []

    class Wrapper:
        inner = None

        def wrap(self, transport: Any, base_path: str, redact: Callable[[str], str]) -> Any:
            received.append((base_path, redact("Bearer sk-key or sk-key, and a token-of-mine")))
            return transport

    async with md.OpenAICompatible(
        server.url + "/v1",
        api_key="sk-key",
        transport=Wrapper(),
        headers={"x-more": "Token token-of-mine"},
    ) as backend:
        assert (await backend.model("m").generate("hi")).text == "hi"
    assert received == [("/v1", "*** or ***, and a ***")]
    assert server.requests[0].headers["authorization"] == "Bearer sk-key"
    with pytest.raises(md.ConfigurationError, match="header"):
        md.OpenAICompatible(server.url, transport=Wrapper(), headers={"host": "x"})


async def test_complete_responses_of_a_real_server_are_read(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("hi"))))
    async with (
        httpx.AsyncHTTPTransport() as transport,
        md.OpenAICompatible(server.url + "/v1", transport=transport) as backend,
    ):
        assert (await backend.model("m").generate("hi")).text == "hi"


async def test_max_concurrency_applies_over_an_httpx_transport() -> None:
    running: list[int] = []
    max_running = 0

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal max_running
        running.append(1)
        max_running = max(max_running, len(running))
        await anyio.sleep(0.01)
        running.pop()
        return httpx.Response(200, json=chat_completion("hi"))

    async with (
        make_provider(slow, max_concurrency=2) as backend,
        anyio.create_task_group() as group,
    ):  # type: ignore[arg-type]
        for _ in range(6):
            group.start_soon(backend.model("m").generate, "hi")
    assert max_running == 2
