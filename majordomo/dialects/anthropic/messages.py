"""Anthropic's Messages.

Sources: anthropic-sdk-python 2.10.0, pydantic-ai at 4fda389, vercel/ai at ed857f5, recorded traffic from 2025 to August 2026.
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
    tools_of,
)
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.json_schema import closed_schema, object_schema
from majordomo.dialects.request_body import UNSUPPORTED, json_request
from majordomo.errors import BadResponseError, CallWarning, UnsupportedError
from majordomo.framing.base64_placeholders import Splices
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
DEFAULT_MAX_TOKENS = 4096  # `max_tokens` is required; every model takes this many
MIN_THINKING_BUDGET = 1024
_WRITTEN = (
    "server_tool_use",
    "mcp_tool_use",
)  # calls of hosted tools, whose input is streamed as that of ours
_EFFORT = {"low": 2048, "medium": 8192, "high": 16384}  # tokens, for models that know budgets only
_NOT_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_FAMILY = re.compile(r"claude-[a-z]+-(\d{1,2})(?:-(\d{1,2}))?(?![0-9])")

# "image exceeds 5 MB maximum: … > 5242880 bytes" (of base64), and at most 8,000 pixels a side (Anthropic's vision page)
IMAGE_SUPPORT = ImageSupport(max_bytes=5_242_880 // 4 * 3, max_side=8_000)


@dataclass(frozen=True, slots=True)
class AnthropicMessagesCodec:
    """Client door. `cache` marks the last block that can be cached, for five minutes or an hour."""

    provider: str = "anthropic"
    version: Version = "2023-06-01"
    cache: Literal["5m", "1h"] | None = None
    path: str = "/messages"
    image_support: ImageSupport = IMAGE_SUPPORT

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """The request, and what of it will not happen as asked."""
        warnings: list[CallWarning] = []
        splices = Splices()
        messages = normalize_tool_ids(request.messages, _spell)
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
        }
        if instructions := [
            {"type": "text", "text": part.text} for part in _system(messages) if part.text
        ]:
            body["system"] = instructions
        warnings += merge_system_messages(messages)
        thinks = self._add_thinking(model, request, body, warnings)
        body["messages"] = self._messages(messages, splices, warnings, model)
        self._add_sampling(request, body, thinks, warnings)
        self._add_tools(request, messages, body, thinks, warnings)
        if request.output is not None:
            body.setdefault("output_config", {})["format"] = {
                "type": "json_schema",
                "schema": closed_schema(output_schema(request.output)),
            }
        if self.cache is not None:
            body["cache_control"] = {"type": "ephemeral", "ttl": self.cache}
        if stream:
            body["stream"] = True
        return json_request(self.path, body, request.extra, splices, stream=stream), warnings

    def _add_sampling(
        self, request: Request, body: dict[str, Any], thinks: bool, warnings: list[CallWarning]
    ) -> None:
        reason = (
            f"version {self.version} of this API has no such field"
            if self.version != "2023-06-01"
            else "a model that thinks takes none"
            if thinks
            else ""
        )
        for name in ("temperature", "top_p", "top_k"):
            if (value := getattr(request, name)) is None:
                continue
            if reason:
                warnings.append(CallWarning(UNSUPPORTED, f"{name} has no effect: {reason}", name))
            elif name == "temperature" and value > 1:
                warnings.append(
                    CallWarning(UNSUPPORTED, "temperature is 0 to 1 here: 1 was sent", name)
                )
                body[name] = 1
            else:
                body[name] = value
        if request.seed is not None:
            warnings.append(
                CallWarning(UNSUPPORTED, "seed has no effect: this API has none", "seed")
            )
        if request.stop:
            body["stop_sequences"] = list(request.stop)

    def _add_thinking(
        self, model: str, request: Request, body: dict[str, Any], warnings: list[CallWarning]
    ) -> bool:
        """Whether the model is asked to think. Models from 4.6 on decide themselves how much; later ones refuse a number of tokens."""
        wish = request.reasoning
        if wish is None:
            return False
        if wish == "off":
            body["thinking"] = {"type": "disabled"}
            return False
        version = _version_of(model)
        if isinstance(wish, int) and version > (4, 6):
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    "this model takes low, medium and high, not a number of tokens",
                    "reasoning",
                )
            )
        if version >= (4, 6) and not (isinstance(wish, int) and version == (4, 6)):
            body["thinking"] = {"type": "adaptive"}
            if isinstance(wish, str):
                body["output_config"] = {"effort": wish}
            return True
        budget = wish if isinstance(wish, int) else _EFFORT[wish]
        if budget < MIN_THINKING_BUDGET:
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    f"the least number of tokens is {MIN_THINKING_BUDGET}, which was sent",
                    "reasoning",
                )
            )
            budget = MIN_THINKING_BUDGET
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        if request.max_tokens is None:
            body["max_tokens"] = budget + DEFAULT_MAX_TOKENS  # "budget_tokens … < max_tokens"
        elif request.max_tokens <= budget:
            body["thinking"]["budget_tokens"] = max(MIN_THINKING_BUDGET, request.max_tokens - 1)
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    "max_tokens leaves fewer tokens to think than reasoning asks for",
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
        thinks: bool,
        warnings: list[CallWarning],
    ) -> None:
        # "History containing tool_use while tools is absent: 400"
        withdrawn = tools_of(request.tools, messages)
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
        if thinks and choice not in ("auto", "none"):
            warnings.append(
                CallWarning(
                    UNSUPPORTED, "a model that thinks cannot be made to call a tool", "tool_choice"
                )
            )
            choice = "auto"
        named = {"auto": "auto", "none": "none", "required": "any"}.get(choice)
        body["tool_choice"] = {"type": named} if named else {"type": "tool", "name": choice}

    def _messages(
        self, messages: list[Message], splices: Splices, warnings: list[CallWarning], model: str
    ) -> list[dict[str, Any]]:
        """User and assistant in turn: results first, what the assistant drew in the user turn after it."""
        turns: list[dict[str, Any]] = []
        drawn: list[dict[str, Any]] = []
        for message in messages:
            blocks: list[dict[str, Any]] = []
            if message.role == "system":
                continue
            if message.role == "assistant":
                for part in message.parts:
                    blocks += self._assistant_part(part, splices, drawn, model)
            elif message.role == "tool":
                for result in tool_results(message):
                    content = [block for part in result.parts for block in _block(part, splices)]
                    block = {
                        "type": "tool_result",
                        "tool_use_id": result.call_id,
                        "content": content,
                    }
                    blocks.append(block | {"is_error": True} if result.is_error else block)
            else:
                blocks += drawn
                drawn = []
                for part in message.parts:
                    refuse_misplaced(part)
                    blocks += _block(part, splices)
            if not blocks:
                continue
            role = "assistant" if message.role == "assistant" else "user"
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"] += blocks
            else:
                turns.append({"role": role, "content": blocks})
        if drawn:
            turns.append({"role": "user", "content": drawn})
        if turns and turns[0]["role"] != "user":
            warnings.append(
                CallWarning(
                    "HISTORY_CHANGED",
                    "a conversation begins with the user here: a turn was put first",
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
        if (
            turns and turns[-1]["role"] == "assistant"
        ):  # "trailing whitespace in a final assistant message is 400"
            last = turns[-1]["content"][-1]
            paused = any(
                block["type"] in _WRITTEN for block in turns[-1]["content"]
            )  # "send the assistant content back unchanged"
            if last["type"] == "text" and not paused:
                last["text"] = last["text"].rstrip() or "."
        return turns

    def _assistant_part(
        self, part: Part, splices: Splices, drawn: list[dict[str, Any]], model: str
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
                drawn += [
                    {"type": "text", "text": "(from the assistant's turn above)"},
                    *_block(part, splices),
                ]
                return []
            case _:
                refuse_misplaced(part)
                return _block(part, splices)

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """The reply in a whole answer. Raises BadResponseError, or the error that a 200 carries."""
        document = decode_object(body, limits.max_json_depth)
        if document.get("type") == "error" or "error" in document:
            raise build_error(200, error_value(document), {})
        if not isinstance(document.get("content"), list):
            raise BadResponseError("the answer holds no content")
        answer = AnthropicAccumulator(request, limits, self.provider)
        events: list[ChatEvent] = []
        for block in as_objects(document["content"]):
            answer.begin(block, events)
            answer.finish_block(events)
        answer.head(document)
        answer.finish_reason = as_text(document.get("stop_reason"))
        answer.close(events)
        return answer.reply(whole=True, raw=document)

    def stream_decoder(self, request: Request, limits: Limits) -> AnthropicStreamDecoder:
        return AnthropicStreamDecoder(
            AnthropicAccumulator(request, limits, self.provider),
            EventDecoder(limits.max_event_bytes),
            limits,
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        return limits.max_reply_bytes


class AnthropicAccumulator(ChatAccumulator):
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    def __init__(self, request: Request, limits: Limits, owner: str) -> None:
        super().__init__(request, limits, owner)
        self._counts: dict[str, Any] = {}
        self._at: dict[
            int, tuple[str, int]
        ] = {}  # index of a block: its kind, and the place of its call
        self._kept: dict[
            int, tuple[dict[str, Any], list[str]]
        ] = {}  # blocks to replay, and pieces of them that come later

    def head(self, message: dict[str, Any]) -> None:
        """Model and counts. Later counts replace earlier ones: they are cumulative."""
        self.model: str = as_text(message.get("model")) or self.model
        if isinstance(usage := message.get("usage"), dict):
            self._counts.update({key: value for key, value in usage.items() if value is not None})
            read = as_token_count(self._counts.get("cache_read_input_tokens"))
            written = as_token_count(self._counts.get("cache_creation_input_tokens"))
            given = as_token_count(self._counts.get("input_tokens"))
            details, kept = (
                self._counts.get("output_tokens_details"),
                self._counts.get("cache_creation"),
            )
            self.usage: Usage = Usage(
                given + (read or 0) + (written or 0)
                if given is not None
                else None,  # "input_tokens (excludes cache)"
                as_token_count(self._counts.get("output_tokens")),
                read,
                as_token_count(details.get("thinking_tokens"))
                if isinstance(details, dict)
                else None,
                written,
                as_token_count(kept.get("ephemeral_1h_input_tokens"))
                if isinstance(kept, dict)
                else None,
            )

    def begin(self, block: dict[str, Any], events: list[ChatEvent], index: int = 0) -> None:
        kind = block.get("type")
        place = -1
        if kind == "text":
            self.add_text(as_text(block.get("text")) or "", events)
        elif kind == "thinking":
            self.end_part()
            self.add_thinking(as_text(block.get("thinking")) or "", events)
            if signature := as_text(block.get("signature")):
                self.attach_opaque({"signature": signature})
        elif kind == "tool_use":
            place = self.start_call(
                as_text(block.get("id")) or "", as_text(block.get("name")) or "", events
            )
            if block.get("input"):
                self.add_arguments(place, as_json(block["input"]), events)
        else:  # redacted thoughts, and the steps of hosted tools: "replay untouched"
            self.attach_opaque({"block": block}, apart=True)
            self._kept[index] = (block, [])
        self._at[index] = (str(kind), place)

    def more(self, index: int, delta: dict[str, Any], events: list[ChatEvent]) -> None:
        kind, place = self._at.get(index, ("", -1))
        match delta.get("type"):
            case "text_delta":
                self.add_text(as_text(delta.get("text")) or "", events)
            case "thinking_delta":
                self.add_thinking(as_text(delta.get("thinking")) or "", events)
            case "signature_delta":
                if signature := as_text(delta.get("signature")):
                    self.attach_opaque({"signature": signature})
            case "input_json_delta" if kind == "tool_use":
                self.add_arguments(place, as_text(delta.get("partial_json")) or "", events)
            case "input_json_delta" | "compaction_delta" if index in self._kept:
                piece = as_text(delta.get("partial_json") or delta.get("content")) or ""
                self._grow(len(piece))
                self._kept[index][1].append(piece)

    def finish_block(self, events: list[ChatEvent], index: int = 0) -> None:
        kind, place = self._at.get(index, ("", -1))
        if kind == "tool_use":
            self.end_call(place, events)
        elif kind == "thinking":
            self.end_part()
        elif (kept := self._kept.pop(index, None)) and (written := "".join(kept[1])):
            block = kept[0]
            if kind == "compaction":
                block["content"] = (as_text(block.get("content")) or "") + written
            else:
                block["input"] = decode_json(written.encode(), self._limits.max_json_depth)

    def close(self, events: list[ChatEvent]) -> None:
        super().close(events)
        if self.finish_reason == "pause_turn":
            self.warnings.append(
                CallWarning(
                    "TURN_PAUSED",
                    "the model has not finished: send its message back as it is, and it goes on",
                )
            )


class AnthropicStreamDecoder(ChatStreamDecoder):
    """Whole at `message_stop`; "end without message_stop is a failure"."""

    accumulator: AnthropicAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        answer = self.accumulator
        index = document.get("index")
        index = index if isinstance(index, int) else 0
        match document.get("type"):
            case "message_start" if isinstance(message := document.get("message"), dict):
                answer.head(message)
            case "content_block_start" if isinstance(block := document.get("content_block"), dict):
                answer.begin(block, events, index)
            case "content_block_delta" if isinstance(delta := document.get("delta"), dict):
                answer.more(index, delta, events)
            case "content_block_stop":
                answer.finish_block(events, index)
            case "message_delta":
                answer.head(document)
                if isinstance(delta := document.get("delta"), dict):
                    answer.finish_reason = as_text(delta.get("stop_reason")) or answer.finish_reason
            case "message_stop":
                self.end(events)


def decode_models(body: bytes, limits: Limits) -> tuple[list[ModelInfo], str]:
    """The models of a page of `GET /models`, and the id after which the next begins, "" on the last."""
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
    return models, (as_text(document.get("last_id")) or "") if document.get(
        "has_more"
    ) is True else ""


def _system(messages: list[Message]) -> list[TextPart]:
    """What stands in system turns, wherever they stand: the API has one place for it."""
    found: list[TextPart] = []
    for message in messages:
        if message.role == "system":
            if attachments(message.parts):
                raise UnsupportedError("a system turn holds text only", field="messages")
            found += [part for part in message.parts if isinstance(part, TextPart)]
    return found


def _block(part: Part, splices: Splices) -> list[dict[str, Any]]:
    match part:
        case TextPart():
            return (
                [{"type": "text", "text": part.text}] if part.text else []
            )  # "empty text blocks are 400"
        case ImagePart():
            return [
                {
                    "type": "image",
                    "source": {
                        "type": "base64",
                        "media_type": part.mime,
                        "data": splices.base64(part),
                    },
                }
            ]
        case FilePart():
            source: dict[str, Any]
            if part.mime == "application/pdf":
                source = {"type": "base64", "media_type": part.mime, "data": splices.base64(part)}
            elif part.mime.startswith("text/"):
                source = {
                    "type": "text",
                    "media_type": "text/plain",
                    "data": part.data.decode("utf-8", "replace"),
                }
            else:
                raise UnsupportedError(
                    f"documents here are PDF or text, not {part.mime}", field="messages"
                )
            return [
                {
                    "type": "document",
                    "source": source,
                    **({"title": part.name} if part.name else {}),
                }
            ]
    return []


def _spell(identity: str, number: int) -> str:
    """Tool ids match ^[a-zA-Z0-9_-]+$"""
    return _NOT_AN_ID.sub("_", identity) or f"call_{number}"


def _version_of(model: str) -> tuple[int, int]:
    """(4, 6) of claude-opus-4-6; names of another kind are taken for newer ones. The old ones had their number before the family."""
    if re.search(r"claude-[123](?:[.-]|$)", model):
        return (3, 0)
    found = _FAMILY.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else (99, 0)
