"""OpenAI's Responses API.

Nothing is stored on the server: `store` is false, and the reasoning of a model is sent back
encrypted.

Sources: openai-openapi at f85dbe2, openai-python at e43b422, recorded traffic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from majordomo.dialects.chat_accumulator import (
    ChatAccumulator,
    ChatStreamDecoder,
    as_objects,
    as_text,
    as_token_count,
)
from majordomo.dialects.conversation import (
    SystemRole,
    attachments,
    id_shortener,
    normalize_tool_ids,
    own_thinking,
    refuse_misplaced,
    text_of,
    tool_results,
)
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.image_fields import parse_base64_image
from majordomo.dialects.json_schema import closed_schema, is_strict, object_schema, wrap_root_object
from majordomo.dialects.request_body import (
    UNSUPPORTED,
    json_request,
    named_values,
    other_fields,
    unsupported,
)
from majordomo.errors import BadResponseError, CallWarning
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_object
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
from majordomo.media.image_limits import COMMON_FORMATS, ImageSupport
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

_FIELDS = {
    "max_tokens": "max_output_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
}
ENCRYPTED = "reasoning.encrypted_content"
# Separates the parts of a reasoning summary.
PARAGRAPH = "\n\n"
# "Invalid 'input[95].call_id': string too long. Expected a string with maximum length 64"
MAX_ID_CHARACTERS = 64
# Models without reasoning: "Encrypted content is not supported with this model".
_WITHOUT_REASONING = re.compile(r"(ft:)?(gpt-3|gpt-4|chatgpt-)|.*-chat(-|$)")


@dataclass(frozen=True, slots=True)
class OpenAIResponsesCodec:
    """Client-side codec for the Responses API.

    Hosted tools are passed in `extra` and added to the tools of the request:
    `extra={"tools": [{"type": "image_generation"}]}`.
    """

    provider: str = "openai"
    """Name of the provider, recorded in thinking parts and compared before they are sent back."""
    path: str = "/responses"
    """Path below the base URL."""
    image_support: ImageSupport = COMMON_FORMATS
    """Accepted formats of input images."""
    system_role: SystemRole = "system"
    """Role of system messages."""

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """Encode a request, with a warning for each field that has no effect here."""
        placeholders = Base64Placeholders()
        items = self._encode_items(
            normalize_tool_ids(request.messages, id_shortener(MAX_ID_CHARACTERS)), placeholders
        )
        body: dict[str, Any] = {"model": model, "input": items, "store": False}
        # With `store: false` the server cannot look up reasoning by id, so it is sent encrypted.
        if not _WITHOUT_REASONING.match(model):
            body["include"] = [ENCRYPTED]
        body |= named_values(request, _FIELDS)
        others = other_fields(request, (*_FIELDS, "reasoning"))
        warnings = unsupported(request, others, "the Responses API has no such field")
        if isinstance(request.reasoning, str):
            body["reasoning"] = (
                {"effort": "none"}
                if request.reasoning == "off"
                else {"effort": request.reasoning, "summary": "auto"}
            )
        elif request.reasoning is not None:
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    'reasoning must be "off", "low", "medium" or "high" for this API; got a number '
                    "of tokens",
                    "reasoning",
                )
            )
        tools: list[Any] = [
            # "strict is required-but-nullable and a missing value may be treated as strict"
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": object_schema(tool.parameters),
                "strict": False,
            }
            for tool in request.tools
        ]
        hosted = request.extra.get("tools")
        tools += hosted if isinstance(hosted, list) else []
        if tools:
            body["tools"] = tools
        if request.tool_choice is not None and tools:
            is_tool_name = request.tool_choice not in ("auto", "none", "required")
            body["tool_choice"] = (
                {"type": "function", "name": request.tool_choice}
                if is_tool_name
                else request.tool_choice
            )
        if request.output is not None:
            schema, _ = wrap_root_object(output_schema(request.output))
            strict = is_strict(schema)
            schema = closed_schema(schema) if strict else schema
            body["text"] = {
                "format": {
                    "type": "json_schema",
                    "name": "output",
                    "schema": schema,
                    "strict": strict,
                }
            }
        if stream:
            body["stream"] = True
        extra = {
            key: value
            for key, value in request.extra.items()
            if key != "tools" or not isinstance(value, list)
        }
        return json_request(self.path, body, extra, placeholders, stream=stream), warnings

    def _encode_items(
        self, messages: list[Message], placeholders: Base64Placeholders
    ) -> list[dict[str, Any]]:
        """Encode the messages; images of the assistant move into the next user message."""
        items: list[dict[str, Any]] = []
        moved: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "tool":
                for result in tool_results(message):
                    output: Any = text_of(result.parts)
                    if attachments(result.parts):
                        output = [_encode_part(part, placeholders) for part in result.parts]
                        if result.is_error:
                            output.insert(0, {"type": "input_text", "text": "error:"})
                    elif result.is_error:
                        output = f"error: {output}"
                    items.append(
                        {
                            "type": "function_call_output",
                            "call_id": result.call_id,
                            "output": output,
                        }
                    )
                continue
            if message.role == "assistant":
                items += self._encode_assistant_items(message.parts, placeholders, moved)
                continue
            content, moved = moved, []
            for part in message.parts:
                refuse_misplaced(part)
                if not isinstance(part, ThinkingPart):
                    content.append(_encode_part(part, placeholders))
            # "empty array. Expected an array with minimum length 1"
            if content:
                role = self.system_role if message.role == "system" else message.role
                items.append({"role": role, "content": content})
        if moved:
            items.append({"role": "user", "content": moved})
        return items

    def _encode_assistant_items(
        self, parts: tuple[Part, ...], placeholders: Base64Placeholders, moved: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Encode the parts of an assistant message as items, in order.

        Reasoning is sent together with the item that followed it, or not at all, because the API
        rejects it alone. Images and files are appended to `moved`.
        """
        items: list[dict[str, Any]] = []
        reasoning: list[dict[str, Any]] = []
        phase: dict[str, Any] = {}
        for part in parts:
            match part:
                case ThinkingPart():
                    if not own_thinking(part, self.provider):
                        continue
                    if "phase" in part.opaque:
                        phase = {"phase": part.opaque["phase"]}
                    if encrypted := part.opaque.get("encrypted_content"):
                        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
                        reasoning.append(
                            {
                                "type": "reasoning",
                                "summary": summary,
                                "encrypted_content": encrypted,
                            }
                        )
                case ToolCallPart():
                    items += reasoning
                    call = {
                        "type": "function_call",
                        "call_id": part.id,
                        "name": part.name,
                        "arguments": part.arguments_json or "{}",
                    }
                    items.append(call)
                    reasoning = []
                case TextPart() if part.text:
                    items += reasoning
                    items.append({"role": "assistant", "content": part.text} | phase)
                    reasoning, phase = [], {}
                case ImagePart() | FilePart():
                    # The item that followed the reasoning is not sent back as that item.
                    reasoning = []
                    moved += [
                        {"type": "input_text", "text": "(from the assistant's turn above)"},
                        _encode_part(part, placeholders),
                    ]
                case _:
                    refuse_misplaced(part)
        return items

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """Decode a complete response.

        Raises BadResponseError, or the error of a response that failed with a 200.
        """
        document = decode_object(body, limits.max_json_depth)
        if document.get("error"):
            raise build_error(200, read_error_value(document), {})
        if not isinstance(document.get("output"), list):
            raise BadResponseError('the response has no list "output"')
        # A request with `background` in `extra` is answered with one of these.
        if document.get("status") in ("queued", "in_progress"):
            raise BadResponseError(
                'the response is not finished; remove "background" from extra, because background '
                "responses are not awaited",
                code="NOT_FINISHED",
            )
        accumulator = ResponsesAccumulator(request, limits, self.provider)
        events: list[ChatEvent] = []
        for index, item in enumerate(as_objects(document["output"])):
            accumulator.finish_item(index, item, events)
        accumulator.finish_response(document)
        accumulator.close(events)
        return accumulator.reply(complete=True, raw=_without_image_data(document))

    def stream_decoder(self, request: Request, limits: Limits) -> ResponsesStreamDecoder:
        """Return a decoder for the bytes of a streamed response."""
        # The last event repeats the complete response.
        max_event_bytes = (
            limits.max_image_event_bytes if _offers_image_tool(request) else limits.max_reply_bytes
        )
        return ResponsesStreamDecoder(
            ResponsesAccumulator(request, limits, self.provider),
            EventDecoder(max_event_bytes),
            limits,
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        """Return the maximum size of a complete response in bytes."""
        return (
            limits.max_image_reply_bytes if _offers_image_tool(request) else limits.max_reply_bytes
        )


class ResponsesAccumulator(ChatAccumulator):
    """A reply that grows item by item, or delta by delta.

    Items are identified by their index in the response's `output`.
    """

    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "completed": "stop",
        "max_output_tokens": "length",
        "content_filter": "content_filter",
        "refusal": "content_filter",
        "failed": "error",
        "cancelled": "error",
    }

    def __init__(self, request: Request, limits: Limits, provider: str) -> None:
        super().__init__(request, limits, provider)
        self.output_field: str = (
            wrap_root_object(output_schema(request.output))[1] if request.output is not None else ""
        )
        # The index of each function call item, mapped to the index of the call in the reply.
        self._call_indexes: dict[int, int] = {}
        # Items whose text arrived in deltas.
        self._streamed_items: set[int] = set()
        # Messages whose phase is recorded.
        self._items_with_phase: set[int] = set()

    def start_item(self, index: int, item: dict[str, Any], events: list[ChatEvent]) -> None:
        """Begin an item; nothing is begun twice."""
        self.end_part()
        if (
            item.get("type") == "message"
            and index not in self._items_with_phase | self._streamed_items
            and (phase := as_text(item.get("phase")))
        ):
            self._items_with_phase.add(index)
            # Recorded before the text, because it has to be sent back with the text.
            self.attach_opaque({"phase": phase}, apart=True)
        if item.get("type") == "function_call" and index not in self._call_indexes:
            call_id = as_text(item.get("call_id")) or as_text(item.get("id")) or ""
            name = as_text(item.get("name")) or ""
            self._call_indexes[index] = self.start_call(call_id, name, events)

    def add_text_delta(self, index: int, text: str, events: list[ChatEvent]) -> None:
        """Append text to a message item."""
        self._streamed_items.add(index)
        self.add_text(text, events)

    def add_thinking_delta(self, index: int, text: str, events: list[ChatEvent]) -> None:
        """Append text to a reasoning item."""
        self._streamed_items.add(index)
        self.add_thinking(text, events)

    def add_arguments_delta(self, index: int, text: str, events: list[ChatEvent]) -> None:
        """Append JSON text to a function call item; ignored if the call has not begun."""
        if (call_index := self._call_indexes.get(index)) is not None:
            self.add_arguments(call_index, text, events)

    def add_refusal_delta(self, index: int, text: str, events: list[ChatEvent]) -> None:
        """Append the text of a refusal to a message item and mark the reply as refused."""
        self.refused = True
        self.add_text_delta(index, text, events)

    def finish_item(self, index: int, item: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add a complete item, "the authoritative" one; its deltas may have arrived before."""
        match item.get("type"):
            case "message":
                self.start_item(index, item, events)
                is_streamed = index in self._streamed_items
                for part in as_objects(item.get("content")) if not is_streamed else ():
                    if refusal := as_text(part.get("refusal")):
                        self.add_refusal_delta(index, refusal, events)
                    self.add_text(as_text(part.get("text")) or "", events)
            case "reasoning":
                if index not in self._streamed_items:
                    texts = [
                        as_text(part.get("text")) or ""
                        for part in (
                            *as_objects(item.get("summary")),
                            *as_objects(item.get("content")),
                        )
                    ]
                    self.add_thinking(PARAGRAPH.join(text for text in texts if text), events)
                if encrypted := as_text(item.get("encrypted_content")):
                    self.attach_opaque({"encrypted_content": encrypted})
            case "function_call":
                self.start_item(index, item, events)
                call_index = self._call_indexes[index]
                if not self.has_arguments(call_index):
                    self.add_arguments_delta(index, as_text(item.get("arguments")) or "", events)
                self.end_call(call_index, events)
            case "image_generation_call" if result := as_text(item.get("result")):
                self.add_image(parse_base64_image(result, self._limits), events)
            case _:
                # An item such as a search is not kept. So its reasoning cannot be sent back "with
                # the item that followed it".
                self.detach_opaque("encrypted_content")
        self.end_part()

    def finish_response(self, response: dict[str, Any]) -> None:
        """Read status, usage and model of the complete response."""
        self.model: str = as_text(response.get("model")) or self.model
        details = response.get("incomplete_details")
        reason = as_text(details.get("reason")) if isinstance(details, dict) else None
        self.finish_reason: str | None = (
            "refusal" if self.refused else reason or as_text(response.get("status"))
        )
        if isinstance(usage := response.get("usage"), dict):
            details = usage.get("input_tokens_details"), usage.get("output_tokens_details")
            input_details, output_details = (
                value if isinstance(value, dict) else {} for value in details
            )
            self.usage: Usage = Usage(
                as_token_count(usage.get("input_tokens")),
                as_token_count(usage.get("output_tokens")),
                as_token_count(input_details.get("cached_tokens")),
                as_token_count(output_details.get("reasoning_tokens")),
                as_token_count(input_details.get("cache_write_tokens")),
            )


class ResponsesStreamDecoder(ChatStreamDecoder):
    """Decoder of a streamed response, which is complete at one of two events.

    These are `response.completed` and `response.incomplete`; there is no `[DONE]`.
    """

    accumulator: ResponsesAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """Handle one event of the stream."""
        accumulator = self.accumulator
        index = document.get("output_index")
        index = index if isinstance(index, int) else 0
        delta = as_text(document.get("delta")) or ""
        item = document.get("item")
        match document.get("type"):
            case "response.output_text.delta":
                accumulator.add_text_delta(index, delta, events)
            case "response.refusal.delta":
                accumulator.add_refusal_delta(index, delta, events)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                accumulator.add_thinking_delta(index, delta, events)
            case "response.reasoning_summary_part.added" if document.get("summary_index"):
                accumulator.add_thinking_delta(index, PARAGRAPH, events)
            case "response.function_call_arguments.delta":
                accumulator.add_arguments_delta(index, delta, events)
            case "response.output_item.added" if isinstance(item, dict):
                accumulator.start_item(index, item, events)
            case "response.output_item.done" if isinstance(item, dict):
                accumulator.finish_item(index, item, events)
            case "error":
                # The document is the error, without a wrapper.
                raise self.stream_error(build_error(200, read_error_value(document), {}))
            case "response.failed":
                raise self.stream_error(
                    build_error(200, read_error_value(document.get("response")), {})
                )
            case "response.completed" | "response.incomplete":
                if isinstance(response := document.get("response"), dict):
                    accumulator.finish_response(response)
                self.end(events)


def _encode_part(part: Part, placeholders: Base64Placeholders) -> dict[str, Any]:
    """Encode a text, image or file part as input content."""
    if isinstance(part, ImagePart):
        return {"type": "input_image", "detail": "auto", "image_url": placeholders.data_url(part)}
    if isinstance(part, FilePart):
        return {
            "type": "input_file",
            "filename": part.name or "file",
            "file_data": placeholders.data_url(part),
        }
    assert isinstance(part, TextPart)
    return {"type": "input_text", "text": part.text}


def _offers_image_tool(request: Request) -> bool:
    """Whether the request offers the hosted image tool, so that larger responses are expected."""
    return any(
        tool.get("type") == "image_generation" for tool in as_objects(request.extra.get("tools"))
    )


def _without_image_data(document: dict[str, Any]) -> dict[str, Any]:
    """Return the response with the size of each image in place of its data."""
    output = [
        {**item, "result": f"<{len(item['result'])} characters>"}
        if isinstance(item.get("result"), str)
        else item
        for item in as_objects(document.get("output"))
    ]
    return {**document, "output": output}
