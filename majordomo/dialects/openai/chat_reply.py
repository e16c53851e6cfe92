"""Decode chat completions, from one message or from a stream of deltas.

Every field is optional and unknown fields are ignored; `dialects.openai.chat` names the sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.image_fields import parse_base64_image
from majordomo.errors import CallWarning, MajordomoError, plain_text
from majordomo.framing.lines import EventDecoder
from majordomo.json_budget import MAX_UNCHECKED_BYTES
from majordomo.llm import ChatEvent, Loading, Part, Request, TextPart, ThinkingPart, Usage
from majordomo.llm.reply import FinishReason
from majordomo.settings import Limits

_OPENING_TAG, _CLOSING_TAG = "<think>", "</think>"
# Longer data URLs are left out of `raw`.
_MAX_DATA_URL_CHARACTERS = 100
_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "error": "error",
}


class ThinkTagParser:
    """Separates `<think>…</think>` at the very beginning of the text; accepts any slicing.

    Servers without a field for thinking send it in these tags.
    """

    __slots__ = ("_buffer", "_state")

    def __init__(self) -> None:
        self._state = "start"
        self._buffer = ""

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        """Yield (is thinking, text) pairs in order, without empty text."""
        if self._state == "text":
            yield False, text
            return
        buffer = self._buffer + text
        self._buffer = ""
        if self._state == "start":
            stripped = buffer.lstrip()
            if stripped.startswith(_OPENING_TAG):
                self._state, buffer = "thinking", stripped[len(_OPENING_TAG) :]
            elif _OPENING_TAG.startswith(stripped):
                self._buffer = buffer
                return
            else:
                self._state = "text"
                yield False, buffer
                return
        thinking, closing_tag, rest = buffer.partition(_CLOSING_TAG)
        if closing_tag:
            self._state = "text"
            if thinking:
                yield True, thinking
            if rest := rest.lstrip("\n"):
                yield False, rest
            return
        # The end of the buffer may be the beginning of the closing tag, so keep it.
        longest = min(len(_CLOSING_TAG) - 1, len(buffer))
        kept = next((n for n in range(longest, 0, -1) if _CLOSING_TAG.startswith(buffer[-n:])), 0)
        self._buffer = buffer[len(buffer) - kept :]
        if thinking := buffer[: len(buffer) - kept]:
            yield True, thinking

    def finish(self) -> Iterator[tuple[bool, str]]:
        """Yield the buffered text at the end of the stream."""
        if self._buffer:
            yield self._state == "thinking", self._buffer
        self._buffer = ""


class OpenAIChatAccumulator(ChatAccumulator):
    """A reply that grows from one message or from many deltas.

    Its parts are sorted by kind: thinking, text, images, tool calls.
    """

    finish_reasons: ClassVar[Mapping[str, FinishReason]] = _FINISH_REASONS

    def __init__(
        self, request: Request, limits: Limits, provider: str, *, keep_details: bool = False
    ) -> None:
        super().__init__(request, limits, provider)
        # OpenRouter's `reasoning_details`, which have to be sent back unchanged.
        self._details: list[dict[str, Any]] | None = [] if keep_details else None
        self._tag_parser = ThinkTagParser()
        # Whether text has begun: from then on it can hold no tags, and the parser is skipped.
        self._text_started = False
        # The index in the stream of each tool call, mapped to its index in the reply.
        self._call_indexes: dict[int, int] = {}

    def add_delta(self, delta: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add a complete message, or a delta of one."""
        content = delta.get("content")
        if type(content) is str:
            if content:
                self._add_content_text(content, events)
        elif isinstance(content, list):
            self._add_content_parts(content, events)
        if len(delta) > 1 or "content" not in delta:
            self._add_other_fields(delta, events)

    def _add_other_fields(self, delta: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add everything but `content`."""
        if self._details is not None:
            for detail in as_objects(delta.get("reasoning_details")):
                self._keep_detail(detail)
        # Some servers send the same thinking in two fields: use the first that is not empty.
        for name in ("reasoning_content", "reasoning"):
            if isinstance(thinking := delta.get(name), str) and thinking:
                self.add_thinking(thinking, events)
                break
        else:
            details = delta.get("reasoning_details")
            for detail in details if isinstance(details, list) else ():
                if (
                    isinstance(detail, dict)
                    and isinstance(thinking := detail.get("text") or detail.get("summary"), str)
                    and thinking
                ):
                    self.add_thinking(thinking, events)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            self._add_refusal(refusal, events)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._add_call_delta(call, events)
        images = delta.get("images")
        if isinstance(images, list):
            self._add_content_parts(images, events)

    def _add_refusal(self, text: str, events: list[ChatEvent]) -> None:
        """Add the text of a refusal and mark the reply; the stream goes on.

        "A refusal arrives with finish `stop`"
        """
        self.refused = True
        self._add_content_text(text, events)

    def _keep_detail(self, detail: dict[str, Any]) -> None:
        """Keep one of `reasoning_details`.

        "In a stream, merge deltas of the same index and type": text is appended, anything else is
        replaced.
        """
        assert self._details is not None
        self._count_characters(
            sum(len(value) for value in detail.values() if isinstance(value, str))
        )
        key = (detail.get("index"), detail.get("type"))
        known = next((d for d in self._details if (d.get("index"), d.get("type")) == key), None)
        if known is None or "index" not in detail:
            self._details.append(dict(detail))
            return
        for name, value in detail.items():
            if (
                name in ("text", "summary", "data")
                and isinstance(value, str)
                and isinstance(known.get(name), str)
            ):
                known[name] += value
            elif value is not None:
                known[name] = value

    def _add_content_text(self, text: str, events: list[ChatEvent]) -> None:
        """Add text that may begin with thinking in tags."""
        if self._text_started:
            self.add_text(text, events)
        else:
            self._add_parsed_text(self._tag_parser.feed(text), events)

    def _add_parsed_text(self, parsed: Iterable[tuple[bool, str]], events: list[ChatEvent]) -> None:
        for is_thinking, text in parsed:
            if is_thinking:
                self.add_thinking(text, events)
            else:
                self._text_started = True
                self.add_text(text, events)

    def _add_content_parts(self, parts: list[Any], events: list[ChatEvent]) -> None:
        for part in parts:
            if not isinstance(part, dict):
                continue
            part_type = part.get("type")
            if part_type == "refusal" and (refusal := as_text(part.get("refusal"))):
                self._add_refusal(refusal, events)
            elif isinstance(text := part.get("text"), str) and text:
                self._add_content_text(text, events)
            elif part_type == "thinking":
                # Mistral sends a list of text chunks.
                chunks = part.get("thinking")
                for chunk in chunks if isinstance(chunks, list) else ():
                    if (
                        isinstance(chunk, dict)
                        and isinstance(thinking := chunk.get("text"), str)
                        and thinking
                    ):
                        self.add_thinking(thinking, events)
            elif part_type == "image_url":
                link = part.get("image_url")
                url = link.get("url") if isinstance(link, dict) else link
                if isinstance(url, str):
                    self._add_image_url(url, events)

    def _add_image_url(self, url: str, events: list[ChatEvent]) -> None:
        if not url.startswith("data:"):
            self.warnings.append(
                CallWarning(
                    "IMAGE_MISSING", "the response links to an image; links are never fetched"
                )
            )
            return
        self.add_image(parse_base64_image(url, self._limits), events)

    def _add_call_delta(self, call: dict[str, Any], events: list[ChatEvent]) -> None:
        """Add a tool call, or a delta of one.

        It belongs to the call of the same stream index, or without an index to the call of the
        same id, or else to the last call if it has no name.
        """
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name = as_text(function.get("name")) or ""
        call_id = as_text(call.get("id")) or ""
        arguments = function.get("arguments")
        if isinstance(arguments, (dict, list)):
            arguments = as_json(arguments)
        stream_index = call.get("index")
        index: int | None
        if isinstance(stream_index, int):
            index = self._call_indexes.get(stream_index)
        else:
            index = len(self._calls) - 1 if self._calls and not name else None
            if index is None and call_id:
                index = next(
                    (i for i, known in enumerate(self._calls) if known.id == call_id), None
                )
        # A new id at a known index is another call: do not merge two calls into one.
        if index is not None and call_id and self._calls[index].id != call_id and name:
            index = None
        if index is None:
            self.end_call(self.calls - 1, events)
            index = self.start_call(call_id, name, events)
            if isinstance(stream_index, int):
                self._call_indexes[stream_index] = index
        # Some servers repeat the name or send it late.
        elif name and not self._calls[index].name:
            self._calls[index].name = name
        if isinstance(arguments, str):
            self.add_arguments(index, arguments, events)

    def close(self, events: list[ChatEvent]) -> None:
        """Add the text that the tag parser still holds, and complete all calls."""
        self._add_parsed_text(self._tag_parser.finish(), events)
        super().close(events)

    def _parts(self) -> tuple[Part, ...]:
        # Servers alternate between the fields freely; the dialect defines no order between them.
        builders = {
            kind: [builder for builder in self._part_builders if builder.kind == kind]
            for kind in ("thinking", "text", "image", "call")
        }
        thinking, text = (
            "".join(chunk for builder in builders[kind] for chunk in builder.chunks)
            for kind in ("thinking", "text")
        )
        opaque: dict[str, Any] = {"reasoning_details": self._details} if self._details else {}
        parts: list[Part] = []
        if thinking or opaque:
            parts.append(ThinkingPart(thinking, self._provider, opaque))
        if text:
            parts.append(TextPart(text))
        parts += [self._part(builder) for builder in (*builders["image"], *builders["call"])]
        return tuple(parts) or (TextPart(""),)


class OpenAIChatStreamDecoder(ChatStreamDecoder):
    """Decoder of a streamed chat completion.

    A stream is complete once a finish reason has arrived. `[DONE]` without one is a truncated
    stream: llama-cpp-python ends an interrupted stream that way. Usage may follow the finish
    reason, so the reply ends at `[DONE]` or at the end of the bytes.
    """

    accumulator: OpenAIChatAccumulator

    def __init__(
        self,
        request: Request,
        limits: Limits,
        *,
        provider: str = "",
        loading_chunks: bool = False,
        keep_details: bool = False,
        output_field: str = "",
    ) -> None:
        accumulator = OpenAIChatAccumulator(request, limits, provider, keep_details=keep_details)
        accumulator.output_field = output_field
        super().__init__(
            accumulator,
            EventDecoder(
                limits.max_image_event_bytes if wants_images(request) else limits.max_event_bytes
            ),
            limits,
        )
        self._loading_chunks = loading_chunks
        # Imported with the first response to keep the import of the package fast; see framing.json.
        from pydantic_core import from_json

        self._parse_json = from_json

    def handle_frame(self, data: bytes, events: list[ChatEvent]) -> None:
        """Handle one frame of the stream.

        Nearly all frames are one choice with a delta. This fast path handles those with as few
        checks as possible and leaves all other frames to the general one.
        """
        # The general path checks the memory that a large frame would take.
        if len(data) > MAX_UNCHECKED_BYTES:
            self._handle_other_frame(data, events)
            return
        try:
            document = self._parse_json(data)
            choices = document["choices"]
            delta = choices[0]["delta"]
        except (ValueError, LookupError, TypeError, RecursionError):
            self._handle_other_frame(data, events)
            return
        if len(choices) != 1 or not isinstance(delta, dict) or "error" in document:
            self._handle_other_frame(data, events)
            return
        if (
            self._loading_chunks
            and "id" not in document
            and "object" not in document
            and "model" not in document
        ):
            # "chunks … with no id, model, index, object or created, full of progress text": these
            # come from the gateway, not from the model.
            if isinstance(progress := delta.get("reasoning_content"), str) and (
                progress := plain_text(progress)
            ):
                events.append(Loading(progress))
            return
        self.accumulator.add_delta(delta, events)
        self._read_metadata(choices[0], document)

    def _handle_other_frame(self, data: bytes, events: list[ChatEvent]) -> None:
        """Handle a frame that is not one choice with a delta.

        It is the end mark, usage alone, an error, or not valid.
        """
        if data.strip() == b"[DONE]":
            self.handle_end_of_stream(events)
        else:
            super().handle_frame(data, events)

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        """Handle one document: a delta, or a complete message in one event."""
        choice = first_choice(document) or {}
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice.get("message")
        if isinstance(delta, dict):
            self.accumulator.add_delta(delta, events)
        self._read_metadata(choice, document)

    def _read_metadata(self, choice: dict[str, Any], document: dict[str, Any]) -> None:
        """Read finish reason, usage and model."""
        if reason := as_text(choice.get("finish_reason")):
            self.accumulator.finish_reason = reason
            self.complete = True
        if document.get("usage") or "x_groq" in document:
            self.accumulator.usage = usage_of(document)
        if not self.accumulator.model:
            self.accumulator.model = as_text(document.get("model")) or ""

    def find_error(self, document: dict[str, Any]) -> MajordomoError | None:
        """Return the error in a document, with the status that it names."""
        if not document.get("error"):
            return None
        return build_error(error_status(document), read_error_value(document), {})


def wants_images(request: Request) -> bool:
    """Whether the request asks for images (OpenRouter's `modalities`), so that responses are large.

    The value is in `extra`.
    """
    modalities = request.extra.get("modalities")
    return isinstance(modalities, (list, tuple)) and "image" in modalities


def first_choice(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice with index 0 or without an index, or None."""
    choices = document.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                return choice
    return None


def usage_of(document: dict[str, Any]) -> Usage:
    """Decode the usage in a response or a chunk.

    Durations: llama.cpp sends `timings` in milliseconds next to `usage`, Groq seconds within it.
    """
    usage = document.get("usage")
    if not isinstance(usage, dict):
        groq = document.get("x_groq")
        usage = groq.get("usage") if isinstance(groq, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    input_details, output_details, timings = (
        value if isinstance(value, dict) else {}
        for value in (
            usage.get("prompt_tokens_details"),
            usage.get("completion_tokens_details"),
            document.get("timings"),
        )
    )
    cached = as_token_count(input_details.get("cached_tokens"))
    # The fields of DeepSeek and Mistral.
    if cached is None:
        cached = as_token_count(
            usage.get("prompt_cache_hit_tokens", usage.get("num_cached_tokens"))
        )
    prompt_seconds = as_seconds(timings.get("prompt_ms"), 1e-3)
    if prompt_seconds is None:
        prompt_seconds = as_seconds(usage.get("prompt_time"))
    output_seconds = as_seconds(timings.get("predicted_ms"), 1e-3)
    if output_seconds is None:
        output_seconds = as_seconds(usage.get("completion_time"))
    return Usage(
        as_token_count(usage.get("prompt_tokens")),
        as_token_count(usage.get("completion_tokens")),
        cached,
        as_token_count(output_details.get("reasoning_tokens")),
        as_token_count(input_details.get("cache_write_tokens")),
        text_input_tokens=as_token_count(input_details.get("text_tokens")),
        image_input_tokens=as_token_count(input_details.get("image_tokens")),
        audio_input_tokens=as_token_count(input_details.get("audio_tokens")),
        text_output_tokens=as_token_count(output_details.get("text_tokens")),
        image_output_tokens=as_token_count(output_details.get("image_tokens")),
        audio_output_tokens=as_token_count(output_details.get("audio_tokens")),
        prompt_seconds=prompt_seconds,
        output_seconds=output_seconds,
    )


def error_status(document: dict[str, Any]) -> int:
    """Return the status that an error within a 200 names, or 200.

    OpenRouter and llama.cpp send it as a numeric code.
    """
    error = document.get("error")
    code = error.get("code", error.get("status_code")) if isinstance(error, dict) else None
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        return code
    return 200


def without_images(value: Any) -> Any:
    """Return the response with a short description in place of each image's data URL."""
    if isinstance(value, dict):
        return {key: without_images(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_images(item) for item in value]
    if (
        isinstance(value, str)
        and value.startswith("data:")
        and len(value) > _MAX_DATA_URL_CHARACTERS
    ):
        return f"<{value[5:].partition(';')[0]}, {len(value)} characters>"
    return value
