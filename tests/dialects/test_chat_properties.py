"""Properties of every chat dialect, for any conversation and any bytes.

Conversations survive encoding, no field is lost silently, and no bytes break a decoder.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo import llm
from majordomo.llm import Done, Message, Request, TextDelta, ThinkingDelta
from majordomo.llm.request import check_request
from majordomo.transport_types import HTTPRequest
from tests.support.chat_dialects import DIALECTS, Dialect, join_deltas
from tests.support.sample_images import gradient, part

LIMITS = md.Limits()
REQUEST = Request((md.user("hi"),))
IMAGES = [part(gradient(2, 2)), part(gradient(3, 2))]
# The other dialects accept any model name.
MODEL = "gemini-3-pro"
MAX_MEMORY_BYTES = 32 << 20
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)

# Round trip

# ("system", text), ("user", text, images), ("assistant", text, calls),
# ("result", number of its call, text)
Turn = tuple[Any, ...]
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
).filter(str.strip)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3
        )
    ),
    max_leaves=6,
)
# The name of the tool, its arguments, and its result.
CALLS = st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), TEXT)
TURNS = st.tuples(
    TEXT, st.lists(st.sampled_from([0, 1]), max_size=2), st.lists(CALLS, max_size=3), TEXT
)


@st.composite
def conversations(draw: Any) -> tuple[list[Message], list[Turn]]:
    """Draw a history such as a program keeps, and its contents as turns.

    It ends with a user message, so that no backend requires a change.
    """
    history: list[Message] = []
    turns: list[Turn] = []
    if instructions := draw(st.none() | TEXT):
        history.append(md.system(instructions))
        turns.append(("system", instructions))
    number = 0
    for question, image_indexes, calls, answer in draw(st.lists(TURNS, max_size=3)):
        images = [IMAGES[index] for index in image_indexes]
        history.append(md.user(question, *images))
        turns.append(("user", question, [image.to_base64() for image in images]))
        if calls:
            call_parts = [
                md.ToolCallPart(f"id{number + index}", name, json.dumps(arguments))
                for index, (name, arguments, _) in enumerate(calls)
            ]
            history.append(llm.assistant(*call_parts))
            turns.append(("assistant", "", [(name, arguments) for name, arguments, _ in calls]))
            for call, (_, _, result) in zip(call_parts, calls, strict=True):
                history.append(md.tool_result(call, result))
                turns.append(("result", number, result))
                number += 1
        history.append(llm.assistant(answer))
        turns.append(("assistant", answer, []))
    last = draw(TEXT)
    return [*history, md.user(last)], [*turns, ("user", last, [])]


def body_of(http_request: HTTPRequest) -> Any:
    return json.loads(
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


def _base64_of_url(url: str) -> str:
    return url.partition(";base64,")[2]


def _texts(content: Any, kinds: tuple[str, ...] = ("text", "input_text", "output_text")) -> str:
    return (
        content
        if isinstance(content, str)
        else "".join(block["text"] for block in content if block["type"] in kinds)
    )


def read_anthropic(body: Any) -> list[Turn]:
    turns: list[Turn] = [("system", _texts(body["system"]))] if "system" in body else []
    ids: list[str] = []
    for turn in body["messages"]:
        blocks = turn["content"]
        calls = [block for block in blocks if block["type"] == "tool_use"]
        for block in blocks:
            if block["type"] == "tool_result":
                turns.append(("result", ids.index(block["tool_use_id"]), _texts(block["content"])))
        ids += [call["id"] for call in calls]
        if turn["role"] == "assistant":
            turns.append(
                ("assistant", _texts(blocks), [(call["name"], call["input"]) for call in calls])
            )
        elif text := _texts(blocks):
            turns.append(
                (
                    "user",
                    text,
                    [block["source"]["data"] for block in blocks if block["type"] == "image"],
                )
            )
    return turns


def read_ollama(body: Any) -> list[Turn]:
    turns: list[Turn] = []
    ids: list[str] = []
    for turn in body["messages"]:
        calls = turn.get("tool_calls", [])
        ids += [call["id"] for call in calls]
        if turn["role"] == "tool":
            turns.append(("result", ids.index(turn["tool_call_id"]), turn["content"]))
        elif turn["role"] == "assistant":
            turns.append(
                (
                    "assistant",
                    turn["content"],
                    [(call["function"]["name"], call["function"]["arguments"]) for call in calls],
                )
            )
        else:
            turns.append(
                (turn["role"], turn["content"], turn.get("images", []))
                if turn["role"] == "user"
                else ("system", turn["content"])
            )
    return turns


def read_gemini(body: Any) -> list[Turn]:
    turns: list[Turn] = [
        ("system", part["text"]) for part in body.get("systemInstruction", {"parts": []})["parts"]
    ]
    ids: list[str] = []
    for turn in body["contents"]:
        text = "".join(part.get("text", "") for part in turn["parts"])
        calls = [part["functionCall"] for part in turn["parts"] if "functionCall" in part]
        ids += [call["id"] for call in calls]
        for part_ in turn["parts"]:
            if "functionResponse" in part_:
                function_response = part_["functionResponse"]
                response = function_response["response"]
                # A result that is a JSON object is sent as an object.
                result = (
                    response["result"] if list(response) == ["result"] else json.dumps(response)
                )
                turns.append(("result", ids.index(function_response["id"]), result))
        if turn["role"] == "model":
            turns.append(("assistant", text, [(call["name"], call["args"]) for call in calls]))
        elif text:
            turns.append(
                (
                    "user",
                    text,
                    [part["inlineData"]["data"] for part in turn["parts"] if "inlineData" in part],
                )
            )
    return turns


def read_responses(body: Any) -> list[Turn]:
    turns: list[Turn] = []
    ids: list[str] = []
    for item in body["input"]:
        if item.get("type") == "function_call":
            call = (item["name"], json.loads(item["arguments"]))
            if turns[-1][0] == "assistant" and turns[-1][2] and not turns[-1][1]:
                turns[-1][2].append(call)
            else:
                turns.append(("assistant", "", [call]))
            ids.append(item["call_id"])
        elif item.get("type") == "function_call_output":
            turns.append(("result", ids.index(item["call_id"]), _texts(item["output"])))
        elif item.get("type") == "reasoning":
            continue
        elif item["role"] == "user":
            images = (
                []
                if isinstance(item["content"], str)
                else [
                    _base64_of_url(b["image_url"])
                    for b in item["content"]
                    if b["type"] == "input_image"
                ]
            )
            turns.append(("user", _texts(item["content"]), images))
        else:
            turns.append(
                (
                    item["role"],
                    _texts(item["content"]),
                    *([[]] if item["role"] == "assistant" else []),
                )
            )
    return turns


def read_chat(body: Any) -> list[Turn]:
    turns: list[Turn] = []
    ids: list[str] = []
    for turn in body["messages"]:
        content = turn.get("content") or ""
        calls = turn.get("tool_calls", [])
        ids += [call["id"] for call in calls]
        if turn["role"] == "tool":
            turns.append(("result", ids.index(turn["tool_call_id"]), content))
        elif turn["role"] == "assistant":
            turns.append(
                (
                    "assistant",
                    content,
                    [
                        (c["function"]["name"], json.loads(c["function"]["arguments"]))
                        for c in calls
                    ],
                )
            )
        elif turn["role"] == "user":
            images = (
                []
                if isinstance(content, str)
                else [
                    _base64_of_url(b["image_url"]["url"])
                    for b in content
                    if b["type"] == "image_url"
                ]
            )
            turns.append(("user", _texts(content), images))
        else:
            turns.append(("system", _texts(content)))
    return turns


READERS: dict[str, Callable[[Any], list[Turn]]] = {
    "anthropic": read_anthropic,
    "ollama": read_ollama,
    "gemini": read_gemini,
    "responses": read_responses,
    "chat": read_chat,
}


@each_dialect
@settings(max_examples=12, deadline=None)
@given(conversations())
def test_a_conversation_survives_encoding(
    dialect: Dialect, conversation: tuple[list[Message], list[Turn]]
) -> None:
    history, turns = conversation
    check_request(Request(tuple(history)), LIMITS)
    http_request, warnings = dialect.codec.encode_request(MODEL, Request(tuple(history)))
    assert warnings == []
    assert READERS[dialect.name](body_of(http_request)) == turns


@each_dialect
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), min_size=1, max_size=3)
)
def test_tool_calls_are_sent_back_unchanged(
    dialect: Dialect, expected_calls: list[tuple[str, dict[str, Any]]]
) -> None:
    """Decode a response, save and load the message, send it again: the calls are the same."""
    reply = dialect.codec.decode_reply(
        json.dumps(_response_with_calls(dialect, expected_calls)).encode(), REQUEST, LIMITS
    )
    assert [(call.name, call.arguments) for call in reply.tool_calls] == expected_calls
    (message,) = llm.load_messages(llm.dump_messages([reply.message]))
    results = [md.tool_result(call, "ok") for call in reply.tool_calls]
    body = body_of(
        dialect.codec.encode_request(MODEL, Request((md.user("hi"), message, *results)))[0]
    )
    assert [
        call for turn in READERS[dialect.name](body) if turn[0] == "assistant" for call in turn[2]
    ] == expected_calls


def _response_with_calls(
    dialect: Dialect, calls: list[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Return the complete response of the dialect with these calls instead of its own."""
    response = json.loads(json.dumps(dialect.complete_response))
    if dialect.name == "anthropic":
        response["content"][2:] = [
            {"type": "tool_use", "id": f"c{n}", "name": name, "input": arguments}
            for n, (name, arguments) in enumerate(calls)
        ]
    elif dialect.name == "ollama":
        response["message"]["tool_calls"] = [
            {"id": f"c{n}", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(calls)
        ]
    elif dialect.name == "gemini":
        parts = response["candidates"][0]["content"]["parts"]
        parts[2:] = [
            {"functionCall": {"name": name, "args": arguments}} for name, arguments in calls
        ]
    elif dialect.name == "responses":
        call = response["output"][2]
        response["output"][2:] = [
            call | {"call_id": f"c{n}", "name": name, "arguments": json.dumps(arguments)}
            for n, (name, arguments) in enumerate(calls)
        ]
    else:
        response["choices"][0]["message"]["tool_calls"] = [
            {
                "id": f"c{n}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for n, (name, arguments) in enumerate(calls)
        ]
    return response


@each_dialect
@settings(max_examples=20, deadline=None)
@given(st.text(max_size=20) | VALUES.map(json.dumps))
@example('{"what": "fo')
@example('{"a": NaN}')
@example('{"a": 1e999}')
@example('{"a": "\\ud800"}')
@example('["a"]')
@example("")
def test_a_history_may_hold_calls_with_any_arguments(dialect: Dialect, arguments: str) -> None:
    """Models do write invalid JSON: their text is sent back to them, marked as invalid."""
    call = md.ToolCallPart("c1", "draw", arguments)
    request = Request(
        (md.user("hi"), llm.assistant(call), md.tool_result(call, "that is no JSON", is_error=True))
    )
    try:
        check_request(request, LIMITS)
    except md.InvalidRequestError as error:
        assert error.field == "messages"
        return
    body = body_of(dialect.codec.encode_request(MODEL, request)[0])
    if dialect.name in ("chat", "responses"):
        assert arguments in json.dumps(body, ensure_ascii=False) or json.dumps(
            arguments
        ) in json.dumps(body)
        return
    calls = next(turn for turn in READERS[dialect.name](body) if turn[0] == "assistant")[2]
    ((_, sent_arguments),) = calls
    assert sent_arguments == {"INVALID_JSON": arguments} or sent_arguments == (
        json.loads(arguments) if arguments.strip() else {}
    )


# No field is lost silently

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2)
    .map(lambda value: round(value, 3) + 0.0001)
    .filter(lambda value: value <= 2),
    "top_p": st.floats(0.01, 1).map(lambda value: round(value, 4)),
    "top_k": st.integers(10_001, 20_000),
    "max_tokens": st.integers(30_001, 40_000),
    "stop": st.lists(
        st.from_regex(r"STOP[A-Z]{3}", fullmatch=True), min_size=1, max_size=3, unique=True
    ).map(tuple),
    "seed": st.integers(50_001, 60_000),
    "reasoning": st.sampled_from(["off", "low", "medium", "high"]) | st.integers(2001, 3000),
}


@each_dialect
@settings(max_examples=20, deadline=None)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_every_set_field_is_sent_or_gives_a_warning(
    dialect: Dialect, fields: dict[str, Any]
) -> None:
    request = Request((md.user("hi"),), **fields)
    check_request(request, LIMITS)
    http_request, warnings = dialect.codec.encode_request(MODEL, request)
    body = body_of(http_request)
    plain = body_of(dialect.codec.encode_request(MODEL, Request((md.user("hi"),)))[0])
    warned = {warning.field for warning in warnings}
    leaves = _leaves(body)
    for name, value in fields.items():
        if name in warned:
            continue
        expected = value if isinstance(value, tuple) else (value,)
        if name == "reasoning" and isinstance(value, str):
            assert body != plain
        else:
            assert all(item in leaves for item in expected), name


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (dict, list)):
        return [
            leaf
            for item in (value.values() if isinstance(value, dict) else value)
            for leaf in _leaves(item)
        ]
    return [value]


MISPLACED: dict[str, Message] = {
    "a result in a user message": Message("user", (md.ToolResultPart("c1", "draw", ()),)),
    "a call in a user message": Message("user", (md.ToolCallPart("c1", "draw"),)),
    "text in a tool message": Message("tool", (llm.TextPart("x"),)),
}


@each_dialect
@settings(max_examples=8, deadline=None)
@given(conversations(), st.sampled_from(sorted(MISPLACED)), st.integers(0, 20))
def test_misplaced_parts_raise_before_anything_is_sent(
    dialect: Dialect, conversation: tuple[list[Message], list[Turn]], kind: str, index: int
) -> None:
    history = list(conversation[0])
    history.insert(index % (len(history) + 1), MISPLACED[kind])
    with pytest.raises(md.InvalidRequestError) as caught:
        dialect.codec.encode_request(MODEL, Request(tuple(history)))
    assert caught.value.field == "messages"


@each_dialect
@settings(max_examples=10, deadline=None)
@given(
    st.recursive(
        st.sampled_from([float("nan"), float("inf"), "\ud800", object()]),
        lambda inner: st.lists(inner, min_size=1, max_size=2),
    )
)
def test_values_that_json_cannot_express_raise_with_their_field(
    dialect: Dialect, value: Any
) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        dialect.codec.encode_request(MODEL, Request((md.user("hi"),), extra={"x": value}))
    assert caught.value.field == "extra"


# Truncated and changed bytes


def feed_all(
    dialect: Dialect, chunks: list[bytes]
) -> tuple[list[llm.ChatEvent], llm.Reply, md.MajordomoError | None]:
    """Return the events, the reply so far, and the error of a stream in these chunks."""
    decoder = dialect.codec.stream_decoder(REQUEST, LIMITS)
    events: list[llm.ChatEvent] = []
    try:
        for chunk in chunks:
            events += decoder.feed(chunk)
        events += decoder.finish()
    except md.MajordomoError as error:
        return events, decoder.reply, error
    return events, decoder.reply, decoder.failure


def equivalent_streams(dialect: Dialect) -> list[bytes]:
    """Return the stream in every legal form.

    The forms differ in line ends, comments, unknown fields, and whether the last line ends.
    """
    stream = dialect.stream.replace(b"\r\n", b"\n")
    forms = [stream, stream.replace(b"\n", b"\r\n"), stream.rstrip(b"\n")]
    if dialect.name != "ollama":
        forms += [
            stream.replace(b"\n", b"\r"),
            stream.replace(b"\n\n", b"\n\n: still here\nid: 7\nretry: 5\nx-unknown: y\n\n"),
            stream.replace(b"data: ", b"data:"),
            # "one leading U+FEFF BYTE ORDER MARK character must be ignored" (HTML standard)
            b"\xef\xbb\xbf" + stream,
        ]
    return forms


@each_dialect
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_split_with_any_line_ends_gives_the_same_events(
    dialect: Dialect, data: st.DataObject
) -> None:
    expected = join_deltas(feed_all(dialect, [dialect.stream])[0])
    stream = data.draw(st.sampled_from(equivalent_streams(dialect)))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    edges = [0, *sorted(cuts), len(stream)]
    events, _, error = feed_all(
        dialect, [stream[begin:end] for begin, end in pairwise(edges) if end > begin]
    )
    assert error is None
    assert join_deltas(events) == expected


@each_dialect
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_any_truncation_gives_the_complete_reply_or_an_error_with_the_exact_prefix(
    dialect: Dialect, step: int
) -> None:
    """The emitted text, that of `partial` and that of the reply are the same prefix."""
    complete, _, _ = feed_all(dialect, [dialect.stream])
    done = complete[-1]
    assert isinstance(done, Done)
    for length in (
        *range(0, len(dialect.stream), step),
        *range(len(dialect.stream) - 20, len(dialect.stream) + 1),
    ):
        events, reply, error = feed_all(dialect, [dialect.stream[:length]])
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        thinking = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
        assert done.reply.text.startswith(text)
        assert done.reply.thinking.startswith(thinking)
        if error is None:
            last = events[-1]
            assert isinstance(last, Done)
            assert last.reply.message == done.reply.message
            continue
        assert (reply.text, reply.thinking) == (text, thinking)
        if isinstance(error, md.StreamBrokenError):
            assert (error.partial.text, error.partial.thinking) == (text, thinking)
        else:
            assert not text
            assert isinstance(error, md.BadResponseError)


@each_dialect
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_byte_change_gives_a_reply_or_a_typed_error_in_bounded_memory(
    dialect: Dialect, data: st.DataObject
) -> None:
    stream = bytearray(
        data.draw(
            st.sampled_from(
                [dialect.stream, dialect.failing, json.dumps(dialect.complete_response).encode()]
            )
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream)))
        stream[at : at + data.draw(st.integers(0, 9))] = data.draw(
            st.binary(max_size=6)
            | st.sampled_from(
                [
                    b"[" * 300,
                    b"9" * 5000,
                    b"\\ud800",
                    b"\xff\xfe",
                    b"\x00",
                    b'"',
                    b"}{",
                    b"\r",
                    b"1e999",
                ]
            )
        )
    tracemalloc.start()
    try:
        for decode in (
            lambda: feed_all(dialect, [bytes(stream)])[2],
            lambda: dialect.codec.decode_reply(bytes(stream), REQUEST, LIMITS),
        ):
            try:
                error = decode()
            except md.MajordomoError as raised:
                error = raised
            if isinstance(error, md.MajordomoError):
                assert not isinstance(error, (md.InvalidRequestError, md.ConfigurationError))
                assert str(error).isprintable()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY_BYTES
