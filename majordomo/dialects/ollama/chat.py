"""Ollama's native chat API: `/api/chat`, streamed as JSON lines.

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
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.request_body import (
    UNSUPPORTED,
    json_request,
    named_values,
    other_fields,
    unsupported,
)
from majordomo.errors import BadResponseError, CallWarning, UnsupportedError
from majordomo.framing.base64_placeholders import Base64Placeholders
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
    """Client-side codec for Ollama chats.

    Other settings of the API (`keep_alive`, `truncate`, `options.num_ctx`) are set with `extra`.
    """

    provider: str = "ollama"
    """Name of the provider whose thinking parts are sent back."""
    image_support: ImageSupport = PNG_AND_JPEG
    """The images that the API accepts. Other images are converted first."""

    def encode_request(
        self, model: str, request: Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """Return the HTTP request, and a warning for each field that has no or another effect."""
        warnings: list[CallWarning] = []
        placeholders = Base64Placeholders()
        # The server's default for `stream` is true, so always send it.
        body: dict[str, Any] = {"model": model, "stream": stream}
        body["messages"] = self._encode_messages(normalize_tool_ids(request.messages), placeholders)
        options = named_values(request, _OPTIONS)
        if request.stop:
            # "list only"
            options["stop"] = list(request.stop)
        if options:
            body["options"] = options
        # "there is no tool_choice"; for "none", offer no tools.
        if request.tools and request.tool_choice != "none":
            tools = [
                tool
                for tool in request.tools
                if request.tool_choice in (None, "auto", "required", tool.name)
            ]
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": dict(tool.parameters),
                    },
                }
                for tool in tools
            ]
            if request.tool_choice not in (None, "auto"):
                warnings.append(
                    CallWarning(
                        UNSUPPORTED,
                        f'tool_choice="{request.tool_choice}" is not enforced: Ollama cannot make '
                        "a model call a tool",
                        "tool_choice",
                    )
                )
        if request.output is not None:
            body["format"] = output_schema(request.output)
        if isinstance(request.reasoning, int):
            body["think"] = True
            warnings.append(
                CallWarning(
                    UNSUPPORTED,
                    'Ollama accepts reasoning "low", "medium" or "high", not a number of tokens; '
                    "thinking was turned on without a level",
                    "reasoning",
                )
            )
        elif request.reasoning is not None:
            body["think"] = False if request.reasoning == "off" else request.reasoning
        others = other_fields(request, (*_OPTIONS, "stop", "reasoning"))
        warnings += unsupported(request, others, "Ollama has no such option")
        http_request = json_request("/api/chat", body, request.extra, placeholders, stream=stream)
        return http_request, warnings

    def _encode_messages(
        self, messages: list[Message], placeholders: Base64Placeholders
    ) -> list[dict[str, Any]]:
        """Return Ollama's messages. Images of the assistant are sent in the next user message."""
        encoded: list[dict[str, Any]] = []
        deferred: list[ImagePart] = []
        for message in messages:
            if message.role == "tool":
                for result in tool_results(message):
                    text = text_of(result.parts)
                    if result.is_error:
                        text = f"error: {text}"
                    encoded.append(
                        _encode_message("tool", text, result.parts, placeholders)
                        | {"tool_name": result.name, "tool_call_id": result.call_id}
                    )
                continue
            if message.role == "assistant":
                encoded.append(self._encode_assistant_message(message))
                deferred += [
                    part for part in attachments(message.parts) if isinstance(part, ImagePart)
                ]
                continue
            for part in message.parts:
                refuse_misplaced(part)
            if message.role == "user":
                parts = (*deferred, *message.parts)
                encoded.append(_encode_message("user", message.text, parts, placeholders))
                deferred = []
            else:
                encoded.append(
                    _encode_message(message.role, message.text, message.parts, placeholders)
                )
        if deferred:
            text = "(from the assistant's turn above)"
            encoded.append(_encode_message("user", text, deferred, placeholders))
        return encoded

    def _encode_assistant_message(self, message: Message) -> dict[str, Any]:
        encoded: dict[str, Any] = {"role": "assistant", "content": message.text}
        if thinking := "".join(
            part.text
            for part in message.parts
            if isinstance(part, ThinkingPart) and own_thinking(part, self.provider)
        ):
            encoded["thinking"] = thinking
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        if calls:
            encoded["tool_calls"] = [
                {"id": call.id, "function": {"name": call.name, "arguments": arguments_of(call)}}
                for call in calls
            ]
        return encoded

    def decode_reply(self, body: bytes, request: Request, limits: Limits) -> Reply:
        """Return the reply in a response body that is not streamed.

        Raises:
            BadResponseError: The body is not a valid response.
            MajordomoError: The body of the 200 response is an error.
        """
        document = decode_object(body, limits.max_json_depth)
        if document.get("error"):
            raise build_error(200, read_error_value(document), {})
        if not isinstance(document.get("message"), dict):
            raise BadResponseError('the response has no object "message"')
        accumulator = OllamaAccumulator(request, limits, self.provider)
        events: list[ChatEvent] = []
        accumulator.add_frame(document, events)
        accumulator.close(events)
        return accumulator.reply(complete=True, raw=document)

    def stream_decoder(self, request: Request, limits: Limits) -> OllamaStreamDecoder:
        """Return a decoder of the JSON lines of one response."""
        return OllamaStreamDecoder(
            OllamaAccumulator(request, limits, self.provider),
            JSONLinesDecoder(limits.max_event_bytes),
            limits,
        )

    def reply_limit(self, request: Request, limits: Limits) -> int:
        """Return the maximum size of a response body in bytes."""
        return limits.max_reply_bytes


class OllamaAccumulator(ChatAccumulator):
    """The reply of one request, built frame by frame."""

    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {
        "stop": "stop",
        "length": "length",
        "load": "stop",
        "unload": "stop",
    }

    def add_frame(self, frame: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add one line of a stream, or a response that is not streamed."""
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
    """Return the usage in the last line of a response.

    The server omits counts that are zero or cached; its durations are in nanoseconds.
    """
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
    """A decoder of streamed replies, complete at the frame with `done: true`.

    "a stream ending without it is an error"
    """

    accumulator: OllamaAccumulator

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """Apply one line of the stream to the reply."""
        self.accumulator.add_frame(document, events)
        if document.get("done") is True:
            self.end(events)


def _encode_message(
    role: str, text: str, parts: Any, placeholders: Base64Placeholders
) -> dict[str, Any]:
    """Return a message. Its `content` is text; images go into `images` as bare base64."""
    message: dict[str, Any] = {"role": role, "content": text}
    images = [_require_image(part) for part in attachments(parts)]
    if images:
        message["images"] = [placeholders.base64(image) for image in images]
    return message


def _require_image(part: Part) -> ImagePart:
    if isinstance(part, FilePart):
        raise UnsupportedError(
            f"Ollama accepts text and images; got a file of type {part.mime}", field="messages"
        )
    assert isinstance(part, ImagePart)
    return part
