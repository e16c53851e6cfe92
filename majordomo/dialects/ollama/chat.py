"""Ollama's own chat: `/api/chat`, streamed as JSON lines.

Source: ollama/ollama at fb30760 (api types, routes, middleware).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from majordomo.dialects.chat_accumulator import (
    ChatAccumulator,
    ChatStreamDecoder,
    as_json,
    as_objects,
    as_seconds,
    as_text,
    as_token_count,
)
from majordomo.dialects.conversation import (
    arguments_of,
    attachments,
    normalize_tool_ids,
    own_thinking,
    refuse_misplaced,
    text_of,
    tool_results,
)
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.request_body import UNSUPPORTED, json_request
from majordomo.errors import BadResponseError, CallWarning, UnsupportedError
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object
from majordomo.framing.lines import JSONLinesDecoder
from majordomo.llm import (
    ChatEvent,
    FilePart,
    ImagePart,
    Message,
    Part,
    Reply,
    Request,
    ThinkingPart,
    ToolCallPart,
    Usage,
)
from majordomo.llm.reply import FinishReason
from majordomo.llm.tools import output_schema
from majordomo.media.image_limits import PNG_AND_JPEG, ImageSupport
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "num_predict",
    "seed": "seed",
}


@dataclass(frozen=True, slots=True)
class OllamaChatCodec:
    """Client door. What else the API has (`keep_alive`, `truncate`, `options.num_ctx`) goes through `extra`."""

    provider: str = "ollama"
    image_support: ImageSupport = PNG_AND_JPEG

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """The request, and what of it will not happen as asked."""
        warnings: list[CallWarning] = []
        splices = Splices()
        body: dict[str, Any] = {"model": model, "stream": stream}  # unset it means true
        body["messages"] = self._messages(normalize_tool_ids(request.messages), splices)
        options = {
            word: value
            for name, word in _OPTIONS.items()
            if (value := getattr(request, name)) is not None
        }
        if request.stop:
            options["stop"] = list(request.stop)  # "list only"
        if options:
            body["options"] = options
        if (
            request.tools and request.tool_choice != "none"
        ):  # "there is no tool_choice"; none is to offer none
            tools = [
                tool
                for tool in request.tools
                if request.tool_choice in (None, "auto", "required", tool.name)
            ]
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": t.name,
                        "description": t.description,
                        "parameters": dict(t.parameters),
                    },
                }
                for t in tools
            ]
            if request.tool_choice not in (None, "auto"):
                warnings.append(
                    CallWarning(
                        UNSUPPORTED, "Ollama cannot make a model call a tool", "tool_choice"
                    )
                )
        if request.output is not None:
            body["format"] = output_schema(request.output)
        if isinstance(request.reasoning, int):
            body["think"] = True
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    "Ollama knows low, medium and high, not a number of tokens",
                    "reasoning",
                )
            )
        elif request.reasoning is not None:
            body["think"] = False if request.reasoning == "off" else request.reasoning
        return json_request("/api/chat", body, request.extra, splices, stream=stream), warnings

    def _messages(self, messages: list[Message], splices: Splices) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        drawn: list[ImagePart] = []
        for message in messages:
            if message.role == "tool":
                for result in tool_results(message):
                    text = text_of(result.parts)
                    turn = _turn(
                        "tool", f"error: {text}" if result.is_error else text, result.parts, splices
                    )
                    turns.append(turn | {"tool_name": result.name, "tool_call_id": result.call_id})
                continue
            if message.role == "assistant":
                turns.append(self._assistant_message(message))
                drawn += [
                    part for part in attachments(message.parts) if isinstance(part, ImagePart)
                ]
                continue
            for part in message.parts:
                refuse_misplaced(part)
            if message.role == "user":
                turns.append(_turn("user", message.text, (*drawn, *message.parts), splices))
                drawn = []
            else:
                turns.append(_turn(message.role, message.text, message.parts, splices))
        if drawn:
            turns.append(_turn("user", "(from the assistant's turn above)", drawn, splices))
        return turns

    def _assistant_message(self, message: Message) -> dict[str, Any]:
        turn: dict[str, Any] = {"role": "assistant", "content": message.text}
        if thought := "".join(
            part.text
            for part in message.parts
            if isinstance(part, ThinkingPart) and own_thinking(part, self.provider)
        ):
            turn["thinking"] = thought
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        if calls:
            turn["tool_calls"] = [
                {"id": call.id, "function": {"name": call.name, "arguments": arguments_of(call)}}
                for call in calls
            ]
        return turn

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """The reply in a whole answer. Raises BadResponseError, or the error that a 200 carries."""
        document = decode_object(body, limits.max_json_depth)
        if document.get("error"):
            raise build_error(200, error_value(document), {})
        if not isinstance(document.get("message"), dict):
            raise BadResponseError("the answer holds no message")
        answer = OllamaAccumulator(request, limits, self.provider)
        events: list[ChatEvent] = []
        answer.frame(document, events)
        answer.close(events)
        return answer.reply(whole=True, raw=document)

    def stream_decoder(self, request: Request, limits: Limits) -> OllamaStreamDecoder:
        return OllamaStreamDecoder(
            OllamaAccumulator(request, limits, self.provider),
            JSONLinesDecoder(limits.max_event_bytes),
            limits,
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        return limits.max_reply_bytes


class OllamaAccumulator(ChatAccumulator):
    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "stop": "stop",
        "length": "length",
        "load": "stop",
        "unload": "stop",
    }

    def frame(self, frame: dict[str, Any], events: list[ChatEvent]) -> None:
        message = frame.get("message")
        if isinstance(message, dict):
            self.add_thinking(as_text(message.get("thinking")) or "", events)
            self.add_text(as_text(message.get("content")) or "", events)
            for call in as_objects(message.get("tool_calls")):
                function = call.get("function")
                if isinstance(function, dict):
                    arguments = function.get("arguments")
                    text = arguments if isinstance(arguments, str) else as_json(arguments or {})
                    self.add_call(
                        as_text(call.get("id")) or "",
                        as_text(function.get("name")) or "",
                        text,
                        events,
                    )
        self.model: str = as_text(frame.get("model")) or self.model
        if frame.get("done") is True:
            self.finish_reason: str | None = as_text(frame.get("done_reason"))
            self.usage: Usage = usage_of(frame)


def usage_of(frame: Mapping[str, Any]) -> Usage:
    """Counts are omitted when zero or cached; durations are nanoseconds."""
    load, prompt, output = (
        as_seconds(frame.get(f"{name}_duration"), 1e-9) for name in ("load", "prompt_eval", "eval")
    )
    return Usage(
        as_token_count(frame.get("prompt_eval_count")),
        as_token_count(frame.get("eval_count")),
        load_seconds=load,
        prompt_seconds=prompt,
        output_seconds=output,
    )


class OllamaStreamDecoder(ChatStreamDecoder):
    """Whole at the frame with `done: true`; "a stream ending without it is an error"."""

    accumulator: OllamaAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        self.accumulator.frame(document, events)
        if document.get("done") is True:
            self.end(events)


def _turn(role: str, text: str, parts: Any, splices: Splices) -> dict[str, Any]:
    """`content` is text, images stand beside it as bare base64."""
    turn: dict[str, Any] = {"role": role, "content": text}
    images = [_image(part) for part in attachments(parts)]
    if images:
        turn["images"] = [splices.base64(image) for image in images]
    return turn


def _image(part: Part) -> ImagePart:
    if isinstance(part, FilePart):
        raise UnsupportedError(f"Ollama takes text and images, not {part.mime}", field="messages")
    assert isinstance(part, ImagePart)
    return part
