"""Shared decoding of chat replies: an accumulator for the parts and a decoder for streams.

A codec feeds the parts of a response, complete or streamed, into a `ChatAccumulator`. The
accumulator keeps them in order, emits their events, enforces the size limits, and builds the
`Reply`. A `ChatStreamDecoder` turns the bytes of a stream into JSON documents and events; a dialect
implements `handle_document`.

A stream ends in one of three states:

* `ended`: the reply is complete and the last event was `Done`. Further frames are ignored.
* `failure` is set: an error came after events of the same chunk. Those events were returned first;
  the next call of `feed` or `finish` raises the error.
* an exception was raised: `StreamBrokenError` with the partial reply if parts had arrived, or else
  the error itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from majordomo.dialects.errors import build_error, read_error_body, read_error_value
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    ContentRefusedError,
    InvalidRequestError,
    MajordomoError,
    StreamBrokenError,
    plain_text,
)
from majordomo.framing.json import decode_json, encode_json
from majordomo.llm import (
    ChatEvent,
    Done,
    ImagePart,
    ImageReady,
    Message,
    Part,
    Reply,
    Request,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCall,
    ToolCallDelta,
    ToolCallPart,
    ToolCallStarted,
    Usage,
)
from majordomo.llm.reply import FinishReason
from majordomo.llm.tools import partial_output, read_output
from majordomo.settings import Limits

MAX_TOOL_CALLS = 1000
# Durations from this value on, in the backend's own unit, are ignored.
_MAX_REPORTED_TIME = 1e18


@dataclass(slots=True)
class _PartBuilder:
    """A part that is still growing."""

    kind: str
    """text, thinking, image or call."""
    chunks: list[str] = field(default_factory=list)
    """The text so far, in the chunks in which it arrived."""
    opaque: dict[str, Any] = field(default_factory=dict)
    """Data that the provider needs back together with this part."""
    image: ImagePart | None = None
    call: _CallBuilder | None = None


@dataclass(slots=True)
class _CallBuilder:
    """A tool call that is still growing."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)
    """The JSON text so far, in the chunks in which it arrived."""
    complete: bool = False

    def build(self) -> ToolCallPart:
        """Build the part; missing arguments are an empty object."""
        return ToolCallPart(self.id, self.name, "".join(self.arguments) or "{}")


class ChatAccumulator:
    """A chat reply that grows part by part.

    Methods with an `events` argument append the events that the new part causes.
    """

    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {}
    """The dialect's finish reasons, mapped to ours."""

    def __init__(self, request: Request, limits: Limits, provider: str) -> None:
        self._request = request
        self._limits = limits
        self._provider = provider
        self._part_builders: list[_PartBuilder] = []
        self._current = _PartBuilder("")
        self._characters = self._image_bytes = 0
        self._calls: list[_CallBuilder] = []
        self.finish_reason: str | None = None
        # Whether the response contains a refusal, whatever its finish reason is.
        self.refused: bool = False
        self.usage: Usage = Usage()
        self.model: str = ""
        self.warnings: list[CallWarning] = []
        # The field of the JSON text that holds the output; "" when the output is the whole text.
        self.output_field: str = ""

    @property
    def started(self) -> bool:
        """Whether any part has arrived."""
        return bool(self._part_builders)

    @property
    def calls(self) -> int:
        """The number of tool calls so far."""
        return len(self._calls)

    def _current_part(self, kind: str) -> _PartBuilder:
        """Return the part that is growing, or a new one if that is of another kind."""
        if self._current.kind != kind:
            self._current = _PartBuilder(kind)
            self._part_builders.append(self._current)
        return self._current

    def _count_characters(self, characters: int) -> None:
        """Add to the size of the reply. Raises BadResponseError (TOO_LARGE) beyond the limit."""
        self._characters += characters
        if self._characters > self._limits.max_reply_bytes:
            raise self._too_large()

    def _too_large(self) -> BadResponseError:
        return BadResponseError(
            f"the response is larger than the limit of {self._limits.max_reply_bytes:,} characters",
            code="TOO_LARGE",
        )

    def add_text(self, text: str, events: list[ChatEvent]) -> None:
        """Append to the current text part."""
        if text:
            self._count_characters(len(text))
            self._current_part("text").chunks.append(text)
            events.append(TextDelta(text))

    def add_thinking(self, text: str, events: list[ChatEvent]) -> None:
        """Append to the current thinking part."""
        if text:
            self._count_characters(len(text))
            self._current_part("thinking").chunks.append(text)
            events.append(ThinkingDelta(text))

    def end_part(self) -> None:
        """End the current part: further text begins a new one, even of the same kind."""
        self._current = _PartBuilder("")

    def attach_opaque(self, opaque: dict[str, Any], *, apart: bool = False) -> None:
        """Attach data that the provider needs back to the current thinking part.

        If `apart` is true or no thinking part is growing, attach it to a new, empty thinking part.
        """
        self._count_characters(
            sum(len(value) for value in opaque.values() if isinstance(value, str))
        )
        if apart:
            self.end_part()
        self._current_part("thinking").opaque.update(opaque)
        if apart:
            self.end_part()

    def detach_opaque(self, name: str) -> None:
        """Remove this opaque value from the thinking parts at the end of the reply."""
        for builder in reversed(self._part_builders):
            if builder.kind != "thinking" or name not in builder.opaque:
                break
            del builder.opaque[name]

    def add_image(self, image: ImagePart, events: list[ChatEvent]) -> None:
        """Append an image part."""
        self._image_bytes += len(image.data)
        if self._image_bytes > self._limits.max_image_reply_bytes:
            raise self._too_large()
        self._part_builders.append(_PartBuilder("image", image=image))
        self.end_part()
        events.append(ImageReady(image))

    def start_call(self, call_id: str, name: str, events: list[ChatEvent]) -> int:
        """Begin a tool call and return its index.

        If the backend sends no id, one is made from the index, because a result has to refer to it.
        """
        index = len(self._calls)
        if index >= MAX_TOOL_CALLS:
            raise BadResponseError(
                f"the response has more than {MAX_TOOL_CALLS:,} tool calls", code="TOO_LARGE"
            )
        call = _CallBuilder(call_id or f"call_{index}", name)
        self._calls.append(call)
        self._part_builders.append(_PartBuilder("call", call=call))
        self.end_part()
        events.append(ToolCallStarted(index, call.id, name))
        return index

    def add_arguments(self, index: int, text: str, events: list[ChatEvent]) -> None:
        """Append JSON text to the arguments of a call."""
        if text:
            self._count_characters(len(text))
            self._calls[index].arguments.append(text)
            events.append(ToolCallDelta(index, text))

    def has_arguments(self, index: int) -> bool:
        """Whether any arguments of this call have arrived."""
        return bool(self._calls[index].arguments)

    def end_call(self, index: int, events: list[ChatEvent]) -> None:
        """Complete a call, once; an index without a call is ignored."""
        if 0 <= index < len(self._calls) and not self._calls[index].complete:
            self._calls[index].complete = True
            events.append(ToolCall(index, self._calls[index].build()))

    def add_call(self, call_id: str, name: str, arguments: str, events: list[ChatEvent]) -> None:
        """Append a complete tool call."""
        index = self.start_call(call_id, name, events)
        self.add_arguments(index, arguments, events)
        self.end_call(index, events)

    def close(self, events: list[ChatEvent]) -> None:
        """Complete all calls: no more parts follow."""
        for index in range(len(self._calls)):
            self.end_call(index, events)

    def reply(self, *, complete: bool, raw: Any = None) -> Reply:
        """Build the reply so far.

        If it is `complete`, a structured output is validated; otherwise as much of it as has
        arrived is parsed. Raises what `read_output` raises, or ContentRefusedError for a refusal
        instead of the output.
        """
        parts = self._parts()
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        reason: FinishReason = self.finish_reasons.get(self.finish_reason or "", "unknown")
        if self.refused:
            reason = "content_filter"
        elif complete and self._calls and reason in ("stop", "unknown"):
            reason = "tool_calls"
        elif complete and reason == "unknown" and not self.finish_reason and text:
            reason = "stop"
        warnings = list(self.warnings)
        if complete and self._request.tool_choice not in (None, "auto", "none") and not self._calls:
            warnings.append(
                CallWarning(
                    "TOOL_NOT_CALLED",
                    "a tool call was required, but the model did not call a tool",
                    "tool_choice",
                )
            )
        output = None
        if complete and self._request.output is not None and not self._calls:
            output = self._output(text, reason)
        elif self._request.output is not None and text:
            output = partial_output(text, self.output_field)
        return Reply(
            Message("assistant", parts),
            reason,
            self.usage,
            self.model,
            output=output,
            warnings=tuple(warnings),
            raw=raw,
            raw_finish_reason=self.finish_reason,
        )

    def _output(self, text: str, reason: FinishReason) -> Any:
        try:
            return read_output(self._request.output, text, self.output_field)
        except BadResponseError:
            # A refusal instead of JSON: repeating the request, here or with another model, would
            # repeat the refused request.
            if reason == "content_filter":
                raise ContentRefusedError(
                    text or "the model refused without an explanation", details={"text": text}
                ) from None
            raise

    def _parts(self) -> tuple[Part, ...]:
        parts = tuple(self._part(builder) for builder in self._part_builders)
        return parts or (TextPart(""),)

    def _part(self, builder: _PartBuilder) -> Part:
        if builder.call is not None:
            return builder.call.build()
        if builder.image is not None:
            return builder.image
        if builder.kind == "thinking":
            return ThinkingPart("".join(builder.chunks), self._provider, builder.opaque)
        return TextPart("".join(builder.chunks))


class FrameDecoder(Protocol):
    """Splits the bytes of a stream into frames, such as server-sent events or lines."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the frames that these bytes complete."""

    def finish(self) -> list[bytes]:
        """Return the frames that the end of the stream completes."""


class ChatStreamDecoder(ABC):
    """Decoder of a streamed chat response; accepts bytes in any slicing.

    A dialect defines what one document of the stream means. `complete` becomes true at the
    dialect's own end mark; a stream that ends earlier raises StreamBrokenError with the partial
    reply.
    """

    def __init__(self, accumulator: ChatAccumulator, frames: FrameDecoder, limits: Limits) -> None:
        self.accumulator = accumulator
        self._frames = frames
        self._max_depth = limits.max_json_depth
        self.complete: bool = False
        self.ended: bool = False
        self.failure: MajordomoError | None = None

    @property
    def reply(self) -> Reply:
        """The partial reply."""
        return self.accumulator.reply(complete=False)

    @abstractmethod
    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """Handle one document.

        Set `complete` at the end mark, and call `end` if nothing may follow it.
        """

    def handle_frame(self, data: bytes, events: list[ChatEvent]) -> None:
        """Handle one frame of the stream.

        Blank frames and `[DONE]` are ignored: some servers send OpenAI's end mark in dialects that
        have another one.
        """
        if data.strip() and data.strip() != b"[DONE]":
            self._handle_json(decode_json(data, self._max_depth), events)

    def find_error(self, document: dict[str, Any]) -> MajordomoError | None:
        """Return the error that a document holds instead of a part of the reply."""
        is_error = document.get("error") and document.get("type", "error") == "error"
        return build_error(200, read_error_value(document), {}) if is_error else None

    def feed(self, chunk: bytes) -> list[ChatEvent]:
        """Return the events that these bytes complete; the last event of a stream is Done.

        Raises StreamBrokenError or the error that the stream reports. If the same bytes complete
        events before it, those are returned, and `failure` holds the error that the caller has to
        raise afterwards.
        """
        return self._decode(lambda: self._frames.feed(chunk))

    def finish(self) -> list[ChatEvent]:
        """Return the events at the end of the stream. Raises as `feed` does."""
        return self._decode(self._frames.finish, last=True)

    def _decode(self, frames: Callable[[], list[bytes]], *, last: bool = False) -> list[ChatEvent]:
        if self.failure is not None:
            raise self.failure
        events: list[ChatEvent] = []
        try:
            self._handle_frames(frames, events)
            if last and not self.ended:
                self.handle_end_of_stream(events)
        except MajordomoError as error:
            if not events:
                raise
            self.failure = error
        return events

    def handle_end_of_stream(self, events: list[ChatEvent]) -> None:
        """End the reply. Raises StreamBrokenError if it is not complete."""
        if not self.complete:
            stray: bytes = getattr(self._frames, "stray", b"")
            reason = f": {plain_text(read_error_body(stray).message, 500)}" if stray else ""
            raise StreamBrokenError(
                f"the stream ended before the reply was complete{reason}", partial=self.reply
            )
        self.end(events)

    def end(self, events: list[ChatEvent]) -> None:
        """Mark the reply as complete and append Done."""
        self.ended = self.complete = True
        self.accumulator.close(events)
        events.append(Done(self.accumulator.reply(complete=True)))

    def stream_error(self, error: MajordomoError) -> MajordomoError:
        """Return the exception for an error within the stream.

        This is StreamBrokenError with the partial reply, or the error itself if no part of the
        reply has arrived.
        """
        if not self.accumulator.started:
            return error
        return StreamBrokenError(
            f"the stream was interrupted: {error.message}",
            partial=self.reply,
            code=error.code,
            status=error.status,
            details=error.details,
        )

    def _handle_frames(self, frames: Callable[[], list[bytes]], events: list[ChatEvent]) -> None:
        try:
            for data in frames():
                if self.ended:
                    break
                self.handle_frame(data, events)
        except BadResponseError as error:
            # The stream is not broken if the reply is complete but its output is invalid, or if it
            # exceeds our own limit.
            if self.ended or error.code == "TOO_LARGE":
                raise
            raise self.stream_error(error) from None

    def _handle_json(self, document: Any, events: list[ChatEvent]) -> None:
        # Gemini wraps errors in an array.
        if isinstance(document, list) and document:
            document = document[0]
        if not isinstance(document, dict):
            raise BadResponseError("an event of the stream is not a JSON object")
        if (error := self.find_error(document)) is not None:
            raise self.stream_error(error)
        self.handle_document(document, events)


def as_token_count(value: Any) -> int | None:
    """Return a number of tokens, or None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def as_seconds(value: Any, unit: float = 1.0) -> float | None:
    """Convert a duration that the backend reports to seconds, or None for anything else.

    `unit` is the backend's unit in seconds, for example 1e-3 for milliseconds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) * unit if 0 <= value < _MAX_REPORTED_TIME else None


def as_text(value: Any) -> str | None:
    """Return a string that is not empty, or None for anything else."""
    return value if isinstance(value, str) and value else None


def as_json(value: Any) -> str:
    """Encode a part of a response as JSON text.

    Raises BadResponseError if it holds NaN or an infinite number, such as 1e999.
    """
    try:
        return encode_json(value).decode()
    except InvalidRequestError:
        raise BadResponseError(
            "the response holds NaN or an infinite number, which is not valid JSON", code="NOT_JSON"
        ) from None


def as_objects(value: Any) -> list[dict[str, Any]]:
    """Return the JSON objects in a list; an empty list for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
