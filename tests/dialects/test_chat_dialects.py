"""Every chat dialect: decode the same reply from its bytes, and encode any history.

The bytes arrive in any slicing and are truncated anywhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import majordomo as md
from majordomo import llm
from majordomo.dialects.anthropic.messages import AnthropicMessagesCodec
from majordomo.dialects.gemini.chat import SENTINEL, GeminiChatCodec
from majordomo.dialects.ollama.chat import OllamaChatCodec
from majordomo.dialects.openai.responses import OpenAIResponsesCodec
from majordomo.llm import (
    Done,
    Request,
    TextDelta,
    ThinkingDelta,
    ThinkingPart,
    ToolCall,
    ToolCallStarted,
)
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from tests.support.chat_dialects import (
    DIALECTS,
    Dialect,
    check,
    decode_chunks,
    join_deltas,
    named_events,
)
from tests.support.hypothesis_effort import max_examples

LIMITS = Limits()
REQUEST = Request((md.user("hi"),))


each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def read(
    dialect: Dialect, cuts: list[int] | None = None, stream: bytes | None = None
) -> list[llm.ChatEvent]:
    stream = dialect.stream if stream is None else stream
    decoder = dialect.codec.stream_decoder(REQUEST, LIMITS)
    edges = [0, *sorted({cut for cut in cuts or [] if 0 < cut < len(stream)}), len(stream)]
    return decode_chunks(decoder, *(stream[begin:end] for begin, end in pairwise(edges)))


@each_dialect
def test_a_complete_response_is_decoded(dialect: Dialect) -> None:
    check(
        dialect,
        dialect.codec.decode_reply(json.dumps(dialect.complete_response).encode(), REQUEST, LIMITS),
    )


@each_dialect
def test_a_stream_gives_the_same_reply(dialect: Dialect) -> None:
    events = read(dialect)
    kinds = [type(event) for event in join_deltas(events)]
    assert kinds[:2] == [ThinkingDelta, TextDelta]
    assert kinds.index(ToolCallStarted) < kinds.index(ToolCall)
    assert isinstance(events[-1], Done)
    check(dialect, events[-1].reply)
    complete = dialect.codec.decode_reply(
        json.dumps(dialect.complete_response).encode(), REQUEST, LIMITS
    )
    assert events[-1].reply.message == complete.message


@each_dialect
@settings(max_examples=max_examples(30), deadline=None)
@given(cuts=st.lists(st.integers(0, 4000), max_size=30))
def test_any_slicing_gives_the_same_events(dialect: Dialect, cuts: list[int]) -> None:
    assert join_deltas(read(dialect, cuts)) == join_deltas(read(dialect))


@each_dialect
def test_a_truncated_stream_raises_with_the_partial_reply(dialect: Dialect) -> None:
    required = (
        dialect.stream.rstrip()
        if dialect.name != "chat"
        else dialect.stream[: dialect.stream.index(b'"finish_reason": "tool_calls"') + 31]
    )
    for length in range(0, len(required) - 1, 7):
        with pytest.raises(md.MajordomoError) as caught:
            read(dialect, stream=dialect.stream[:length])
        if b"Gr\\u00fc" in dialect.stream[:length].replace("ü".encode(), b"\\u00fc") and isinstance(
            caught.value, md.StreamBrokenError
        ):
            assert "Grüße 🦊".startswith(caught.value.partial.text)


@each_dialect
@pytest.mark.parametrize("size", [1, 13, 10**6])
def test_events_before_an_error_are_emitted_in_any_slicing(dialect: Dialect, size: int) -> None:
    decoder = dialect.codec.stream_decoder(REQUEST, LIMITS)
    events: list[llm.ChatEvent] = []
    with pytest.raises(md.StreamBrokenError) as caught:
        for at in range(0, len(dialect.failing), size):
            events += decoder.feed(dialect.failing[at : at + size])
        decoder.finish()
    assert (
        "".join(event.text for event in events if isinstance(event, llm.TextDelta))
        == caught.value.partial.text
        == "Grüße 🦊"
    )


@each_dialect
def test_an_error_within_a_stream_keeps_its_message_and_the_partial_reply(dialect: Dialect) -> None:
    with pytest.raises(md.StreamBrokenError, match="too busy") as caught:
        read(dialect, stream=dialect.failing)
    assert caught.value.partial.text == "Grüße 🦊"


def sent_body(http_request: HTTPRequest) -> Any:
    return json.loads(
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


@each_dialect
def test_thinking_is_sent_back_only_to_its_own_provider(dialect: Dialect) -> None:
    reply = dialect.codec.decode_reply(
        json.dumps(dialect.complete_response).encode(), REQUEST, LIMITS
    )
    history = (md.user("hi"), reply.message, md.tool_result(reply.tool_calls[0], "drawn"))
    thinking = next(part for part in reply.message.parts if isinstance(part, ThinkingPart))
    assert {key: thinking.opaque.get(key) for key in dialect.keeps} == dialect.keeps
    for other in DIALECTS:
        body = json.dumps(
            sent_body(other.codec.encode_request("gemini-3-pro", Request(history))[0])
        )
        secret = next(iter(dialect.keeps.values()), "a fox" if dialect.name == "ollama" else "c2ln")
        if other.name == dialect.name and dialect.name != "chat":
            assert secret in body
        elif other.name != dialect.name and secret != "c2ln":
            assert secret not in body
            assert "a fox" not in body


@each_dialect
def test_any_history_can_be_encoded(dialect: Dialect, image: Callable[..., md.ImagePart]) -> None:
    """Any history: duplicate and unusual call ids, images everywhere, foreign thinking."""
    blue, red = image(), image(color="red")
    calls = [md.ToolCallPart("a:b/c", "draw", '{"x":1}'), md.ToolCallPart("a:b/c", "draw", "")]
    history = (
        md.system("be brief"),
        llm.assistant(
            ThinkingPart("private", "elsewhere", {"signature": "s3cret"}), "sure", *calls
        ),
        md.tool_result(calls[0], "one", blue),
        md.tool_result(calls[1], "no colors", is_error=True),
        llm.assistant("here", red),
        md.user("thanks", blue),
    )
    http_request, warnings = dialect.codec.encode_request("gemini-3-pro", Request(history))
    changed = ["HISTORY_CHANGED"] if dialect.name in ("anthropic", "gemini") else []
    assert [warning.code for warning in warnings] == changed
    text = json.dumps(sent_body(http_request), ensure_ascii=False)
    assert "s3cret" not in text
    assert "private" not in text
    assert text.count(base64.b64encode(blue.data).decode()) == 2
    assert text.count(base64.b64encode(red.data).decode()) == 1
    assert all(phrase in text for phrase in ("be brief", "sure", "here", "thanks", "no colors"))
    if dialect.name == "anthropic":
        turns = sent_body(http_request)["messages"]
        assert [turn["role"] for turn in turns] == [
            "user",
            "assistant",
            "user",
            "assistant",
            "user",
        ]
        call_ids = [block["id"] for block in turns[1]["content"] if block["type"] == "tool_use"]
        assert len(set(call_ids)) == 2
        assert [block["tool_use_id"] for block in turns[2]["content"]] == call_ids
    if dialect.name == "gemini":
        signed = [
            part.get("thoughtSignature")
            for turn in sent_body(http_request)["contents"]
            for part in turn["parts"]
            if "functionCall" in part
        ]
        assert signed == [SENTINEL, None]


class Mood(BaseModel):
    word: str
    score: int


@each_dialect
def test_every_field_is_encoded(dialect: Dialect) -> None:
    def draw(what: str) -> str:
        """Draws."""
        return what

    request = Request(
        (md.user("hi"),),
        tools=(draw,),
        output=Mood,
        temperature=0.5,
        top_p=0.9,
        max_tokens=70,
        stop=("END",),
        reasoning="low",
    )  # type: ignore[arg-type]  # a function becomes a Tool
    http_request, warnings = dialect.codec.encode_request(
        "gemini-3-pro" if dialect.name == "gemini" else "m", request
    )
    body = sent_body(http_request)
    expected: dict[str, list[str]] = {
        "anthropic": ["temperature", "top_p"],  # not accepted together with reasoning
        "ollama": [],
        "gemini": [],
        "responses": ["stop"],
        "chat": [],
    }
    assert sorted(warning.field or "" for warning in warnings) == expected[dialect.name]
    encoded = json.dumps(body)
    assert '"score"' in encoded
    assert '"draw"' in encoded
    assert "70" in encoded
    assert "low" in encoded.lower()


def test_anthropic_reasoning_is_an_effort_or_a_budget_depending_on_the_model() -> None:
    def encode(model: str, **fields: Any) -> Any:
        http_request, warnings = AnthropicMessagesCodec().encode_request(
            model, Request((md.user("hi"),), **fields)
        )
        body = sent_body(http_request)
        return (
            body.get("thinking"),
            body.get("output_config"),
            body["max_tokens"],
            [warning.field for warning in warnings],
        )

    assert encode("claude-sonnet-4-5-20250929", reasoning="low") == (
        {"type": "enabled", "budget_tokens": 2048},
        None,
        6144,
        [],
    )
    assert encode("claude-3-7-sonnet", reasoning=5000) == (
        {"type": "enabled", "budget_tokens": 5000},
        None,
        9096,
        [],
    )
    assert encode("claude-opus-4-6", reasoning="high") == (
        {"type": "adaptive"},
        {"effort": "high"},
        4096,
        [],
    )
    assert encode("claude-opus-5", reasoning=5000) == (
        {"type": "adaptive"},
        None,
        4096,
        ["reasoning"],
    )
    assert encode("claude-opus-5", reasoning="off") == ({"type": "disabled"}, None, 4096, [])


def test_anthropic_version_without_sampling_warns() -> None:
    http_request, warnings = AnthropicMessagesCodec(version="2026-10-21").encode_request(
        "m", Request((md.user("hi"),), temperature=0.5, top_k=3)
    )
    assert [warning.field for warning in warnings] == ["temperature", "top_k"]
    assert "temperature" not in sent_body(http_request)


def test_gemini_encodes_results_as_objects_and_images_where_the_model_accepts_them(
    image: Callable[..., md.ImagePart],
) -> None:
    call = md.ToolCallPart("a", "draw", "{}")
    history = (md.user("hi"), llm.assistant(call), md.tool_result(call, '{"ok": true}', image()))
    gemini_3, gemini_2 = (
        sent_body(GeminiChatCodec(m).encode_request(m, Request(history))[0])["contents"][-1][
            "parts"
        ]
        for m in ("gemini-3-pro", "gemini-2.5-flash")
    )
    assert gemini_3[0]["functionResponse"]["response"] == {"ok": True}
    assert [len(gemini_3), len(gemini_3[0]["functionResponse"]["parts"])] == [1, 1]
    assert "parts" not in gemini_2[0]["functionResponse"]
    assert "inlineData" in gemini_2[1]


def test_gemini_signatures_of_another_model_are_not_sent() -> None:
    response = next(d for d in DIALECTS if d.name == "gemini").complete_response
    reply = GeminiChatCodec("gemini-3-pro").decode_reply(
        json.dumps(response).encode(), REQUEST, LIMITS
    )
    history = (md.user("hi"), reply.message, md.tool_result(reply.tool_calls[0], "ok"))
    body = json.dumps(
        sent_body(
            GeminiChatCodec("gemini-3.1-flash").encode_request(
                "gemini-3.1-flash", Request(history)
            )[0]
        )
    )
    assert "c2ln" not in body.replace(SENTINEL, "")
    assert SENTINEL in body


def test_a_blocked_gemini_prompt_raises_content_refused_error() -> None:
    with pytest.raises(md.ContentRefusedError, match="SAFETY"):
        GeminiChatCodec("m").decode_reply(
            b'{"promptFeedback":{"blockReason":"SAFETY"}}', REQUEST, LIMITS
        )


def test_gemini_returns_the_final_image_without_its_draft(
    image: Callable[..., md.ImagePart],
) -> None:
    final, draft = image(), image(color="red")
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": draft.to_base64()}, "thought": True},
        {
            "inlineData": {"mimeType": "image/png", "data": final.to_base64()},
            "thoughtSignature": "c2ln",
        },
    ]
    body = json.dumps(
        {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    ).encode()
    reply = GeminiChatCodec("m-image").decode_reply(body, REQUEST, LIMITS)
    assert reply.images == (final,)
    again = sent_body(
        GeminiChatCodec("m-image").encode_request(
            "m-image", Request((md.user("draw"), reply.message, md.user("bluer")))
        )[0]
    )
    assert again["contents"][1]["parts"] == [
        {
            "inlineData": {"mimeType": "image/png", "data": final.to_base64()},
            "thoughtSignature": "c2ln",
        }
    ]


def test_responses_generate_images_with_the_hosted_tool(image: Callable[..., md.ImagePart]) -> None:
    request = Request((md.user("draw"),), extra={"tools": [{"type": "image_generation"}]})
    codec = OpenAIResponsesCodec()
    assert sent_body(codec.encode_request("m", request)[0])["tools"] == [
        {"type": "image_generation"}
    ]
    item = {
        "type": "image_generation_call",
        "id": "ig_1",
        "status": "completed",
        "result": image().to_base64(),
    }
    response = {"status": "completed", "model": "m", "output": [item]}
    stream = named_events(
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    )
    decoder = codec.stream_decoder(request, LIMITS)
    events = decode_chunks(decoder, stream)
    assert [type(event).__name__ for event in events] == ["ImageReady", "Done"]
    assert isinstance(events[-1], Done)
    assert events[-1].reply.images == (image(),)
    assert image().to_base64() not in json.dumps(
        codec.decode_reply(json.dumps(response).encode(), request, LIMITS).raw
    )


def test_responses_omit_reasoning_without_a_following_item() -> None:
    trailing_reasoning = llm.assistant(ThinkingPart("hm", "openai", {"encrypted_content": "enc"}))
    items = sent_body(
        OpenAIResponsesCodec().encode_request(
            "m", Request((md.user("hi"), trailing_reasoning, md.user("well?")))
        )[0]
    )["input"]
    assert [item.get("type", item.get("role")) for item in items] == ["user", "user"]


def test_ollama_omits_tools_for_choice_none_and_warns_about_a_required_tool() -> None:
    tool = md.Tool("draw")
    http_request, warnings = OllamaChatCodec().encode_request(
        "m", Request((md.user("hi"),), tools=(tool,), tool_choice="none")
    )
    assert "tools" not in sent_body(http_request)
    assert warnings == []
    _, warnings = OllamaChatCodec().encode_request(
        "m", Request((md.user("hi"),), tools=(tool,), tool_choice="draw")
    )
    assert [warning.field for warning in warnings] == ["tool_choice"]
