"""Every HTTP chat provider: paths, headers, and how replies are decoded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.llm import Done
from majordomo.providers.base import provider_names
from tests.servers.gemini_chat import GeminiChat, Turn
from tests.support.chat_backends import BACKENDS, KEY, Backend, answering
from tests.support.chat_dialects import check, join_deltas
from tests.support.loopback import Handler, Loopback, Peer
from tests.support.recording_observer import RecordingObserver

each = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
ONCE = md.Retries(attempts=1)
DRAWING = {"automatic1111", "comfyui", "fal", "stablediffusion"}


def test_every_chat_provider_is_tested() -> None:
    assert {
        backend.name.partition(" ")[0] for backend in BACKENDS
    } == provider_names() - DRAWING - {"offline"}


@each
async def test_a_complete_reply(backend: Backend, serve: Callable[[Handler], Loopback]) -> None:
    server = serve(answering(backend))
    reply = await backend.connect(server.url).model(backend.model).generate("hi")
    check(backend.dialect, reply)
    assert reply.provider == backend.name.partition(" ")[0]
    assert server.requests[-1].path == backend.path
    assert server.requests[-1].headers[backend.header[0]] == backend.header[1]
    assert KEY not in server.requests[-1].path


@each
async def test_a_streamed_reply(backend: Backend, serve: Callable[[Handler], Loopback]) -> None:
    server = serve(answering(backend))
    async with backend.connect(server.url).model(backend.model).stream("hi") as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    check(backend.dialect, stream.reply)
    assert server.requests[-1].path == backend.streamed
    decoder = backend.dialect.codec.stream_decoder(llm.Request((md.user("hi"),)), md.Limits())
    expected = join_deltas([*decoder.feed(backend.dialect.stream), *decoder.finish()])
    assert join_deltas(events)[:-1] == expected[:-1]


@each
def test_sync_methods_work_like_async_ones(
    backend: Backend, serve: Callable[[Handler], Loopback]
) -> None:
    with backend.connect(serve(answering(backend)).url) as provider:
        model = provider.model(backend.model)
        check(backend.dialect, model.generate_sync("hi"))
        with model.stream_sync("hi") as stream:
            assert isinstance(list(stream)[-1], Done)
        check(backend.dialect, stream.reply)


@each
async def test_a_truncated_stream_keeps_the_partial_reply(
    backend: Backend, serve: Callable[[Handler], Loopback]
) -> None:
    at = backend.dialect.stream.index(b"draw")
    model = backend.connect(serve(answering(backend, cut=at)).url).model(backend.model)
    with pytest.raises(md.StreamBrokenError) as caught:
        async with model.stream("hi") as stream:
            async for _ in stream:
                pass
    assert (caught.value.partial.text, caught.value.partial.thinking) == ("Grüße 🦊", "a fox")
    assert caught.value.partial.provider == backend.name.partition(" ")[0]


@each
async def test_an_error_status_is_typed_and_hides_the_key(
    backend: Backend, serve: Callable[[Handler], Loopback]
) -> None:
    message = f"too many requests for {KEY}"
    body = (
        {"error": message}
        if backend.name == "ollama"
        else {"error": {"message": message, "type": "rate_limit_error"}}
    )

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.reply(body, 429)

    model = backend.connect(serve(handler).url, retries=ONCE).model(backend.model)
    with pytest.raises(md.RateLimitError) as caught:
        await model.generate("hi")
    assert "too many requests" in caught.value.message
    assert KEY not in str(caught.value) + json.dumps(caught.value.to_dict())
    assert caught.value.provider == backend.name.partition(" ")[0]
    with pytest.raises(md.RateLimitError):
        async with model.stream("hi") as stream:
            async for _ in stream:
                pass


@each
async def test_leaving_a_stream_closes_its_connection(
    backend: Backend, serve: Callable[[Handler], Loopback]
) -> None:
    gone: list[bool] = []

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None and request.method == "GET":
            peer.reply({"running": []})
        peer.begin(headers={"content-type": backend.kind})
        peer.chunk(backend.dialect.stream[: backend.dialect.stream.index(b"draw")])
        gone.append(peer.wait_for_close())

    server = serve(handler)
    async with backend.connect(server.url).model(backend.model).stream("hi") as stream:
        async for _ in stream:
            break
    for peer in server.peers:
        assert peer.closed_by_client.wait(5)
    assert gone == [True]


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-pro-preview"])
async def test_gemini_accepts_images_from_tools(
    model: str, serve: Callable[[Handler], Loopback], image: Callable[..., md.ImagePart]
) -> None:
    """Against the strict server: signatures, results and images are where this model needs them."""

    def weather(city: str) -> list[Any]:
        return [f"sun in {city}", image()]

    server = GeminiChat()
    chat = md.Gemini("k", base_url=serve(server).url + "/v1beta").model(model)
    reply = await md.run_tools(chat, 'weather {"city": "Ulm"}', tools=[weather])
    assert "sun in Ulm" in reply.text
    assert reply.images == (image(),)
    history = [
        md.user('weather {"city": "Ulm"}'),
        *reply.new_messages,
        md.user("and this?", image(color="red")),
    ]
    async with md.stream_tools(chat, history, tools=[weather]) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    assert "64x48" in stream.reply.text


async def test_gemini_refusals_are_replies_and_blocked_prompts_are_errors(
    serve: Callable[[Handler], Loopback],
) -> None:
    server = GeminiChat()
    model = md.Gemini("k", base_url=serve(server).url + "/v1beta").model("gemini-2.5-flash")
    server.script = [
        Turn([], finish="SAFETY"),
        Turn([], blocked="PROHIBITED_CONTENT"),
        Turn([], finish="MALFORMED_FUNCTION_CALL"),
    ]
    reply = await model.generate("hi")
    assert (reply.finish_reason, reply.raw_finish_reason, reply.text) == (
        "content_filter",
        "SAFETY",
        "",
    )
    with pytest.raises(md.ContentRefusedError, match="PROHIBITED_CONTENT"):
        await model.generate("hi")
    assert (await model.generate("hi")).finish_reason == "error"


@pytest.mark.parametrize("broken", ["error", "bare", "array", "cut", "drop"])
async def test_gemini_broken_streams_keep_the_partial_reply(
    broken: str, serve: Callable[[Handler], Loopback]
) -> None:
    server = GeminiChat()
    model = md.Gemini("k", base_url=serve(server).url + "/v1beta").model("gemini-2.5-flash")
    server.script = [Turn([{"text": "Hello."}], broken=broken)]
    with pytest.raises(md.StreamBrokenError) as caught:
        async with model.stream("hi") as stream:
            async for _ in stream:
                pass
    assert caught.value.partial.text
    assert "Hello.".startswith(caught.value.partial.text)


async def test_gemini_thinking_and_output_work_with_each_model_generation(
    serve: Callable[[Handler], Loopback],
) -> None:
    from pydantic import BaseModel

    class Mood(BaseModel):
        word: str
        score: int

    provider = md.Gemini("k", base_url=serve(GeminiChat()).url + "/v1beta")
    for model in ("gemini-2.5-flash", "gemini-3-flash-preview"):
        reply = await provider.model(model).generate(
            "mood?", output=Mood, reasoning="low", temperature=0.1, max_tokens=400
        )
        assert isinstance(reply.output, Mood)
        assert reply.thinking
        assert reply.usage.input_tokens


@each
async def test_every_call_is_observed_once(
    backend: Backend, serve: Callable[[Handler], Loopback]
) -> None:
    server = serve(answering(backend))
    name = backend.name.partition(" ")[0]
    for streamed in (False, True):
        witness = RecordingObserver()
        async with backend.connect(server.url, observers=[witness]) as provider:
            model = provider.model(backend.model)
            if streamed:
                async with model.stream("hi", temperature=0.5, user_id="user-42") as stream:
                    [event async for event in stream]
            else:
                await model.generate("hi", temperature=0.5, user_id="user-42")
        [call] = witness.calls
        assert (call.operation, call.provider, call.model, call.user_id) == (
            "chat",
            name,
            backend.model,
            "user-42",
        )
        assert (call.streamed, call.address, call.settings) == (
            streamed,
            server.url,
            {"temperature": 0.5, "messages": 1},
        )
        assert witness.event_names == (
            ["on_start", "on_event", "on_success"] if streamed else ["on_start", "on_success"]
        )
        outcome = witness.outcome
        assert (outcome.usage, outcome.finish_reason, outcome.content) == (
            backend.dialect.usage,
            "tool_calls",
            None,
        )
        assert outcome.model == backend.dialect.complete_response.get("model", "gemini-x")


@each
def test_a_sync_call_is_observed_once(
    backend: Backend, serve: Callable[[Handler], Loopback]
) -> None:
    server = serve(answering(backend))
    witness = RecordingObserver()
    with backend.connect(server.url, observers=[witness]) as provider:
        provider.model(backend.model).generate_sync("hi")
        assert witness.event_names == ["on_start", "on_success"]
        with provider.model(backend.model).stream_sync("hi") as stream:
            list(stream)
    assert witness.event_names[2:] == ["on_start", "on_event", "on_success"]
    assert len({call.id for call in witness.calls}) == 2
