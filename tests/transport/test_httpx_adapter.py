"""Somebody else's HTTP through `transport=`: any httpx client or transport."""

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
from tests.support.loopback import DONE, Handler, Loopback, Peer, always, chat, delta, whole

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]


class Pieces(httpx.AsyncByteStream):
    def __init__(self, *pieces: bytes, pause: float = 0) -> None:
        self._pieces = pieces
        self._pause = pause

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await anyio.sleep(self._pause)
            yield piece


def provider(
    answer: Callable[[httpx.Request], httpx.Response], **settings: Any
) -> md.OpenAICompatible:
    transport = httpx.MockTransport(answer)
    return md.OpenAICompatible(
        "http://backend.test/v1",
        api_key="sk-key",
        transport=transport,
        retries=md.Retries(attempts=1),
        **settings,
    )


async def test_a_call_over_a_transport_is_the_same_call(image: Callable[[], md.ImagePart]) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=chat("hi"))

    async with provider(answer) as backend:
        reply = await backend.model("m").generate([md.user("look", image())])
    assert reply.text == "hi"
    assert (seen[0].url, seen[0].headers["authorization"]) == (
        "http://backend.test/v1/chat/completions",
        "Bearer sk-key",
    )
    body = json.loads(await seen[0].aread())
    assert body["messages"][0]["content"][1]["image_url"]["url"] == image().to_data_url()
    assert "cookie" not in seen[0].headers


async def test_a_stream_over_a_transport_is_the_same_stream() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200,
            headers={"content-type": "text/event-stream"},
            stream=Pieces(delta("Good ") + delta("eve"), delta("ning"), delta({}, "stop") + DONE),
        )

    async with provider(answer) as backend, backend.model("m").stream("hi") as stream:
        events = [event async for event in stream]
    assert len(events) == 4
    assert stream.reply.text == "Good evening"


async def test_sizes_redirects_codings_and_errors_are_kept() -> None:
    answers: list[tuple[httpx.Response | Exception, type[md.MajordomoError]]] = [
        (httpx.Response(302, headers={"location": "http://evil.test"}), md.BadResponseError),
        (httpx.Response(401, json={"error": {"message": "no"}}), md.AuthenticationError),
        (httpx.Response(200, stream=Pieces(b"x" * 2000)), md.BadResponseError),
        (
            httpx.Response(
                200, headers={"content-encoding": "gzip"}, stream=Pieces(gzip.compress(b" " * 5000))
            ),
            md.BadResponseError,
        ),
        (httpx.ConnectError("no route to sk-key"), md.ConnectionFailedError),
        (httpx.ReadError("gone"), md.ConnectionFailedError),
        (httpx.ConnectTimeout("slow"), md.DeadlineExceededError),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        found = answers[0][0]
        if isinstance(found, Exception):
            raise found
        return found

    async with provider(answer, limits=md.Limits(max_reply_bytes=1000)) as backend:
        while answers:
            with pytest.raises(answers[0][1]) as caught:
                await backend.model("m").generate("hi")
            assert "sk-key" not in str(caught.value)
            assert caught.value.__cause__ is None
            del answers[0]


async def test_time_limits_hold() -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        if b"stall" in await request.aread():
            return httpx.Response(200, stream=Pieces(b"{", b"}", pause=1))
        await anyio.sleep(5)
        return httpx.Response(200)

    async with provider(slow, timeout=md.Timeout(first_byte=0.2, idle=0.3)) as backend:  # type: ignore[arg-type]
        for text, phase in (("wait", "first_byte"), ("stall", "idle")):
            with pytest.raises(md.DeadlineExceededError) as caught:
                await backend.model("m").generate(text)
            assert caught.value.phase == phase


async def test_a_client_of_the_callers_own_is_used_and_left_open(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.reply(chat("hi"), headers={"set-cookie": "a=b"})

    server = serve(handler)
    async with httpx.AsyncClient(trust_env=False) as client:
        async with md.OpenAICompatible(server.url + "/v1", transport=client) as backend:
            assert (await backend.model("m").generate("hi")).text == "hi"
            assert (await backend.model("m").generate("hi")).text == "hi"
        assert "cookie" not in server.seen[1].headers
        assert not client.is_closed
        with pytest.raises(md.ConfigurationError, match="closed"):
            await backend.model("m").generate("hi")


async def test_what_cannot_be_kept_from_outside_is_refused() -> None:
    for settings in ({"proxy": "http://x"}, {"tls": "ca.pem"}):
        with pytest.raises(md.ConfigurationError):
            provider(lambda request: httpx.Response(200), **settings)
    with pytest.raises(md.ConfigurationError):
        md.OpenAICompatible("http://x/v1", transport=object())
    for fake in ({"proxy": "http://x"}, {"tls": "ca.pem"}):
        with pytest.raises(md.ConfigurationError):
            md.OpenAICompatible(
                "http://x/v1", transport=types.SimpleNamespace(open=None, aclose=None), **fake
            )


async def test_an_application_in_this_process_can_be_the_backend() -> None:
    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": json.dumps(chat(scope["path"])).encode()})

    backend = md.OpenAICompatible("http://app.test/v1", transport=httpx.ASGITransport(application))
    assert (await backend.model("m").generate("hi")).text == "/v1/chat/completions"


async def test_a_fake_of_the_port_is_six_lines() -> None:
    class Port:
        async def open(self, request: Any, deadline: Any) -> Any:
            return self

        status, headers, pieces = (
            200,
            {"content-type": "application/json"},
            [json.dumps(chat("fake")).encode(), b""],
        )

        async def read(self) -> bytes:
            return self.pieces.pop(0)

        async def finish(self) -> None: ...

        async def aclose(self) -> None: ...

    assert (
        await md.OpenAICompatible("http://x/v1", transport=Port()).model("m").generate("hi")
    ).text == "fake"


async def test_a_wrapper_is_told_the_path_and_the_keys_and_stands_on_what_it_names(
    serve: Serve,
) -> None:
    server = serve(always(whole(chat("hi"))))
    told: list[Any] = []

    class Wrapper:
        inner = None

        def wrap(self, port: Any, base_path: str, redact: Callable[[str], str]) -> Any:
            told.append((base_path, redact("Bearer sk-key or sk-key, and a token-of-mine")))
            return port

    async with md.OpenAICompatible(
        server.url + "/v1",
        api_key="sk-key",
        transport=Wrapper(),
        headers={"x-more": "Token token-of-mine"},
    ) as backend:
        assert (await backend.model("m").generate("hi")).text == "hi"
    assert told == [("/v1", "*** or ***, and a ***")]
    assert server.seen[0].headers["authorization"] == "Bearer sk-key"
    with pytest.raises(md.ConfigurationError, match="header"):
        md.OpenAICompatible(server.url, transport=Wrapper(), headers={"host": "x"})


async def test_whole_answers_of_a_loopback_are_read_too(serve: Serve) -> None:
    server = serve(always(whole(chat("hi"))))
    async with (
        httpx.AsyncHTTPTransport() as transport,
        md.OpenAICompatible(server.url + "/v1", transport=transport) as backend,
    ):
        assert (await backend.model("m").generate("hi")).text == "hi"


async def test_calls_at_once_are_bounded_over_a_foreign_transport_too() -> None:
    running: list[int] = []
    most = 0

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await anyio.sleep(0.01)
        running.pop()
        return httpx.Response(200, json=chat("hi"))

    async with provider(slow, max_concurrency=2) as backend, anyio.create_task_group() as group:  # type: ignore[arg-type]
        for _ in range(6):
            group.start_soon(backend.model("m").generate, "hi")
    assert most == 2
