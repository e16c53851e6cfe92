"""OpenAI's Responses.

Sources: openai-openapi at f85dbe2, openai-python at e43b422, recorded traffic. Nothing is kept on the server: `store` is false, and what
a reasoning model thought goes back encrypted.
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
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.image_fields import parse_base64_image
from majordomo.dialects.json_schema import closed_schema, is_strict, object_schema, wrap_root_object
from majordomo.dialects.request_body import UNSUPPORTED, json_request
from majordomo.errors import BadResponseError, CallWarning
from majordomo.framing.base64_placeholders import Splices
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

ENCRYPTED = "reasoning.encrypted_content"
PARAGRAPH = "\n\n"  # between the parts of a summary
MAX_ID_CHARACTERS = (
    64  # "Invalid 'input[95].call_id': string too long. Expected a string with maximum length 64"
)
# "Encrypted content is not supported with this model": the models that do not reason
_UNREASONING = re.compile(r"(ft:)?(gpt-3|gpt-4|chatgpt-)|.*-chat(-|$)")


@dataclass(frozen=True, slots=True)
class OpenAIResponsesCodec:
    """Client door. Hosted tools go through `extra`: `extra={"tools": [{"type": "image_generation"}]}` stands beside the request's own."""

    provider: str = "openai"
    path: str = "/responses"
    image_support: ImageSupport = COMMON_FORMATS
    system_role: SystemRole = "system"

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """The request, and what of it will not happen as asked."""
        splices = Splices()
        items = self._items(
            normalize_tool_ids(request.messages, id_shortener(MAX_ID_CHARACTERS)), splices
        )
        body: dict[str, Any] = {"model": model, "input": items, "store": False}
        if not _UNREASONING.match(
            model
        ):  # with `store: false` an id cannot be looked up: reasoning comes and goes encrypted
            body["include"] = [ENCRYPTED]
        for name, word in (
            ("max_tokens", "max_output_tokens"),
            ("temperature", "temperature"),
            ("top_p", "top_p"),
        ):
            if (value := getattr(request, name)) is not None:
                body[word] = value
        warnings = [
            CallWarning(UNSUPPORTED, f"{name} has no effect: the Responses API has none", name)
            for name in ("top_k", "seed", "stop")
            if getattr(request, name) not in (None, ())
        ]
        if isinstance(request.reasoning, str):
            off = request.reasoning == "off"
            body["reasoning"] = (
                {"effort": "none"} if off else {"effort": request.reasoning, "summary": "auto"}
            )
        elif request.reasoning is not None:
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    "this API takes low, medium and high, not a number of tokens",
                    "reasoning",
                )
            )
        tools: list[Any] = [
            # "strict is required-but-nullable and a missing value may be treated as strict"
            {
                "type": "function",
                "name": t.name,
                "description": t.description,
                "parameters": object_schema(t.parameters),
                "strict": False,
            }
            for t in request.tools
        ]
        hosted = request.extra.get("tools")
        tools += hosted if isinstance(hosted, list) else []
        if tools:
            body["tools"] = tools
        if request.tool_choice is not None and tools:
            named = request.tool_choice not in ("auto", "none", "required")
            body["tool_choice"] = (
                {"type": "function", "name": request.tool_choice} if named else request.tool_choice
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
        return json_request(self.path, body, extra, splices, stream=stream), warnings

    def _items(self, messages: list[Message], splices: Splices) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        drawn: list[dict[str, Any]] = []
        for message in messages:
            if message.role == "tool":
                for result in tool_results(message):
                    output: Any = text_of(result.parts)
                    if attachments(result.parts):
                        output = [_piece(part, splices) for part in result.parts]
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
                items += self._assistant_items(message.parts, splices, drawn)
                continue
            content, drawn = drawn, []
            for part in message.parts:
                refuse_misplaced(part)
                if not isinstance(part, ThinkingPart):
                    content.append(_piece(part, splices))
            if content:  # "empty array. Expected an array with minimum length 1"
                role = self.system_role if message.role == "system" else message.role
                items.append({"role": role, "content": content})
        if drawn:
            items.append({"role": "user", "content": drawn})
        return items

    def _assistant_items(
        self, parts: tuple[Part, ...], splices: Splices, drawn: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Items in the order in which they came. A thought goes with the item that followed it, or not at all: alone it is refused."""
        items: list[dict[str, Any]] = []
        thought: list[dict[str, Any]] = []
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
                        thought.append(
                            {
                                "type": "reasoning",
                                "summary": summary,
                                "encrypted_content": encrypted,
                            }
                        )
                case ToolCallPart():
                    items += thought
                    call = {
                        "type": "function_call",
                        "call_id": part.id,
                        "name": part.name,
                        "arguments": part.arguments_json or "{}",
                    }
                    items.append(call)
                    thought = []
                case TextPart() if part.text:
                    items += thought
                    items.append({"role": "assistant", "content": part.text} | phase)
                    thought, phase = [], {}
                case ImagePart() | FilePart():
                    thought = []  # what followed it does not go back as the item that it was
                    drawn += [
                        {"type": "input_text", "text": "(from the assistant's turn above)"},
                        _piece(part, splices),
                    ]
                case _:
                    refuse_misplaced(part)
        return items

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """The reply in a whole answer. Raises BadResponseError, or the error of a response that failed with a 200."""
        document = decode_object(body, limits.max_json_depth)
        if document.get("error"):
            raise build_error(200, error_value(document), {})
        if not isinstance(document.get("output"), list):
            raise BadResponseError('the answer has no list "output"')
        if document.get("status") in (
            "queued",
            "in_progress",
        ):  # asked for by `background` in `extra`
            raise BadResponseError(
                "the response is not finished; one in the background is not waited for",
                code="NOT_FINISHED",
            )
        answer = ResponsesAccumulator(request, limits, self.provider)
        events: list[ChatEvent] = []
        for place, item in enumerate(as_objects(document["output"])):
            answer.item(place, item, events)
        answer.ended(document)
        answer.close(events)
        return answer.reply(whole=True, raw=_elided(document))

    def stream_decoder(self, request: Request, limits: Limits) -> ResponsesStreamDecoder:
        # The last event repeats the whole answer
        largest = limits.max_image_event_bytes if _draws(request) else limits.max_reply_bytes
        return ResponsesStreamDecoder(
            ResponsesAccumulator(request, limits, self.provider), EventDecoder(largest), limits
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        return limits.max_image_reply_bytes if _draws(request) else limits.max_reply_bytes


class ResponsesAccumulator(ChatAccumulator):
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "completed": "stop",
        "max_output_tokens": "length",
        "content_filter": "content_filter",
        "refusal": "content_filter",
        "failed": "error",
        "cancelled": "error",
    }

    def __init__(self, request: Request, limits: Limits, owner: str) -> None:
        super().__init__(request, limits, owner)
        self.output_field: str = (
            wrap_root_object(output_schema(request.output))[1] if request.output is not None else ""
        )
        self._at: dict[int, int] = {}  # output_index of a call: its place among the calls
        self._shown: set[int] = set()  # items whose text came in pieces
        self._phased: set[int] = set()  # messages whose phase is known

    def opened(self, index: int, item: dict[str, Any], events: list[ChatEvent]) -> None:
        self.end_part()
        if (
            item.get("type") == "message"
            and index not in self._phased | self._shown
            and (phase := as_text(item.get("phase")))
        ):
            self._phased.add(index)
            self.attach_opaque(
                {"phase": phase}, apart=True
            )  # before the text, as it has to go back
        if item.get("type") == "function_call" and index not in self._at:
            identity = as_text(item.get("call_id")) or as_text(item.get("id")) or ""
            self._at[index] = self.start_call(identity, as_text(item.get("name")) or "", events)

    def piece(self, index: int, text: str, events: list[ChatEvent]) -> None:
        self._shown.add(index)
        self.add_text(text, events)

    def thought(self, index: int, text: str, events: list[ChatEvent]) -> None:
        self._shown.add(index)
        self.add_thinking(text, events)

    def wrote(self, index: int, text: str, events: list[ChatEvent]) -> None:
        if (place := self._at.get(index)) is not None:
            self.add_arguments(place, text, events)

    def refusal(self, index: int, text: str, events: list[ChatEvent]) -> None:
        self.refused = True
        self.piece(index, text, events)

    def item(self, index: int, item: dict[str, Any], events: list[ChatEvent]) -> None:
        """A whole item: "the authoritative" one, of which the pieces may have come before."""
        match item.get("type"):
            case "message":
                self.opened(index, item, events)
                for part in as_objects(item.get("content")) if index not in self._shown else ():
                    if refused := as_text(part.get("refusal")):
                        self.refusal(index, refused, events)
                    self.add_text(as_text(part.get("text")) or "", events)
            case "reasoning":
                if index not in self._shown:
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
                self.opened(index, item, events)
                place = self._at[index]
                if not self.has_arguments(place):
                    self.wrote(index, as_text(item.get("arguments")) or "", events)
                self.end_call(place, events)
            case "image_generation_call" if result := as_text(item.get("result")):
                self.add_image(parse_base64_image(result, self._limits), events)
            case _:  # a search, say: it is not kept, and so its thought cannot go back "with the item that followed it"
                self.detach_opaque("encrypted_content")
        self.end_part()

    def ended(self, response: dict[str, Any]) -> None:
        """Status, counts and model of the whole response."""
        self.model: str = as_text(response.get("model")) or self.model
        details = response.get("incomplete_details")
        reason = as_text(details.get("reason")) if isinstance(details, dict) else None
        self.finish_reason: str | None = (
            "refusal" if self.refused else reason or as_text(response.get("status"))
        )
        if isinstance(usage := response.get("usage"), dict):
            details = usage.get("input_tokens_details"), usage.get("output_tokens_details")
            read, written = (found if isinstance(found, dict) else {} for found in details)
            self.usage: Usage = Usage(
                as_token_count(usage.get("input_tokens")),
                as_token_count(usage.get("output_tokens")),
                as_token_count(read.get("cached_tokens")),
                as_token_count(written.get("reasoning_tokens")),
                as_token_count(read.get("cache_write_tokens")),
            )


class ResponsesStreamDecoder(ChatStreamDecoder):
    """Whole at response.completed or response.incomplete; there is no [DONE]."""

    accumulator: ResponsesAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        answer = self.accumulator
        index = document.get("output_index")
        index = index if isinstance(index, int) else 0
        delta = as_text(document.get("delta")) or ""
        item = document.get("item")
        match document.get("type"):
            case "response.output_text.delta":
                answer.piece(index, delta, events)
            case "response.refusal.delta":
                answer.refusal(index, delta, events)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                answer.thought(index, delta, events)
            case "response.reasoning_summary_part.added" if document.get("summary_index"):
                answer.thought(index, PARAGRAPH, events)
            case "response.function_call_arguments.delta":
                answer.wrote(index, delta, events)
            case "response.output_item.added" if isinstance(item, dict):
                answer.opened(index, item, events)
            case "response.output_item.done" if isinstance(item, dict):
                answer.item(index, item, events)
            case "error":  # flat, without a wrapper
                raise self.broken(build_error(200, error_value(document), {}))
            case "response.failed":
                raise self.broken(build_error(200, error_value(document.get("response")), {}))
            case "response.completed" | "response.incomplete":
                if isinstance(response := document.get("response"), dict):
                    answer.ended(response)
                self.end(events)


def _piece(part: Part, splices: Splices) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "input_image", "detail": "auto", "image_url": splices.data_url(part)}
    if isinstance(part, FilePart):
        return {
            "type": "input_file",
            "filename": part.name or "file",
            "file_data": splices.data_url(part),
        }
    assert isinstance(part, TextPart)
    return {"type": "input_text", "text": part.text}


def _draws(request: Request) -> bool:
    """Whether the hosted image tool is offered, so that larger answers are expected."""
    return any(
        tool.get("type") == "image_generation" for tool in as_objects(request.extra.get("tools"))
    )


def _elided(document: dict[str, Any]) -> dict[str, Any]:
    """The answer without the bytes of its images."""
    output = [
        {**item, "result": f"<{len(item['result'])} characters>"}
        if isinstance(item.get("result"), str)
        else item
        for item in as_objects(document.get("output"))
    ]
    return {**document, "output": output}
