"""Gemini's streamed tool call arguments: fragments that form one JSON object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo import llm
from majordomo.dialects.gemini.chat import GeminiChatCodec
from majordomo.dialects.gemini.partial_arguments import PartialArguments
from majordomo.llm import Done, ToolCall, ToolCallDelta, ToolCallStarted
from tests.support.chat_dialects import data_events, decode_chunks

REQUEST = llm.Request((md.user("hi"),))
Json = dict[str, Any]


def chunk(*calls: Json, finish: str | None = None, **part: Any) -> Json:
    parts = [{"functionCall": call} | part for call in calls]
    return {
        "candidates": [
            {
                "content": {"role": "model", "parts": parts},
                **({"finishReason": finish} if finish else {}),
            }
        ]
    }


def fragment(path: str, will_continue: bool = False, **value: Any) -> Json:
    return {"jsonPath": path, **value, **({"willContinue": True} if will_continue else {})}


def continued(*fragments: Json) -> Json:
    return {"partialArgs": list(fragments), "willContinue": True}


STREAM = data_events(
    chunk({"name": "draw", "willContinue": True}, thoughtSignature="c2ln"),
    chunk(continued(fragment("$.what", True, stringValue='a "red"\nf'))),
    chunk(continued(fragment("$.what", True, stringValue="öx 🦊"))),
    chunk(continued(fragment("$.what", stringValue=""))),
    chunk(
        continued(
            fragment("$.size.width", numberValue=512), fragment("$.size.sharp", boolValue=False)
        )
    ),
    chunk(
        continued(
            fragment("$.colors[0].name", stringValue="red"),
            fragment("$.colors[0].share", numberValue=0.5),
        )
    ),
    chunk(continued(fragment("$.colors[1].name", True, stringValue="blue"))),
    chunk(continued(fragment("$['a key']", nullValue="NULL_VALUE"))),
    chunk({}),
    chunk({"name": "look", "willContinue": True}, {}),
    chunk({"name": "whole", "args": {"x": 1}}, finish="STOP"),
    end="\r\n\r\n",
)
DRAW_ARGUMENTS = {
    "what": 'a "red"\nföx 🦊',
    "size": {"width": 512, "sharp": False},
    "colors": [{"name": "red", "share": 0.5}, {"name": "blue"}],
    "a key": None,
}


def decode_stream(stream: bytes, chunk_size: int) -> tuple[list[Any], md.Reply]:
    decoder = GeminiChatCodec("gemini-3-pro").stream_decoder(REQUEST, md.Limits())
    events = [
        event
        for start in range(0, len(stream), chunk_size)
        for event in decoder.feed(stream[start : start + chunk_size])
    ]
    return [*events, *decoder.finish()], decoder.reply


@pytest.mark.parametrize("chunk_size", [1, 3, 64, 10_000])
def test_fragments_form_one_call_for_any_chunk_size(chunk_size: int) -> None:
    events, _ = decode_stream(STREAM, chunk_size)
    assert isinstance(events[-1], Done)
    reply = events[-1].reply
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        ("draw", DRAW_ARGUMENTS),
        ("look", {}),
        ("whole", {"x": 1}),
    ]
    assert reply.finish_reason == "tool_calls"
    kinds = [
        type(event)
        for event in events
        if not (isinstance(event, ToolCallDelta) and event.index == 0)
    ]
    assert kinds == [
        ToolCallStarted,
        ToolCall,
        ToolCallStarted,
        ToolCall,
        ToolCallStarted,
        ToolCallDelta,
        ToolCall,
        Done,
    ]
    fragments = [
        event.arguments_json
        for event in events
        if isinstance(event, ToolCallDelta) and event.index == 0
    ]
    assert len(fragments) > 5
    assert json.loads("".join(fragments)) == DRAW_ARGUMENTS


def test_the_signature_is_sent_back_on_the_call() -> None:
    events, _ = decode_stream(STREAM, 50)
    http_request, _ = GeminiChatCodec("gemini-3-pro").encode_request(
        "gemini-3-pro", llm.Request((md.user("hi"), events[-1].reply.message))
    )
    assert isinstance(http_request.body, bytes)
    call_part = json.loads(http_request.body)["contents"][1]["parts"][0]
    assert (call_part["thoughtSignature"], call_part["functionCall"]["args"]) == (
        "c2ln",
        DRAW_ARGUMENTS,
    )


def test_a_signature_on_an_empty_text_part_is_sent_back_on_an_empty_text_part() -> None:
    parts = [{"text": "Hello"}, {"text": "", "thoughtSignature": "c2ln"}]
    body = {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}
    codec = GeminiChatCodec("gemini-3-pro")
    reply = codec.decode_reply(json.dumps(body).encode(), REQUEST, md.Limits())
    history = llm.Request((md.user("hi"), reply.message, md.user("again")))
    http_request, _ = codec.encode_request("gemini-3-pro", history)
    assert isinstance(http_request.body, bytes)
    assert json.loads(http_request.body)["contents"][1] == {"role": "model", "parts": parts}


def test_an_unfinished_call_keeps_incomplete_json() -> None:
    stream = data_events(
        chunk({"name": "draw", "willContinue": True}),
        chunk(continued(fragment("$.what", True, stringValue="a fo"))),
    )
    decoder = GeminiChatCodec("gemini-3-pro").stream_decoder(REQUEST, md.Limits())
    decoder.feed(stream)
    with pytest.raises(md.StreamBrokenError) as caught:
        decoder.finish()
    assert caught.value.partial.tool_calls[0].arguments_json == '{"what":"a fo'


INVALID_FRAGMENTS: dict[str, list[Json]] = {
    "no path": [{"stringValue": "x"}],
    "the root": [fragment("$", stringValue="x")],
    "a list at the root": [fragment("$[0]", stringValue="x")],
    "an incomplete path": [fragment("$.a[", stringValue="x")],
    "a repeated path": [fragment("$.a", stringValue="x"), fragment("$.a", stringValue="y")],
    "a path into a closed object": [
        fragment("$.a.b", numberValue=1),
        fragment("$.c", numberValue=1),
        fragment("$.a.d", numberValue=1),
    ],
    "a gap in a list": [fragment("$.a[1]", numberValue=1)],
    "an index into an object": [
        fragment("$.a.b", numberValue=1),
        fragment("$.a[0]", numberValue=1),
    ],
    "a number as a string": [fragment("$.a", numberValue="7")],
    "a boolean as a number": [fragment("$.a", boolValue=1)],
    "a path that is too deep": [fragment("$" + ".a" * 65, numberValue=1)],
}


@pytest.mark.parametrize("fragments", INVALID_FRAGMENTS.values(), ids=INVALID_FRAGMENTS.keys())
def test_invalid_fragments_raise_bad_response_error(fragments: list[Json]) -> None:
    arguments = PartialArguments(64)
    with pytest.raises(md.BadResponseError):
        for item in fragments:
            arguments.feed(item)
    decoder = GeminiChatCodec("gemini-3-pro").stream_decoder(REQUEST, md.Limits())
    with pytest.raises(md.StreamBrokenError) as caught:
        decode_chunks(
            decoder,
            data_events(
                chunk({"name": "draw", "willContinue": True}), chunk(continued(*fragments))
            ),
        )
    assert caught.value.partial.tool_calls[0].name == "draw"


def fragments_of(value: Any, path: str = "$") -> list[Json]:
    """Return the fragments that a server would send for this value, each string in two."""
    if isinstance(value, dict):
        return [
            child for key, item in value.items() for child in fragments_of(item, f"{path}.{key}")
        ]
    if isinstance(value, list):
        return [
            child
            for index, item in enumerate(value)
            for child in fragments_of(item, f"{path}[{index}]")
        ]
    if isinstance(value, str):
        return [fragment(path, True, stringValue=value[:2]), fragment(path, stringValue=value[2:])]
    name = (
        "nullValue" if value is None else "boolValue" if isinstance(value, bool) else "numberValue"
    )
    return [fragment(path, **{name: value})]


KEYS = st.text("abcäß_1", min_size=1, max_size=4)
LEAVES = st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(KEYS, inner, min_size=1, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_any_object_survives_fragmentation(value: Json) -> None:
    arguments = PartialArguments(64)
    json_text = "".join(arguments.feed(item) for item in fragments_of(value)) + arguments.close()
    assert json.loads(json_text) == value
