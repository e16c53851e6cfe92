"""Every chat dialect: the same canonical answer from each one's own bytes, in any slicing, cut anywhere; and any history as a request."""

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
from tests.support.hypothesis_effort import tries

LIMITS = Limits()
ASKED = Request((md.user("hi"),))


each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def read(
    dialect: Dialect, cuts: list[int] | None = None, stream: bytes | None = None
) -> list[llm.ChatEvent]:
    stream = dialect.stream if stream is None else stream
    decoder = dialect.codec.stream_decoder(ASKED, LIMITS)
    places = [0, *sorted({cut for cut in cuts or [] if 0 < cut < len(stream)}), len(stream)]
    return decode_chunks(decoder, *(stream[begin:end] for begin, end in pairwise(places)))


@each
def test_a_whole_answer(dialect: Dialect) -> None:
    check(dialect, dialect.codec.decode_reply(json.dumps(dialect.whole).encode(), ASKED, LIMITS))


@each
def test_a_stream_says_the_same(dialect: Dialect) -> None:
    events = read(dialect)
    kinds = [type(event) for event in join_deltas(events)]
    assert kinds[:2] == [ThinkingDelta, TextDelta]
    assert kinds.index(ToolCallStarted) < kinds.index(ToolCall)
    assert isinstance(events[-1], Done)
    check(dialect, events[-1].reply)
    whole = dialect.codec.decode_reply(json.dumps(dialect.whole).encode(), ASKED, LIMITS)
    assert events[-1].reply.message == whole.message


@each
@settings(max_examples=tries(30), deadline=None)
@given(cuts=st.lists(st.integers(0, 4000), max_size=30))
def test_any_slicing_gives_the_same_events(dialect: Dialect, cuts: list[int]) -> None:
    assert join_deltas(read(dialect, cuts)) == join_deltas(read(dialect))


@each
def test_a_stream_that_is_cut_is_broken_and_keeps_what_had_come(dialect: Dialect) -> None:
    needed = (
        dialect.stream.rstrip()
        if dialect.name != "chat"
        else dialect.stream[: dialect.stream.index(b'"finish_reason": "tool_calls"') + 31]
    )
    for length in range(0, len(needed) - 1, 7):
        with pytest.raises(md.MajordomoError) as caught:
            read(dialect, stream=dialect.stream[:length])
        if b"Gr\\u00fc" in dialect.stream[:length].replace("ü".encode(), b"\\u00fc") and isinstance(
            caught.value, md.StreamBrokenError
        ):
            assert "Grüße 🦊".startswith(caught.value.partial.text)


@each
@pytest.mark.parametrize("size", [1, 13, 10**6])
def test_what_came_before_an_error_is_told_however_it_was_sliced(
    dialect: Dialect, size: int
) -> None:
    decoder = dialect.codec.stream_decoder(ASKED, LIMITS)
    told: list[llm.ChatEvent] = []
    with pytest.raises(md.StreamBrokenError) as caught:
        for at in range(0, len(dialect.failing), size):
            told += decoder.feed(dialect.failing[at : at + size])
        decoder.finish()
    assert (
        "".join(event.text for event in told if isinstance(event, llm.TextDelta))
        == caught.value.partial.text
        == "Grüße 🦊"
    )


@each
def test_an_error_in_mid_stream_keeps_its_words_and_the_prefix(dialect: Dialect) -> None:
    with pytest.raises(md.StreamBrokenError, match="too busy") as caught:
        read(dialect, stream=dialect.failing)
    assert caught.value.partial.text == "Grüße 🦊"


def sent(http_request: HTTPRequest) -> Any:
    return json.loads(
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


@each
def test_thoughts_go_back_to_whom_they_came_from_and_to_nobody_else(dialect: Dialect) -> None:
    reply = dialect.codec.decode_reply(json.dumps(dialect.whole).encode(), ASKED, LIMITS)
    history = (md.user("hi"), reply.message, md.tool_result(reply.tool_calls[0], "drawn"))
    thought = next(part for part in reply.message.parts if isinstance(part, ThinkingPart))
    assert {key: thought.opaque.get(key) for key in dialect.keeps} == dialect.keeps
    for other in DIALECTS:
        body = json.dumps(sent(other.codec.encode_request("gemini-3-pro", Request(history))[0]))
        secret = next(iter(dialect.keeps.values()), "a fox" if dialect.name == "ollama" else "c2ln")
        if other.name == dialect.name and dialect.name != "chat":
            assert secret in body
        elif other.name != dialect.name and secret != "c2ln":
            assert secret not in body
            assert "a fox" not in body


@each
def test_any_history_is_a_request(dialect: Dialect, image: Callable[..., md.ImagePart]) -> None:
    """Calls that share an id, ids that no other backend takes, images everywhere, thoughts of strangers, a beginning in the middle."""
    one, two = image(), image(color="red")
    calls = [md.ToolCallPart("a:b/c", "draw", '{"x":1}'), md.ToolCallPart("a:b/c", "draw", "")]
    history = (
        md.system("be brief"),
        llm.assistant(
            ThinkingPart("private", "elsewhere", {"signature": "s3cret"}), "sure", *calls
        ),
        md.tool_result(calls[0], "one", one),
        md.tool_result(calls[1], "no colors", is_error=True),
        llm.assistant("here", two),
        md.user("thanks", one),
    )
    wire, warnings = dialect.codec.encode_request("gemini-3-pro", Request(history))
    changed = ["HISTORY_CHANGED"] if dialect.name in ("anthropic", "gemini") else []
    assert [warning.code for warning in warnings] == changed
    text = json.dumps(sent(wire), ensure_ascii=False)
    assert "s3cret" not in text
    assert "private" not in text
    assert text.count(base64.b64encode(one.data).decode()) == 2
    assert text.count(base64.b64encode(two.data).decode()) == 1
    assert all(words in text for words in ("be brief", "sure", "here", "thanks", "no colors"))
    if dialect.name == "anthropic":
        turns = sent(wire)["messages"]
        assert [turn["role"] for turn in turns] == [
            "user",
            "assistant",
            "user",
            "assistant",
            "user",
        ]
        made = [block["id"] for block in turns[1]["content"] if block["type"] == "tool_use"]
        assert len(set(made)) == 2
        assert [block["tool_use_id"] for block in turns[2]["content"]] == made
    if dialect.name == "gemini":
        signed = [
            part.get("thoughtSignature")
            for turn in sent(wire)["contents"]
            for part in turn["parts"]
            if "functionCall" in part
        ]
        assert signed == [SENTINEL, None]


class Mood(BaseModel):
    word: str
    score: int


@each
def test_every_field_finds_its_place(dialect: Dialect) -> None:
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
    wire, warnings = dialect.codec.encode_request(
        "gemini-3-pro" if dialect.name == "gemini" else "m", request
    )
    body = sent(wire)
    expected: dict[str, list[str]] = {
        "anthropic": ["temperature", "top_p"],  # a model that thinks takes none
        "ollama": [],
        "gemini": [],
        "responses": ["stop"],
        "chat": [],
    }
    assert sorted(warning.field or "" for warning in warnings) == expected[dialect.name]
    found = json.dumps(body)
    assert '"score"' in found
    assert '"draw"' in found
    assert "70" in found
    assert "low" in found.lower()


def test_anthropic_thinks_by_the_word_or_by_the_number_as_the_model_takes_it() -> None:
    def asked(model: str, **fields: Any) -> Any:
        wire, warnings = AnthropicMessagesCodec().encode_request(
            model, Request((md.user("hi"),), **fields)
        )
        body = sent(wire)
        return (
            body.get("thinking"),
            body.get("output_config"),
            body["max_tokens"],
            [w.field for w in warnings],
        )

    assert asked("claude-sonnet-4-5-20250929", reasoning="low") == (
        {"type": "enabled", "budget_tokens": 2048},
        None,
        6144,
        [],
    )
    assert asked("claude-3-7-sonnet", reasoning=5000) == (
        {"type": "enabled", "budget_tokens": 5000},
        None,
        9096,
        [],
    )
    assert asked("claude-opus-4-6", reasoning="high") == (
        {"type": "adaptive"},
        {"effort": "high"},
        4096,
        [],
    )
    assert asked("claude-opus-5", reasoning=5000) == (
        {"type": "adaptive"},
        None,
        4096,
        ["reasoning"],
    )
    assert asked("claude-opus-5", reasoning="off") == ({"type": "disabled"}, None, 4096, [])


def test_anthropic_version_without_sampling_warns() -> None:
    wire, warnings = AnthropicMessagesCodec(version="2026-10-21").encode_request(
        "m", Request((md.user("hi"),), temperature=0.5, top_k=3)
    )
    assert [warning.field for warning in warnings] == ["temperature", "top_k"]
    assert "temperature" not in sent(wire)


def test_gemini_gives_results_as_objects_and_images_where_the_model_takes_them(
    image: Callable[..., md.ImagePart],
) -> None:
    call = md.ToolCallPart("a", "draw", "{}")
    history = (md.user("hi"), llm.assistant(call), md.tool_result(call, '{"ok": true}', image()))
    three, two = (
        sent(GeminiChatCodec(m).encode_request(m, Request(history))[0])["contents"][-1]["parts"]
        for m in ("gemini-3-pro", "gemini-2.5-flash")
    )
    assert three[0]["functionResponse"]["response"] == {"ok": True}
    assert [len(three), len(three[0]["functionResponse"]["parts"])] == [1, 1]
    assert "parts" not in two[0]["functionResponse"]
    assert "inlineData" in two[1]


def test_gemini_signatures_of_another_model_stay_here() -> None:
    whole = next(d for d in DIALECTS if d.name == "gemini").whole
    reply = GeminiChatCodec("gemini-3-pro").decode_reply(json.dumps(whole).encode(), ASKED, LIMITS)
    history = (md.user("hi"), reply.message, md.tool_result(reply.tool_calls[0], "ok"))
    body = json.dumps(
        sent(
            GeminiChatCodec("gemini-3.1-flash").encode_request(
                "gemini-3.1-flash", Request(history)
            )[0]
        )
    )
    assert "c2ln" not in body.replace(SENTINEL, "")
    assert SENTINEL in body


def test_gemini_a_blocked_prompt_is_a_refusal() -> None:
    with pytest.raises(md.ContentRefusedError, match="SAFETY"):
        GeminiChatCodec("m").decode_reply(
            b'{"promptFeedback":{"blockReason":"SAFETY"}}', ASKED, LIMITS
        )


def test_gemini_a_drawn_image_comes_out_and_its_draft_does_not(
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
    reply = GeminiChatCodec("m-image").decode_reply(body, ASKED, LIMITS)
    assert reply.images == (final,)
    again = sent(
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


def test_responses_draw_with_the_hosted_tool(image: Callable[..., md.ImagePart]) -> None:
    request = Request((md.user("draw"),), extra={"tools": [{"type": "image_generation"}]})
    codec = OpenAIResponsesCodec()
    assert sent(codec.encode_request("m", request)[0])["tools"] == [{"type": "image_generation"}]
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


def test_responses_leave_out_a_thought_that_nothing_followed() -> None:
    lonely = llm.assistant(ThinkingPart("hm", "openai", {"encrypted_content": "enc"}))
    items = sent(
        OpenAIResponsesCodec().encode_request(
            "m", Request((md.user("hi"), lonely, md.user("well?")))
        )[0]
    )["input"]
    assert [item.get("type", item.get("role")) for item in items] == ["user", "user"]


def test_ollama_offers_no_tool_where_none_is_wanted_and_says_what_it_cannot_force() -> None:
    tool = md.Tool("draw")
    wire, warnings = OllamaChatCodec().encode_request(
        "m", Request((md.user("hi"),), tools=(tool,), tool_choice="none")
    )
    assert "tools" not in sent(wire)
    assert warnings == []
    _, warnings = OllamaChatCodec().encode_request(
        "m", Request((md.user("hi"),), tools=(tool,), tool_choice="draw")
    )
    assert [warning.field for warning in warnings] == ["tool_choice"]
