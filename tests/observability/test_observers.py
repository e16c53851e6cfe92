"""What observers receive, and what is withheld from them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import majordomo as md
from majordomo import imagegen, llm
from majordomo.backend_status import Loading, Queued
from majordomo.observability import CallResult, FirstToken, Observer
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)
from tests.support.recording_observer import RecordingObserver
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
KEY = "sk-very/secret+key"
QUICK = md.Retries(initial_delay=0.001)
SECRET_TEXT = "the secret fox"
LOADING = http_response(
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503
)
everywhere = pytest.mark.anyio


def streaming(*chunks: bytes) -> Handler:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            for chunk in chunks:
                peer.chunk(chunk)
            peer.end()

    return handler


def hanging(*chunks: bytes) -> Handler:
    """Begin a stream and never end it."""

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            for chunk in chunks:
                peer.chunk(chunk)
            peer.wait_for_close()

    return handler


def compatible(server: Loopback, *observers: Observer, **common: Any) -> md.OpenAICompatible:
    return keep_alive(
        md.OpenAICompatible(
            server.url + "/v1", api_key=KEY, observers=observers, retries=QUICK, **common
        )
    )


def keep_alive(provider: Any) -> Any:
    """Return the provider, and keep a reference to it until the end of the test run.

    An unclosed provider that is collected while its loop runs causes a warning, which is not what
    these tests check.
    """
    PROVIDERS.append(provider)
    return provider


PROVIDERS: list[Any] = []


@everywhere
async def test_offline_calls_are_observed() -> None:
    observer = RecordingObserver()
    provider = md.Offline(observers=[observer])
    await provider.model("rules").generate("hi")
    assert observer.event_names == ["on_start", "on_success"]
    async with provider.model("rules").stream("hi") as stream:
        [event async for event in stream]
    assert observer.event_names[2:] == ["on_start", "on_event", "on_success"]
    assert isinstance(observer.events[3][1], FirstToken)
    await provider.image_model("renderer").generate("a fox", size="64x64", steps=2)
    assert observer.events[6:8] == [
        ("on_event", imagegen.Step(1, 2)),
        ("on_event", imagegen.Step(2, 2)),
    ]
    assert observer.event_names[5:] == ["on_start", "on_event", "on_event", "on_success"]
    assert [call.operation for call in observer.calls] == ["chat", "chat", "image"]
    assert {call.address for call in observer.calls} == {""}
    outcome = observer.events[-1][1]
    assert outcome.usage == imagegen.Usage(images=1, pixels=64 * 64)


def test_blocking_calls_are_observed_in_the_portal_thread() -> None:
    threads: list[str] = []

    class ThreadRecorder(Observer):
        def on_success(self, call: Any, outcome: CallResult) -> None:
            threads.append(threading.current_thread().name)

    with md.Offline(observers=[ThreadRecorder()]) as provider:
        provider.model("rules").generate_sync("hi")
        provider.image_model("renderer").generate_sync("a fox", size="64x64", steps=1)
        with provider.image_model("renderer").stream_sync("a fox", size="64x64", steps=1) as stream:
            list(stream)
    assert threads == ["majordomo-portal"] * 3


@everywhere
async def test_an_embedding_is_observed(serve: Serve) -> None:
    observer, content_observer = RecordingObserver(), RecordingObserver(content=True)
    answer = {
        "data": [{"embedding": [1, 2]}, {"embedding": [1, 2]}],
        "model": "e-1",
        "usage": {"prompt_tokens": 7},
    }
    server = serve(reply_with(http_response(answer)))
    async with compatible(server, observer, content_observer) as provider:
        embeddings = await provider.embedding_model("e").embed(["a", "b"], dimensions=2)
    [call] = observer.calls
    assert (call.operation, call.model, call.settings) == (
        "embed",
        "e",
        {"texts": 2, "dimensions": 2},
    )
    assert (observer.outcome.usage, observer.outcome.model, observer.outcome.content) == (
        llm.Usage(7),
        "e-1",
        None,
    )
    assert content_observer.calls[0].content == ("a", "b")
    assert content_observer.outcome.content == embeddings


@everywhere
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_repeated_attempt_calls_on_retry(serve: Serve, streamed: bool) -> None:
    last = (
        http_response(
            b"".join((delta("fine", "stop"), DONE)), headers={"content-type": "text/event-stream"}
        )
        if streamed
        else http_response(chat_completion("fine"))
    )
    server = serve(
        reply_with(
            http_response({"error": "x"}, 500),
            http_response({"error": "x"}, 429, {"retry-after": "0.002"}),
            last,
        )
    )
    observer = RecordingObserver()
    model = compatible(server, observer).model("m")
    if streamed:
        async with model.stream("hi") as stream:
            [event async for event in stream]
    else:
        await model.generate("hi")
    attempts = [value for name, value in observer.events if name == "on_retry"]
    assert [
        (attempt.number, type(attempt.error), attempt.error.status) for attempt in attempts
    ] == [
        (1, md.BackendError, 500),
        (2, md.RateLimitError, 429),
    ]
    assert attempts[1].delay == 0.002
    assert observer.event_names[-1] == "on_success"


@everywhere
async def test_the_last_failure_calls_on_error(serve: Serve) -> None:
    observer = RecordingObserver()
    model = compatible(serve(reply_with(http_response({"error": "x"}, 500))), observer).model("m")
    with pytest.raises(md.BackendError) as caught:
        await model.generate("hi")
    assert observer.event_names == ["on_start", "on_retry", "on_retry", "on_error"]
    assert type(observer.outcome) is md.BackendError
    assert observer.outcome.to_dict() == caught.value.to_dict()
    assert observer.outcome.__traceback__ is None, "a traceback references the request"


@everywhere
async def test_a_request_that_is_rejected_locally_calls_on_error_once(serve: Serve) -> None:
    observer = RecordingObserver()
    server = serve(reply_with(http_response(chat_completion("x"))))
    gemini = keep_alive(md.Gemini(KEY, base_url=server.url, strict=True, observers=[observer]))
    with pytest.raises(md.UnsupportedError):
        async with gemini.image_model("gemini-2.5-flash-image").stream("a fox", steps=3) as stream:
            [event async for event in stream]
    assert observer.event_names == ["on_start", "on_error"]
    anthropic = keep_alive(
        md.Anthropic(
            KEY, base_url=server.url, strict=True, observers=[second := RecordingObserver()]
        )
    )
    with pytest.raises(md.UnsupportedError):
        async with anthropic.model("m").stream("hi", seed=3):
            pass
    assert second.event_names == ["on_start", "on_error"]
    assert server.requests == []


@everywhere
async def test_an_invalid_request_is_not_observed() -> None:
    observer = RecordingObserver()
    provider = md.Offline(observers=[observer])
    with pytest.raises(md.InvalidRequestError):
        await provider.model("rules").generate("hi", temperature=9)
    with pytest.raises(md.InvalidRequestError):
        await provider.image_model("renderer").generate("")
    assert observer.events == []


@everywhere
async def test_a_loading_model_is_an_event_and_not_a_retry(serve: Serve) -> None:
    loading = LOADING.replace(b"content-type", b"retry-after: 0.001\r\ncontent-type")
    server = serve(reply_with(loading, loading, http_response(chat_completion("fine"))))
    observer = RecordingObserver()
    await compatible(server, observer).model("m").generate("hi")
    assert observer.event_names == ["on_start", "on_event", "on_event", "on_success"]
    assert isinstance(observer.events[1][1], Loading)
    server = serve(
        reply_with(loading, http_response(images_reply(md.ImagePart.from_base64(DOT).data)))
    )
    observer = RecordingObserver()
    await compatible(server, observer).image_model("m").generate("a fox")
    assert observer.event_names == ["on_start", "on_event", "on_success"]


DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


@everywhere
async def test_a_queue_position_is_an_event(serve: Serve) -> None:
    arrived, proceed = threading.Event(), threading.Event()

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            arrived.set()
            proceed.wait(5)
            peer.reply(chat_completion("fine"))

    observer = RecordingObserver()
    provider = compatible(serve(handler), observer, max_concurrency=1)

    async def follow() -> None:
        await wait_until(lambda: ("on_event", Queued(1)) in observer.events)
        proceed.set()

    async with anyio.create_task_group() as group:
        group.start_soon(provider.model("m").generate, "one")
        await anyio.to_thread.run_sync(arrived.wait)
        group.start_soon(provider.model("m").generate, "two")
        group.start_soon(follow)
    assert observer.event_names.count("on_success") == 2
    assert observer.event_names.count("on_event") == 1


@everywhere
async def test_the_first_token_of_a_stream_is_one_event(serve: Serve) -> None:
    observer = RecordingObserver()
    server = serve(
        streaming(delta({"role": "assistant"}), delta("Good "), delta("evening", "stop") + DONE)
    )
    async with compatible(server, observer).model("m").stream("hi") as stream:
        [event async for event in stream]
    assert observer.event_names == ["on_start", "on_event", "on_success"]
    assert 0 <= observer.events[1][1].elapsed <= observer.outcome.seconds


@everywhere
async def test_a_cancelled_call_calls_on_cancel(serve: Serve) -> None:
    observer = RecordingObserver()

    def silent(peer: Peer) -> None:
        peer.request()
        peer.wait_for_close()

    provider = compatible(serve(silent), observer)
    for call in (provider.model("m").generate, provider.image_model("m").generate):
        with anyio.move_on_after(0.05):
            await call("hi")
        assert observer.event_names == ["on_start", "on_cancel"]
        observer.events.clear()


@everywhere
async def test_a_stream_that_is_left_calls_on_cancel(serve: Serve) -> None:
    observer = RecordingObserver()
    provider = compatible(serve(hanging(delta("Good "))), observer)
    async with provider.model("m").stream("hi") as stream:
        await anext(aiter(stream))
    assert observer.event_names == ["on_start", "on_event", "on_cancel"]
    with pytest.raises(ZeroDivisionError):
        async with provider.model("m").stream("hi"):
            raise ZeroDivisionError
    assert observer.event_names[3:] == ["on_start", "on_cancel"]
    image_observer = RecordingObserver()
    async with (
        md.Offline(observers=[image_observer])
        .image_model("renderer")
        .stream("a fox", size="64x64", steps=50) as images
    ):
        await anext(aiter(images))
    assert image_observer.event_names[-1] == "on_cancel"
    assert image_observer.event_names.count("on_cancel") == 1


@everywhere
async def test_a_broken_stream_calls_on_error_without_the_partial_answer(serve: Serve) -> None:
    observer, content_observer = RecordingObserver(), RecordingObserver(content=True)
    broken = serve(streaming(delta(SECRET_TEXT)))
    with pytest.raises(md.StreamBrokenError):
        async with compatible(broken, observer, content_observer).model("m").stream("hi") as stream:
            [event async for event in stream]
    assert (observer.event_names[-1], type(observer.outcome), observer.outcome.partial) == (
        "on_error",
        md.StreamBrokenError,
        None,
    )
    assert content_observer.outcome.partial.text == SECRET_TEXT


class RaisingObserver(Observer):
    def __init__(self, raise_in: str) -> None:
        self.raise_in = raise_in
        self.called_methods: list[str] = []

    def _handle(self, name: str) -> None:
        self.called_methods.append(name)
        if name == self.raise_in:
            raise RuntimeError("a bug")

    def on_start(self, *arguments: Any) -> None:
        self._handle("on_start")

    def on_event(self, *arguments: Any) -> None:
        self._handle("on_event")

    def on_success(self, *arguments: Any) -> None:
        self._handle("on_success")


@everywhere
@pytest.mark.parametrize("raise_in", ["on_start", "on_event", "on_success"])
async def test_an_observer_that_raises_receives_nothing_more_of_the_call(
    raise_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    raising, observer = RaisingObserver(raise_in), RecordingObserver()
    async with md.Offline(observers=[raising, observer]).model("rules").stream("hi") as stream:
        [event async for event in stream]
    assert stream.reply.text
    assert (
        raising.called_methods
        == ["on_start", "on_event", "on_success"][
            : ["on_start", "on_event", "on_success"].index(raise_in) + 1
        ]
    )
    assert observer.event_names == ["on_start", "on_event", "on_success"]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("majordomo", logging.ERROR)
    assert "RaisingObserver" in record.getMessage()


def readable_content(value: Any) -> str:
    """Return everything that can be read from a value that an observer received."""
    text = repr(value)
    if isinstance(value, BaseException):
        text += (
            str(value)
            + json.dumps(value.__dict__, default=repr)
            + repr((value.__cause__, value.__context__, value.__traceback__))
        )
    for name in dir(value) if not isinstance(value, (str, int, float, type(None), type)) else ():
        if not name.startswith("__") and not callable(attribute := getattr(value, name)):
            text += (
                readable_content(attribute)
                if type(attribute).__module__.startswith("majordomo")
                else repr(attribute)
            )
    return text


@everywhere
async def test_an_observer_receives_no_key(serve: Serve) -> None:
    observer = RecordingObserver(content=True)
    headers = {"x-extra": KEY}
    server = serve(
        reply_with(
            http_response(chat_completion("fine")),
            http_response({"error": f"no {KEY}"}, 500),
            http_response({"error": f"no {KEY}"}, 401),
        )
    )
    model = compatible(server, observer, headers=headers).model("m")
    await model.generate("hi")
    with pytest.raises(md.AuthenticationError):
        await model.generate("hi")
    assert observer.event_names == ["on_start", "on_success", "on_start", "on_retry", "on_error"]
    received = "".join(
        readable_content(value)
        for value in [*observer.calls, *(value for _, value in observer.events)]
    )
    assert "***" in received
    assert KEY not in received


class Form(BaseModel):
    size: int


@everywhere
async def test_content_is_only_for_observers_that_want_it(serve: Serve) -> None:
    observer, content_observer = RecordingObserver(), RecordingObserver(content=True)
    server = serve(reply_with(http_response(chat_completion(SECRET_TEXT))))
    provider = compatible(server, observer, content_observer)
    model = provider.model("m", llm.with_extra({"openaicompatible": {"user": SECRET_TEXT}}))
    reply = await model.generate([llm.system(SECRET_TEXT), llm.user(SECRET_TEXT)])
    with pytest.raises(md.BadResponseError):
        await model.generate(SECRET_TEXT, output=Form)
    refused = "I will not draw that: " + SECRET_TEXT
    gemini_answer = {
        "candidates": [{"content": {"parts": [{"text": refused}]}, "finishReason": "STOP"}]
    }
    gemini = keep_alive(
        md.Gemini(
            KEY,
            base_url=serve(reply_with(http_response(gemini_answer))).url,
            observers=[observer, content_observer],
        )
    )
    with pytest.raises(md.NoImageError):
        await gemini.image_model("gemini-2.5-flash-image").generate(SECRET_TEXT)
    await (
        md.Offline(observers=[observer, content_observer])
        .image_model("renderer")
        .generate(SECRET_TEXT, negative_prompt=SECRET_TEXT, size="64x64", steps=2, previews=1)
    )
    assert observer.event_names == content_observer.event_names
    received = "".join(
        readable_content(value)
        for value in [*observer.calls, *(value for _, value in observer.events)]
    )
    assert SECRET_TEXT not in received
    assert content_observer.calls[0].content.messages[1].text == SECRET_TEXT
    assert content_observer.events[1][1].content == reply
    assert content_observer.calls[-1].content.prompt == SECRET_TEXT
    assert len(content_observer.events[-1][1].content.images) == 1


@everywhere
async def test_an_output_retry_calls_on_retry(serve: Serve) -> None:
    observer = RecordingObserver()
    server = serve(
        reply_with(
            http_response(chat_completion("no json")), http_response(chat_completion('{"size": 3}'))
        )
    )
    reply = (
        await compatible(server, observer).model("m").generate("hi", output=Form, output_retries=1)
    )
    assert reply.output == Form(size=3)
    assert observer.event_names == ["on_start", "on_retry", "on_success"]
    assert observer.events[1][1].error.code == "BAD_OUTPUT"


@everywhere
async def test_an_unexpected_exception_is_reported_by_its_type_name(serve: Serve) -> None:
    class Broken(md.Offline):
        async def run_in_thread(self, job: Any, deadline: Any) -> Any:
            raise ZeroDivisionError(SECRET_TEXT)

    observer = RecordingObserver()
    with pytest.raises(ZeroDivisionError):
        await Broken(observers=[observer]).model("rules").generate("hi")
    assert (observer.outcome.code, observer.outcome.message) == ("UNEXPECTED", "ZeroDivisionError")


@everywhere
async def test_settings_have_only_numbers_names_and_sizes(
    image: Callable[..., md.ImagePart],
) -> None:
    observer = RecordingObserver()
    provider = md.Offline(observers=[observer])

    def tool(what: str) -> str:
        """Secret text."""
        return what

    await provider.model("rules").generate(
        "hi", max_tokens=5, stop=["\n"], tools=[tool], seed=0, extra={"a": SECRET_TEXT}
    )
    assert observer.calls[0].settings == {
        "max_tokens": 5,
        "stop": ("\n",),
        "seed": 0,
        "messages": 1,
        "tools": 1,
    }
    request = imagegen.Request(
        "a fox", images=(image(),), mask=image(mode="L"), size="64x48", steps=1, strength=0.5
    )
    await provider.image_model("renderer").generate(request)
    assert observer.calls[1].settings == {
        "size": "64x48",
        "steps": 1,
        "strength": 0.5,
        "images": 1,
        "mask": True,
    }


@everywhere
async def test_an_observer_does_not_change_what_is_sent(serve: Serve) -> None:
    bodies = []
    for observers in ([], [RecordingObserver(content=True)]):
        server = serve(reply_with(http_response(images_reply(md.ImagePart.from_base64(DOT).data))))
        async with md.OpenAI(KEY, base_url=server.url, observers=observers) as provider:
            await provider.image_model("gpt-image-1").generate("a fox", user_id="user-42")
        bodies.append(
            [
                (request.path, request.body, {**request.headers, "host": ""})
                for request in server.requests
            ]
        )
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    "observers", [RecordingObserver(), [1], "x", None, {RecordingObserver(): 1}]
)
def test_observers_must_be_a_list_of_observers(observers: Any) -> None:
    for provider_type in (md.Offline, md.OpenAICompatible):
        with pytest.raises(md.ConfigurationError) as caught:
            provider_type(observers=observers)
        assert caught.value.details["field"] == "observers"


def test_a_call_is_immutable() -> None:
    observer = RecordingObserver()
    md.Offline(observers=[observer]).model("rules").generate_sync("hi")
    [call] = observer.calls
    with pytest.raises(AttributeError):
        call.model = "x"  # type: ignore[misc]
    assert call.elapsed() >= 0
    assert replace(call) == call


@everywhere
async def test_queries_before_a_call_are_reported_as_parts_of_it(serve: Serve) -> None:
    """A sampler needs the server's list, which is refused once."""
    refused: list[str] = []

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/sdapi/v1/samplers" and not refused:
                refused.append(request.path)
                peer.reply({"detail": "busy"}, 503)
            elif request.path == "/sdapi/v1/samplers":
                peer.reply(json.dumps([{"name": "Euler a", "aliases": []}]))
            elif request.path == "/sdapi/v1/schedulers":
                peer.reply("[]")
            else:
                peer.reply({"images": [DOT], "info": "{}", "parameters": {}})

    observer = RecordingObserver()
    async with md.Automatic1111(
        serve(handler).url,
        observers=[observer],
        retries=md.Retries(initial_delay=0.001),
    ) as provider:
        await provider.image_model("m").generate("a fox", sampler="euler_a")
    assert refused
    assert observer.event_names == ["on_start", "on_retry", "on_success"]
