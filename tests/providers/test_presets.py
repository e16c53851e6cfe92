"""The presets: every deviation of a server, from its documentation and recorded replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.dialects.openai.presets import PRESETS
from majordomo.llm import ThinkingPart
from tests.support.loopback import DONE, Handler, Loopback, Peer, chat_completion, delta

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
        while (request := peer.request()) is not None:
            if request.json.get("stream"):
                peer.begin()
                peer.chunk(delta(message) + delta({}, "stop") + DONE)
                peer.end()
            else:
                reply = chat_completion("")
                reply["choices"][0]["message"] = message
                peer.reply(reply)

    return handler


@pytest.fixture
def connect(serve: Serve) -> Connect:
    # A provider that is dropped while its loop runs would leave its connections open.
    providers: list[Any] = []

    def make(preset: str, message: dict[str, Any] | None = None) -> tuple[llm.Model, Loopback]:
        server = serve(answering(message or {"content": "ok"}))
        providers.append(md.OpenAICompatible(server.url, api_key="k", preset=preset))
        return providers[-1].model("m"), server

    return make


async def send_back(connect: Connect, preset: str, message: dict[str, Any]) -> tuple[Any, md.Reply]:
    """Return the assistant's message as it is sent back in the next request, and its reply."""
    model, server = connect(preset, message)
    reply = await model.generate("hi")
    results = [md.tool_result(call, "seen") for call in reply.tool_calls]
    await model.generate([md.user("hi"), reply.message, *results, md.user("go on")])
    return server.requests[-1].json["messages"][1], reply


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_preset_has_an_address_and_a_key_variable(
    preset: str, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    preset_row = PRESETS[preset]
    monkeypatch.delenv(preset_row.key_variable, raising=False)
    if preset_row.local:
        assert preset_row.base_url.removesuffix("/v1") in repr(md.OpenAICompatible(preset=preset))
    else:
        with pytest.raises(md.ConfigurationError, match=preset_row.key_variable):
            md.OpenAICompatible(preset=preset)
    monkeypatch.setenv(preset_row.key_variable, "from-the-variable")
    server = serve(answering({"content": "ok"}))
    assert (
        await md.OpenAICompatible(server.url, preset=preset).model("m").generate("hi")
    ).text == "ok"
    assert server.requests[0].headers["authorization"] == "Bearer from-the-variable"


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(md.ConfigurationError, match="openrouter") as caught:
        md.OpenAICompatible(preset="groc")
    assert caught.value.details["field"] == "preset"


async def test_mistral_requests_and_replies(connect: Connect) -> None:
    thinking = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True},
        {"type": "text", "text": "ok"},
    ]
    message, reply = await send_back(
        connect, "mistral", {"content": thinking, "tool_calls": [CALL]}
    )
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
    body = server.requests[-1].json
    assert (body["random_seed"], body["tool_choice"]) == (3, "any")
    assert not {"seed", "top_k", "stream_options"} & set(body)
    assert "top_k" in [warning.field for warning in stream.reply.warnings]


async def test_deepseek_gets_its_reasoning_back_in_a_tool_loop_only(connect: Connect) -> None:
    in_a_loop, _ = await send_back(
        connect, "deepseek", {"content": "", "reasoning_content": "hm", "tool_calls": [CALL]}
    )
    assert in_a_loop["reasoning_content"] == "hm"
    plain, _ = await send_back(connect, "deepseek", {"content": "ok", "reasoning_content": "hm"})
    assert "reasoning_content" not in plain
    model, server = connect("deepseek", {"content": '{"a": 1}'})
    assert (
        await model.generate("json?", output={"type": "object", "properties": {"a": {}}})
    ).output == {"a": 1}
    body = server.requests[-1].json
    assert body["response_format"] == {"type": "json_object"}
    assert '"properties"' in body["messages"][0]["content"]


@pytest.mark.parametrize("preset", ["deepseek", "openrouter"])
async def test_a_list_output_is_wrapped_in_an_object_where_needed(
    connect: Connect, preset: str
) -> None:
    model, server = connect(preset, {"content": '{"value": [1, 2]}'})
    assert (await model.generate("numbers?", output=list[int])).output == [1, 2]
    async with model.stream("numbers?", output=list[int]) as stream:
        async for _ in stream:
            pass
    assert stream.reply.output == [1, 2]
    for request in server.requests:
        response_format = request.json["response_format"]
        if preset == "openrouter":
            schema = response_format["json_schema"]["schema"]
        else:
            assert response_format == {"type": "json_object"}
            schema = json.loads(request.json["messages"][0]["content"].partition(": ")[2])
        assert schema == {
            "type": "object",
            "properties": {"value": {"type": "array", "items": {"type": "integer"}}},
            "required": ["value"],
        }


async def test_system_messages_use_the_configured_role(serve: Serve) -> None:
    server = serve(answering({"content": "ok"}))
    model = md.OpenAICompatible(
        server.url, api_key="k", preset="deepseek", system_role="developer"
    ).model("m")
    await model.generate([md.system("be brief"), md.user("hi")])
    assert [turn["role"] for turn in server.requests[0].json["messages"]] == ["developer", "user"]


async def test_openrouter_gets_its_reasoning_details_back_verbatim(serve: Serve) -> None:
    chunks = [
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
            + b"".join(delta({"content": "", "reasoning_details": chunk}) for chunk in chunks)
        )
        peer.chunk(delta("ok", "stop") + DONE)
        peer.end()
        peer.request()
        peer.reply(chat_completion("fine"))

    server = serve(handler)
    model = md.OpenAICompatible(server.url, api_key="k", preset="openrouter").model("m")
    async with model.stream("hi", reasoning=2000) as stream:
        async for _ in stream:
            pass
    assert stream.reply.thinking == "hm"
    await model.generate([md.user("hi"), stream.reply.message, md.user("go on")])
    assert server.requests[0].json["reasoning"] == {"max_tokens": 2000}
    assert server.requests[1].json["messages"][1]["reasoning_details"] == [
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
    message, reply = await send_back(
        connect, "vllm", {"content": "ok", "reasoning": "hm", "reasoning_content": None}
    )
    assert message["reasoning"] == reply.thinking == "hm"


async def test_thinking_of_other_servers_is_not_sent(connect: Connect) -> None:
    model, server = connect("vllm")
    foreign_message = llm.assistant(
        ThinkingPart("private", "deepseek"), ThinkingPart("private", "openaicompatible"), "ok"
    )
    await model.generate([md.user("hi"), foreign_message, md.user("go on")])
    assert "private" not in json.dumps(server.requests[-1].json)


async def test_groq_invalid_tool_arguments_are_invalid_request_errors(serve: Serve) -> None:
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
