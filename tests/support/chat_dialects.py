"""The bytes with which the server of each chat dialect sends the same reply."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import majordomo as md
from majordomo import llm
from majordomo.dialects.anthropic.messages import AnthropicMessagesCodec
from majordomo.dialects.gemini.chat import GeminiChatCodec
from majordomo.dialects.ollama.chat import OllamaChatCodec
from majordomo.dialects.openai.chat import OpenAIChatCodec
from majordomo.dialects.openai.responses import OpenAIResponsesCodec
from majordomo.llm import TextDelta, ThinkingDelta


def named_events(*events: dict[str, Any]) -> bytes:
    """Encode server-sent events with their type in the `event:` line and in the data."""
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def data_events(*events: Any, end: str = "\n\n") -> bytes:
    """Encode server-sent events without an `event:` line; a string is sent unchanged."""
    return b"".join(
        f"data: {event if isinstance(event, str) else json.dumps(event)}{end}".encode()
        for event in events
    )


def json_lines(*frames: Any) -> bytes:
    """Encode newline-delimited JSON."""
    return b"".join(json.dumps(frame, ensure_ascii=False).encode() + b"\n" for frame in frames)


@dataclass
class Dialect:
    """Bytes that the codec of this dialect decodes to the same reply.

    The reply has the thinking "a fox", the text "Grüße 🦊" and a call of the tool `draw` with
    {"what": "fox"}.
    """

    name: str
    codec: Any
    stream: bytes
    """The streamed response."""
    complete_response: dict[str, Any]
    """The complete response."""
    raw_reason: str | None
    """The dialect's own finish reason."""
    usage: llm.Usage
    failing: bytes
    """A stream with the error "too busy" after some text."""
    says: Callable[[str], bytes]
    """Encodes an event that adds this text to the reply."""
    keeps: dict[str, Any] = field(default_factory=dict)
    """Opaque data of the thinking part that is sent back."""
    end: bytes = b""
    """End of the stream that may be missing without an error."""


def _anthropic() -> Dialect:
    head = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
    }
    counts = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 4,
        "output_tokens": 1,
    }
    counts["cache_creation"] = {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 1}

    def block(index: int, begin: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"type": "content_block_start", "index": index, "content_block": begin},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    start = {"type": "message_start", "message": {**head, "usage": counts}}
    text = block(
        1,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "Grü"},
        {"type": "text_delta", "text": "ße 🦊"},
    )
    stream = named_events(
        start,
        {"type": "ping"},
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "a fox"},
            {"type": "signature_delta", "signature": "sig=="},
        ),
        *text,
        {"type": "something_new", "x": 1},
        *block(
            2,
            {"type": "tool_use", "id": "c1", "name": "draw", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"what":'},
            {"type": "input_json_delta", "partial_json": '"fox"}'},
        ),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 9},
        },
        {"type": "message_stop"},
    )
    complete_response = {
        **head,
        "content": [
            {"type": "thinking", "thinking": "a fox", "signature": "sig=="},
            {"type": "text", "text": "Grüße 🦊"},
            {"type": "tool_use", "id": "c1", "name": "draw", "input": {"what": "fox"}},
        ],
        "stop_reason": "tool_use",
        "usage": {**counts, "output_tokens": 9},
    }
    failing = named_events(
        start,
        *text,
        {"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}},
    )

    def says(text: str) -> bytes:
        return named_events(
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "text_delta", "text": text},
            }
        )

    usage = llm.Usage(17, 9, 4, None, 3, 1)
    return Dialect(
        "anthropic",
        AnthropicMessagesCodec(),
        stream,
        complete_response,
        "tool_use",
        usage,
        failing,
        says,
        {"signature": "sig=="},
    )


def _ollama() -> Dialect:
    def frame(done: bool = False, **message: Any) -> dict[str, Any]:
        return {
            "model": "m",
            "created_at": "2026-01-01T00:00:00.123456789Z",
            "message": {"role": "assistant", **message},
            "done": done,
        }

    call = {"id": "c1", "function": {"index": 0, "name": "draw", "arguments": {"what": "fox"}}}
    counts = {"done_reason": "stop", "total_duration": 5, "prompt_eval_count": 17, "eval_count": 9}
    counts |= {
        "load_duration": 2_000_000_000,
        "prompt_eval_duration": 500_000_000,
        "eval_duration": 250_000_000,
    }
    stream = json_lines(
        frame(content="", thinking="a fox"),
        frame(content="Grü"),
        frame(content="ße 🦊"),
        frame(content="", tool_calls=[call]),
        {**frame(True, content=""), **counts},
    )
    complete_response = {
        **frame(True, content="Grüße 🦊", thinking="a fox", tool_calls=[call]),
        **counts,
    }
    failing = json_lines(frame(content="Grüße 🦊"), {"error": "too busy"})

    def says(text: str) -> bytes:
        return json_lines(frame(content=text))

    usage = llm.Usage(17, 9, load_seconds=2.0, prompt_seconds=0.5, output_seconds=0.25)
    return Dialect(
        "ollama",
        OllamaChatCodec(),
        stream,
        complete_response,
        "stop",
        usage,
        failing,
        says,
        end=b"\n",
    )


def _gemini() -> Dialect:
    def chunk(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "candidates": [
                {"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}
            ],
            "modelVersion": "gemini-x",
            "usageMetadata": {"promptTokenCount": 169},
        }

    counts = {
        "promptTokenCount": 17,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 4,
        "totalTokenCount": 26,
        "cachedContentTokenCount": 4,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 7},
            {"modality": "IMAGE", "tokenCount": 10},
        ],
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 5}],
    }
    by_modality = {"text_input_tokens": 7, "image_input_tokens": 10, "audio_input_tokens": 0}
    by_modality |= {"text_output_tokens": 5, "image_output_tokens": 0, "audio_output_tokens": 0}
    thought = {"text": "a fox", "thought": True}
    call = {"functionCall": {"name": "draw", "args": {"what": "fox"}}, "thoughtSignature": "c2ln"}
    stream = data_events(
        chunk(thought),
        chunk({"text": "Grü"}),
        chunk({"text": "ße 🦊"}),
        {**chunk(call, finishReason="STOP"), "usageMetadata": counts},
        end="\r\n\r\n",
    )
    complete_response = {
        **chunk(thought, {"text": "Grüße 🦊"}, call, finishReason="STOP"),
        "usageMetadata": counts,
    }
    failing = data_events(
        chunk({"text": "Grüße 🦊"}),
        {"error": {"code": 503, "message": "too busy", "status": "UNAVAILABLE"}},
        end="\r\n\r\n",
    )

    def says(text: str) -> bytes:
        return data_events(chunk({"text": text}), end="\r\n\r\n")

    usage = llm.Usage(17, 9, 4, 4, **by_modality)
    return Dialect(
        "gemini",
        GeminiChatCodec("gemini-3-pro"),
        stream,
        complete_response,
        "STOP",
        usage,
        failing,
        says,
        end=b"\r\n\r\n",
    )


def _responses() -> Dialect:
    usage = {
        "input_tokens": 17,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 26,
    }
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "a fox"}],
        "encrypted_content": "enc",
    }
    content = [{"type": "output_text", "text": "Grüße 🦊", "annotations": []}]
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c1",
        "name": "draw",
        "arguments": '{"what":"fox"}',
        "status": "completed",
    }
    head = {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-x",
        "error": None,
        "incomplete_details": None,
    }
    complete_response = {
        **head,
        "status": "completed",
        "output": [thought, message, call],
        "usage": usage,
    }
    delta = {
        "type": "response.output_text.delta",
        "output_index": 1,
        "content_index": 0,
        "item_id": "msg_1",
        "obfuscation": "xx",
    }
    text = [{**delta, "delta": "Grü"}, {**delta, "delta": "ße 🦊"}]
    stream = named_events(
        {"type": "response.created", "response": {**head, "status": "in_progress", "output": []}},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "reasoning", "id": "rs_1", "summary": []},
        },
        {
            "type": "response.reasoning_summary_text.delta",
            "output_index": 0,
            "item_id": "rs_1",
            "delta": "a fox",
        },
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
        {
            "type": "response.output_item.added",
            "output_index": 1,
            "item": {**message, "content": []},
        },
        *text,
        {"type": "response.output_text.done", "output_index": 1, "text": "Grüße 🦊"},
        {"type": "response.output_item.done", "output_index": 1, "item": message},
        {
            "type": "response.output_item.added",
            "output_index": 2,
            "item": {**call, "arguments": ""},
        },
        {
            "type": "response.function_call_arguments.delta",
            "output_index": 2,
            "item_id": "fc_1",
            "delta": '{"what":"fox"}',
        },
        {"type": "response.something_new", "x": 1},
        {"type": "response.output_item.done", "output_index": 2, "item": call},
        {"type": "response.completed", "response": complete_response},
    )
    failing = named_events(
        *text, {"type": "error", "code": "server_error", "message": "too busy", "param": None}
    )
    keeps = {"encrypted_content": "enc"}

    def says(text: str) -> bytes:
        return named_events({**delta, "delta": text})

    return Dialect(
        "responses",
        OpenAIResponsesCodec(),
        stream,
        complete_response,
        "completed",
        llm.Usage(17, 9, 4, 4, 2),
        failing,
        says,
        keeps,
    )


def _chat() -> Dialect:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}

    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "draw", "arguments": '{"what":"fox"}'},
    }
    usage = {
        "prompt_tokens": 17,
        "completion_tokens": 9,
        "prompt_tokens_details": {
            "cached_tokens": 4,
            "text_tokens": 15,
            "image_tokens": 2,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    stream = data_events(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "a fox"}),
        chunk({"content": "Grü"}),
        chunk({"content": "ße 🦊"}),
        chunk({"tool_calls": [{"index": 0, **call}]}),
        chunk({}, "tool_calls"),
        {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage},
        "[DONE]",
    )
    expected_usage = llm.Usage(
        17, 9, 4, 4, text_input_tokens=15, image_input_tokens=2, audio_input_tokens=0
    )
    message = {
        "role": "assistant",
        "content": "Grüße 🦊",
        "reasoning_content": "a fox",
        "tool_calls": [call],
    }
    complete_response = {
        "id": "x",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": usage,
    }
    failing = data_events(
        chunk({"content": "Grüße 🦊"}), {"error": {"message": "too busy", "code": 503}}
    )

    def says(text: str) -> bytes:
        return data_events(chunk({"content": text}))

    return Dialect(
        "chat",
        OpenAIChatCodec(provider="openai"),
        stream,
        complete_response,
        "tool_calls",
        expected_usage,
        failing,
        says,
    )


DIALECTS = [_anthropic(), _ollama(), _gemini(), _responses(), _chat()]


def check(dialect: Dialect, reply: md.Reply) -> None:
    """Assert that the reply is the one that every dialect's bytes hold."""
    assert (reply.thinking, reply.text, reply.finish_reason) == ("a fox", "Grüße 🦊", "tool_calls")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("draw", {"what": "fox"})]
    assert reply.tool_calls[0].id
    assert (reply.usage, reply.raw_finish_reason) == (dialect.usage, dialect.raw_reason)
    assert reply.model == dialect.complete_response.get("model", "gemini-x")


def decode_chunks(decoder: Any, *chunks: bytes) -> list[llm.ChatEvent]:
    """Return all events of a stream that arrives in these chunks.

    Raises the error of the decoder, whether it is raised at once or after the last events.
    """
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    events += decoder.finish()
    if decoder.failure is not None:
        raise decoder.failure
    return events


def join_deltas(events: list[llm.ChatEvent]) -> list[Any]:
    """Return the events with adjacent deltas of the same kind joined.

    How text is divided into deltas depends on how the network divides the bytes.
    """
    merged: list[Any] = []
    for event in events:
        is_delta = isinstance(event, (TextDelta, ThinkingDelta))
        if is_delta and merged and type(merged[-1]) is type(event):
            merged[-1] = type(event)(merged[-1].text + event.text)
        else:
            merged.append(event)
    return merged
