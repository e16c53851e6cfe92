"""What holds of every chat dialect whatever is said in it: there and back again, nothing lost in silence, and no bytes that break it."""

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
ASKED = Request((md.user("hi"),))
IMAGES = [part(gradient(2, 2)), part(gradient(3, 2))]
MODEL = "gemini-3-pro"  # which the other dialects take as any name
MOST_MEMORY = 32 << 20
each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)

# There and back again

Said = tuple[
    Any, ...
]  # ("system", text), ("user", text, images), ("assistant", text, calls), ("result", number of its call, text)
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
CALLS = st.tuples(
    NAMES, st.dictionaries(NAMES, VALUES, max_size=3), TEXT
)  # what is called, with what, and what it answers
TURNS = st.tuples(
    TEXT, st.lists(st.sampled_from([0, 1]), max_size=2), st.lists(CALLS, max_size=3), TEXT
)


@st.composite
def conversations(draw: Any) -> tuple[list[Message], list[Said]]:
    """A history such as a program keeps, and the same as plain words. It ends with the user, so that no backend wants it changed."""
    history: list[Message] = []
    said: list[Said] = []
    if instructions := draw(st.none() | TEXT):
        history.append(md.system(instructions))
        said.append(("system", instructions))
    number = 0
    for asked, shown, calls, answer in draw(st.lists(TURNS, max_size=3)):
        history.append(md.user(asked, *(IMAGES[index] for index in shown)))
        said.append(("user", asked, [IMAGES[index].to_base64() for index in shown]))
        if calls:
            made = [
                md.ToolCallPart(f"id{number + place}", name, json.dumps(given))
                for place, (name, given, _) in enumerate(calls)
            ]
            history.append(llm.assistant(*made))
            said.append(("assistant", "", [(name, given) for name, given, _ in calls]))
            for call, (_, _, told) in zip(made, calls, strict=True):
                history.append(md.tool_result(call, told))
                said.append(("result", number, told))
                number += 1
        history.append(llm.assistant(answer))
        said.append(("assistant", answer, []))
    last = draw(TEXT)
    return [*history, md.user(last)], [*said, ("user", last, [])]


def body_of(http_request: HTTPRequest) -> Any:
    return json.loads(
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


def _url(url: str) -> str:
    return url.partition(";base64,")[2]


def _texts(content: Any, kinds: tuple[str, ...] = ("text", "input_text", "output_text")) -> str:
    return (
        content
        if isinstance(content, str)
        else "".join(block["text"] for block in content if block["type"] in kinds)
    )


def read_anthropic(body: Any) -> list[Said]:
    said: list[Said] = [("system", _texts(body["system"]))] if "system" in body else []
    ids: list[str] = []
    for turn in body["messages"]:
        blocks = turn["content"]
        calls = [block for block in blocks if block["type"] == "tool_use"]
        for block in blocks:
            if block["type"] == "tool_result":
                said.append(("result", ids.index(block["tool_use_id"]), _texts(block["content"])))
        ids += [call["id"] for call in calls]
        if turn["role"] == "assistant":
            said.append(
                ("assistant", _texts(blocks), [(call["name"], call["input"]) for call in calls])
            )
        elif text := _texts(blocks):
            said.append(
                (
                    "user",
                    text,
                    [block["source"]["data"] for block in blocks if block["type"] == "image"],
                )
            )
    return said


def read_ollama(body: Any) -> list[Said]:
    said: list[Said] = []
    ids: list[str] = []
    for turn in body["messages"]:
        calls = turn.get("tool_calls", [])
        ids += [call["id"] for call in calls]
        if turn["role"] == "tool":
            said.append(("result", ids.index(turn["tool_call_id"]), turn["content"]))
        elif turn["role"] == "assistant":
            said.append(
                (
                    "assistant",
                    turn["content"],
                    [(call["function"]["name"], call["function"]["arguments"]) for call in calls],
                )
            )
        else:
            said.append(
                (turn["role"], turn["content"], turn.get("images", []))
                if turn["role"] == "user"
                else ("system", turn["content"])
            )
    return said


def read_gemini(body: Any) -> list[Said]:
    said: list[Said] = [
        ("system", part["text"]) for part in body.get("systemInstruction", {"parts": []})["parts"]
    ]
    ids: list[str] = []
    for turn in body["contents"]:
        text = "".join(part.get("text", "") for part in turn["parts"])
        calls = [part["functionCall"] for part in turn["parts"] if "functionCall" in part]
        ids += [call["id"] for call in calls]
        for part_ in turn["parts"]:
            if "functionResponse" in part_:
                answer = part_["functionResponse"]
                response = answer["response"]
                # a tool that answered with a JSON object answers with one here
                told = response["result"] if list(response) == ["result"] else json.dumps(response)
                said.append(("result", ids.index(answer["id"]), told))
        if turn["role"] == "model":
            said.append(("assistant", text, [(call["name"], call["args"]) for call in calls]))
        elif text:
            said.append(
                (
                    "user",
                    text,
                    [part["inlineData"]["data"] for part in turn["parts"] if "inlineData" in part],
                )
            )
    return said


def read_responses(body: Any) -> list[Said]:
    said: list[Said] = []
    ids: list[str] = []
    for item in body["input"]:
        if item.get("type") == "function_call":
            call = (item["name"], json.loads(item["arguments"]))
            if said[-1][0] == "assistant" and said[-1][2] and not said[-1][1]:
                said[-1][2].append(call)
            else:
                said.append(("assistant", "", [call]))
            ids.append(item["call_id"])
        elif item.get("type") == "function_call_output":
            said.append(("result", ids.index(item["call_id"]), _texts(item["output"])))
        elif item.get("type") == "reasoning":
            continue
        elif item["role"] == "user":
            images = (
                []
                if isinstance(item["content"], str)
                else [_url(b["image_url"]) for b in item["content"] if b["type"] == "input_image"]
            )
            said.append(("user", _texts(item["content"]), images))
        else:
            said.append(
                (
                    item["role"],
                    _texts(item["content"]),
                    *([[]] if item["role"] == "assistant" else []),
                )
            )
    return said


def read_chat(body: Any) -> list[Said]:
    said: list[Said] = []
    ids: list[str] = []
    for turn in body["messages"]:
        content = turn.get("content") or ""
        calls = turn.get("tool_calls", [])
        ids += [call["id"] for call in calls]
        if turn["role"] == "tool":
            said.append(("result", ids.index(turn["tool_call_id"]), content))
        elif turn["role"] == "assistant":
            said.append(
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
                else [_url(b["image_url"]["url"]) for b in content if b["type"] == "image_url"]
            )
            said.append(("user", _texts(content), images))
        else:
            said.append(("system", _texts(content)))
    return said


READERS: dict[str, Callable[[Any], list[Said]]] = {
    "anthropic": read_anthropic,
    "ollama": read_ollama,
    "gemini": read_gemini,
    "responses": read_responses,
    "chat": read_chat,
}


@each
@settings(max_examples=12, deadline=None)
@given(conversations())
def test_a_conversation_goes_there_and_back(
    dialect: Dialect, conversation: tuple[list[Message], list[Said]]
) -> None:
    history, said = conversation
    check_request(Request(tuple(history)), LIMITS)
    wire, warnings = dialect.codec.encode_request(MODEL, Request(tuple(history)))
    assert warnings == []
    assert READERS[dialect.name](body_of(wire)) == said


@each
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), min_size=1, max_size=3)
)
def test_what_a_model_called_goes_back_as_it_called_it(
    dialect: Dialect, wanted: list[tuple[str, dict[str, Any]]]
) -> None:
    """A whole answer is decoded, kept as JSON, loaded, and sent again: the calls are the same."""
    reply = dialect.codec.decode_reply(
        json.dumps(_calling(dialect, wanted)).encode(), ASKED, LIMITS
    )
    assert [(call.name, call.arguments) for call in reply.tool_calls] == wanted
    (kept,) = llm.load_messages(llm.dump_messages([reply.message]))
    results = [md.tool_result(call, "ok") for call in reply.tool_calls]
    body = body_of(dialect.codec.encode_request(MODEL, Request((md.user("hi"), kept, *results)))[0])
    assert [
        call for turn in READERS[dialect.name](body) if turn[0] == "assistant" for call in turn[2]
    ] == wanted


def _calling(dialect: Dialect, wanted: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The dialect's own answer with these calls in place of its one."""
    whole = json.loads(json.dumps(dialect.whole))
    if dialect.name == "anthropic":
        whole["content"][2:] = [
            {"type": "tool_use", "id": f"c{n}", "name": name, "input": given}
            for n, (name, given) in enumerate(wanted)
        ]
    elif dialect.name == "ollama":
        made = [
            {"id": f"c{n}", "function": {"name": name, "arguments": given}}
            for n, (name, given) in enumerate(wanted)
        ]
        whole["message"]["tool_calls"] = made
    elif dialect.name == "gemini":
        parts = whole["candidates"][0]["content"]["parts"]
        parts[2:] = [{"functionCall": {"name": name, "args": given}} for name, given in wanted]
    elif dialect.name == "responses":
        call = whole["output"][2]
        made = [
            call | {"call_id": f"c{n}", "name": name, "arguments": json.dumps(given)}
            for n, (name, given) in enumerate(wanted)
        ]
        whole["output"][2:] = made
    else:
        made = [
            {
                "id": f"c{n}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given)},
            }
            for n, (name, given) in enumerate(wanted)
        ]
        whole["choices"][0]["message"]["tool_calls"] = made
    return whole


@each
@settings(max_examples=20, deadline=None)
@given(st.text(max_size=20) | VALUES.map(json.dumps))
@example('{"what": "fo')
@example('{"a": NaN}')
@example('{"a": 1e999}')
@example('{"a": "\\ud800"}')
@example('["a"]')
@example("")
def test_a_call_with_any_arguments_can_stand_in_a_history(dialect: Dialect, arguments: str) -> None:
    """Models do write arguments that are no JSON: what they wrote goes back to them with what was wrong about it."""
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
    ((_, given),) = next(turn for turn in READERS[dialect.name](body) if turn[0] == "assistant")[2]
    assert given == {"INVALID_JSON": arguments} or given == (
        json.loads(arguments) if arguments.strip() else {}
    )


# Nothing is lost in silence

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


@each
@settings(max_examples=20, deadline=None)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_every_field_that_is_set_is_sent_or_warned_of(
    dialect: Dialect, fields: dict[str, Any]
) -> None:
    request = Request((md.user("hi"),), **fields)
    check_request(request, LIMITS)
    wire, warnings = dialect.codec.encode_request(MODEL, request)
    body = body_of(wire)
    plain = body_of(dialect.codec.encode_request(MODEL, Request((md.user("hi"),)))[0])
    warned = {warning.field for warning in warnings}
    leaves = _leaves(body)
    for name, value in fields.items():
        if name in warned:
            continue
        wanted = value if isinstance(value, tuple) else (value,)
        if name == "reasoning" and isinstance(value, str):
            assert body != plain
        else:
            assert all(item in leaves for item in wanted), name


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (dict, list)):
        return [
            leaf
            for item in (value.values() if isinstance(value, dict) else value)
            for leaf in _leaves(item)
        ]
    return [value]


MISFITS: dict[str, Message] = {
    "a result in a user's turn": Message("user", (md.ToolResultPart("c1", "draw", ()),)),
    "a call in a user's turn": Message("user", (md.ToolCallPart("c1", "draw"),)),
    "words in a tool's turn": Message("tool", (llm.TextPart("x"),)),
}


@each
@settings(max_examples=8, deadline=None)
@given(conversations(), st.sampled_from(sorted(MISFITS)), st.integers(0, 20))
def test_what_cannot_be_expressed_raises_before_anything_is_sent(
    dialect: Dialect, conversation: tuple[list[Message], list[Said]], misfit: str, at: int
) -> None:
    history = list(conversation[0])
    history.insert(at % (len(history) + 1), MISFITS[misfit])
    with pytest.raises(md.InvalidRequestError) as caught:
        dialect.codec.encode_request(MODEL, Request(tuple(history)))
    assert caught.value.field == "messages"


@each
@settings(max_examples=10, deadline=None)
@given(
    st.recursive(
        st.sampled_from([float("nan"), float("inf"), "\ud800", object()]),
        lambda inner: st.lists(inner, min_size=1, max_size=2),
    )
)
def test_what_json_cannot_hold_is_refused_with_its_field(dialect: Dialect, value: Any) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        dialect.codec.encode_request(MODEL, Request((md.user("hi"),), extra={"x": value}))
    assert caught.value.field == "extra"


# Bytes that break off, and bytes that are not what they were


def fed(
    dialect: Dialect, pieces: list[bytes]
) -> tuple[list[llm.ChatEvent], llm.Reply, md.MajordomoError | None]:
    decoder = dialect.codec.stream_decoder(ASKED, LIMITS)
    told: list[llm.ChatEvent] = []
    try:
        for piece in pieces:
            told += decoder.feed(piece)
        told += decoder.finish()
    except md.MajordomoError as error:
        return told, decoder.reply, error
    return told, decoder.reply, decoder.failure


def ends(dialect: Dialect) -> list[bytes]:
    """The stream with line ends of every legal kind, comments and unknown fields between its events, and no last line end."""
    stream = dialect.stream.replace(b"\r\n", b"\n")
    made = [stream, stream.replace(b"\n", b"\r\n"), stream.rstrip(b"\n")]
    if dialect.name != "ollama":
        made += [
            stream.replace(b"\n", b"\r"),
            stream.replace(b"\n\n", b"\n\n: still here\nid: 7\nretry: 5\nx-unknown: y\n\n"),
            stream.replace(b"data: ", b"data:"),
            b"\xef\xbb\xbf"
            + stream,  # "one leading U+FEFF BYTE ORDER MARK character must be ignored" (HTML standard)
        ]
    return made


@each
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_split_with_any_line_ends_tells_the_same(dialect: Dialect, data: st.DataObject) -> None:
    expected = join_deltas(fed(dialect, [dialect.stream])[0])
    stream = data.draw(st.sampled_from(ends(dialect)))
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    edges = [0, *sorted(places), len(stream)]
    told, _, error = fed(
        dialect, [stream[begin:end] for begin, end in pairwise(edges) if end > begin]
    )
    assert error is None
    assert join_deltas(told) == expected


@each
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_any_truncation_is_whole_or_a_typed_error_with_exactly_the_prefix(
    dialect: Dialect, step: int
) -> None:
    """The text told, the text of `partial` and of the reply are one, and a prefix of the whole."""
    whole, _, _ = fed(dialect, [dialect.stream])
    done = whole[-1]
    assert isinstance(done, Done)
    for length in (
        *range(0, len(dialect.stream), step),
        *range(len(dialect.stream) - 20, len(dialect.stream) + 1),
    ):
        told, reply, error = fed(dialect, [dialect.stream[:length]])
        text = "".join(event.text for event in told if isinstance(event, TextDelta))
        thought = "".join(event.text for event in told if isinstance(event, ThinkingDelta))
        assert done.reply.text.startswith(text)
        assert done.reply.thinking.startswith(thought)
        if error is None:
            last = told[-1]
            assert isinstance(last, Done)
            assert last.reply.message == done.reply.message
            continue
        assert (reply.text, reply.thinking) == (text, thought)
        if isinstance(error, md.StreamBrokenError):
            assert (error.partial.text, error.partial.thinking) == (text, thought)
        else:
            assert not text
            assert isinstance(error, md.BadResponseError)


@each
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_change_of_the_bytes_is_an_answer_or_a_typed_error_in_little_memory(
    dialect: Dialect, data: st.DataObject
) -> None:
    stream = bytearray(
        data.draw(
            st.sampled_from([dialect.stream, dialect.failing, json.dumps(dialect.whole).encode()])
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
        for asked in (
            lambda: fed(dialect, [bytes(stream)])[2],
            lambda: dialect.codec.decode_reply(bytes(stream), ASKED, LIMITS),
        ):
            try:
                error = asked()
            except md.MajordomoError as raised:
                error = raised
            if isinstance(error, md.MajordomoError):
                assert not isinstance(error, (md.InvalidRequestError, md.ConfigurationError))
                assert str(error).isprintable()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
