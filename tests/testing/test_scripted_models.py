"""Tests of the scripted models through the interfaces of every model."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import majordomo as md
from majordomo import imagegen, llm
from majordomo.testing import (
    Pause,
    ScriptedChatModel,
    ScriptedImageModel,
    ScriptedProvider,
    ScriptError,
    plain_image,
)

pytestmark = pytest.mark.anyio
CALL = md.ToolCallPart("call-1", "add", '{"a": 1, "b": 2}')


async def collect_events(model: Any, prompt: str = "hi", **overrides: Any) -> list[Any]:
    async with model.stream(prompt, **overrides) as stream:
        return [event async for event in stream]


async def test_answers_are_used_in_order_and_requests_are_recorded() -> None:
    model = ScriptedChatModel(
        ["one", md.assistant("two"), llm.Reply(md.assistant("three"), "length", llm.Usage(3, 4))],
        md.with_seed(7),
    )
    replies = [await model.generate(text, temperature=0.5) for text in ("a", "b", "c")]
    assert [reply.text for reply in replies] == ["one", "two", "three"]
    assert [reply.finish_reason for reply in replies] == ["stop", "stop", "length"]
    assert replies[2].usage == llm.Usage(3, 4)
    assert (replies[0].provider, replies[0].model) == ("scripted", "scripted-chat")
    assert [request.messages[0].text for request in model.requests] == ["a", "b", "c"]
    assert (model.requests[0].seed, model.requests[0].temperature) == (7, 0.5)
    assert model.remaining == 0


async def test_script_may_be_a_function() -> None:
    async def answer(request: llm.Request) -> str:
        await anyio.lowlevel.checkpoint()
        return request.messages[-1].text.upper()

    model = ScriptedChatModel(answer)
    assert (await model.generate("hello")).text == "HELLO"
    assert (await ScriptedChatModel(lambda request: "plain").generate("x")).text == "plain"


async def test_exhausted_script_error_shows_the_request() -> None:
    model = ScriptedChatModel(["only"])
    await model.generate("first")
    with pytest.raises(
        ScriptError, match=r"has 1 answers, and this is request 2: 'second'"
    ) as caught:
        await model.generate("second")
    assert (caught.value.code, caught.value.provider, caught.value.retryable) == (
        "SCRIPT_EXHAUSTED",
        "scripted",
        False,
    )


@pytest.mark.parametrize(
    "script",
    ["text", b"x", 7, [7], ["fine", {"role": "assistant"}], [["fine", imagegen.Step(1, 2)]]],
)
def test_invalid_script_raises_script_error(script: Any) -> None:
    with pytest.raises(ScriptError):
        ScriptedChatModel(script)


async def test_result_of_a_script_function_is_checked() -> None:
    with pytest.raises(ScriptError, match="dict"):
        await ScriptedChatModel(lambda request: {"text": "x"}).generate("hi")


async def test_text_is_streamed_word_by_word() -> None:
    events = await collect_events(ScriptedChatModel(["Good evening, guest"]))
    assert events[:-1] == [
        llm.TextDelta("Good "),
        llm.TextDelta("evening, "),
        llm.TextDelta("guest"),
    ]
    assert isinstance(events[-1], llm.Done)
    assert events[-1].reply.text == "Good evening, guest"


async def test_list_is_emitted_step_by_step() -> None:
    image = plain_image()
    steps = [
        llm.Queued(2),
        llm.Loading("warming"),
        llm.ThinkingDelta("hm"),
        "Here",
        " it is",
        image,
        CALL,
    ]
    events = await collect_events(ScriptedChatModel([steps]))
    assert events[:-1] == [
        llm.Queued(2),
        llm.Loading("warming"),
        llm.ThinkingDelta("hm"),
        llm.TextDelta("Here"),
        llm.TextDelta(" it is"),
        llm.ImageReady(image),
        llm.ToolCallStarted(0, "call-1", "add"),
        llm.ToolCallDelta(0, CALL.arguments_json),
        llm.ToolCall(0, CALL),
    ]
    reply = events[-1].reply
    assert (reply.text, reply.thinking, reply.images, reply.tool_calls, reply.finish_reason) == (
        "Here it is", "hm", (image,), (CALL,), "tool_calls",
    )  # fmt: skip


async def test_tool_loop_runs_with_a_scripted_model() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    model = ScriptedChatModel([CALL, "three"])
    reply = await md.run_tools(model, "1 + 2?", tools=[add])
    assert reply.text == "three"
    result = model.requests[1].messages[-1].parts[0]
    assert isinstance(result, md.ToolResultPart)
    assert result.parts == (md.TextPart("3"),)


async def test_structured_output_is_validated_and_retried() -> None:
    model = ScriptedChatModel(["seven", "7"], md.with_output_retries(1))
    assert (await model.generate("n?", output=int)).output == 7
    assert len(model.requests) == 2
    with pytest.raises(md.BadResponseError):
        await ScriptedChatModel(["seven"]).generate("n?", output=int)


async def test_invalid_request_is_rejected() -> None:
    model = ScriptedChatModel(["never"])
    with pytest.raises(md.InvalidRequestError) as caught:
        await model.generate("hi", temperature=9.0)
    assert caught.value.field == "temperature"
    assert (model.requests, model.remaining) == ([], 1)


async def test_error_is_raised_and_the_script_continues() -> None:
    limit = md.RateLimitError("slow down", retry_after=2.0)
    model = ScriptedChatModel([limit, "fine"], provider="mine")
    with pytest.raises(md.RateLimitError) as caught:
        await model.generate("hi")
    assert (caught.value.retry_after, caught.value.provider, caught.value.model) == (
        2.0,
        "mine",
        "scripted-chat",
    )
    assert limit.provider is None, "the error object in the script is not changed"
    assert (await model.generate("hi")).text == "fine"


@pytest.mark.parametrize("error", [md.StreamBrokenError("cut"), md.ConnectionFailedError("gone")])
async def test_stream_breaks_with_the_partial_reply(
    error: md.MajordomoError,
) -> None:
    events = []
    with pytest.raises(md.StreamBrokenError) as caught:
        async with ScriptedChatModel([["Good ", "eve", error, "ning"]]).stream("hi") as stream:
            async for event in stream:
                events.append(event)
    assert events == [llm.TextDelta("Good "), llm.TextDelta("eve")]
    assert caught.value.partial.text == "Good eve"
    assert stream.reply.text == "Good eve"


async def test_pause_holds_the_stream_until_its_release() -> None:
    pause = Pause()
    events: list[Any] = []
    model = ScriptedChatModel([["Good ", pause, "evening"]])

    async def read_stream() -> None:
        async with model.stream("hi") as stream:
            async for event in stream:
                events.append(event)

    async with anyio.create_task_group() as group:
        group.start_soon(read_stream)
        await pause.reached()
        assert events == [llm.TextDelta("Good ")]
        pause.release()
    assert isinstance(events[-1], llm.Done)
    assert events[-1].reply.text == "Good evening"


async def test_waiting_call_can_be_cancelled() -> None:
    pause = Pause()
    model = ScriptedChatModel([["a", pause, "b"]])
    async with anyio.create_task_group() as group:
        group.start_soon(collect_events, model)
        await pause.reached()
        group.cancel_scope.cancel()
    assert repr(pause) == "<Pause, reached>"
    pause.release()


def test_sync_stream_pauses() -> None:
    pause = Pause()
    events: list[Any] = []
    model = ScriptedChatModel([["Good ", pause, "evening"]])

    def read_stream() -> None:
        with model.stream_sync("hi") as stream:
            events.extend(stream)

    thread = threading.Thread(target=read_stream)
    thread.start()
    pause.reached_sync()
    pause.release()
    thread.join(10)
    assert [event.text for event in events[:-1]] == ["Good ", "evening"]
    assert ScriptedChatModel(["blocking"]).generate_sync("hi").text == "blocking"
    with pytest.raises(ScriptError, match="did not reach"):
        Pause().reached_sync(0.01)


async def test_images_are_used_in_order_and_requests_are_recorded() -> None:
    one, two = plain_image(64, 64), plain_image(32, 32)
    model = ScriptedImageModel(
        [one, [one, two], imagegen.Result((two,), warnings=(md.CallWarning("X", "y"),))]
    )
    first = await model.generate("a cat", size="64x64", seed=5)
    assert (first.images, first.details[0].seed, first.details[0].requested_size) == (
        (one,),
        5,
        (64, 64),
    )
    assert [detail.seed for detail in (await model.generate("cats", n=2, seed=5)).details] == [5, 6]
    third = await model.generate("more", n=2)
    assert [warning.code for warning in third.warnings] == ["X", "COUNT_DIFFERS"]
    assert [request.prompt for request in model.requests] == ["a cat", "cats", "more"]


async def test_image_events_are_emitted_in_order() -> None:
    image, pause = plain_image(), Pause()
    pause.release()
    steps = [
        imagegen.Queued(1),
        imagegen.Loading("sd"),
        imagegen.Step(1, 2),
        imagegen.Preview(image),
        pause,
        imagegen.Step(2, 2),
        image,
    ]
    events = await collect_events(ScriptedImageModel([steps]))
    assert events[:-1] == [*steps[:4], imagegen.Step(2, 2)]
    assert events[-1].result.image == image
    assert (
        ScriptedImageModel(lambda request: [image] * (request.n or 1))
        .generate_sync("x", n=3)
        .images
        == (image,) * 3
    )


async def test_scripted_image_errors_are_raised() -> None:
    image = plain_image()
    for answer, kind in (
        (md.ContentRefusedError("no"), md.ContentRefusedError),
        ([imagegen.Step(1, 2)], md.NoImageError),
    ):
        with pytest.raises(kind) as caught:
            await ScriptedImageModel([answer]).generate("x")
        assert caught.value.provider == "scripted"
    with pytest.raises(md.StreamBrokenError) as broken:
        await collect_events(ScriptedImageModel([[image, md.StreamBrokenError("cut")]]))
    assert broken.value.partial.images == (image,)
    for script in (image, "text", ["text"], [[image, llm.TextDelta("x")]]):
        with pytest.raises(ScriptError):
            ScriptedImageModel(script)


async def test_provider_shares_its_scripts_between_models() -> None:
    async with ScriptedProvider(["one", "two"], [plain_image()]) as provider:
        assert (await provider.model("a").generate("x")).text == "one"
        reply = await provider.model("b", md.with_seed(3)).generate("y")
        assert (reply.text, reply.model, provider.chat_requests[1].seed) == ("two", "b", 3)
        await provider.image_model("p").generate("z")
        assert provider.image_requests[0].prompt == "z"
        assert [model.id for model in await provider.models()] == [
            "scripted-chat",
            "scripted-image",
        ]
        assert (await provider.health()).ok
        with pytest.raises(md.UnsupportedError):
            provider.embedding_model("e")
    assert provider.closed
    with pytest.raises(md.ConfigurationError, match="closed"):
        provider.model("a")
    with pytest.raises(md.UnsupportedError):
        ScriptedProvider(["x"]).image_model("p")
    with pytest.raises(md.UnsupportedError):
        ScriptedProvider(images=[plain_image()]).model("p")
