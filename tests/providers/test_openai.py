"""OpenAI's provider against the strict servers, with both of its chat APIs: what it sends is legal there, in every turn of a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.llm import TextDelta
from tests.servers.openai_account import Speech, Turn, calls, refuses, says, thinks
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
def server(api: str) -> Speech:
    return OpenAIResponses() if api == "responses" else OpenAIChat()


@pytest.fixture
def openai(api: Any, server: Speech, serve: Callable[[Handler], Loopback]) -> md.OpenAI:
    return md.OpenAI("k", serve(server).url + "/v1", api=api, retries=ONCE)


async def heard(stream: Any) -> tuple[list[llm.ChatEvent], llm.Reply]:
    async with stream as opened:
        return [event async for event in opened], opened.reply


@pytest.mark.parametrize("name", [MODEL, PLAIN, "o3"])
async def test_it_answers_whole_and_streamed(name: str, openai: md.OpenAI) -> None:
    model = openai.model(name)
    history = [md.system("be brief"), md.user("one two three")]
    whole = await model.generate(history)
    events, streamed = await heard(model.stream(history))
    assert whole.text == streamed.text == "one two three"
    assert [event.text for event in events if isinstance(event, TextDelta)] == [
        "one",
        " two",
        " three",
    ]
    assert (whole.finish_reason, streamed.finish_reason) == ("stop", "stop")
    assert whole.model == streamed.model == f"{name}-2026-08-01"
    assert whole.usage == streamed.usage
    assert whole.usage.output_tokens == 3 + (whole.usage.reasoning_tokens or 0)
    assert (whole.usage.input_tokens or 0) > 0
    assert bool(whole.usage.reasoning_tokens) is (name != PLAIN)


def test_it_answers_code_without_a_loop(openai: md.OpenAI) -> None:
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


async def test_system_turns_go_under_the_word_the_model_knows(
    api: Any, server: Speech, serve: Callable[[Handler], Loopback]
) -> None:
    url = serve(server).url + "/v1"
    history = [md.system("be brief"), md.user("one"), md.system("briefer"), md.user("two")]

    async def roles(name: str, word: Any) -> list[str]:
        assert (
            await md.OpenAI("k", url, api=api, retries=ONCE, system_role=word)
            .model(name)
            .generate(history)
        ).text
        return [turn["role"] for turn in server.seen[-1]["messages" if api == "chat" else "input"]]

    assert await roles(MODEL, "developer") == ["developer", "user"] * 2
    assert await roles(MODEL, "system") == ["system", "user"] * 2
    if api == "chat":
        with pytest.raises(md.InvalidRequestError):
            await roles("o1-mini", "developer")
        assert await roles("o1-mini", "user") == ["user"] * 4
    for make in (md.OpenAI, md.OpenAICompatible):
        with pytest.raises(md.ConfigurationError, match="system_role"):
            make(api_key="k", system_role="boss")  # type: ignore[arg-type]


async def test_every_setting_finds_its_place(openai: md.OpenAI, server: Speech, api: str) -> None:
    reply = await openai.model(PLAIN).generate(
        "hi", temperature=0.5, top_p=0.9, max_tokens=100, seed=3, stop="END", top_k=4
    )
    missing = ["top_k", "seed", "stop"] if api == "responses" else ["top_k"]
    assert [warning.field for warning in reply.warnings] == missing
    sent = server.seen[0]
    assert (sent["temperature"], sent["top_p"]) == (0.5, 0.9)
    assert sent["max_output_tokens" if api == "responses" else "max_completion_tokens"] == 100


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_are_run_side_by_side_and_may_answer_with_images(
    streamed: bool, openai: md.OpenAI, server: Speech, api: str, image: Callable[..., md.ImagePart]
) -> None:
    seen: list[str] = []

    def find(at: str) -> list[Any]:
        seen.append(at)
        return [f"found {at}", image(color="red")]

    model = openai.model(MODEL, md.with_reasoning("low"))
    asked = md.user('look and find {"at": "a fox"}', image())
    if streamed:
        _, reply = await heard(md.stream_tools(model, [asked], tools=[look, find]))
    else:
        reply = await md.run_tools(model, [asked], tools=[look, find])
    assert seen == ["a fox"]
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
    if api == "chat":  # a tool cannot show an image: it follows all answers, in a user's turn
        assert [message["role"] for message in server.seen[-1]["messages"]] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "user",
        ]
    after = await model.generate(
        [asked, *reply.new_messages, md.user("and now?")]
    )  # the tools are no longer offered
    assert "and now?" in after.text


@pytest.mark.parametrize("choice", ["required", "ping"])
async def test_a_tool_can_be_demanded_even_one_of_no_arguments(
    choice: str, openai: md.OpenAI
) -> None:
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


async def test_arguments_that_are_no_json_do_not_lose_the_turn(
    openai: md.OpenAI, server: Speech
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
async def test_a_history_of_strangers_is_legal(
    name: str, openai: md.OpenAI, server: Speech, image: Callable[..., md.ImagePart]
) -> None:
    reply = await openai.model(name).generate(foreign_history(image()))
    assert (
        reply.text
        == "(from the assistant's turn above)\nthanks\n64x48 #000080\na.pdf: application/pdf of 10 bytes"
    )
    sent = json.dumps(server.seen[0])
    assert "private" not in sent
    assert "s3cret" not in sent
    assert LONG_ID not in sent


async def test_a_document_goes_with_a_name_or_without(openai: md.OpenAI) -> None:
    pdf = b"%PDF-1.4 x"
    parts = (md.FilePart(pdf, "application/pdf", "a.pdf"), md.FilePart(pdf, "application/pdf"))
    reply = await openai.model(PLAIN).generate(md.user("read", *parts))
    assert (
        reply.text == "read\na.pdf: application/pdf of 10 bytes\nfile: application/pdf of 10 bytes"
    )


async def test_refusals_are_refusals_however_they_come(openai: md.OpenAI, server: Speech) -> None:
    server.script = [Turn([refuses("I will not.")])] * 4
    model = openai.model(PLAIN)
    whole = await model.generate("hi")
    _, streamed = await heard(model.stream("hi"))
    assert (
        (whole.text, whole.finish_reason)
        == (streamed.text, streamed.finish_reason)
        == ("I will not.", "content_filter")
    )
    with pytest.raises(md.ContentRefusedError, match="I will not") as caught:
        await model.generate("hi", output=dict[str, int])
    assert not caught.value.retryable
    with pytest.raises(md.ContentRefusedError, match="I will not"):
        await heard(model.stream("hi", output=dict[str, int]))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_an_answer_may_be_cut_off(
    finish: str, streamed: bool, openai: md.OpenAI, server: Speech
) -> None:
    server.script = [Turn([thinks("hm"), says("one two")], finish)]
    model = openai.model(MODEL, md.with_reasoning("low"))
    reply = (await heard(model.stream("hi")))[1] if streamed else await model.generate("hi")
    assert (reply.text, reply.finish_reason) == ("one two", finish)


async def test_a_budget_that_thinking_has_used_up_is_an_answer_of_length(
    openai: md.OpenAI, server: Speech
) -> None:
    server.script = [Turn([thinks("hm")], "length")]
    reply = await openai.model(MODEL).generate("hi", max_tokens=16)
    assert (reply.text, reply.finish_reason) == ("", "length")
    assert (
        await openai.model(MODEL).generate([md.user("hi"), reply.message, md.user("go on")])
    ).text.endswith("go on")


@pytest.mark.parametrize("how", ["error", "cut", "drop"])
async def test_a_broken_stream_keeps_exactly_what_had_come(
    how: str, openai: md.OpenAI, server: Speech
) -> None:
    server.break_stream, server.break_after = how, 2
    said = ""
    with pytest.raises(md.StreamBrokenError) as caught:
        async with openai.model(PLAIN).stream("one two three four") as stream:
            async for event in stream:
                said += event.text if isinstance(event, TextDelta) else ""
    assert said == caught.value.partial.text == stream.reply.text == "one two"
    assert caught.value.partial.provider == "openai"
    assert ("had an error" in caught.value.message) is (how == "error")


async def test_a_refusal_that_is_cut_is_broken(openai: md.OpenAI, server: Speech) -> None:
    server.script = [Turn([refuses("I will not.")])]
    server.break_stream = "cut"
    with pytest.raises(md.StreamBrokenError) as caught:
        await heard(openai.model(PLAIN).stream("hi"))
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
    failure: Any, kind: Any, retryable: bool, wait: Any, openai: md.OpenAI, server: Speech
) -> None:
    server.failures = [failure]
    with pytest.raises(kind) as caught:
        await openai.model(MODEL).generate("hi")
    assert (caught.value.retryable, caught.value.retry_after) == (retryable, wait)
    assert caught.value.details["request_id"].startswith("req_")


async def test_what_a_model_does_not_take_is_said_by_name(openai: md.OpenAI) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await openai.model("o3").generate("hi", temperature=0.5)
    assert caught.value.details["param"] == "temperature"
    with pytest.raises(md.InvalidRequestError, match="not supported"):
        await openai.model(PLAIN).generate("hi", reasoning="low")
    with pytest.raises(
        md.NotFoundError
    ) as missing:  # a 400 in Responses, a 404 in chat completions
        await openai.model("no").generate("hi")
    assert missing.value.code == "MODEL_NOT_FOUND"


async def test_models_keys_and_health(openai: md.OpenAI, server: Speech) -> None:
    assert {MODEL, PLAIN} <= {model.id for model in await openai.models()}
    assert (await openai.health()).ok
    server.key = "another"
    with pytest.raises(md.AuthenticationError):
        await openai.model(MODEL).generate("hi")


def test_settings_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        md.OpenAI("k", api="completions")  # type: ignore[arg-type]  # that is the point
    assert caught.value.details["field"] == "api"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(md.ConfigurationError):
        md.OpenAI()


@pytest.mark.parametrize(
    "address",
    ["https://api.openai.com/v1", "https://api.openai.com/v1/", "HTTPS://API.OpenAI.com/v1"],
)
def test_openai_is_openai_however_its_address_is_written(address: str) -> None:
    provider = md.OpenAI("k", address)
    assert type(provider.model("gpt-5.4")._codec).__name__ == "OpenAIResponsesCodec"
    with pytest.raises(
        md.InvalidRequestError
    ) as caught:  # compatible servers take prompts of any length
        provider.image_model("next-image").generate_sync("a" * 32_001)
    assert caught.value.field == "prompt"
    provider.close()
