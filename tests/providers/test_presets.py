"""The servers known by name: each habit of theirs, as their documents and recorded answers have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.dialects.openai.presets import PRESETS
from majordomo.llm import ThinkingPart
from tests.support.loopback import DONE, Handler, Loopback, Peer, chat, delta

Serve = Callable[[Handler], Loopback]
Connect = Callable[..., tuple[llm.Model, Loopback]]
CALL = {
    "index": 0,
    "id": "chatcmpl-tool-123",
    "type": "function",
    "function": {"name": "look", "arguments": "{}"},
}


def answering(message: dict[str, Any]) -> Handler:
    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if seen.json.get("stream"):
                peer.begin()
                peer.chunk(delta(message) + delta({}, "stop") + DONE)
                peer.end()
            else:
                whole = chat("")
                whole["choices"][0]["message"] = message
                peer.reply(whole)

    return handler


@pytest.fixture
def connect(serve: Serve) -> Connect:
    kept: list[
        Any
    ] = []  # a provider that is dropped while its loop runs leaves its connections to the collector

    def make(preset: str, message: dict[str, Any] | None = None) -> tuple[llm.Model, Loopback]:
        server = serve(answering(message or {"content": "ok"}))
        kept.append(md.OpenAICompatible(server.url, api_key="k", preset=preset))
        return kept[-1].model("m"), server

    return make


async def replayed(connect: Connect, preset: str, message: dict[str, Any]) -> tuple[Any, md.Reply]:
    """The assistant's message as it goes back in the next request, and the reply that it was."""
    model, server = connect(preset, message)
    reply = await model.generate("hi")
    results = [md.tool_result(call, "seen") for call in reply.tool_calls]
    await model.generate([md.user("hi"), reply.message, *results, md.user("go on")])
    return server.seen[-1].json["messages"][1], reply


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_preset_is_a_row_with_an_address_and_a_key(
    preset: str, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    row = PRESETS[preset]
    monkeypatch.delenv(row.key_variable, raising=False)
    if row.local:
        assert row.base_url.removesuffix("/v1") in repr(md.OpenAICompatible(preset=preset))
    else:
        with pytest.raises(md.ConfigurationError, match=row.key_variable):
            md.OpenAICompatible(preset=preset)
    monkeypatch.setenv(row.key_variable, "from-the-variable")
    server = serve(answering({"content": "ok"}))
    assert (
        await md.OpenAICompatible(server.url, preset=preset).model("m").generate("hi")
    ).text == "ok"
    assert server.seen[0].headers["authorization"] == "Bearer from-the-variable"


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(md.ConfigurationError, match="openrouter") as caught:
        md.OpenAICompatible(preset="groc")
    assert caught.value.details["field"] == "preset"


async def test_mistral(connect: Connect) -> None:
    thinking = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True},
        {"type": "text", "text": "ok"},
    ]
    message, reply = await replayed(connect, "mistral", {"content": thinking, "tool_calls": [CALL]})
    assert (reply.thinking, reply.text) == ("hm", "ok")
    identity = message["tool_calls"][0]["id"]
    assert len(identity) == 9
    assert identity.isalnum()
    model, server = connect("mistral")
    async with model.stream(
        "hi", seed=3, top_k=5, tools=[md.Tool("f")], tool_choice="required"
    ) as stream:
        async for _ in stream:
            pass
    body = server.seen[-1].json
    assert (body["random_seed"], body["tool_choice"]) == (3, "any")
    assert not {"seed", "top_k", "stream_options"} & set(body)
    assert "top_k" in [warning.field for warning in stream.reply.warnings]


async def test_deepseek_gets_its_thoughts_back_in_a_tool_loop_only(connect: Connect) -> None:
    looped, _ = await replayed(
        connect, "deepseek", {"content": "", "reasoning_content": "hm", "tool_calls": [CALL]}
    )
    assert looped["reasoning_content"] == "hm"
    plain, _ = await replayed(connect, "deepseek", {"content": "ok", "reasoning_content": "hm"})
    assert "reasoning_content" not in plain
    model, server = connect("deepseek", {"content": '{"a": 1}'})
    assert (
        await model.generate("json?", output={"type": "object", "properties": {"a": {}}})
    ).output == {"a": 1}
    body = server.seen[-1].json
    assert body["response_format"] == {"type": "json_object"}
    assert '"properties"' in body["messages"][0]["content"]


@pytest.mark.parametrize("preset", ["deepseek", "openrouter"])
async def test_a_list_is_asked_for_as_an_object_where_only_objects_are_answered(
    connect: Connect, preset: str
) -> None:
    model, server = connect(preset, {"content": '{"value": [1, 2]}'})
    assert (await model.generate("numbers?", output=list[int])).output == [1, 2]
    async with model.stream("numbers?", output=list[int]) as stream:
        async for _ in stream:
            pass
    assert stream.reply.output == [1, 2]
    for seen in server.seen:
        asked = seen.json["response_format"]
        if preset == "openrouter":
            schema = asked["json_schema"]["schema"]
        else:
            assert asked == {"type": "json_object"}
            schema = json.loads(seen.json["messages"][0]["content"].partition(": ")[2])
        assert schema == {
            "type": "object",
            "properties": {"value": {"type": "array", "items": {"type": "integer"}}},
            "required": ["value"],
        }


async def test_system_turns_go_under_the_word_given(serve: Serve) -> None:
    server = serve(answering({"content": "ok"}))
    model = md.OpenAICompatible(
        server.url, api_key="k", preset="deepseek", system_role="developer"
    ).model("m")
    await model.generate([md.system("be brief"), md.user("hi")])
    assert [turn["role"] for turn in server.seen[0].json["messages"]] == ["developer", "user"]


async def test_openrouter_gets_its_details_back_verbatim(serve: Serve) -> None:
    pieces = [
        [
            {
                "type": "reasoning.text",
                "text": "h",
                "index": 0,
                "format": "anthropic-claude-v1",
                "signature": None,
            }
        ],
        [
            {"type": "reasoning.text", "text": "m", "index": 0, "signature": "sig"},
            {"type": "reasoning.encrypted", "data": "x", "index": 1},
        ],
    ]

    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(
            b": OPENROUTER PROCESSING\n\n"
            + b"".join(delta({"content": "", "reasoning_details": piece}) for piece in pieces)
        )
        peer.chunk(delta("ok", "stop") + DONE)
        peer.end()
        peer.request()
        peer.reply(chat("fine"))

    server = serve(handler)
    model = md.OpenAICompatible(server.url, api_key="k", preset="openrouter").model("m")
    async with model.stream("hi", reasoning=2000) as stream:
        async for _ in stream:
            pass
    assert stream.reply.thinking == "hm"
    await model.generate([md.user("hi"), stream.reply.message, md.user("go on")])
    assert server.seen[0].json["reasoning"] == {"max_tokens": 2000}
    assert server.seen[1].json["messages"][1]["reasoning_details"] == [
        {
            "type": "reasoning.text",
            "text": "hm",
            "index": 0,
            "format": "anthropic-claude-v1",
            "signature": "sig",
        },
        {"type": "reasoning.encrypted", "data": "x", "index": 1},
    ]


async def test_vllm_gets_its_reasoning_back_under_its_own_name(connect: Connect) -> None:
    message, reply = await replayed(
        connect, "vllm", {"content": "ok", "reasoning": "hm", "reasoning_content": None}
    )
    assert message["reasoning"] == reply.thinking == "hm"


async def test_the_thoughts_of_one_server_are_nothing_for_another(connect: Connect) -> None:
    model, server = connect("vllm")
    stranger = llm.assistant(
        ThinkingPart("private", "deepseek"), ThinkingPart("private", "openaicompatible"), "ok"
    )
    await model.generate([md.user("hi"), stranger, md.user("go on")])
    assert "private" not in json.dumps(server.seen[-1].json)


async def test_groq_reports_bad_arguments_as_what_they_are(serve: Serve) -> None:
    body = {
        "error": {
            "message": "Failed to call a function",
            "code": "tool_use_failed",
            "failed_generation": "<function=x>",
        }
    }

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.reply(body, 400)

    with pytest.raises(md.InvalidRequestError) as caught:
        await (
            md.OpenAICompatible(serve(handler).url, api_key="k", preset="groq")
            .model("m")
            .generate("hi")
        )
    assert caught.value.code == "TOOL_USE_FAILED"
