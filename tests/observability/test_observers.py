"""What observers are told, and what they are spared."""

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
from majordomo.observability.observed_call import current_call
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    always,
    chat,
    delta,
    images_reply,
    whole,
)
from tests.support.recording_observer import Witness

Serve = Callable[[Handler], Loopback]
KEY = "sk-very/secret+key"
QUICK = md.Retries(initial_delay=0.001)
SECRET_TEXT = "the fox that nobody may know of"
LOADING = whole(
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503
)
everywhere = pytest.mark.anyio


def streaming(*pieces: bytes) -> Handler:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            for piece in pieces:
                peer.chunk(piece)
            peer.end()

    return handler


def hanging(*pieces: bytes) -> Handler:
    """Begins a stream, and never ends it."""

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            for piece in pieces:
                peer.chunk(piece)
            peer.wait_for_close()

    return handler


def compatible(server: Loopback, *observers: Observer, **common: Any) -> md.OpenAICompatible:
    return kept(
        md.OpenAICompatible(
            server.url + "/v1", api_key=KEY, observers=observers, retries=QUICK, **common
        )
    )


def kept(provider: Any) -> Any:
    """This provider, held to the end: one that is collected unclosed while its loop runs is a warning, and that is not what is tested."""
    KEPT.append(provider)
    return provider


KEPT: list[Any] = []


@everywhere
async def test_offline_is_observed_too() -> None:
    witness = Witness()
    provider = md.Offline(observers=[witness])
    await provider.model("rules").generate("hi")
    assert witness.names == ["started", "finished"]
    async with provider.model("rules").stream("hi") as stream:
        [event async for event in stream]
    assert witness.names[2:] == ["started", "told", "finished"]
    assert isinstance(witness.story[3][1], FirstToken)
    await provider.image_model("renderer").generate("a fox", size="64x64", steps=2)
    assert witness.story[6:8] == [("told", imagegen.Step(1, 2)), ("told", imagegen.Step(2, 2))]
    assert witness.names[5:] == ["started", "told", "told", "finished"]
    assert [call.operation for call in witness.calls] == ["chat", "chat", "image"]
    assert {call.address for call in witness.calls} == {""}
    outcome = witness.story[-1][1]
    assert outcome.usage == imagegen.Usage(images=1, pixels=64 * 64)


def test_blocking_calls_are_observed_in_the_thread_that_makes_them() -> None:
    threads: list[str] = []

    class Where(Observer):
        def on_success(self, call: Any, outcome: CallResult) -> None:
            threads.append(threading.current_thread().name)

    with md.Offline(observers=[Where()]) as provider:
        provider.model("rules").generate_sync("hi")
        provider.image_model("renderer").generate_sync("a fox", size="64x64", steps=1)
        with provider.image_model("renderer").stream_sync("a fox", size="64x64", steps=1) as stream:
            list(stream)
    assert threads == ["majordomo-portal"] * 3


@everywhere
async def test_an_embedding_is_observed(serve: Serve) -> None:
    witness, nosy = Witness(), Witness(content=True)
    answer = {
        "data": [{"embedding": [1, 2]}, {"embedding": [1, 2]}],
        "model": "e-1",
        "usage": {"prompt_tokens": 7},
    }
    server = serve(always(whole(answer)))
    async with compatible(server, witness, nosy) as provider:
        made = await provider.embedding_model("e").embed(["a", "b"], dimensions=2)
    [call] = witness.calls
    assert (call.operation, call.model, call.settings) == (
        "embed",
        "e",
        {"texts": 2, "dimensions": 2},
    )
    assert (witness.end.usage, witness.end.model, witness.end.content) == (
        llm.Usage(7),
        "e-1",
        None,
    )
    assert nosy.calls[0].content == ("a", "b")
    assert nosy.end.content == made


@everywhere
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_try_that_is_made_again_is_told(serve: Serve, streamed: bool) -> None:
    last = (
        whole(
            b"".join((delta("fine", "stop"), DONE)), headers={"content-type": "text/event-stream"}
        )
        if streamed
        else whole(chat("fine"))
    )
    server = serve(
        always(
            whole({"error": "x"}, 500), whole({"error": "x"}, 429, {"retry-after": "0.002"}), last
        )
    )
    witness = Witness()
    model = compatible(server, witness).model("m")
    if streamed:
        async with model.stream("hi") as stream:
            [event async for event in stream]
    else:
        await model.generate("hi")
    attempts = [thing for name, thing in witness.story if name == "attempted"]
    assert [
        (attempt.number, type(attempt.error), attempt.error.status) for attempt in attempts
    ] == [
        (1, md.BackendError, 500),
        (2, md.RateLimitError, 429),
    ]
    assert attempts[1].delay == 0.002
    assert witness.names[-1] == "finished"


@everywhere
async def test_the_last_failure_is_told_as_it_is_raised(serve: Serve) -> None:
    witness = Witness()
    model = compatible(serve(always(whole({"error": "x"}, 500))), witness).model("m")
    with pytest.raises(md.BackendError) as caught:
        await model.generate("hi")
    assert witness.names == ["started", "attempted", "attempted", "failed"]
    assert type(witness.end) is md.BackendError
    assert witness.end.to_dict() == caught.value.to_dict()
    assert witness.end.__traceback__ is None, "a traceback holds the request"


@everywhere
async def test_a_request_that_is_refused_here_fails_once(serve: Serve) -> None:
    witness = Witness()
    server = serve(always(whole(chat("x"))))
    gemini = kept(md.Gemini(KEY, base_url=server.url, strict=True, observers=[witness]))
    with pytest.raises(md.UnsupportedError):
        async with gemini.image_model("gemini-2.5-flash-image").stream("a fox", steps=3) as stream:
            [event async for event in stream]
    assert witness.names == ["started", "failed"]
    anthropic = kept(
        md.Anthropic(KEY, base_url=server.url, strict=True, observers=[later := Witness()])
    )
    with pytest.raises(md.UnsupportedError):
        async with anthropic.model("m").stream("hi", seed=3):
            pass
    assert later.names == ["started", "failed"]
    assert server.seen == []


@everywhere
async def test_a_request_that_cannot_be_right_is_no_call() -> None:
    witness = Witness()
    provider = md.Offline(observers=[witness])
    with pytest.raises(md.InvalidRequestError):
        await provider.model("rules").generate("hi", temperature=9)
    with pytest.raises(md.InvalidRequestError):
        await provider.image_model("renderer").generate("")
    assert witness.story == []


@everywhere
async def test_a_loading_model_is_news_and_no_failed_try(serve: Serve) -> None:
    loading = LOADING.replace(b"content-type", b"retry-after: 0.001\r\ncontent-type")
    server = serve(always(loading, loading, whole(chat("fine"))))
    witness = Witness()
    await compatible(server, witness).model("m").generate("hi")
    assert witness.names == ["started", "told", "told", "finished"]
    assert isinstance(witness.story[1][1], Loading)
    server = serve(always(loading, whole(images_reply(md.ImagePart.from_base64(DOT).data))))
    witness = Witness()
    await compatible(server, witness).image_model("m").generate("a fox")
    assert witness.names == ["started", "told", "finished"]


DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@everywhere
async def test_a_place_in_the_line_is_told(serve: Serve) -> None:
    arrived, go = threading.Event(), threading.Event()

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            arrived.set()
            go.wait(5)
            peer.reply(chat("fine"))

    witness = Witness()
    provider = compatible(serve(handler), witness, max_concurrency=1)

    async def follow() -> None:
        while ("told", Queued(1)) not in witness.story:
            await anyio.sleep(0.001)
        go.set()

    async with anyio.create_task_group() as group:
        group.start_soon(provider.model("m").generate, "one")
        await anyio.to_thread.run_sync(arrived.wait)
        group.start_soon(provider.model("m").generate, "two")
        group.start_soon(follow)
    assert witness.names.count("finished") == 2
    assert witness.names.count("told") == 1


@everywhere
async def test_the_first_piece_of_a_stream_is_told_once(serve: Serve) -> None:
    witness = Witness()
    server = serve(
        streaming(delta({"role": "assistant"}), delta("Good "), delta("evening", "stop") + DONE)
    )
    async with compatible(server, witness).model("m").stream("hi") as stream:
        [event async for event in stream]
    assert witness.names == ["started", "told", "finished"]
    assert 0 <= witness.story[1][1].elapsed <= witness.end.seconds


@everywhere
async def test_a_cancelled_call_is_cancelled_and_not_failed(serve: Serve) -> None:
    witness = Witness()

    def silent(peer: Peer) -> None:
        peer.request()
        peer.wait_for_close()

    provider = compatible(serve(silent), witness)
    for ask in (provider.model("m").generate, provider.image_model("m").generate):
        with anyio.move_on_after(0.05):
            await ask("hi")
        assert witness.names == ["started", "cancelled"]
        witness.story.clear()


@everywhere
async def test_a_stream_that_is_left_is_cancelled(serve: Serve) -> None:
    witness = Witness()
    provider = compatible(serve(hanging(delta("Good "))), witness)
    async with provider.model("m").stream("hi") as stream:
        await anext(aiter(stream))
    assert witness.names == ["started", "told", "cancelled"]
    with pytest.raises(ZeroDivisionError):
        async with provider.model("m").stream("hi"):
            raise ZeroDivisionError
    assert witness.names[3:] == ["started", "cancelled"]
    painted = Witness()
    async with (
        md.Offline(observers=[painted])
        .image_model("renderer")
        .stream("a fox", size="64x64", steps=50) as images
    ):
        await anext(aiter(images))
    assert painted.names[-1] == "cancelled"
    assert painted.names.count("cancelled") == 1


@everywhere
async def test_a_stream_that_breaks_off_fails_without_what_had_come(serve: Serve) -> None:
    witness, nosy = Witness(), Witness(content=True)
    broken = serve(streaming(delta(SECRET_TEXT)))
    with pytest.raises(md.StreamBrokenError):
        async with compatible(broken, witness, nosy).model("m").stream("hi") as stream:
            [event async for event in stream]
    assert (witness.names[-1], type(witness.end), witness.end.partial) == (
        "failed",
        md.StreamBrokenError,
        None,
    )
    assert nosy.end.partial.text == SECRET_TEXT


class Clumsy(Observer):
    def __init__(self, at: str) -> None:
        self.at = at
        self.seen: list[str] = []

    def _do(self, name: str) -> None:
        self.seen.append(name)
        if name == self.at:
            raise RuntimeError("a bug of mine")

    def on_start(self, *given: Any) -> None:
        self._do("started")

    def on_event(self, *given: Any) -> None:
        self._do("told")

    def on_success(self, *given: Any) -> None:
        self._do("finished")


@everywhere
@pytest.mark.parametrize("at", ["started", "told", "finished"])
async def test_an_observer_that_raises_breaks_nothing_and_is_told_no_more(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    clumsy, witness = Clumsy(at), Witness()
    async with md.Offline(observers=[clumsy, witness]).model("rules").stream("hi") as stream:
        [event async for event in stream]
    assert stream.reply.text
    assert (
        clumsy.seen
        == ["started", "told", "finished"][: ["started", "told", "finished"].index(at) + 1]
    )
    assert witness.names == ["started", "told", "finished"]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("majordomo", logging.ERROR)
    assert "Clumsy" in record.getMessage()


def everything(value: Any) -> str:
    """All that can be read off what an observer was given."""
    text = repr(value)
    if isinstance(value, BaseException):
        text += (
            str(value)
            + json.dumps(value.__dict__, default=repr)
            + repr((value.__cause__, value.__context__, value.__traceback__))
        )
    for name in dir(value) if not isinstance(value, (str, int, float, type(None), type)) else ():
        if not name.startswith("__") and not callable(found := getattr(value, name)):
            text += (
                everything(found) if type(found).__module__.startswith("majordomo") else repr(found)
            )
    return text


@everywhere
async def test_an_observer_is_given_no_key(serve: Serve) -> None:
    witness = Witness(content=True)
    headers = {"x-extra": KEY}
    server = serve(
        always(
            whole(chat("fine")),
            whole({"error": f"no {KEY}"}, 500),
            whole({"error": f"no {KEY}"}, 401),
        )
    )
    model = compatible(server, witness, headers=headers).model("m")
    await model.generate("hi")
    with pytest.raises(md.AuthenticationError):
        await model.generate("hi")
    assert witness.names == ["started", "finished", "started", "attempted", "failed"]
    given = "".join(
        everything(thing) for thing in [*witness.calls, *(thing for _, thing in witness.story)]
    )
    assert "***" in given
    assert KEY not in given


class Form(BaseModel):
    size: int


@everywhere
async def test_content_is_for_those_who_want_it(serve: Serve) -> None:
    witness, nosy = Witness(), Witness(content=True)
    server = serve(always(whole(chat(SECRET_TEXT))))
    provider = compatible(server, witness, nosy)
    model = provider.model("m", llm.with_extra({"openaicompatible": {"user": SECRET_TEXT}}))
    reply = await model.generate([llm.system(SECRET_TEXT), llm.user(SECRET_TEXT)])
    with pytest.raises(md.BadResponseError):
        await model.generate(SECRET_TEXT, output=Form)
    refused = "I will not draw that: " + SECRET_TEXT
    gemini_answer = {
        "candidates": [{"content": {"parts": [{"text": refused}]}, "finishReason": "STOP"}]
    }
    gemini = kept(
        md.Gemini(KEY, base_url=serve(always(whole(gemini_answer))).url, observers=[witness, nosy])
    )
    with pytest.raises(md.NoImageError):
        await gemini.image_model("gemini-2.5-flash-image").generate(SECRET_TEXT)
    await (
        md.Offline(observers=[witness, nosy])
        .image_model("renderer")
        .generate(SECRET_TEXT, negative_prompt=SECRET_TEXT, size="64x64", steps=2, previews=1)
    )
    assert witness.names == nosy.names
    given = "".join(
        everything(thing) for thing in [*witness.calls, *(thing for _, thing in witness.story)]
    )
    assert SECRET_TEXT not in given
    assert nosy.calls[0].content.messages[1].text == SECRET_TEXT
    assert nosy.story[1][1].content == reply
    assert nosy.calls[-1].content.prompt == SECRET_TEXT
    assert len(nosy.story[-1][1].content.images) == 1


@everywhere
async def test_an_answer_asked_for_once_more_is_a_second_try(serve: Serve) -> None:
    witness = Witness()
    server = serve(always(whole(chat("no json")), whole(chat('{"size": 3}'))))
    reply = (
        await compatible(server, witness).model("m").generate("hi", output=Form, output_retries=1)
    )
    assert reply.output == Form(size=3)
    assert witness.names == ["started", "attempted", "finished"]
    assert witness.story[1][1].error.code == "BAD_OUTPUT"


@everywhere
async def test_a_bug_is_told_by_its_name(serve: Serve) -> None:
    class Broken(md.Offline):
        async def run_in_thread(self, job: Any, deadline: Any) -> Any:
            raise ZeroDivisionError(SECRET_TEXT)

    witness = Witness()
    with pytest.raises(ZeroDivisionError):
        await Broken(observers=[witness]).model("rules").generate("hi")
    assert (witness.end.code, witness.end.message) == ("UNEXPECTED", "ZeroDivisionError")


@everywhere
async def test_settings_are_numbers_names_and_sizes(image: Callable[..., md.ImagePart]) -> None:
    witness = Witness()
    provider = md.Offline(observers=[witness])

    def tool(what: str) -> str:
        """Secret words."""
        return what

    await provider.model("rules").generate(
        "hi", max_tokens=5, stop=["\n"], tools=[tool], seed=0, extra={"a": SECRET_TEXT}
    )
    assert witness.calls[0].settings == {
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
    assert witness.calls[1].settings == {
        "size": "64x48",
        "steps": 1,
        "strength": 0.5,
        "images": 1,
        "mask": True,
    }


@everywhere
async def test_an_observer_changes_nothing_that_is_sent(serve: Serve) -> None:
    bodies = []
    for observers in ([], [Witness(content=True)]):
        server = serve(always(whole(images_reply(md.ImagePart.from_base64(DOT).data))))
        async with md.OpenAI(KEY, base_url=server.url, observers=observers) as provider:
            await provider.image_model("gpt-image-1").generate("a fox", user_id="user-42")
        bodies.append(
            [(seen.path, seen.body, {**seen.headers, "host": ""}) for seen in server.seen]
        )
    assert bodies[0] == bodies[1]


@everywhere
async def test_outside_a_call_nothing_is_observed() -> None:
    seen: list[Any] = []

    class Looks(Observer):
        def on_event(self, call: Any, event: Any) -> None:
            seen.append(current_call())

    async with md.Offline(observers=[Looks()]).model("rules").stream("hi") as stream:
        async for _ in stream:
            assert current_call() is None
    assert current_call() is None


@pytest.mark.parametrize("observers", [Witness(), [1], "x", None, {Witness(): 1}])
def test_observers_are_a_list_of_observers(observers: Any) -> None:
    for make in (md.Offline, md.OpenAICompatible):
        with pytest.raises(md.ConfigurationError) as caught:
            make(observers=observers)
        assert caught.value.details["field"] == "observers"


def test_a_call_is_a_value() -> None:
    witness = Witness()
    md.Offline(observers=[witness]).model("rules").generate_sync("hi")
    [call] = witness.calls
    with pytest.raises(AttributeError):
        call.model = "x"  # type: ignore[misc]
    assert call.elapsed() >= 0
    assert replace(call) == call
