"""OpenAI's provider with both chat APIs, against the strict servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.llm import TextDelta
from tests.servers.openai_account import OpenAIServer, Turn, calls, refuses, says, thinks
from tests.servers.openai_chat import OpenAIChat
from tests.servers.openai_responses import OpenAIResponses
from tests.support.loopback import Handler, Loopback
from tests.support.openai_conversations import LONG_ID, foreign_history, look

ONCE = md.Retries(attempts=1)
MODEL = "gpt-5.4"
PLAIN = "gpt-4.1"


@pytest.fixture(params=["responses", "chat"])
def api(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(api: str) -> OpenAIServer:
    return OpenAIResponses() if api == "responses" else OpenAIChat()


@pytest.fixture
def openai(api: Any, server: OpenAIServer, serve: Callable[[Handler], Loopback]) -> md.OpenAI:
    return md.OpenAI("k", base_url=serve(server).url + "/v1", api=api, retries=ONCE)


async def read_stream(stream: Any) -> tuple[list[llm.ChatEvent], llm.Reply]:
    async with stream as opened:
        return [event async for event in opened], opened.reply


@pytest.mark.parametrize("name", [MODEL, PLAIN, "o3"])
async def test_complete_and_streamed_replies(name: str, openai: md.OpenAI) -> None:
    model = openai.model(name)
    history = [md.system("be brief"), md.user("one two three")]
    complete = await model.generate(history)
    events, streamed = await read_stream(model.stream(history))
    assert complete.text == streamed.text == "one two three"
    assert [event.text for event in events if isinstance(event, TextDelta)] == [
        "one",
        " two",
        " three",
    ]
    assert (complete.finish_reason, streamed.finish_reason) == ("stop", "stop")
    assert complete.model == streamed.model == f"{name}-2026-08-01"
    assert complete.usage == streamed.usage
    assert complete.usage.output_tokens == 3 + (complete.usage.reasoning_tokens or 0)
    assert (complete.usage.input_tokens or 0) > 0
    assert bool(complete.usage.reasoning_tokens) is (name != PLAIN)


def test_sync_methods_work_like_async_ones(openai: md.OpenAI) -> None:
    with openai:
        model = openai.model(MODEL)
        assert model.generate_sync("one two").text == "one two"
        with model.stream_sync("one two") as stream:
            assert [event.text for event in stream if isinstance(event, TextDelta)] == [
                "one",
                " two",
            ]
        assert stream.reply.text == "one two"
        reply = md.run_tools_sync(model, 'look {"at": "a fox"}', tools=[look])
        assert reply.text.endswith("looked at a fox")


async def test_system_messages_use_the_configured_role(
    api: Any, server: OpenAIServer, serve: Callable[[Handler], Loopback]
) -> None:
    url = serve(server).url + "/v1"
    history = [md.system("be brief"), md.user("one"), md.system("briefer"), md.user("two")]

    async def roles(name: str, role: Any) -> list[str]:
        assert (
            await md.OpenAI("k", base_url=url, api=api, retries=ONCE, system_role=role)
            .model(name)
            .generate(history)
        ).text
        return [
            turn["role"]
            for turn in server.received_bodies[-1]["messages" if api == "chat" else "input"]
        ]

    assert await roles(MODEL, "developer") == ["developer", "user"] * 2
    assert await roles(MODEL, "system") == ["system", "user"] * 2
    if api == "chat":
        with pytest.raises(md.InvalidRequestError):
            await roles("o1-mini", "developer")
        assert await roles("o1-mini", "user") == ["user"] * 4
    for make in (md.OpenAI, md.OpenAICompatible):
        with pytest.raises(md.ConfigurationError, match="system_role"):
            make(api_key="k", system_role="boss")  # type: ignore[arg-type]


async def test_every_setting_is_sent_or_is_a_warning(
    openai: md.OpenAI, server: OpenAIServer, api: str
) -> None:
    reply = await openai.model(PLAIN).generate(
        "hi", temperature=0.5, top_p=0.9, max_tokens=100, seed=3, stop="END", top_k=4
    )
    missing = ["top_k", "stop", "seed"] if api == "responses" else ["top_k"]
    assert [warning.field for warning in reply.warnings] == missing
    sent = server.received_bodies[0]
    assert (sent["temperature"], sent["top_p"]) == (0.5, 0.9)
    assert sent["max_output_tokens" if api == "responses" else "max_completion_tokens"] == 100


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_run_concurrently_and_may_return_images(
    streamed: bool,
    openai: md.OpenAI,
    server: OpenAIServer,
    api: str,
    image: Callable[..., md.ImagePart],
) -> None:
    searched: list[str] = []

    def find(at: str) -> list[Any]:
        searched.append(at)
        return [f"found {at}", image(color="red")]

    model = openai.model(MODEL, md.with_reasoning("low"))
    question = md.user('look and find {"at": "a fox"}', image())
    if streamed:
        _, reply = await read_stream(md.stream_tools(model, [question], tools=[look, find]))
    else:
        reply = await md.run_tools(model, [question], tools=[look, find])
    assert searched == ["a fox"]
    assert [message.role for message in reply.new_messages] == [
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert reply.images == (image(color="red"),)
    assert "64x48 #ff0000" in reply.text
    assert reply.finish_reason == "stop"
    ids = [call.id for call in reply.new_messages[0].parts if isinstance(call, md.ToolCallPart)]
    assert len(set(ids)) == 2
    assert all(identity in reply.text for identity in ids)
    # A tool message cannot contain an image: it follows in a user message.
    if api == "chat":
        assert [message["role"] for message in server.received_bodies[-1]["messages"]] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "user",
        ]
    # The tools are no longer offered.
    after = await model.generate([question, *reply.new_messages, md.user("and now?")])
    assert "and now?" in after.text


@pytest.mark.parametrize("choice", ["required", "ping"])
async def test_a_tool_without_arguments_can_be_required(choice: str, openai: md.OpenAI) -> None:
    tools = [
        md.Tool("ping"),
        md.Tool("pong", parameters={}),
        md.Tool("open", parameters={"type": "object", "additionalProperties": True}),
    ]
    reply = await openai.model(PLAIN).generate("hi", tools=tools, tool_choice=choice)
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("ping", {})]
    assert reply.finish_reason == "tool_calls"
    assert (
        await openai.model(PLAIN).generate("ping", tools=tools, tool_choice="none")
    ).tool_calls == ()


async def test_invalid_tool_arguments_can_be_sent_back(
    openai: md.OpenAI, server: OpenAIServer
) -> None:
    server.script = [Turn([says("well"), calls("look", '{"at": ')])]
    reply = await openai.model(PLAIN).generate("hi", tools=[look])
    assert (reply.text, reply.tool_calls[0].arguments_json) == ("well", '{"at": ')
    history = [
        md.user("hi"),
        reply.message,
        md.tool_result(reply.tool_calls[0], "no JSON", is_error=True),
    ]
    assert "error: no JSON" in (await openai.model(PLAIN).generate(history)).text


@pytest.mark.parametrize("name", [MODEL, PLAIN])
async def test_a_history_from_other_providers_is_accepted(
    name: str, openai: md.OpenAI, server: OpenAIServer, image: Callable[..., md.ImagePart]
) -> None:
    reply = await openai.model(name).generate(foreign_history(image()))
    assert reply.text == (
        "(from the assistant's turn above)\nthanks\n64x48 #000080\n"
        "a.pdf: application/pdf of 10 bytes"
    )
    sent = json.dumps(server.received_bodies[0])
    assert "private" not in sent
    assert "s3cret" not in sent
    assert LONG_ID not in sent


async def test_a_document_needs_no_name(openai: md.OpenAI) -> None:
    pdf = b"%PDF-1.4 x"
    parts = (md.FilePart(pdf, "application/pdf", "a.pdf"), md.FilePart(pdf, "application/pdf"))
    reply = await openai.model(PLAIN).generate(md.user("read", *parts))
    assert (
        reply.text == "read\na.pdf: application/pdf of 10 bytes\nfile: application/pdf of 10 bytes"
    )


async def test_refusals_are_typed_in_complete_and_streamed_replies(
    openai: md.OpenAI, server: OpenAIServer
) -> None:
    server.script = [Turn([refuses("I will not.")])] * 4
    model = openai.model(PLAIN)
    complete = await model.generate("hi")
    _, streamed = await read_stream(model.stream("hi"))
    assert (
        (complete.text, complete.finish_reason)
        == (streamed.text, streamed.finish_reason)
        == ("I will not.", "content_filter")
    )
    with pytest.raises(md.ContentRefusedError, match="I will not") as caught:
        await model.generate("hi", output=dict[str, int])
    assert not caught.value.retryable
    with pytest.raises(md.ContentRefusedError, match="I will not"):
        await read_stream(model.stream("hi", output=dict[str, int]))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_a_truncated_reply_has_a_finish_reason(
    finish: str, streamed: bool, openai: md.OpenAI, server: OpenAIServer
) -> None:
    server.script = [Turn([thinks("hm"), says("one two")], finish)]
    model = openai.model(MODEL, md.with_reasoning("low"))
    reply = (await read_stream(model.stream("hi")))[1] if streamed else await model.generate("hi")
    assert (reply.text, reply.finish_reason) == ("one two", finish)


async def test_a_budget_used_up_by_thinking_finishes_with_length(
    openai: md.OpenAI, server: OpenAIServer
) -> None:
    server.script = [Turn([thinks("hm")], "length")]
    reply = await openai.model(MODEL).generate("hi", max_tokens=16)
    assert (reply.text, reply.finish_reason) == ("", "length")
    assert (
        await openai.model(MODEL).generate([md.user("hi"), reply.message, md.user("go on")])
    ).text.endswith("go on")


@pytest.mark.parametrize("how", ["error", "cut", "drop"])
async def test_a_broken_stream_keeps_the_exact_prefix(
    how: str, openai: md.OpenAI, server: OpenAIServer
) -> None:
    server.break_stream, server.break_after = how, 2
    text = ""
    with pytest.raises(md.StreamBrokenError) as caught:
        async with openai.model(PLAIN).stream("one two three four") as stream:
            async for event in stream:
                text += event.text if isinstance(event, TextDelta) else ""
    assert text == caught.value.partial.text == stream.reply.text == "one two"
    assert caught.value.partial.provider == "openai"
    assert ("had an error" in caught.value.message) is (how == "error")


async def test_a_truncated_refusal_raises_stream_broken_error(
    openai: md.OpenAI, server: OpenAIServer
) -> None:
    server.script = [Turn([refuses("I will not.")])]
    server.break_stream = "cut"
    with pytest.raises(md.StreamBrokenError) as caught:
        await read_stream(openai.model(PLAIN).stream("hi"))
    assert caught.value.partial.text == "I"


@pytest.mark.parametrize(
    ("failure", "kind", "retryable", "wait"),
    [
        ((429, "rate_limit_exceeded", {"retry-after-ms": "1500"}), md.RateLimitError, True, 1.5),
        ((429, "insufficient_quota"), md.RateLimitError, False, None),
        ((500, "server_error"), md.BackendError, True, None),
        ((503, "server_error", {"x-should-retry": "false"}), md.OverloadedError, False, None),
        ((400, "context_length_exceeded"), md.InvalidRequestError, False, None),
        ((400, "content_policy_violation"), md.ContentRefusedError, False, None),
    ],
)
async def test_failures_are_typed(
    failure: Any, kind: Any, retryable: bool, wait: Any, openai: md.OpenAI, server: OpenAIServer
) -> None:
    server.failures = [failure]
    with pytest.raises(kind) as caught:
        await openai.model(MODEL).generate("hi")
    assert (caught.value.retryable, caught.value.retry_after) == (retryable, wait)
    assert caught.value.details["request_id"].startswith("req_")


async def test_unsupported_parameters_are_named_in_the_error(openai: md.OpenAI) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await openai.model("o3").generate("hi", temperature=0.5)
    assert caught.value.details["param"] == "temperature"
    with pytest.raises(md.InvalidRequestError, match="not supported"):
        await openai.model(PLAIN).generate("hi", reasoning="low")
    # A 400 in Responses, a 404 in chat completions.
    with pytest.raises(md.NotFoundError) as missing:
        await openai.model("no").generate("hi")
    assert missing.value.code == "MODEL_NOT_FOUND"


async def test_models_health_and_a_wrong_key(openai: md.OpenAI, server: OpenAIServer) -> None:
    assert {MODEL, PLAIN} <= {model.id for model in await openai.models()}
    assert (await openai.health()).ok
    server.key = "another"
    with pytest.raises(md.AuthenticationError):
        await openai.model(MODEL).generate("hi")


def test_invalid_settings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        md.OpenAI("k", api="completions")  # type: ignore[arg-type]  # an invalid value
    assert caught.value.details["field"] == "api"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(md.ConfigurationError):
        md.OpenAI()


@pytest.mark.parametrize(
    "address",
    ["https://api.openai.com/v1", "https://api.openai.com/v1/", "HTTPS://API.OpenAI.com/v1"],
)
def test_every_spelling_of_the_openai_address_is_recognized(address: str) -> None:
    provider = md.OpenAI("k", base_url=address)
    assert type(provider.model("gpt-5.4")._codec).__name__ == "OpenAIResponsesCodec"
    # Compatible servers accept prompts of any length.
    with pytest.raises(md.InvalidRequestError) as caught:
        provider.image_model("next-image").generate_sync("a" * 32_001)
    assert caught.value.field == "prompt"
    provider.close()
