"""OpenAI's chat completions, and the many servers that nearly speak it.

Sources: openai-openapi at f85dbe2; for the deviations llama.cpp at 00dc805, llama-swap at 0bdb372, pydantic-ai at 4fda389 and
recorded traffic of Groq, Mistral, OpenRouter, DeepSeek, vLLM and others. Every field of an answer is optional, unknown ones are
harmless, and null is never sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from majordomo.dialects.chat_accumulator import as_text
from majordomo.dialects.conversation import (
    SystemRole,
    id_shortener,
    normalize_tool_ids,
    order_tool_results,
    own_thinking,
    refuse_misplaced,
    text_of,
    tool_results,
)
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.json_schema import object_schema, wrap_root_object
from majordomo.dialects.openai.chat_answer import (
    OpenAIChatAccumulator,
    OpenAIChatStreamDecoder,
    first_choice,
    status_within,
    usage_of,
    wants_images,
    without_images,
)
from majordomo.dialects.request_body import UNSUPPORTED, deep_merge
from majordomo.errors import BadResponseError, CallWarning
from majordomo.framing.base64 import Base64Body
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object, encode_json
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
    ToolResultPart,
)
from majordomo.llm.tools import output_schema
from majordomo.media.image_limits import PNG_AND_JPEG, ImageSupport
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

MAX_ID_CHARACTERS = 40  # "Invalid 'messages[2].tool_calls[0].id': string too long. Expected a string with maximum length 40" (OpenAI)


@dataclass(frozen=True, slots=True)
class OpenAIChatCodec:
    """Client door. Each field is a way in which servers differ."""

    limit_field: Literal["max_tokens", "max_completion_tokens"] = (
        "max_tokens"  # the only spelling most compatible servers know
    )
    path: str = "/chat/completions"
    schema_form: Literal["json_schema", "json_object", "words"] = (
        "json_schema"  # llama-cpp-python answers json_schema with a 500
    )
    stream_usage: bool = True  # ask for usage in streams; without it most send none
    provider: str = ""  # the provider whose thinking this is
    required: str = "required"  # the word for a tool call that must come
    seed_field: str = "seed"
    top_k: bool = True  # whether a field that OpenAI has not is known
    reasoning_object: bool = (
        False  # `reasoning: {"effort": …}`, which also takes a number of tokens
    )
    thinking_field: Literal["", "reasoning", "reasoning_content", "reasoning_details"] = (
        ""  # where the model wants its own thoughts back
    )
    short_ids: bool = False  # tool ids of exactly nine letters and digits
    image_support: ImageSupport = PNG_AND_JPEG
    object_root: bool = False  # a schema of an answer has an object at its root
    system_role: SystemRole = "system"
    loading_chunks: bool = False  # llama-swap's sendLoadingState: progress text dressed as reasoning, without id, model and object

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """The request, and what of it will not happen as asked."""
        warnings: list[CallWarning] = []
        splices = Splices()
        messages = normalize_tool_ids(
            request.messages, _nine if self.short_ids else id_shortener(MAX_ID_CHARACTERS)
        )
        body: dict[str, Any] = {
            "model": model,
            "messages": self._messages(order_tool_results(messages), splices),
        }
        if request.max_tokens is not None:
            body[self.limit_field] = request.max_tokens
        for name, word in (
            ("temperature", "temperature"),
            ("top_p", "top_p"),
            ("top_k", "top_k"),
            ("seed", self.seed_field),
        ):
            if (value := getattr(request, name)) is None:
                continue
            if name == "top_k" and not self.top_k:
                warnings.append(
                    CallWarning(UNSUPPORTED, "top_k has no effect: this API has none", name)
                )
            else:
                body[word] = value
        if request.stop:
            body["stop"] = list(request.stop)
        body |= self._tools(request)
        if request.output is not None:
            body["response_format"] = self._output(request, body["messages"])
        body |= self._reasoning(request, warnings)
        if stream:
            body["stream"] = True
            if self.stream_usage:
                body["stream_options"] = {"include_usage": True}
        raw = encode_json(deep_merge(body, request.extra), splices.fallback)
        wire = HTTPRequest(
            "POST",
            self.path,
            Base64Body(splices.cut(raw)) if splices else raw,
            "application/json",
            accept="text/event-stream, application/json" if stream else "application/json",
            stream=stream,
        )
        return wire, warnings

    def _tools(self, request: Request) -> dict[str, Any]:
        if not request.tools:
            return {}
        tools = [
            {
                "type": "function",
                "function": {
                    "name": t.name,
                    "description": t.description,
                    "parameters": object_schema(t.parameters),
                },
            }
            for t in request.tools
        ]
        match request.tool_choice:
            case None:
                return {"tools": tools}
            case "auto" | "none" as choice:
                return {"tools": tools, "tool_choice": choice}
            case "required":
                return {"tools": tools, "tool_choice": self.required}
            case name:
                return {
                    "tools": tools,
                    "tool_choice": {"type": "function", "function": {"name": name}},
                }

    def _output(self, request: Request, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The form of the answer; where the server knows no schema, words before all messages tell it."""
        schema, _ = self._schema(request)
        if self.schema_form == "json_schema":
            return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
        if self.schema_form == "json_object":
            return {"type": "json_object", "schema": schema}
        words = encode_json(schema).decode()
        messages.insert(
            0,
            {
                "role": self.system_role,
                "content": f"Answer with one JSON object of this JSON schema: {words}",
            },
        )
        return {"type": "json_object"}

    def _reasoning(self, request: Request, warnings: list[CallWarning]) -> dict[str, Any]:
        asked = request.reasoning
        if asked is None:
            return {}
        if self.reasoning_object:
            if isinstance(asked, int):
                return {"reasoning": {"max_tokens": asked}}
            return {"reasoning": {"enabled": False} if asked == "off" else {"effort": asked}}
        if isinstance(asked, str):
            return {"reasoning_effort": "none" if asked == "off" else asked}
        warnings.append(
            CallWarning(
                UNSUPPORTED,
                "this dialect knows low, medium and high, not a number of tokens",
                "reasoning",
            )
        )
        return {}

    def _messages(self, messages: list[Message], splices: Splices) -> list[dict[str, Any]]:
        """Messages as this dialect has them. Images of tools and of the assistant cannot stand where they were: they move into the next
        user's turn, after all tool answers ("a user message between two tool answers of the same assistant turn is a 400")."""
        encoded: list[dict[str, Any]] = []
        moved: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "tool":
                results = tool_results(message)
                encoded += [
                    {
                        "role": "tool",
                        "tool_call_id": r.call_id,
                        "content": _tool_text(r, splices, moved),
                    }
                    for r in results
                ]
                continue
            if moved and message.role != "user":
                encoded.append({"role": "user", "content": moved})
                moved = []
            if message.role == "assistant":
                encoded.append(self._assistant_message(message, splices, moved))
                continue
            parts = moved + [
                piece
                for part in message.parts
                if (piece := _encode_part(part, splices)) is not None
            ]
            moved = []
            if not parts:  # "empty array. Expected an array with minimum length 1"
                continue
            only_text = len(parts) == 1 and parts[0]["type"] == "text"
            role = self.system_role if message.role == "system" else message.role
            encoded.append({"role": role, "content": parts[0]["text"] if only_text else parts})
        if moved:
            encoded.append({"role": "user", "content": moved})
        return encoded

    def _assistant_message(
        self, message: Message, splices: Splices, moved: list[dict[str, Any]]
    ) -> dict[str, Any]:
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        encoded: dict[str, Any] = {"role": "assistant"}
        if message.text or not calls:
            encoded["content"] = message.text
        if calls:
            encoded["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments_json or "{}"},
                }
                for call in calls
            ]
        if self.thinking_field:
            encoded |= self._thoughts(message, bool(calls))
        for part in message.parts:
            if isinstance(part, (ImagePart, FilePart)):
                moved += [
                    {"type": "text", "text": "(from the assistant's turn above)"},
                    _image_part(part, splices),
                ]
        return encoded

    def _thoughts(self, message: Message, calls: bool) -> dict[str, Any]:
        """The model's own thoughts in its own field."""
        ours = [
            part
            for part in message.parts
            if isinstance(part, ThinkingPart) and own_thinking(part, self.provider)
        ]
        if self.thinking_field == "reasoning_details":
            kept = [detail for part in ours for detail in part.opaque.get("reasoning_details", ())]
            return {"reasoning_details": kept} if kept else {}
        text = "".join(part.text for part in ours)
        if (
            self.thinking_field == "reasoning_content"
        ):  # DeepSeek: in a tool loop it must be there, elsewhere it must not
            return {"reasoning_content": text} if calls else {}
        return {"reasoning": text} if text else {}

    def _schema(self, request: Request) -> tuple[dict[str, Any], str]:
        """The schema of the wanted answer, and the field of it in which the output then stands."""
        schema = output_schema(request.output)
        # asked for in words, the answer is a `json_object` all the same
        return (
            wrap_root_object(schema)
            if self.object_root or self.schema_form == "words"
            else (schema, "")
        )

    def _within(self, request: Request) -> str:
        return self._schema(request)[1] if request.output is not None else ""

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """The reply in a whole answer. Raises BadResponseError, or the error that a 200 carries."""
        document = decode_object(body, limits.max_json_depth)
        if document.get("error") and not document.get("choices"):
            raise build_error(status_within(document), error_value(document), {})
        answer = OpenAIChatAccumulator(
            request, limits, self.provider, details=self.thinking_field == "reasoning_details"
        )
        answer.output_field = self._within(request)
        choice = first_choice(document)
        if choice is None or not isinstance(choice.get("message"), dict):
            raise BadResponseError("the answer holds no message")
        events: list[ChatEvent] = []
        answer.add_delta(choice["message"], events)
        answer.finish_reason = as_text(choice.get("finish_reason"))
        answer.model = as_text(document.get("model")) or ""
        answer.usage = usage_of(document)
        answer.close(events)
        return answer.reply(
            whole=True, raw=without_images(document) if b"data:" in body else document
        )

    def stream_decoder(self, request: Request, limits: Limits) -> OpenAIChatStreamDecoder:
        return OpenAIChatStreamDecoder(
            request,
            limits,
            owner=self.provider,
            loading_chunks=self.loading_chunks,
            details=self.thinking_field == "reasoning_details",
            within=self._within(request),
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        """How large a whole answer may be, in bytes."""
        return limits.max_image_reply_bytes if wants_images(request) else limits.max_reply_bytes


def _tool_text(result: ToolResultPart, splices: Splices, moved: list[dict[str, Any]]) -> str:
    text = text_of(result.parts)
    others = [part for part in result.parts if not isinstance(part, TextPart)]
    for number, part in enumerate(others, 1):
        label = f"attachment {number} of tool {result.name or result.call_id}"
        text += f"{' ' if text else ''}(see {label})"
        moved += [{"type": "text", "text": label}, _image_part(part, splices)]
    if result.is_error:
        return f"error: {text}"
    return text


def _encode_part(part: Part, splices: Splices) -> dict[str, Any] | None:
    refuse_misplaced(part)
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart() | FilePart():
            return _image_part(part, splices)
        case _:  # somebody's thoughts
            return None


def _image_part(part: ImagePart | FilePart, splices: Splices) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": splices.data_url(part)}}
    return {
        "type": "file",
        "file": {"filename": part.name or "file", "file_data": splices.data_url(part)},
    }


def _nine(identity: str, number: int) -> str:
    """Mistral: "exactly 9 characters [a-zA-Z0-9] on older models". An id that is so already stays."""
    return (
        identity
        if len(identity) == 9 and identity.isascii() and identity.isalnum()
        else f"call{number:05d}"
    )
