"""Gemini's calls whose arguments are streamed: whatever the slicing, pieces of one JSON object."""

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
from tests.support.chat_dialects import data, decoded

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


def piece(path: str, go_on: bool = False, **value: Any) -> Json:
    return {"jsonPath": path, **value, **({"willContinue": True} if go_on else {})}


def going(*pieces: Json) -> Json:
    return {"partialArgs": list(pieces), "willContinue": True}


STREAM = data(
    chunk({"name": "draw", "willContinue": True}, thoughtSignature="c2ln"),
    chunk(going(piece("$.what", True, stringValue='a "red"\nf'))),
    chunk(going(piece("$.what", True, stringValue="öx 🦊"))),
    chunk(going(piece("$.what", stringValue=""))),
    chunk(going(piece("$.size.width", numberValue=512), piece("$.size.sharp", boolValue=False))),
    chunk(
        going(
            piece("$.colors[0].name", stringValue="red"),
            piece("$.colors[0].share", numberValue=0.5),
        )
    ),
    chunk(going(piece("$.colors[1].name", True, stringValue="blue"))),
    chunk(going(piece("$['a key']", nullValue="NULL_VALUE"))),
    chunk({}),
    chunk({"name": "look", "willContinue": True}, {}),
    chunk({"name": "whole", "args": {"x": 1}}, finish="STOP"),
    end="\r\n\r\n",
)
DRAWN = {
    "what": 'a "red"\nföx 🦊',
    "size": {"width": 512, "sharp": False},
    "colors": [{"name": "red", "share": 0.5}, {"name": "blue"}],
    "a key": None,
}


def read(stream: bytes, size: int) -> tuple[list[Any], md.Reply]:
    decoder = GeminiChatCodec("gemini-3-pro").stream_decoder(REQUEST, md.Limits())
    events = [
        event
        for at in range(0, len(stream), size)
        for event in decoder.feed(stream[at : at + size])
    ]
    return [*events, *decoder.finish()], decoder.reply


@pytest.mark.parametrize("size", [1, 3, 64, 10_000])
def test_pieces_become_one_call_however_sliced(size: int) -> None:
    events, _ = read(STREAM, size)
    assert isinstance(events[-1], Done)
    reply = events[-1].reply
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        ("draw", DRAWN),
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
    pieces = [
        event.arguments_json
        for event in events
        if isinstance(event, ToolCallDelta) and event.index == 0
    ]
    assert len(pieces) > 5
    assert json.loads("".join(pieces)) == DRAWN


def test_the_signature_goes_back_on_the_call() -> None:
    events, _ = read(STREAM, 50)
    wire, _ = GeminiChatCodec("gemini-3-pro").encode_request(
        "gemini-3-pro", llm.Request((md.user("hi"), events[-1].reply.message))
    )
    assert isinstance(wire.body, bytes)
    called = json.loads(wire.body)["contents"][1]["parts"][0]
    assert (called["thoughtSignature"], called["functionCall"]["args"]) == ("c2ln", DRAWN)


def test_a_call_that_is_not_closed_does_not_pretend_to_be_whole() -> None:
    stream = data(
        chunk({"name": "draw", "willContinue": True}),
        chunk(going(piece("$.what", True, stringValue="a fo"))),
    )
    decoder = GeminiChatCodec("gemini-3-pro").stream_decoder(REQUEST, md.Limits())
    decoder.feed(stream)
    with pytest.raises(md.StreamBrokenError) as caught:
        decoder.finish()
    assert caught.value.partial.tool_calls[0].arguments_json == '{"what":"a fo'


BAD: dict[str, list[Json]] = {
    "no path": [{"stringValue": "x"}],
    "the root": [piece("$", stringValue="x")],
    "a list at the root": [piece("$[0]", stringValue="x")],
    "half a path": [piece("$.a[", stringValue="x")],
    "twice": [piece("$.a", stringValue="x"), piece("$.a", stringValue="y")],
    "back into what was left": [
        piece("$.a.b", numberValue=1),
        piece("$.c", numberValue=1),
        piece("$.a.d", numberValue=1),
    ],
    "a gap in a list": [piece("$.a[1]", numberValue=1)],
    "an index into an object": [piece("$.a.b", numberValue=1), piece("$.a[0]", numberValue=1)],
    "a number that is a word": [piece("$.a", numberValue="7")],
    "a truth that is a number": [piece("$.a", boolValue=1)],
    "deep": [piece("$" + ".a" * 65, numberValue=1)],
}


@pytest.mark.parametrize("pieces", BAD.values(), ids=BAD.keys())
def test_pieces_that_fit_nowhere_are_a_bad_response(pieces: list[Json]) -> None:
    made = PartialArguments(64)
    with pytest.raises(md.BadResponseError):
        for each in pieces:
            made.feed(each)
    decoder = GeminiChatCodec("gemini-3-pro").stream_decoder(REQUEST, md.Limits())
    with pytest.raises(md.StreamBrokenError) as caught:
        decoded(decoder, data(chunk({"name": "draw", "willContinue": True}), chunk(going(*pieces))))
    assert caught.value.partial.tool_calls[0].name == "draw"


def flat(value: Any, path: str = "$") -> list[Json]:
    """The pieces a server would send for this value, texts in two."""
    if isinstance(value, dict):
        return [made for key, item in value.items() for made in flat(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [made for place, item in enumerate(value) for made in flat(item, f"{path}[{place}]")]
    if isinstance(value, str):
        return [piece(path, True, stringValue=value[:2]), piece(path, stringValue=value[2:])]
    name = (
        "nullValue" if value is None else "boolValue" if isinstance(value, bool) else "numberValue"
    )
    return [piece(path, **{name: value})]


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
def test_any_object_comes_back(value: Json) -> None:
    made = PartialArguments(64)
    assert json.loads("".join(made.feed(each) for each in flat(value)) + made.close()) == value
