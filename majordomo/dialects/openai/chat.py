"""OpenAI's chat completions, and the many servers that are mostly compatible with them.

Sources: openai-openapi at f85dbe2; for the deviations llama.cpp at 00dc805, llama-swap at 0bdb372,
pydantic-ai at 4fda389 and recorded traffic of Groq, Mistral, OpenRouter, DeepSeek, vLLM and others.
Every field of a response is optional, unknown fields are ignored, and null is never sent.
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
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.json_schema import object_schema, wrap_root_object
from majordomo.dialects.openai.chat_reply import (
    OpenAIChatAccumulator,
    OpenAIChatStreamDecoder,
    error_status,
    first_choice,
    usage_of,
    wants_images,
    without_images,
)
from majordomo.dialects.request_body import (
    UNSUPPORTED,
    deep_merge,
    named_values,
    other_fields,
    unsupported,
)
from majordomo.errors import BadResponseError, CallWarning
from majordomo.framing.base64 import Base64Body
from majordomo.framing.base64_placeholders import Base64Placeholders
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

# "Invalid 'messages[2].tool_calls[0].id': string too long. Expected a string with maximum length
# 40" (OpenAI)
MAX_ID_CHARACTERS = 40
_FIELDS = {"temperature": "temperature", "top_p": "top_p"}
# OpenAI itself does not have these.
_EXTENSIONS = {"top_k": "top_k"}


@dataclass(frozen=True, slots=True)
class OpenAIChatCodec:
    """Client-side codec for chat completions. Each field is a deviation between servers."""

    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Field for the token limit; most compatible servers only know `max_tokens`."""
    path: str = "/chat/completions"
    """Path below the base URL."""
    schema_form: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    """How an output schema is sent.

    `json_schema` and `json_object` are types of `response_format`; llama-cpp-python answers
    `json_schema` with a 500. `prompt` puts the schema into a system message and requests a JSON
    object.
    """
    stream_usage: bool = True
    """Whether to request usage in streams; most servers send none otherwise."""
    provider: str = ""
    """Name of the provider, recorded in thinking parts and compared before they are sent back."""
    required: str = "required"
    """The value of `tool_choice` that requires a tool call."""
    seed_field: str = "seed"
    """Field for the seed."""
    extensions: bool = True
    """Whether fields are accepted that OpenAI does not have, such as `top_k`."""
    reasoning_object: bool = False
    """Whether reasoning is `reasoning: {"effort": …}`, which also accepts a token limit."""
    thinking_field: Literal["", "reasoning", "reasoning_content", "reasoning_details"] = ""
    """Field in which the model needs its own thinking back; empty if it needs none."""
    short_ids: bool = False
    """Whether tool call ids must be exactly nine letters and digits."""
    image_support: ImageSupport = PNG_AND_JPEG
    """Accepted formats of input images."""
    object_root: bool = False
    """Whether an output schema must have an object at its root."""
    system_role: SystemRole = "system"
    """Role of system messages."""
    loading_chunks: bool = False
    """Whether to decode llama-swap's `sendLoadingState`.

    Its chunks hold progress text as reasoning, without `id`, `model` and `object`.
    """

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """Encode a request, with a warning for each field that has no effect here."""
        warnings: list[CallWarning] = []
        placeholders = Base64Placeholders()
        messages = normalize_tool_ids(
            request.messages,
            _nine_character_id if self.short_ids else id_shortener(MAX_ID_CHARACTERS),
        )
        body: dict[str, Any] = {
            "model": model,
            "messages": self._encode_messages(order_tool_results(messages), placeholders),
        }
        names = {
            "max_tokens": self.limit_field,
            **_FIELDS,
            **(_EXTENSIONS if self.extensions else {}),
            "seed": self.seed_field,
        }
        body |= named_values(request, names)
        others = other_fields(request, (*names, "stop", "reasoning"))
        warnings += unsupported(request, others, "this API has no such field")
        if request.stop:
            body["stop"] = list(request.stop)
        body |= self._encode_tools(request)
        if request.output is not None:
            body["response_format"] = self._encode_output(request, body["messages"])
        body |= self._encode_reasoning(request, warnings)
        if stream:
            body["stream"] = True
            if self.stream_usage:
                body["stream_options"] = {"include_usage": True}
        encoded = encode_json(deep_merge(body, request.extra), placeholders.encode_placeholder)
        http_request = HTTPRequest(
            "POST",
            self.path,
            Base64Body(placeholders.split(encoded)) if placeholders else encoded,
            "application/json",
            accept="text/event-stream, application/json" if stream else "application/json",
            stream=stream,
        )
        return http_request, warnings

    def _encode_tools(self, request: Request) -> dict[str, Any]:
        if not request.tools:
            return {}
        tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": object_schema(tool.parameters),
                },
            }
            for tool in request.tools
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

    def _encode_output(self, request: Request, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `response_format`; for `prompt`, insert a system message with the schema."""
        schema, _ = self._output_schema(request)
        if self.schema_form == "json_schema":
            return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
        if self.schema_form == "json_object":
            return {"type": "json_object", "schema": schema}
        schema_text = encode_json(schema).decode()
        messages.insert(
            0,
            {
                "role": self.system_role,
                "content": f"Answer with one JSON object of this JSON schema: {schema_text}",
            },
        )
        return {"type": "json_object"}

    def _encode_reasoning(self, request: Request, warnings: list[CallWarning]) -> dict[str, Any]:
        reasoning = request.reasoning
        if reasoning is None:
            return {}
        if self.reasoning_object:
            if isinstance(reasoning, int):
                return {"reasoning": {"max_tokens": reasoning}}
            effort = {"enabled": False} if reasoning == "off" else {"effort": reasoning}
            return {"reasoning": effort}
        if isinstance(reasoning, str):
            return {"reasoning_effort": "none" if reasoning == "off" else reasoning}
        warnings.append(
            CallWarning(
                UNSUPPORTED,
                'reasoning must be "off", "low", "medium" or "high" for this API; got a number '
                "of tokens",
                "reasoning",
            )
        )
        return {}

    def _encode_messages(
        self, messages: list[Message], placeholders: Base64Placeholders
    ) -> list[dict[str, Any]]:
        """Encode the messages.

        This API has no images in messages of tools and of the assistant. They move into the next
        user message, after all tool results: "a user message between two tool answers of the same
        assistant turn is a 400".
        """
        encoded: list[dict[str, Any]] = []
        moved: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "tool":
                results = tool_results(message)
                encoded += [
                    {
                        "role": "tool",
                        "tool_call_id": result.call_id,
                        "content": _encode_tool_result(result, placeholders, moved),
                    }
                    for result in results
                ]
                continue
            if moved and message.role != "user":
                encoded.append({"role": "user", "content": moved})
                moved = []
            if message.role == "assistant":
                encoded.append(self._encode_assistant_message(message, placeholders, moved))
                continue
            content = moved + [
                encoded_part
                for part in message.parts
                if (encoded_part := _encode_part(part, placeholders)) is not None
            ]
            moved = []
            # "empty array. Expected an array with minimum length 1"
            if not content:
                continue
            only_text = len(content) == 1 and content[0]["type"] == "text"
            role = self.system_role if message.role == "system" else message.role
            encoded.append({"role": role, "content": content[0]["text"] if only_text else content})
        if moved:
            encoded.append({"role": "user", "content": moved})
        return encoded

    def _encode_assistant_message(
        self, message: Message, placeholders: Base64Placeholders, moved: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Encode a message of the assistant; its images and files are appended to `moved`."""
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
            encoded |= self._encode_thinking(message, bool(calls))
        for part in message.parts:
            if isinstance(part, (ImagePart, FilePart)):
                moved += [
                    {"type": "text", "text": "(from the assistant's turn above)"},
                    _encode_attachment(part, placeholders),
                ]
        return encoded

    def _encode_thinking(self, message: Message, has_calls: bool) -> dict[str, Any]:
        """Return the provider's own thinking in the field in which it needs it back."""
        own_parts = [
            part
            for part in message.parts
            if isinstance(part, ThinkingPart) and own_thinking(part, self.provider)
        ]
        if self.thinking_field == "reasoning_details":
            details = [
                detail for part in own_parts for detail in part.opaque.get("reasoning_details", ())
            ]
            return {"reasoning_details": details} if details else {}
        text = "".join(part.text for part in own_parts)
        # DeepSeek requires it in a tool loop and rejects it elsewhere.
        if self.thinking_field == "reasoning_content":
            return {"reasoning_content": text} if has_calls else {}
        return {"reasoning": text} if text else {}

    def _output_schema(self, request: Request) -> tuple[dict[str, Any], str]:
        """Return the schema of the wanted output, and the field that then holds the output."""
        schema = output_schema(request.output)
        # With the schema in a system message, the response is still a `json_object`.
        if self.object_root or self.schema_form == "prompt":
            return wrap_root_object(schema)
        return schema, ""

    def _output_field(self, request: Request) -> str:
        return self._output_schema(request)[1] if request.output is not None else ""

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """Decode a complete response.

        Raises BadResponseError, or the error that a 200 carries.
        """
        document = decode_object(body, limits.max_json_depth)
        if document.get("error") and not document.get("choices"):
            raise build_error(error_status(document), read_error_value(document), {})
        accumulator = OpenAIChatAccumulator(
            request,
            limits,
            self.provider,
            keep_details=self.thinking_field == "reasoning_details",
        )
        accumulator.output_field = self._output_field(request)
        choice = first_choice(document)
        if choice is None or not isinstance(choice.get("message"), dict):
            raise BadResponseError("the response has no message")
        events: list[ChatEvent] = []
        accumulator.add_delta(choice["message"], events)
        accumulator.finish_reason = as_text(choice.get("finish_reason"))
        accumulator.model = as_text(document.get("model")) or ""
        accumulator.usage = usage_of(document)
        accumulator.close(events)
        return accumulator.reply(
            complete=True, raw=without_images(document) if b"data:" in body else document
        )

    def stream_decoder(self, request: Request, limits: Limits) -> OpenAIChatStreamDecoder:
        """Return a decoder for the bytes of a streamed response."""
        return OpenAIChatStreamDecoder(
            request,
            limits,
            provider=self.provider,
            loading_chunks=self.loading_chunks,
            keep_details=self.thinking_field == "reasoning_details",
            output_field=self._output_field(request),
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        """Return the maximum size of a complete response in bytes."""
        return limits.max_image_reply_bytes if wants_images(request) else limits.max_reply_bytes


def _encode_tool_result(
    result: ToolResultPart, placeholders: Base64Placeholders, moved: list[dict[str, Any]]
) -> str:
    """Encode a tool result as text; its images and files are appended to `moved`."""
    text = text_of(result.parts)
    attached = [part for part in result.parts if not isinstance(part, TextPart)]
    for number, part in enumerate(attached, 1):
        label = f"attachment {number} of tool {result.name or result.call_id}"
        text += f"{' ' if text else ''}(see {label})"
        moved += [{"type": "text", "text": label}, _encode_attachment(part, placeholders)]
    if result.is_error:
        return f"error: {text}"
    return text


def _encode_part(part: Part, placeholders: Base64Placeholders) -> dict[str, Any] | None:
    """Encode a part of a user or system message, or return None for one that is not sent."""
    refuse_misplaced(part)
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart() | FilePart():
            return _encode_attachment(part, placeholders)
        case _:
            # Thinking is not sent.
            return None


def _encode_attachment(
    part: ImagePart | FilePart, placeholders: Base64Placeholders
) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": placeholders.data_url(part)}}
    return {
        "type": "file",
        "file": {"filename": part.name or "file", "file_data": placeholders.data_url(part)},
    }


def _nine_character_id(call_id: str, number: int) -> str:
    """Return an id of nine letters and digits; an id that already is one stays unchanged.

    Mistral: "exactly 9 characters [a-zA-Z0-9] on older models".
    """
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return f"call{number:05d}"
