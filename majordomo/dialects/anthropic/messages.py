"""Anthropic's Messages API.

Sources: anthropic-sdk-python 2.10.0, pydantic-ai at 4fda389, vercel/ai at ed857f5, recorded
traffic from 2025 to August 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from majordomo.backend_status import ModelInfo
from majordomo.dialects.chat_accumulator import (
    ChatAccumulator,
    ChatStreamDecoder,
    as_json,
    as_objects,
    as_text,
    as_token_count,
)
from majordomo.dialects.conversation import (
    arguments_of,
    attachments,
    merge_system_messages,
    normalize_tool_ids,
    own_thinking,
    refuse_misplaced,
    tool_results,
    undeclared_tools,
)
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.json_schema import closed_schema, object_schema
from majordomo.dialects.request_body import UNSUPPORTED, json_request, other_fields, unsupported
from majordomo.errors import BadResponseError, CallWarning, UnsupportedError
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_json, decode_object
from majordomo.framing.lines import EventDecoder
from majordomo.llm import (
    ChatEvent,
    FilePart,
    ImagePart,
    Message,
    Part,
    Reply,
    Request,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    Usage,
)
from majordomo.llm.reply import FinishReason
from majordomo.llm.tools import output_schema
from majordomo.media.image_limits import ImageSupport
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

Version = Literal["2023-06-01", "2026-10-21"]

# The API requires `max_tokens`; every model accepts this many.
DEFAULT_MAX_TOKENS = 4096
MIN_THINKING_BUDGET = 1024

# Calls of hosted tools. Their input is streamed like the input of our own tools.
_HOSTED_TOOL_CALLS = ("server_tool_use", "mcp_tool_use")

# Thinking budgets in tokens, for models that accept only budgets.
_THINKING_BUDGETS = {"low": 2048, "medium": 8192, "high": 16384}
_SAMPLING_FIELDS = ("temperature", "top_p", "top_k")
_INVALID_ID_CHARACTER = re.compile(r"[^a-zA-Z0-9_-]")
_FAMILY = re.compile(r"claude-[a-z]+-(\d{1,2})(?:-(\d{1,2}))?(?![0-9])")

# "image exceeds 5 MB maximum: … > 5242880 bytes" (of base64), and at most 8,000 pixels per side
# (Anthropic's vision page).
IMAGE_SUPPORT = ImageSupport(max_bytes=5_242_880 // 4 * 3, max_side=8_000)


@dataclass(frozen=True, slots=True)
class AnthropicMessagesCodec:
    """Client-side codec for Anthropic's Messages API."""

    provider: str = "anthropic"
    """Name of the provider whose thinking parts are sent back."""
    version: Version = "2023-06-01"
    """Version of the API."""
    cache: Literal["5m", "1h"] | None = None
    """How long the server caches the prompt, up to the last block that can be cached.

    None turns caching off.
    """
    path: str = "/messages"
    """Path of the route below the base URL."""
    image_support: ImageSupport = IMAGE_SUPPORT
    """The images that the API accepts. Other images are converted first."""

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """Return the HTTP request, and a warning for each field that has no or another effect."""
        warnings: list[CallWarning] = []
        placeholders = Base64Placeholders()
        messages = normalize_tool_ids(request.messages, _normalize_tool_id)
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
        }
        if instructions := [
            {"type": "text", "text": part.text} for part in _system_parts(messages) if part.text
        ]:
            body["system"] = instructions
        warnings += merge_system_messages(messages)
        thinking = self._add_thinking(model, request, body, warnings)
        body["messages"] = self._encode_messages(messages, placeholders, warnings)
        self._add_sampling(request, body, thinking, warnings)
        self._add_tools(request, messages, body, thinking, warnings)
        if request.output is not None:
            body.setdefault("output_config", {})["format"] = {
                "type": "json_schema",
                "schema": closed_schema(output_schema(request.output)),
            }
        if self.cache is not None:
            body["cache_control"] = {"type": "ephemeral", "ttl": self.cache}
        if stream:
            body["stream"] = True
        http_request = json_request(self.path, body, request.extra, placeholders, stream=stream)
        return http_request, warnings

    def _add_sampling(
        self, request: Request, body: dict[str, Any], thinking: bool, warnings: list[CallWarning]
    ) -> None:
        reason = (
            f"version {self.version} of the API has no such field"
            if self.version != "2023-06-01"
            else "the API does not accept it together with thinking"
            if thinking
            else ""
        )
        for name in _SAMPLING_FIELDS:
            if (value := getattr(request, name)) is None:
                continue
            if reason:
                warnings.append(CallWarning(UNSUPPORTED, f"{name} has no effect: {reason}", name))
            elif name == "temperature" and value > 1:
                warnings.append(
                    CallWarning(
                        UNSUPPORTED,
                        f"temperature must be from 0 to 1 for Anthropic; got {value}, sent 1",
                        name,
                    )
                )
                body[name] = 1
            else:
                body[name] = value
        others = other_fields(request, (*_SAMPLING_FIELDS, "max_tokens", "stop", "reasoning"))
        warnings += unsupported(request, others, "the API has no such field")
        if request.stop:
            body["stop_sequences"] = list(request.stop)

    def _add_thinking(
        self, model: str, request: Request, body: dict[str, Any], warnings: list[CallWarning]
    ) -> bool:
        """Add the fields for thinking; return whether the model thinks.

        Models from 4.6 on decide themselves how much they think; those after 4.6 reject a budget
        in tokens.
        """
        reasoning = request.reasoning
        if reasoning is None:
            return False
        if reasoning == "off":
            body["thinking"] = {"type": "disabled"}
            return False
        version = _version_of(model)
        if isinstance(reasoning, int) and version > (4, 6):
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    'this model accepts reasoning "low", "medium" or "high", '
                    "not a number of tokens; the model decides how much it thinks",
                    "reasoning",
                )
            )
        if version >= (4, 6) and not (isinstance(reasoning, int) and version == (4, 6)):
            body["thinking"] = {"type": "adaptive"}
            if isinstance(reasoning, str):
                body["output_config"] = {"effort": reasoning}
            return True
        budget = reasoning if isinstance(reasoning, int) else _THINKING_BUDGETS[reasoning]
        if budget < MIN_THINKING_BUDGET:
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    f"reasoning must be at least {MIN_THINKING_BUDGET} tokens; "
                    f"got {budget}, sent {MIN_THINKING_BUDGET}",
                    "reasoning",
                )
            )
            budget = MIN_THINKING_BUDGET
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        if request.max_tokens is None:
            # "budget_tokens … < max_tokens"
            body["max_tokens"] = budget + DEFAULT_MAX_TOKENS
        elif request.max_tokens <= budget:
            body["thinking"]["budget_tokens"] = max(MIN_THINKING_BUDGET, request.max_tokens - 1)
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    f"max_tokens={request.max_tokens} leaves fewer tokens for thinking than "
                    f"reasoning asks for ({budget}); raise max_tokens",
                    "reasoning",
                )
            )
            if request.max_tokens <= MIN_THINKING_BUDGET:
                del body["thinking"]
                return False
        return True

    def _add_tools(
        self,
        request: Request,
        messages: list[Message],
        body: dict[str, Any],
        thinking: bool,
        warnings: list[CallWarning],
    ) -> None:
        # "History containing tool_use while tools is absent: 400"
        withdrawn = undeclared_tools(request.tools, messages)
        tools = [*request.tools, *withdrawn]
        if not tools:
            return
        body["tools"] = [
            {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "input_schema": object_schema(tool.parameters),
            }
            for tool in tools
        ]
        choice = request.tool_choice
        if not request.tools:
            choice = "none"
        if choice is None:
            return
        if thinking and choice not in ("auto", "none"):
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    f'tool_choice="{choice}" cannot be combined with thinking; sent "auto"',
                    "tool_choice",
                )
            )
            choice = "auto"
        choice_type = {"auto": "auto", "none": "none", "required": "any"}.get(choice)
        body["tool_choice"] = (
            {"type": choice_type} if choice_type else {"type": "tool", "name": choice}
        )

    def _encode_messages(
        self, messages: list[Message], placeholders: Base64Placeholders, warnings: list[CallWarning]
    ) -> list[dict[str, Any]]:
        """Return alternating user and assistant messages.

        Tool results come first in a user message. Images and files of an assistant message are
        sent in the next user message.
        """
        turns: list[dict[str, Any]] = []
        deferred: list[dict[str, Any]] = []
        for message in messages:
            blocks: list[dict[str, Any]] = []
            if message.role == "system":
                continue
            if message.role == "assistant":
                for part in message.parts:
                    blocks += self._encode_assistant_part(part, placeholders, deferred)
            elif message.role == "tool":
                for result in tool_results(message):
                    content = [
                        block for part in result.parts for block in _encode_part(part, placeholders)
                    ]
                    block = {
                        "type": "tool_result",
                        "tool_use_id": result.call_id,
                        "content": content,
                    }
                    blocks.append(block | {"is_error": True} if result.is_error else block)
            else:
                blocks += deferred
                deferred = []
                for part in message.parts:
                    refuse_misplaced(part)
                    blocks += _encode_part(part, placeholders)
            if not blocks:
                continue
            role = "assistant" if message.role == "assistant" else "user"
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += blocks
            else:
                turns.append({"role": role, "content": blocks})
        if deferred:
            turns.append({"role": "user", "content": deferred})
        if turns and turns[0]["role"] != "user":
            warnings.append(
                CallWarning(
                    "HISTORY_CHANGED",
                    "the first message must be a user message; one was inserted",
                    "messages",
                )
            )
            turns.insert(
                0,
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "(the conversation so far)"}],
                },
            )
        # "trailing whitespace in a final assistant message is 400"
        if turns and turns[-1]["role"] == "assistant":
            last = turns[-1]["content"][-1]
            # "send the assistant content back unchanged"
            paused = any(block["type"] in _HOSTED_TOOL_CALLS for block in turns[-1]["content"])
            if last["type"] == "text" and not paused:
                last["text"] = last["text"].rstrip() or "."
        return turns

    def _encode_assistant_part(
        self, part: Part, placeholders: Base64Placeholders, deferred: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        match part:
            case ToolCallPart():
                return [
                    {
                        "type": "tool_use",
                        "id": part.id,
                        "name": part.name,
                        "input": arguments_of(part),
                    }
                ]
            case ThinkingPart():
                if not own_thinking(part, self.provider):
                    return []
                if "block" in part.opaque:
                    return [part.opaque["block"]]
                signature = part.opaque.get("signature")
                return (
                    [{"type": "thinking", "thinking": part.text, "signature": signature}]
                    if signature
                    else []
                )
            case ImagePart() | FilePart():
                deferred += [
                    {"type": "text", "text": "(from the assistant's turn above)"},
                    *_encode_part(part, placeholders),
                ]
                return []
            case _:
                refuse_misplaced(part)
                return _encode_part(part, placeholders)

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """Return the reply in a response body that is not streamed.

        Raises:
            BadResponseError: The body is not a valid response.
            MajordomoError: The body of the 200 response is an error.
        """
        document = decode_object(body, limits.max_json_depth)
        if document.get("type") == "error" or "error" in document:
            raise build_error(200, read_error_value(document), {})
        if not isinstance(document.get("content"), list):
            raise BadResponseError('the response has no list "content"')
        accumulator = AnthropicAccumulator(request, limits, self.provider)
        events: list[ChatEvent] = []
        for block in as_objects(document["content"]):
            accumulator.start_block(block, events)
            accumulator.finish_block(events)
        accumulator.update_metadata(document)
        accumulator.finish_reason = as_text(document.get("stop_reason"))
        accumulator.close(events)
        return accumulator.reply(complete=True, raw=document)

    def stream_decoder(self, request: Request, limits: Limits) -> AnthropicStreamDecoder:
        """Return a decoder of the server-sent events of one response."""
        return AnthropicStreamDecoder(
            AnthropicAccumulator(request, limits, self.provider),
            EventDecoder(limits.max_event_bytes),
            limits,
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        """Return the maximum size of a response body in bytes."""
        return limits.max_reply_bytes


class AnthropicAccumulator(ChatAccumulator):
    """The reply of one request, built block by block."""

    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    def __init__(self, request: Request, limits: Limits, provider: str) -> None:
        super().__init__(request, limits, provider)
        self._token_counts: dict[str, Any] = {}
        # Type and tool call index (-1: not a tool call) of each block, by the index of the block.
        self._blocks: dict[int, tuple[str, int]] = {}
        # Blocks to send back unchanged, with the fragments of their content that follow.
        self._replayed_blocks: dict[int, tuple[dict[str, Any], list[str]]] = {}

    def update_metadata(self, message: dict[str, Any]) -> None:
        """Read model and usage. Later token counts are cumulative and replace earlier ones."""
        self.model: str = as_text(message.get("model")) or self.model
        if isinstance(usage := message.get("usage"), dict):
            counts = self._token_counts
            counts.update({key: value for key, value in usage.items() if value is not None})
            cache_read = as_token_count(counts.get("cache_read_input_tokens"))
            cache_write = as_token_count(counts.get("cache_creation_input_tokens"))
            input_tokens = as_token_count(counts.get("input_tokens"))
            output_details = counts.get("output_tokens_details")
            cache_details = counts.get("cache_creation")
            self.usage: Usage = Usage(
                # "input_tokens (excludes cache)"
                input_tokens + (cache_read or 0) + (cache_write or 0)
                if input_tokens is not None
                else None,
                as_token_count(counts.get("output_tokens")),
                cache_read,
                as_token_count(output_details.get("thinking_tokens"))
                if isinstance(output_details, dict)
                else None,
                cache_write,
                as_token_count(cache_details.get("ephemeral_1h_input_tokens"))
                if isinstance(cache_details, dict)
                else None,
            )

    def start_block(self, block: dict[str, Any], events: list[ChatEvent], index: int = 0) -> None:
        """Start a content block; what it already holds is added."""
        kind = block.get("type")
        call_index = -1
        if kind == "text":
            self.add_text(as_text(block.get("text")) or "", events)
        elif kind == "thinking":
            self.end_part()
            self.add_thinking(as_text(block.get("thinking")) or "", events)
            if signature := as_text(block.get("signature")):
                self.attach_opaque({"signature": signature})
        elif kind == "tool_use":
            call_index = self.start_call(
                as_text(block.get("id")) or "", as_text(block.get("name")) or "", events
            )
            if block.get("input"):
                self.add_arguments(call_index, as_json(block["input"]), events)
        else:
            # Redacted thinking, and the steps of hosted tools: "replay untouched".
            self.attach_opaque({"block": block}, apart=True)
            self._replayed_blocks[index] = (block, [])
        self._blocks[index] = (str(kind), call_index)

    def add_delta(self, index: int, delta: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add a fragment to the content block with this index."""
        kind, call_index = self._blocks.get(index, ("", -1))
        match delta.get("type"):
            case "text_delta":
                self.add_text(as_text(delta.get("text")) or "", events)
            case "thinking_delta":
                self.add_thinking(as_text(delta.get("thinking")) or "", events)
            case "signature_delta":
                if signature := as_text(delta.get("signature")):
                    self.attach_opaque({"signature": signature})
            case "input_json_delta" if kind == "tool_use":
                self.add_arguments(call_index, as_text(delta.get("partial_json")) or "", events)
            case "input_json_delta" | "compaction_delta" if index in self._replayed_blocks:
                fragment = as_text(delta.get("partial_json") or delta.get("content")) or ""
                self._count_characters(len(fragment))
                self._replayed_blocks[index][1].append(fragment)

    def finish_block(self, events: list[ChatEvent], index: int = 0) -> None:
        """Finish the content block with this index."""
        kind, call_index = self._blocks.get(index, ("", -1))
        if kind == "tool_use":
            self.end_call(call_index, events)
        elif kind == "thinking":
            self.end_part()
        elif (replayed := self._replayed_blocks.pop(index, None)) and (
            streamed := "".join(replayed[1])
        ):
            block = replayed[0]
            if kind == "compaction":
                block["content"] = (as_text(block.get("content")) or "") + streamed
            else:
                block["input"] = decode_json(streamed.encode(), self._limits.max_json_depth)

    def close(self, events: list[ChatEvent]) -> None:
        """Finish the reply; warn when the server paused the turn."""
        super().close(events)
        if self.finish_reason == "pause_turn":
            self.warnings.append(
                CallWarning(
                    "TURN_PAUSED",
                    "the model paused before it finished; send its message back unchanged "
                    "to let it continue",
                )
            )


class AnthropicStreamDecoder(ChatStreamDecoder):
    """A decoder of streamed replies, complete at `message_stop`.

    "end without message_stop is a failure"
    """

    accumulator: AnthropicAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """Apply one event of the stream to the reply."""
        accumulator = self.accumulator
        index = document.get("index")
        index = index if isinstance(index, int) else 0
        match document.get("type"):
            case "message_start" if isinstance(message := document.get("message"), dict):
                accumulator.update_metadata(message)
            case "content_block_start" if isinstance(block := document.get("content_block"), dict):
                accumulator.start_block(block, events, index)
            case "content_block_delta" if isinstance(delta := document.get("delta"), dict):
                accumulator.add_delta(index, delta, events)
            case "content_block_stop":
                accumulator.finish_block(events, index)
            case "message_delta":
                accumulator.update_metadata(document)
                if isinstance(delta := document.get("delta"), dict):
                    accumulator.finish_reason = (
                        as_text(delta.get("stop_reason")) or accumulator.finish_reason
                    )
            case "message_stop":
                self.end(events)


def decode_models(body: bytes, limits: Limits) -> tuple[list[ModelInfo], str]:
    """Return the models on one page of `GET /models`, and the id after which the next page begins.

    The id is "" on the last page. Raises BadResponseError when the body is not a model list.
    """
    document = decode_object(body, limits.max_json_depth)
    if not isinstance(document.get("data"), list):
        raise BadResponseError('the model list has no list "data"')
    models = [
        ModelInfo(
            item["id"],
            frozenset({"chat", "vision", "tools"}),
            description=as_text(item.get("display_name")) or "",
            raw=item,
        )
        for item in as_objects(document["data"])
        if isinstance(item.get("id"), str)
    ]
    has_more = document.get("has_more") is True
    return models, (as_text(document.get("last_id")) or "") if has_more else ""


def _system_parts(messages: list[Message]) -> list[TextPart]:
    """Return the text of all system messages: the API has one `system` field."""
    parts: list[TextPart] = []
    for message in messages:
        if message.role == "system":
            if attachments(message.parts):
                raise UnsupportedError(
                    "a system message must hold text only; got an image or a file",
                    field="messages",
                )
            parts += [part for part in message.parts if isinstance(part, TextPart)]
    return parts


def _encode_part(part: Part, placeholders: Base64Placeholders) -> list[dict[str, Any]]:
    match part:
        case TextPart():
            # "empty text blocks are 400"
            return [{"type": "text", "text": part.text}] if part.text else []
        case ImagePart():
            return [
                {
                    "type": "image",
                    "source": {
                        "type": "base64",
                        "media_type": part.mime,
                        "data": placeholders.base64(part),
                    },
                }
            ]
        case FilePart():
            source: dict[str, Any]
            if part.mime == "application/pdf":
                source = {
                    "type": "base64",
                    "media_type": part.mime,
                    "data": placeholders.base64(part),
                }
            elif part.mime.startswith("text/"):
                source = {
                    "type": "text",
                    "media_type": "text/plain",
                    "data": part.data.decode("utf-8", "replace"),
                }
            else:
                raise UnsupportedError(
                    f"Anthropic accepts PDF and text files; got {part.mime}", field="messages"
                )
            return [
                {
                    "type": "document",
                    "source": source,
                    **({"title": part.name} if part.name else {}),
                }
            ]
    return []


def _normalize_tool_id(identity: str, number: int) -> str:
    """Return a tool id that matches `^[a-zA-Z0-9_-]+$`, as the API requires."""
    return _INVALID_ID_CHARACTER.sub("_", identity) or f"call_{number}"


def _version_of(model: str) -> tuple[int, int]:
    """Return the version in a model id: (4, 6) for claude-opus-4-6.

    An id of another form counts as newer than every known model. Ids of versions 1 to 3 have the
    number before the family.
    """
    if re.search(r"claude-[123](?:[.-]|$)", model):
        return (3, 0)
    match = _FAMILY.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else (99, 0)
