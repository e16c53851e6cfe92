from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel, Field

import majordomo as md
from majordomo import llm
from majordomo.llm import Done, TextDelta, ToolReturned
from tests.support.chat_backends import BACKENDS, Backend, answering
from tests.support.loopback import DONE, Handler, Loopback, Peer, chat_completion, delta

Script = list[Any]


def scripted(script: Script) -> Handler:
    """Serve chat completions from a script, one entry per request.

    An entry is a text, or a list of calls as (name, arguments).
    """

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            entry = script.pop(0) if script else "the end"
            message: dict[str, Any] = {"content": entry}
            if not isinstance(entry, str):
                calls = [
                    {
                        "index": index,
                        "id": f"c{index}",
                        "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    }
                    for index, (name, arguments) in enumerate(entry)
                ]
                message = {"role": "assistant", "content": None, "tool_calls": calls}
            if request.json.get("stream"):
                peer.begin()
                peer.chunk(
                    delta(message)
                    + delta({}, "stop" if "tool_calls" not in message else "tool_calls")
                    + DONE
                )
                peer.end()
            else:
                reply = chat_completion("")
                reply["choices"][0]["message"] = message
                peer.reply(reply)

    return handler


@pytest.fixture
def ask(
    serve: Callable[[Handler], Loopback],
) -> Iterator[Callable[..., tuple[llm.Model, Loopback]]]:
    providers: list[md.OpenAICompatible] = []

    def make(*script: Any) -> tuple[llm.Model, Loopback]:
        server = serve(scripted(list(script)))
        providers.append(md.OpenAICompatible(server.url + "/v1"))
        return providers[-1].model("m"), server

    yield make
    for provider in providers:
        provider.close()


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: The first.
    """
    return a + b


def results(server: Loopback) -> list[str]:
    """Return the contents of the tool messages in the last request."""
    return [
        message["content"]
        for message in server.requests[-1].json["messages"]
        if message["role"] == "tool"
    ]


async def test_the_loop_runs_called_tools_and_returns_all_messages(ask: Any) -> None:
    model, server = ask([("add", '{"a": 2, "b": 3}'), ("add", '{"a": 5}')], "5 and 6")
    history = [md.user("add them")]
    reply = await md.run_tools(model, history, tools=[add])
    assert reply.text == "5 and 6"
    assert results(server) == ["5", "6"]
    assert [message.role for message in reply.new_messages] == [
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (6, 4)
    history.extend(reply.new_messages)
    assert (await model.generate(history)).text == "the end"
    assert server.requests[0].json["tools"][0]["function"]["description"] == "Add two numbers."


def test_the_loop_works_synchronously(ask: Any) -> None:
    model, server = ask([("add", '{"a": 2}')], "three")
    assert md.run_tools_sync(model, "add", tools=[add]).text == "three"
    with md.stream_tools_sync(model, "again", tools=[add]) as stream:
        assert [type(event) for event in stream] == [TextDelta, Done]
    assert stream.reply.text == "the end"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("add", '{"a": "many"}'), "a: Input should be a valid integer"),
        (("add", "{}"), "a: Field required"),
        (("add", '{"a": 1'), "must be a JSON object"),
        (("subtract", "{}"), "unknown tool 'subtract'; available tools: add"),
    ],
)
async def test_invalid_tool_calls_are_reported_to_the_model(
    ask: Any, call: tuple[str, str], message: str
) -> None:
    model, server = ask([call], "sorry")
    reply = await md.run_tools(model, "add", tools=[add])
    assert reply.text == "sorry"
    assert message in results(server)[0]
    result = reply.new_messages[1].parts[0]
    assert isinstance(result, md.ToolResultPart)
    assert result.is_error


@pytest.mark.parametrize(
    "backend",
    [
        backend
        for backend in BACKENDS
        if backend.name in ("anthropic", "ollama", "gemini", "openai")
    ],
    ids=lambda b: b.name,
)
async def test_a_history_with_invalid_tool_arguments_can_be_sent(
    backend: Backend, serve: Callable[[Handler], Loopback]
) -> None:
    """Also in dialects that encode the arguments as an object."""
    broken = md.ToolCallPart("c9", "add", '{"a": 1')
    server = serve(answering(backend))
    async with backend.connect(server.url, retries=md.Retries(attempts=1)) as provider:
        history = [
            md.user("add"),
            llm.assistant(broken),
            md.tool_result(broken, "no JSON object", is_error=True),
        ]
        reply = await provider.model(backend.model).generate(history, tools=[add])
    assert reply.text
    assert '{\\"a\\": 1' in server.requests[-1].body.decode()


async def test_tool_exceptions_are_reported_to_the_model(ask: Any) -> None:
    def broken() -> str:
        raise RuntimeError("no paper")

    async def refused() -> str:
        raise md.ContentRefusedError("not that")

    model, server = ask([("broken", "{}"), ("refused", "")], "sorry")
    assert (await md.run_tools(model, "go", tools=[broken, refused])).text == "sorry"
    assert results(server) == ["error: RuntimeError: no paper", "error: not that"]


async def test_turns_are_limited_and_the_last_one_disables_tools(ask: Any) -> None:
    model, server = ask(*[[("add", '{"a": 1}')]] * 20)
    reply = await md.run_tools(model, "go on", tools=[add], max_turns=3, tool_choice="required")
    assert [request.json.get("tool_choice") for request in server.requests] == [
        "required",
        None,
        "none",
    ]
    assert [warning.code for warning in reply.warnings] == ["MAX_TURNS"]
    assert reply.tool_calls


async def test_the_loop_timeout_raises_deadline_exceeded_error(ask: Any) -> None:
    async def sleepy() -> None:
        await anyio.sleep_forever()

    model, _ = ask([("sleepy", "{}")])
    with pytest.raises(md.DeadlineExceededError) as caught:
        await md.run_tools(model, "go", tools=[sleepy], timeout=0.2)
    assert (caught.value.phase, caught.value.model) == ("total", "m")


async def test_calls_of_one_reply_run_concurrently(ask: Any) -> None:
    both_started = anyio.Event()

    async def first() -> str:
        await both_started.wait()
        return "one"

    async def second() -> str:
        both_started.set()
        return "two"

    model, server = ask([("first", ""), ("second", "")], "ok")
    with anyio.fail_after(10):
        await md.run_tools(model, "go", tools=[first, second])
    assert results(server) == ["one", "two"]


async def test_the_stream_yields_every_event_once_and_one_done(
    ask: Any, image: Callable[..., md.ImagePart]
) -> None:
    async def draw() -> list[Any]:
        return ["here", image()]

    model, _ = ask([("draw", "{}")], "a navy one")
    async with md.stream_tools(model, "draw", tools=[draw]) as stream:
        events = [event async for event in stream]
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        "ToolCallStarted",
        "ToolCallDelta",
        "ToolCall",
        "ImageReady",
        "ToolReturned",
        "TextDelta",
        "Done",
    ]
    assert stream.reply.images == (image(),)
    assert stream.reply.message.images == ()
    assert isinstance(events[4], ToolReturned)
    assert events[4].result.parts[0] == md.TextPart("here")


async def test_leaving_the_stream_stops_the_tool(ask: Any) -> None:
    started, stopped = anyio.Event(), anyio.Event()

    async def sleepy() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    model, _ = ask([("sleepy", "{}")])
    async with md.stream_tools(model, "go", tools=[sleepy]) as stream:
        async for event in stream:
            if isinstance(event, llm.ToolCall):
                break
        await started.wait()
    assert stopped.is_set()
    assert stream.reply.tool_calls


async def test_a_model_error_leaves_the_stream_unchanged(
    ask: Any, serve: Callable[[Handler], Loopback]
) -> None:
    model = md.OpenAICompatible(
        serve(lambda peer: peer.request() and peer.reply({"error": {"message": "no"}}, 400)).url
    ).model("m")
    with pytest.raises(md.InvalidRequestError, match="no"):
        async with md.stream_tools(model, "go", tools=[add]) as stream:
            async for _ in stream:
                pass


async def test_a_tool_without_a_function_ends_the_loop(ask: Any) -> None:
    model, server = ask([("elsewhere", '{"x": 1}')])
    reply = await md.run_tools(model, "go", tools=[md.Tool("elsewhere"), add])
    assert [call.name for call in reply.tool_calls] == ["elsewhere"]
    assert reply.finish_reason == "tool_calls"
    assert len(server.requests) == 1


class Color(enum.Enum):
    red = "red"
    blue = "blue"


class Box(BaseModel):
    width: int
    label: str = "none"


async def test_arguments_are_converted_to_the_annotated_types(ask: Any) -> None:
    received: list[Any] = []

    def paint(
        box: Box,
        color: Color,
        context: md.ToolContext,
        times: Annotated[int, Field(description="How often", ge=1)] = 1,
    ) -> Box:
        """Paint a box."""
        received.append(
            (box, color, times, context.value, context.call.name, len(context.messages))
        )
        return box

    model, server = ask(
        [
            ("paint", '{"box": {"width": 3}, "color": "blue"}'),
            ("paint", '{"box": {"width": 3}, "color": "blue", "times": 0}'),
        ]
    )
    await md.run_tools(model, "paint", tools=[paint], context="user-7")
    assert received == [(Box(width=3), Color.blue, 1, "user-7", "paint", 2)]
    assert json.loads(results(server)[0]) == {"width": 3, "label": "none"}
    assert "times: Input should be greater than or equal to 1" in results(server)[1]
    schema = server.requests[0].json["tools"][0]["function"]["parameters"]
    assert sorted(schema["properties"]) == ["box", "color", "times"]
    assert schema["properties"]["times"]["description"] == "How often"
    assert schema["required"] == ["box", "color"]


@pytest.mark.parametrize("tools", [[], [add, add], [3]])
async def test_invalid_tools_are_refused_before_sending(ask: Any, tools: list[Any]) -> None:
    model, server = ask()
    with pytest.raises(md.InvalidRequestError) as caught:
        await md.run_tools(model, "go", tools=tools)
    assert caught.value.details["field"] == "tools"
    assert server.requests == []


async def test_a_chat_model_generates_an_image_with_image_tool() -> None:
    """The chat calls the tool, the image model generates, and the chat gets the image."""
    offline = md.Offline()
    tool = md.image_tool(
        offline.image_model("renderer"), md.with_image_size("64x64"), md.with_seed(3)
    )
    reply = await md.run_tools(offline.model("rules"), "draw_image of a lighthouse", tools=[tool])
    assert [(image.width, image.height) for image in reply.images] == [(64, 64)]
    assert [message.role for message in reply.new_messages] == ["assistant", "tool", "assistant"]
    assert reply.text


@pytest.mark.parametrize("overrides", [{"user_id": "ann"}, {}])
async def test_image_tool_uses_the_user_id_of_the_chat(overrides: dict[str, str]) -> None:
    ledger = md.Ledger()
    offline = md.Offline(observers=[ledger])
    tool = md.image_tool(offline.image_model("renderer"), md.with_image_size("64x64"))
    options = [] if overrides else [md.with_user_id("ann")]
    await md.run_tools(
        offline.model("rules"), "draw_image of a lighthouse", *options, tools=[tool], **overrides
    )  # type: ignore[arg-type]
    assert {user_id: account.images for user_id, account in ledger.by_user().items()} == {"ann": 1}


async def test_output_retries_show_the_model_its_mistake(ask: Any) -> None:
    model, server = ask('{"width": "wide"}', '{"width": 4}')
    reply = await model.generate("box?", output=Box, output_retries=1)
    assert reply.output == Box(width=4)
    sent = [message["content"] for message in server.requests[1].json["messages"]]
    assert sent[1] == '{"width": "wide"}'
    assert "width: Input should be a valid integer" in sent[2]


@pytest.mark.parametrize("output_retries", [0, 1, 2])
async def test_output_retries_limit_the_number_of_requests(ask: Any, output_retries: int) -> None:
    model, server = ask("no", "no", "no", '{"width": 4}')
    with pytest.raises(md.BadResponseError) as caught:
        await model.generate("box?", output=Box, output_retries=output_retries)
    assert caught.value.code == "BAD_OUTPUT"
    assert len(server.requests) == 1 + output_retries


async def test_every_output_retry_sees_all_failed_answers(ask: Any) -> None:
    model, server = ask('{"width": "wide"}', '{"width": "high"}', '{"width": 4}')
    reply = await model.generate("box?", output=Box, output_retries=2)
    assert reply.output == Box(width=4)
    sent = [message["content"] for message in server.requests[2].json["messages"]]
    assert sent[1::2] == ['{"width": "wide"}', '{"width": "high"}']


@pytest.mark.parametrize("output_retries", [-1, 11, 1.5, True])
async def test_output_retries_out_of_range_are_refused(ask: Any, output_retries: Any) -> None:
    model, server = ask("no")
    with pytest.raises(md.InvalidRequestError) as caught:
        await model.generate("box?", output=Box, output_retries=output_retries)
    assert caught.value.details["field"] == "output_retries"
    assert server.requests == []


async def test_a_stream_shows_the_partial_output_object(
    serve: Callable[[Handler], Loopback],
) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta('{"width": 4, "label": "bi'))
        peer.request()

    model = md.OpenAICompatible(serve(handler).url + "/v1").model("m")
    async with model.stream("box?", output=Box) as stream:
        async for event in stream:
            assert isinstance(event, TextDelta)
            break
        assert stream.reply.output == {"width": 4, "label": "bi"}
