"""Rare replies of some backends: refusals, paused turns, background responses, hosted tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.dialects.anthropic.messages import AnthropicMessagesCodec
from majordomo.dialects.gemini.chat import GeminiChatCodec
from majordomo.dialects.openai.chat import OpenAIChatCodec
from majordomo.dialects.openai.responses import OpenAIResponsesCodec
from majordomo.llm import Done, TextDelta
from tests.support.chat_dialects import data_events, named_events

LIMITS = md.Limits()
REQUEST = llm.Request((md.user("hi"),))


def read(codec: Any, stream: bytes) -> md.Reply:
    decoder = codec.stream_decoder(REQUEST, LIMITS)
    events = [*decoder.feed(stream), *decoder.finish()]
    assert isinstance(events[-1], Done)
    return events[-1].reply


def sent_body(codec: Any, *messages: llm.Message) -> Any:
    http_request, _ = codec.encode_request("claude-x", llm.Request(messages))
    return json.loads(http_request.body)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I will not."},
        {"content": [{"type": "refusal", "refusal": "I will not."}]},
    ],
)
def test_a_refusal_is_content_filter_whatever_its_finish_reason(message: dict[str, Any]) -> None:
    response = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}
    reply = OpenAIChatCodec().decode_reply(json.dumps(response).encode(), REQUEST, LIMITS)
    assert (reply.text, reply.finish_reason, reply.raw_finish_reason) == (
        "I will not.",
        "content_filter",
        "stop",
    )
    chunks = [
        {"choices": [{"delta": message, "finish_reason": None}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    reply = read(OpenAIChatCodec(), data_events(*chunks, "[DONE]"))
    assert (reply.text, reply.finish_reason) == ("I will not.", "content_filter")


def test_a_truncated_refusal_is_a_broken_stream() -> None:
    decoder = OpenAIChatCodec().stream_decoder(REQUEST, LIMITS)
    assert decoder.feed(data_events({"choices": [{"delta": {"refusal": "I will"}}]})) == [
        TextDelta("I will")
    ]
    with pytest.raises(md.StreamBrokenError):
        decoder.finish()


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_background_response_raises_not_finished(status: str) -> None:
    with pytest.raises(md.BadResponseError) as caught:
        OpenAIResponsesCodec().decode_reply(
            json.dumps({"status": status, "output": [], "error": None}).encode(), REQUEST, LIMITS
        )
    assert caught.value.code == "NOT_FINISHED"


SEARCH = {
    "type": "server_tool_use",
    "id": "srvtoolu_1",
    "name": "web_search",
    "input": {"query": "foxes"},
}
SEARCH_RESULT = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [{"type": "web_search_result", "url": "x", "title": "y"}],
}


def paused_stream() -> bytes:
    def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"type": "content_block_start", "index": index, "content_block": start},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    deltas = [
        {"type": "input_json_delta", "partial_json": text}
        for text in ("", '{"query": ', '"foxes"}')
    ]
    return named_events(
        {
            "type": "message_start",
            "message": {"model": "claude-x", "usage": {"input_tokens": 1, "output_tokens": 1}},
        },
        *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I look. "}),
        *block(1, SEARCH | {"input": {}}, *deltas),
        *block(2, SEARCH_RESULT),
        *block(
            3,
            {"type": "compaction", "content": ""},
            {"type": "compaction_delta", "content": "short"},
        ),
        *block(4, {"type": "text", "text": ""}, {"type": "text_delta", "text": "So: "}),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "pause_turn"},
            "usage": {"output_tokens": 9},
        },
        {"type": "message_stop"},
    )


CONTENT = [
    {"type": "text", "text": "I look. "},
    SEARCH,
    SEARCH_RESULT,
    {"type": "compaction", "content": "short"},
    {"type": "text", "text": "So: "},
]


def test_a_paused_turn_warns_and_is_sent_back_unchanged() -> None:
    codec = AnthropicMessagesCodec()
    response = {
        "model": "claude-x",
        "content": CONTENT,
        "stop_reason": "pause_turn",
        "usage": {"input_tokens": 1, "output_tokens": 9},
    }
    for reply in (
        codec.decode_reply(json.dumps(response).encode(), REQUEST, LIMITS),
        read(codec, paused_stream()),
    ):
        assert [warning.code for warning in reply.warnings] == ["TURN_PAUSED"]
        assert (reply.text, reply.finish_reason, reply.tool_calls) == ("I look. So: ", "stop", ())
        assert sent_body(codec, md.user("hi"), reply.message)["messages"][1]["content"] == CONTENT


def test_invalid_input_of_a_hosted_tool_breaks_the_stream() -> None:
    with pytest.raises(md.StreamBrokenError) as caught:
        read(AnthropicMessagesCodec(), paused_stream().replace(b'\\"foxes\\"}', b"oh"))
    assert caught.value.partial.text == "I look. "


def test_gemini_hosted_tool_steps_are_sent_back_unchanged() -> None:
    codec = GeminiChatCodec("gemini-3-pro")
    parts = [
        {"executableCode": {"language": "PYTHON", "code": "print(1)"}, "thoughtSignature": "c2ln"},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
        {"text": "It is 1."},
    ]
    response = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]
    }
    for reply in (
        codec.decode_reply(json.dumps(response).encode(), REQUEST, LIMITS),
        read(codec, data_events(response)),
    ):
        assert reply.text == "It is 1."
        http_request, _ = codec.encode_request(
            "gemini-3-pro", llm.Request((md.user("hi"), reply.message))
        )
        assert isinstance(http_request.body, bytes)
        assert json.loads(http_request.body)["contents"][1]["parts"] == parts
        for other_codec in (
            GeminiChatCodec("gemini-2.5-flash"),
            AnthropicMessagesCodec(),
            OpenAIChatCodec(),
        ):
            http_request, _ = other_codec.encode_request(
                "gemini-2.5-flash", llm.Request((md.user("hi"), reply.message))
            )
            assert isinstance(http_request.body, bytes)
            assert b"print(1)" not in http_request.body


@pytest.mark.parametrize("codec", [AnthropicMessagesCodec(), GeminiChatCodec("gemini-3-pro")])
def test_a_moved_system_message_gives_a_warning(codec: Any) -> None:
    _, warnings = codec.encode_request(
        "claude-x", llm.Request((md.system("a"), md.system("b"), md.user("hi")))
    )
    assert warnings == []
    _, warnings = codec.encode_request(
        "claude-x", llm.Request((md.user("hi"), md.system("now rhyme"), md.user("go on")))
    )
    assert [(warning.code, warning.field) for warning in warnings] == [
        ("HISTORY_CHANGED", "messages")
    ]
