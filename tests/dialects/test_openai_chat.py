from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import majordomo as md
from majordomo import llm
from majordomo.dialects.openai.chat import OpenAIChatCodec
from majordomo.llm import (
    Done,
    ImageReady,
    Loading,
    Request,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from tests.support.chat_dialects import decode_chunks
from tests.support.loopback import DONE, chat_completion, delta

CODEC = OpenAIChatCodec(provider="here")
LIMITS = Limits()


def sent_body(http_request: HTTPRequest) -> Any:
    return json.loads(
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


def body(messages: Any, **fields: Any) -> Any:
    history = (messages,) if isinstance(messages, llm.Message) else tuple(messages)
    http_request, warnings = CODEC.encode_request("m", Request(history, **fields))
    assert warnings == []
    return sent_body(http_request)


def read(document: dict[str, Any], request: Request | None = None) -> md.Reply:
    return CODEC.decode_reply(
        json.dumps(document).encode(), request or Request((md.user("hi"),)), LIMITS
    )


def stream(
    data: bytes, size: int = 10**9, codec: OpenAIChatCodec = CODEC, request: Request | None = None
) -> list[llm.ChatEvent]:
    decoder = codec.stream_decoder(request or Request((md.user("hi"),)), LIMITS)
    return decode_chunks(decoder, *(data[at : at + size] for at in range(0, len(data), size)))


def test_unset_fields_are_not_sent() -> None:
    assert body(md.user("hi")) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_every_set_field_is_sent() -> None:
    encoded = body(
        md.user("hi"),
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        max_tokens=7,
        stop="END",
        seed=0,
        reasoning="off",
        extra={"x": {"y": 1}},
    )
    del encoded["messages"], encoded["model"]
    assert encoded == {
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "max_tokens": 7,
        "stop": ["END"],
        "seed": 0,
        "reasoning_effort": "none",
        "x": {"y": 1},
    }


def test_extra_is_merged_deeply() -> None:
    http_request, _ = CODEC.encode_request(
        "m",
        Request((md.user("hi"),), extra={"stream_options": {"a": 1}, "model": "other"}),
        stream=True,
    )
    assert sent_body(http_request)["stream_options"] == {"include_usage": True, "a": 1}
    assert sent_body(http_request)["model"] == "other"


def test_a_token_budget_for_reasoning_gives_a_warning() -> None:
    _, warnings = CODEC.encode_request("m", Request((md.user("hi"),), reasoning=1000))
    assert [(warning.code, warning.field) for warning in warnings] == [
        ("UNSUPPORTED_FIELD", "reasoning")
    ]


def test_a_conversation_with_tools_and_images_has_the_order_that_the_api_requires(
    image: Callable[..., md.ImagePart],
) -> None:
    blue, red = image(), image(color="red")
    calls = [md.ToolCallPart("a", "draw", '{"x":1}'), md.ToolCallPart("b", "look", "")]
    encoded = body(
        [
            md.system("be brief"),
            md.user("draw", blue),
            llm.assistant("sure", *calls),
            md.tool_result(calls[0], "done", red),
            md.tool_result(calls[1], "nothing", is_error=True),
            llm.assistant("here", red),
            md.user("thanks"),
        ]
    )["messages"]
    assert [message["role"] for message in encoded] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
        "assistant",
        "user",
    ]
    assert encoded[1]["content"] == [
        {"type": "text", "text": "draw"},
        {"type": "image_url", "image_url": {"url": blue.to_data_url()}},
    ]
    assert encoded[2]["content"] == "sure"
    assert encoded[2]["tool_calls"][1] == {
        "id": "b",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
    }
    assert encoded[3]["content"] == "done (see attachment 1 of tool draw)"
    assert encoded[4] == {"role": "tool", "tool_call_id": "b", "content": "error: nothing"}
    assert encoded[5]["content"][1]["image_url"]["url"] == red.to_data_url()
    assert encoded[7]["content"][-1] == {"type": "text", "text": "thanks"}
    assert encoded[7]["content"][1]["image_url"]["url"] == red.to_data_url()


def test_a_file_is_a_data_url() -> None:
    part = md.FilePart(b"%PDF-1.4", "application/pdf", "a.pdf")
    assert body(md.user(part))["messages"][0]["content"] == [
        {
            "type": "file",
            "file": {
                "filename": "a.pdf",
                "file_data": "data:application/pdf;base64," + base64.b64encode(part.data).decode(),
            },
        }
    ]


def test_thinking_of_another_provider_is_not_sent() -> None:
    encoded = body(
        [md.user("a"), llm.assistant(md.ThinkingPart("secret", "elsewhere"), "b"), md.user("c")]
    )
    assert "secret" not in json.dumps(encoded)


def test_tools_and_tool_choice_are_encoded() -> None:
    def weather(city: str, days: int = 1) -> str:
        """Tell the weather.

        Args:
            city: where
        """
        return city + str(days)

    encoded = body(md.user("hi"), tools=[weather], tool_choice="weather")
    function = encoded["tools"][0]["function"]
    assert (function["name"], function["description"]) == ("weather", "Tell the weather.")
    assert function["parameters"]["properties"]["city"]["description"] == "where"
    assert function["parameters"]["required"] == ["city"]
    assert encoded["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body(md.user("hi"), tools=[weather], tool_choice="required")["tool_choice"] == "required"


class Mood(BaseModel):
    mood: str
    score: int


@pytest.mark.parametrize("form", ["json_schema", "json_object"])
def test_structured_output_is_requested_and_validated(form: Any) -> None:
    codec = OpenAIChatCodec(schema_form=form)
    request = Request((md.user("hi"),), output=Mood)
    http_request, _ = codec.encode_request("m", request)
    response_format = sent_body(http_request)["response_format"]
    assert response_format["type"] == form
    schema = (
        response_format["schema"]
        if form == "json_object"
        else response_format["json_schema"]["schema"]
    )
    assert schema["required"] == ["mood", "score"]
    assert read(chat_completion('{"mood":"calm","score":3}'), request).output == Mood(
        mood="calm", score=3
    )
    assert read(chat_completion('```json\n{"mood":"calm","score":3}\n```'), request).output == Mood(
        mood="calm", score=3
    )
    for invalid in ("calm", '{"mood":"calm"}', '{"mood":"calm","score":"x"}'):
        with pytest.raises(md.BadResponseError, match="answer") as caught:
            read(chat_completion(invalid), request)
        assert caught.value.code == "BAD_OUTPUT"


def test_a_complete_response_is_decoded() -> None:
    reply = read(
        chat_completion(
            "hello",
            usage={
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        )
    )
    assert (reply.text, reply.finish_reason, reply.model) == ("hello", "stop", "m-2026")
    assert reply.usage == llm.Usage(9, 5, 4, 2)
    assert reply.new_messages == (llm.assistant("hello"),)


@pytest.mark.parametrize(
    ("message", "thinking", "text"),
    [
        ({"content": "a", "reasoning_content": "t"}, "t", "a"),
        ({"content": "a", "reasoning": "t", "reasoning_content": "t"}, "t", "a"),
        (
            {"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]},
            "t",
            "a",
        ),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "t"}]},
                    {"type": "text", "text": "a"},
                ]
            },
            "t",
            "a",
        ),
        ({"content": "<think>t</think>\n\na"}, "t", "a"),
        ({"content": "\n<think>t"}, "t", ""),
        ({"content": "a <think>b</think>"}, "", "a <think>b</think>"),
        ({"content": "<thin"}, "", "<thin"),
        ({"content": None, "reasoning": ""}, "", ""),
    ],
)
def test_thinking_is_separated_from_text_in_every_field(
    message: dict[str, Any], thinking: str, text: str
) -> None:
    document = chat_completion("")
    document["choices"][0]["message"] = message
    reply = read(document)
    assert (reply.thinking, reply.text) == (thinking, text)


@pytest.mark.parametrize(
    "raw",
    ["stop", "eos", "length", "model_length", "tool_calls", "content_filter", "weird", "", None],
)
def test_finish_reasons_are_normalized_and_kept_raw(raw: str | None) -> None:
    document = chat_completion("a")
    document["choices"][0]["finish_reason"] = raw
    expected = {
        "eos": "stop",
        "model_length": "length",
        "weird": "unknown",
        "": "stop",
        None: "stop",
    }
    reply = read(document)
    assert reply.finish_reason == expected.get(raw, raw)
    assert reply.raw_finish_reason == (raw or None)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({}, md.BadResponseError),
        ({"choices": []}, md.BadResponseError),
        ({"choices": None}, md.BadResponseError),
        ({"choices": [{"message": "x"}]}, md.BadResponseError),
        ({"error": {"code": 429, "message": "slow"}}, md.RateLimitError),
        ({"error": "boom", "choices": None}, md.BackendError),
    ],
)
def test_a_response_without_a_message_raises(
    document: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        read(document)


def test_images_in_responses_become_parts_and_links_are_not_fetched(
    image: Callable[..., md.ImagePart],
) -> None:
    document = chat_completion("")
    link = {"type": "image_url", "image_url": {"url": "https://evil.test/x.png"}}
    document["choices"][0]["message"]["images"] = [
        {"type": "image_url", "image_url": {"url": image().to_data_url()}},
        link,
    ]
    reply = read(document)
    assert reply.images == (image(),)
    assert [warning.code for warning in reply.warnings] == ["IMAGE_MISSING"]
    assert image().to_base64() not in json.dumps(reply.raw)
    document["choices"][0]["message"]["images"] = [
        {"image_url": {"url": "data:image/png;base64,PGh0bWw+"}, "type": "image_url"}
    ]
    with pytest.raises(md.BadResponseError):
        read(document)


def call(
    index: int | None = 0,
    identity: str | None = None,
    name: str | None = None,
    arguments: Any = None,
) -> dict[str, Any]:
    function = {
        key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None
    }
    return {
        "tool_calls": [
            {
                k: v
                for k, v in (("index", index), ("id", identity), ("function", function))
                if v is not None
            }
        ]
    }


TOOL_STREAMS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = {
    "openai": (
        [call(0, "a", "f", ""), call(0, arguments='{"x"'), call(0, arguments=":1}")],
        [("a", "f", '{"x":1}')],
    ),
    "parallel": (
        [call(0, "a", "f", "{}"), call(1, "b", "g", "{}")],
        [("a", "f", "{}"), ("b", "g", "{}")],
    ),
    "every chunk repeats id and name": (
        [call(0, "a", "f", '{"x"'), call(0, "a", "f", ":1}")],
        [("a", "f", '{"x":1}')],
    ),
    "same index, other id": (
        [call(0, "a", "f", "{}"), call(0, "b", "f", "{}")],
        [("a", "f", "{}"), ("b", "f", "{}")],
    ),
    "no index, no id": (
        [call(None, "", "f", "{}"), call(None, "", "g", "{}")],
        [("call_0", "f", "{}"), ("call_1", "g", "{}")],
    ),
    "arguments as an object": ([call(0, "a", "f", {"x": 1})], [("a", "f", '{"x":1}')]),
    "no arguments": ([call(0, "a", "f")], [("a", "f", "{}")]),
    "continued without index": (
        [call(None, "a", "f", '{"x"'), call(None, None, None, ":1}")],
        [("a", "f", '{"x":1}')],
    ),
}


@pytest.mark.parametrize(("deltas", "calls"), TOOL_STREAMS.values(), ids=TOOL_STREAMS.keys())
@pytest.mark.parametrize("size", [1, 10_000])
def test_tool_calls_are_assembled_from_every_kind_of_stream(
    deltas: list[dict[str, Any]], calls: list[tuple[str, str, str]], size: int
) -> None:
    data = b"".join(delta(content) for content in deltas) + delta({}, "stop") + DONE
    events = stream(data, size)
    assert isinstance(events[-1], Done)
    assert [(c.id, c.name, c.arguments_json) for c in events[-1].reply.tool_calls] == calls
    assert events[-1].reply.finish_reason == "tool_calls"
    assert [
        (e.call.id, e.call.name, e.call.arguments_json) for e in events if isinstance(e, ToolCall)
    ] == calls
    assert [e.id for e in events if isinstance(e, ToolCallStarted)] == [
        identity for identity, _, _ in calls
    ]
    for index, (_, _, text) in enumerate(calls):
        assert "".join(
            e.arguments_json for e in events if isinstance(e, ToolCallDelta) and e.index == index
        ) in (text, "")


def texts(events: list[llm.ChatEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


FRAME = delta("Good ") + delta("evening") + delta({}, "stop")
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
COMPLETE_STREAMS = {
    "openai": FRAME + USAGE + DONE,
    "no DONE": FRAME + USAGE,
    "no end at all": (FRAME + USAGE).rstrip(),
    "CRLF and comments": (b": PROCESSING\n\n" * 5 + FRAME + USAGE + DONE).replace(b"\n", b"\r\n"),
    "usage on the finish chunk": delta("Good ")
    + delta("evening", "stop", usage={"prompt_tokens": 3, "completion_tokens": 2})
    + DONE,
    "groq usage": delta("Good evening")
    + delta({}, "stop", x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    + DONE,
    "null usage before": delta("Good ", usage=None)
    + delta("evening", usage=None)
    + delta({}, "stop")
    + USAGE
    + DONE,
    "role and null content": delta({"role": "assistant", "content": None}) + FRAME + USAGE + DONE,
    "finish reason repeated": delta("Good ", "stop") + delta("evening", "stop") + USAGE + DONE,
    "data after DONE": FRAME + USAGE + DONE + delta("more"),
    "content as parts": delta({"content": [{"type": "text", "text": "Good evening"}]})
    + delta({}, "stop")
    + USAGE
    + DONE,
}


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize("data", COMPLETE_STREAMS.values(), ids=COMPLETE_STREAMS.keys())
def test_every_shape_of_a_complete_stream_gives_the_same_reply(data: bytes, size: int) -> None:
    events = stream(data, size)
    assert texts(events) == "Good evening"
    assert isinstance(events[-1], Done)
    assert sum(isinstance(event, Done) for event in events) == 1
    reply = events[-1].reply
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == (
        "Good evening",
        "stop",
        2,
    )


@given(st.integers(0, len(FRAME)), st.integers(1, 50))
def test_any_truncation_gives_the_complete_reply_or_the_exact_prefix(cut: int, size: int) -> None:
    data = FRAME[:cut]
    try:
        arrived = texts(stream(data, size))
        assert data.endswith(FRAME[-10:]) or b'"stop"' in data, (
            "a reply is complete only if the finish reason has arrived"
        )
    except md.StreamBrokenError as broken:
        arrived = broken.partial.text
        texts_in_data = [text for text in ("Good ", "evening") if json.dumps(text).encode() in data]
        arrived = arrived if len(arrived) >= len("".join(texts_in_data[:-1])) else "lost"
    except md.BadResponseError:
        arrived = ""
    assert "Good evening".startswith(arrived)


@pytest.mark.parametrize(
    ("data", "error", "partial"),
    [
        (delta("Good "), md.StreamBrokenError, "Good "),
        (delta("Good ") + DONE, md.StreamBrokenError, "Good "),
        (b"", md.StreamBrokenError, ""),
        (
            delta("Good ") + b'data: {"error":{"message":"boom","code":500}}\n\n',
            md.StreamBrokenError,
            "Good ",
        ),
        (
            delta("Good ") + b'data: {"error":{"message":"boom"},'
            b'"choices":[{"delta":{"content":"x"},"index":0}]}\n\n',
            md.StreamBrokenError,
            "Good ",
        ),
        (b'data: {"error":{"message":"boom","code":429}}\n\n', md.RateLimitError, None),
        (b'event: error\ndata: {"error":"boom"}\n\n', md.BackendError, None),
        (delta("Good ") + b"data: {nonsense\n\n", md.StreamBrokenError, "Good "),
        (
            delta("Good ") + b'{"src":"llama-swap","error":{"message":"boom while loading"}}',
            md.StreamBrokenError,
            "Good ",
        ),
        (b"data: [1,2]\n\n", md.BadResponseError, None),
    ],
)
def test_a_broken_stream_raises_with_the_partial_reply(
    data: bytes, error: type[Exception], partial: str | None
) -> None:
    for size in (1, 10_000):
        with pytest.raises(error) as caught:
            stream(data, size)
        if partial is not None:
            assert caught.value.partial.text == partial  # type: ignore[attr-defined]
        if b"boom" in data:
            assert "boom" in str(caught.value)


def test_thinking_and_text_are_streamed_separately() -> None:
    data = (
        delta({"reasoning_content": "hm "})
        + delta({"content": "<th"})
        + delta("ink>x</thi")
        + delta("nk>\nyes")
        + delta({}, "stop")
        + DONE
    )
    for size in (1, 10_000):
        events = stream(data, size)
        assert "".join(e.text for e in events if isinstance(e, ThinkingDelta)) == "hm x"
        assert texts(events) == "yes"
        assert isinstance(events[-1], Done)
        assert events[-1].reply.message.parts == (
            md.ThinkingPart("hm x", "here"),
            md.TextPart("yes"),
        )


def test_loading_text_of_the_gateway_is_an_event_not_thinking() -> None:
    data = (
        b'data: {"choices":[{"delta":{"reasoning_content":"loading qwen3 ...\\n"}}]}\n\n'
        + FRAME
        + DONE
    )
    events = stream(data, codec=OpenAIChatCodec(loading_chunks=True))
    assert events[0] == Loading("loading qwen3 ...")
    assert isinstance(events[-1], Done)
    assert events[-1].reply.thinking == ""


def test_a_streamed_image_is_an_event(image: Callable[..., md.ImagePart]) -> None:
    data = (
        delta({"images": [{"type": "image_url", "image_url": {"url": image().to_data_url()}}]})
        + delta({}, "stop")
        + DONE
    )
    events = stream(
        data, request=Request((md.user("hi"),), extra={"modalities": ["image", "text"]})
    )
    assert ImageReady(image()) in events


def test_endless_text_raises_bad_response_error() -> None:
    decoder = CODEC.stream_decoder(Request((md.user("hi"),)), Limits(max_reply_bytes=1000))
    with pytest.raises(md.BadResponseError, match="larger"):
        for _ in range(100):
            decoder.feed(delta("x" * 100))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "index",
                    "id",
                    "usage",
                    "error",
                    "message",
                    "finish_reason",
                    "images",
                    "image_url",
                    "url",
                    "reasoning",
                    "reasoning_details",
                    "x_groq",
                    "thinking",
                    "type",
                    "text",
                ]
            ),
            children,
            max_size=4,
        )
    ),
    max_leaves=30,
)


@given(st.lists(JSON, max_size=5))
def test_any_events_give_a_reply_or_a_typed_error(values: list[Any]) -> None:
    data = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    for encoded in (data, data + delta({}, "stop") + DONE):
        try:
            events = stream(encoded)
        except md.MajordomoError:
            continue
        assert isinstance(events[-1], Done)


@given(JSON)
def test_any_document_gives_a_reply_or_a_typed_error(value: Any) -> None:
    for document in (
        value,
        {"choices": value},
        {"choices": [{"message": value}]},
        {
            "choices": [{"message": {"content": value, "tool_calls": value, "images": value}}],
            "usage": value,
        },
    ):
        try:
            reply = CODEC.decode_reply(
                json.dumps(document).encode(), Request((md.user("hi"),)), LIMITS
            )
        except md.MajordomoError:
            continue
        assert isinstance(reply, md.Reply)


def test_a_partial_output_grows_while_it_arrives() -> None:
    decoder = OpenAIChatCodec(object_root=True).stream_decoder(
        Request((md.user("numbers?"),), output=list[int]), LIMITS
    )
    outputs = []
    for text in ('{"value": [1', ", 2", ", 3]}"):
        decoder.feed(delta(text))
        outputs.append(decoder.reply.output)
    assert outputs == [[1], [1, 2], [1, 2, 3]]
