"""A chat answer as it grows, whatever the dialect: its parts in order, their events, its limits; and how a stream of documents is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from majordomo.dialects.errors import build_error, error_value, read_error_body
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

MAX_CALLS = 1000


@dataclass(slots=True)
class _PartBuilder:
    """Pieces of one part. `opaque` is what its provider wants back with it."""

    kind: str  # text, thinking, image, call
    pieces: list[str] = field(default_factory=list)
    opaque: dict[str, Any] = field(default_factory=dict)
    image: ImagePart | None = None
    call: _CallBuilder | None = None


@dataclass(slots=True)
class _CallBuilder:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)
    complete: bool = False

    def part(self) -> ToolCallPart:
        return ToolCallPart(self.id, self.name, "".join(self.arguments) or "{}")


class ChatAccumulator:
    """The answer so far. Methods append the events that what they take makes."""

    finish_reasons: ClassVar[Mapping[str, FinishReason]] = {}  # the dialect's finish reasons

    def __init__(self, request: Request, limits: Limits, provider: str) -> None:
        self._request = request
        self._limits = limits
        self._provider = provider
        self._part_builders: list[_PartBuilder] = []
        self._current = _PartBuilder("")
        self._size = self._image_bytes = 0
        self._calls: list[_CallBuilder] = []
        self.finish_reason: str | None = None
        self.refused: bool = False  # the model said that it will not, whatever word it ends with
        self.usage: Usage = Usage()
        self.model: str = ""
        self.warnings: list[CallWarning] = []
        self.output_field: str = (
            ""  # the field of the JSON answer that holds the output, where it is not the whole
        )

    @property
    def started(self) -> bool:
        return bool(self._part_builders)

    @property
    def calls(self) -> int:
        return len(self._calls)

    def _current_part(self, kind: str) -> _PartBuilder:
        if self._current.kind != kind:
            self._current = _PartBuilder(kind)
            self._part_builders.append(self._current)
        return self._current

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._limits.max_reply_bytes:
            raise self._too_large()

    def _too_large(self) -> BadResponseError:
        return BadResponseError(
            f"the answer is larger than the limit of {self._limits.max_reply_bytes:,} characters",
            code="TOO_LARGE",
        )

    def add_text(self, text: str, events: list[ChatEvent]) -> None:
        if text:
            self._grow(len(text))
            self._current_part("text").pieces.append(text)
            events.append(TextDelta(text))

    def add_thinking(self, text: str, events: list[ChatEvent]) -> None:
        if text:
            self._grow(len(text))
            self._current_part("thinking").pieces.append(text)
            events.append(ThinkingDelta(text))

    def end_part(self) -> None:
        """What comes next is another part, of whatever kind."""
        self._current = _PartBuilder("")

    def attach_opaque(self, opaque: dict[str, Any], *, apart: bool = False) -> None:
        """What the provider wants back with the thought at hand; `apart`, or without a thought at hand, as an empty one of its own."""
        self._grow(sum(len(value) for value in opaque.values() if isinstance(value, str)))
        if apart:
            self.end_part()
        self._current_part("thinking").opaque.update(opaque)
        if apart:
            self.end_part()

    def detach_opaque(self, name: str) -> None:
        """The thoughts that came last do not go back with this."""
        for run in reversed(self._part_builders):
            if run.kind != "thinking" or name not in run.opaque:
                break
            del run.opaque[name]

    def add_image(self, image: ImagePart, events: list[ChatEvent]) -> None:
        self._image_bytes += len(image.data)
        if self._image_bytes > self._limits.max_image_reply_bytes:
            raise self._too_large()
        self._part_builders.append(_PartBuilder("image", image=image))
        self.end_part()
        events.append(ImageReady(image))

    def start_call(self, identity: str, name: str, events: list[ChatEvent]) -> int:
        """The place of a call that begins. Where the backend gives no id, one is needed to answer it: its place is one."""
        place = len(self._calls)
        if place >= MAX_CALLS:
            raise BadResponseError(
                f"the answer calls more than {MAX_CALLS:,} tools", code="TOO_LARGE"
            )
        call = _CallBuilder(identity or f"call_{place}", name)
        self._calls.append(call)
        self._part_builders.append(_PartBuilder("call", call=call))
        self.end_part()
        events.append(ToolCallStarted(place, call.id, name))
        return place

    def add_arguments(self, place: int, text: str, events: list[ChatEvent]) -> None:
        if text:
            self._grow(len(text))
            self._calls[place].arguments.append(text)
            events.append(ToolCallDelta(place, text))

    def has_arguments(self, place: int) -> bool:
        return bool(self._calls[place].arguments)

    def end_call(self, place: int, events: list[ChatEvent]) -> None:
        if 0 <= place < len(self._calls) and not self._calls[place].complete:
            self._calls[place].complete = True
            events.append(ToolCall(place, self._calls[place].part()))

    def add_call(self, identity: str, name: str, arguments: str, events: list[ChatEvent]) -> None:
        place = self.start_call(identity, name, events)
        self.add_arguments(place, arguments, events)
        self.end_call(place, events)

    def close(self, events: list[ChatEvent]) -> None:
        """Nothing more comes."""
        for place in range(len(self._calls)):
            self.end_call(place, events)

    def reply(self, *, whole: bool, raw: Any = None) -> Reply:
        """The reply so far; a whole one has its output validated."""
        parts = self._parts()
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        reason: FinishReason = self.finish_reasons.get(self.finish_reason or "", "unknown")
        if self.refused:
            reason = "content_filter"
        elif whole and self._calls and reason in ("stop", "unknown"):
            reason = "tool_calls"
        elif whole and reason == "unknown" and not self.finish_reason and text:
            reason = "stop"
        warnings = list(self.warnings)
        if whole and self._request.tool_choice not in (None, "auto", "none") and not self._calls:
            warnings.append(
                CallWarning(
                    "TOOL_NOT_CALLED",
                    "a tool call was required, and the model made none",
                    "tool_choice",
                )
            )
        output = None
        if whole and self._request.output is not None and not self._calls:
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
            if (
                reason == "content_filter"
            ):  # words instead of the JSON: to ask again, or elsewhere, would be to ask for the same
                raise ContentRefusedError(
                    text or "the model refuses, without a word", details={"text": text}
                ) from None
            raise

    def _parts(self) -> tuple[Part, ...]:
        parts = tuple(self._part(run) for run in self._part_builders)
        return parts or (TextPart(""),)

    def _part(self, run: _PartBuilder) -> Part:
        if run.call is not None:
            return run.call.part()
        if run.image is not None:
            return run.image
        if run.kind == "thinking":
            return ThinkingPart("".join(run.pieces), self._provider, run.opaque)
        return TextPart("".join(run.pieces))


class FrameDecoder(Protocol):
    def feed(self, chunk: bytes) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


class ChatStreamDecoder(ABC):
    """The events in a streamed answer, however its bytes are sliced. A dialect says what one document of the stream means.

    `complete` turns true at the dialect's own end mark; an end before it is a StreamBrokenError with what had arrived.
    """

    def __init__(self, answer: ChatAccumulator, frames: FrameDecoder, limits: Limits) -> None:
        self.accumulator = answer
        self._frames = frames
        self._depth = limits.max_json_depth
        self.complete: bool = False
        self.ended: bool = False
        self.failure: MajordomoError | None = None

    @property
    def reply(self) -> Reply:
        return self.accumulator.reply(whole=False)

    @abstractmethod
    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """One document; sets `complete` at the end mark, and calls `end` where nothing may follow it."""

    def handle_frame(self, data: bytes, events: list[ChatEvent]) -> None:
        """One frame of the stream; nothing where it is blank, or OpenAI's end mark, which some add to dialects that have another."""
        if data.strip() and data.strip() != b"[DONE]":
            self._document(decode_json(data, self._depth), events)

    def error_in(self, document: dict[str, Any]) -> MajordomoError | None:
        """The error that a document tells instead of a part of the answer."""
        told = document.get("error") and document.get("type", "error") == "error"
        return build_error(200, error_value(document), {}) if told else None

    def feed(self, chunk: bytes) -> list[ChatEvent]:
        """The events that these bytes complete; the last is Done. Raises StreamBrokenError or what the stream says went wrong; where
        events came before it, they are given first, and `failure` is what is then to be raised."""
        return self._events(lambda: self._frames.feed(chunk))

    def finish(self) -> list[ChatEvent]:
        """The bytes have ended. Raises as `feed` does."""
        return self._events(self._frames.finish, last=True)

    def _events(self, frames: Callable[[], list[bytes]], *, last: bool = False) -> list[ChatEvent]:
        if self.failure is not None:
            raise self.failure
        events: list[ChatEvent] = []
        try:
            self._read(frames, events)
            if last and not self.ended:
                self.bytes_ended(events)
        except MajordomoError as error:
            if not events:
                raise
            self.failure = error
        return events

    def bytes_ended(self, events: list[ChatEvent]) -> None:
        """Nothing more comes. Raises StreamBrokenError where the answer is not whole."""
        if not self.complete:
            stray: bytes = getattr(self._frames, "stray", b"")
            reason = f": {plain_text(read_error_body(stray).message, 500)}" if stray else ""
            raise StreamBrokenError(
                f"the stream ended before the answer did{reason}", partial=self.reply
            )
        self.end(events)

    def end(self, events: list[ChatEvent]) -> None:
        """The answer is whole."""
        self.ended = self.complete = True
        self.accumulator.close(events)
        events.append(Done(self.accumulator.reply(whole=True)))

    def broken(self, error: MajordomoError) -> MajordomoError:
        """Before anything was said, the error itself; after, a broken stream with what had arrived."""
        if not self.accumulator.started:
            return error
        return StreamBrokenError(
            f"the stream broke off: {error.message}",
            partial=self.reply,
            code=error.code,
            status=error.status,
            details=error.details,
        )

    def _read(self, frames: Callable[[], list[bytes]], events: list[ChatEvent]) -> None:
        try:
            for data in frames():
                if self.ended:
                    break
                self.handle_frame(data, events)
        except BadResponseError as error:
            if (
                self.ended or error.code == "TOO_LARGE"
            ):  # whole, and not what was asked for; or beyond our own limit
                raise
            raise self.broken(error) from None

    def _document(self, document: Any, events: list[ChatEvent]) -> None:
        if isinstance(document, list) and document:  # Gemini wraps errors in an array
            document = document[0]
        if not isinstance(document, dict):
            raise BadResponseError("an event of the stream is no JSON object")
        if (error := self.error_in(document)) is not None:
            raise self.broken(error)
        self.handle_document(document, events)


def as_token_count(value: Any) -> int | None:
    """A number of tokens, or None for anything that is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def as_seconds(value: Any, unit: float = 1.0) -> float | None:
    """A time of the backend's in seconds, from its own `unit`; None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        return None
    return float(value) * unit


def as_text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def as_json(value: Any) -> str:
    """The JSON text of a part of an answer. Raises BadResponseError where it holds a number that is none: NaN, or 1e999."""
    try:
        return encode_json(value).decode()
    except InvalidRequestError:
        raise BadResponseError("the answer holds a number that is none", code="NOT_JSON") from None


def as_objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
