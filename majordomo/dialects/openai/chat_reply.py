"""An answer of the chat completions dialect as it grows, from one message or from a stream of deltas.

Every field is optional, unknown ones are harmless; see `openai_chat` for the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.image_fields import parse_base64_image
from majordomo.errors import CallWarning, MajordomoError, plain_text
from majordomo.framing.lines import EventDecoder
from majordomo.json_budget import LIGHT
from majordomo.llm import ChatEvent, Loading, Part, Request, TextPart, ThinkingPart, Usage
from majordomo.llm.reply import FinishReason
from majordomo.settings import Limits

_FINISH: dict[str, FinishReason] = {
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
    """`<think>…</think>` at the very beginning of the text, as servers without a field for it send it. Takes any slicing."""

    __slots__ = ("_held", "_state")

    def __init__(self) -> None:
        self._state = "start"
        self._held = ""

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        """(is it thinking, text), in order, nothing empty."""
        if self._state == "text":
            yield False, text
            return
        held = self._held + text
        self._held = ""
        if self._state == "start":
            seen = held.lstrip()
            if seen.startswith("<think>"):
                self._state, held = "thinking", seen[7:]
            elif "<think>".startswith(seen):
                self._held = held
                return
            else:
                self._state = "text"
                yield False, held
                return
        thought, end, rest = held.partition("</think>")
        if end:
            self._state = "text"
            if thought:
                yield True, thought
            if rest := rest.lstrip("\n"):
                yield False, rest
            return
        keep = next(
            (n for n in range(min(7, len(held)), 0, -1) if "</think>".startswith(held[-n:])), 0
        )
        self._held = held[len(held) - keep :]
        if thought := held[: len(held) - keep]:
            yield True, thought

    def finish(self) -> Iterator[tuple[bool, str]]:
        if self._held:
            yield self._state == "thinking", self._held
        self._held = ""


class OpenAIChatAccumulator(ChatAccumulator):
    """An answer as it grows, from one message or from many deltas. Its parts stand by kind: thoughts, text, images, calls."""

    finish_reasons: ClassVar[Mapping[str, FinishReason]] = _FINISH

    def __init__(
        self, request: Request, limits: Limits, owner: str, *, details: bool = False
    ) -> None:
        super().__init__(request, limits, owner)
        self._details: list[dict[str, Any]] | None = (
            [] if details else None
        )  # OpenRouter's, to go back as they came
        self._tags = ThinkTagParser()
        self._plain = False  # the tags are decided: text needs no further look
        self._at: dict[int, int] = {}

    def add_delta(self, delta: dict[str, Any], events: list[ChatEvent]) -> None:
        """A message, or a delta of one."""
        content = delta.get("content")
        if type(content) is str:
            if content:
                self._take_text(content, events)
        elif isinstance(content, list):
            self._take_parts(content, events)
        if len(delta) > 1 or "content" not in delta:
            self._take_rest(delta, events)

    def _take_rest(self, delta: dict[str, Any], events: list[ChatEvent]) -> None:
        if self._details is not None:
            for detail in as_objects(delta.get("reasoning_details")):
                self._keep_detail(detail)
        # Some send the same thought under two names: the first that holds any
        for name in ("reasoning_content", "reasoning"):
            if isinstance(thought := delta.get(name), str) and thought:
                self.add_thinking(thought, events)
                break
        else:
            details = delta.get("reasoning_details")
            for detail in details if isinstance(details, list) else ():
                if (
                    isinstance(detail, dict)
                    and isinstance(thought := detail.get("text") or detail.get("summary"), str)
                    and thought
                ):
                    self.add_thinking(thought, events)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            self._refuse(refusal, events)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._take_call(call, events)
        images = delta.get("images")
        if isinstance(images, list):
            self._take_parts(images, events)

    def _refuse(self, words: str, events: list[ChatEvent]) -> None:
        """ "A refusal arrives with finish `stop`": the reply says what it is. It ends no stream."""
        self.refused = True
        self._take_text(words, events)

    def _keep_detail(self, detail: dict[str, Any]) -> None:
        """ "In a stream, merge deltas of the same index and type": texts grow, anything else is replaced."""
        assert self._details is not None
        self._grow(sum(len(value) for value in detail.values() if isinstance(value, str)))
        known = next(
            (
                d
                for d in self._details
                if (d.get("index"), d.get("type")) == (detail.get("index"), detail.get("type"))
            ),
            None,
        )
        if known is None or "index" not in detail:
            self._details.append(dict(detail))
            return
        for key, value in detail.items():
            if (
                key in ("text", "summary", "data")
                and isinstance(value, str)
                and isinstance(known.get(key), str)
            ):
                known[key] += value
            elif value is not None:
                known[key] = value

    def _take_text(self, text: str, events: list[ChatEvent]) -> None:
        if self._plain:
            self.add_text(text, events)
            return
        for is_thought, piece in self._tags.feed(text):
            if is_thought:
                self.add_thinking(piece, events)
            else:
                self._plain = True
                self.add_text(piece, events)

    def _take_parts(self, parts: list[Any], events: list[ChatEvent]) -> None:
        for part in parts:
            if not isinstance(part, dict):
                continue
            kind = part.get("type")
            if kind == "refusal" and (refusal := as_text(part.get("refusal"))):
                self._refuse(refusal, events)
            elif isinstance(text := part.get("text"), str) and text:
                self._take_text(text, events)
            elif kind == "thinking":  # Mistral: a list of text chunks
                pieces = part.get("thinking")
                for piece in pieces if isinstance(pieces, list) else ():
                    if (
                        isinstance(piece, dict)
                        and isinstance(thought := piece.get("text"), str)
                        and thought
                    ):
                        self.add_thinking(thought, events)
            elif kind == "image_url":
                link = part.get("image_url")
                url = link.get("url") if isinstance(link, dict) else link
                if isinstance(url, str):
                    self._take_image(url, events)

    def _take_image(self, url: str, events: list[ChatEvent]) -> None:
        if not url.startswith("data:"):
            self.warnings.append(
                CallWarning(
                    "IMAGE_MISSING", "the answer links to an image; links are never fetched"
                )
            )
            return
        self.add_image(parse_base64_image(url, self._limits), events)

    def _take_call(self, call: dict[str, Any], events: list[ChatEvent]) -> None:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name = as_text(function.get("name")) or ""
        identity = as_text(call.get("id")) or ""
        arguments = function.get("arguments")
        if isinstance(arguments, (dict, list)):
            arguments = as_json(arguments)
        index = call.get("index")
        place = (
            self._at.get(index)
            if isinstance(index, int)
            else (len(self._calls) - 1 if self._calls and not name else None)
        )
        if place is None and not isinstance(index, int) and identity:
            place = next((i for i, known in enumerate(self._calls) if known.id == identity), None)
        # A new id at a known index is another call: two glued into one would be nobody's wish
        if place is not None and identity and self._calls[place].id != identity and name:
            place = None
        if place is None:
            self.end_call(self.calls - 1, events)
            place = self.start_call(identity, name, events)
            if isinstance(index, int):
                self._at[index] = place
        elif name and not self._calls[place].name:
            self._calls[place].name = name  # servers repeat the name or send it late
        if isinstance(arguments, str):
            self.add_arguments(place, arguments, events)

    def close(self, events: list[ChatEvent]) -> None:
        for is_thought, piece in self._tags.finish():
            if is_thought:
                self.add_thinking(piece, events)
            else:
                self._plain = True
                self.add_text(piece, events)
        super().close(events)

    def _parts(self) -> tuple[Part, ...]:
        # Servers alternate between the fields as they like; the dialect has no order between them
        runs = {
            kind: [run for run in self._part_builders if run.kind == kind]
            for kind in ("thinking", "text", "image", "call")
        }
        thought, said = (
            "".join(piece for run in runs[kind] for piece in run.pieces)
            for kind in ("thinking", "text")
        )
        kept: dict[str, Any] = {"reasoning_details": self._details} if self._details else {}
        parts: list[Part] = [ThinkingPart(thought, self._provider, kept)] if thought or kept else []
        parts += [TextPart(said)] if said else []
        parts += [self._part(run) for run in (*runs["image"], *runs["call"])]
        return tuple(parts) or (TextPart(""),)


class OpenAIChatStreamDecoder(ChatStreamDecoder):
    """A stream is whole when a finish reason was seen; `[DONE]` without one is a cut stream (llama-cpp-python ends an interrupted
    one that way). Usage may come after the finish reason, so the end is `[DONE]` or the end of the bytes.
    """

    accumulator: OpenAIChatAccumulator

    def __init__(
        self,
        request: Request,
        limits: Limits,
        *,
        owner: str = "",
        loading_chunks: bool = False,
        details: bool = False,
        within: str = "",
    ) -> None:
        answer = OpenAIChatAccumulator(request, limits, owner, details=details)
        answer.output_field = within
        super().__init__(
            answer,
            EventDecoder(
                limits.max_image_event_bytes if wants_images(request) else limits.max_event_bytes
            ),
            limits,
        )
        self._loading_chunks = loading_chunks
        from pydantic_core import from_json  # with the first answer, see framing.json

        self._parse = from_json

    def handle_frame(self, data: bytes, events: list[ChatEvent]) -> None:
        """Nearly all are one choice with a delta: those are read with as few looks as they need."""
        if len(data) > LIGHT:  # as the others are read, which weighs it
            self._odd_frame(data, events)
            return
        try:
            document = self._parse(data)
            choices = document["choices"]
            delta = choices[0]["delta"]
        except (ValueError, LookupError, TypeError, RecursionError):
            self._odd_frame(data, events)
            return
        if len(choices) != 1 or not isinstance(delta, dict) or "error" in document:
            self._odd_frame(data, events)
            return
        if (
            self._loading_chunks
            and "id" not in document
            and "object" not in document
            and "model" not in document
        ):
            # "chunks … with no id, model, index, object or created, full of progress text": the gateway speaks, not the model
            if isinstance(word := delta.get("reasoning_content"), str) and (
                word := plain_text(word)
            ):
                events.append(Loading(word))
            return
        self.accumulator.add_delta(delta, events)
        self._take_around(choices[0], document)

    def _odd_frame(self, data: bytes, events: list[ChatEvent]) -> None:
        """Everything but one choice with a delta: the end, usage alone, an error, or what nobody can read."""
        if data.strip() == b"[DONE]":
            self.bytes_ended(events)
        else:
            super().handle_frame(data, events)

    def handle_document(self, document: dict[str, Any], events: list[ChatEvent]) -> None:
        choice = first_choice(document) or {}
        said = choice.get("delta")
        said = (
            said if isinstance(said, dict) else choice.get("message")
        )  # a whole answer in one event
        if isinstance(said, dict):
            self.accumulator.add_delta(said, events)
        self._take_around(choice, document)

    def _take_around(self, choice: dict[str, Any], document: dict[str, Any]) -> None:
        if reason := as_text(choice.get("finish_reason")):
            self.accumulator.finish_reason = reason
            self.complete = True
        if document.get("usage") or "x_groq" in document:
            self.accumulator.usage = usage_of(document)
        if not self.accumulator.model:
            self.accumulator.model = as_text(document.get("model")) or ""

    def error_in(self, document: dict[str, Any]) -> MajordomoError | None:
        return (
            build_error(status_within(document), error_value(document), {})
            if document.get("error")
            else None
        )


def wants_images(request: Request) -> bool:
    """Whether the caller asked this dialect for images (OpenRouter's `modalities`), so that larger answers are expected."""
    modalities = request.extra.get("modalities")
    return isinstance(modalities, (list, tuple)) and "image" in modalities


def first_choice(document: dict[str, Any]) -> dict[str, Any] | None:
    choices = document.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                return choice
    return None


def usage_of(document: dict[str, Any]) -> Usage:
    """What a whole answer or a chunk tells; llama.cpp has `timings` in milliseconds beside `usage`, Groq seconds within it."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        groq = document.get("x_groq")
        usage = groq.get("usage") if isinstance(groq, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    read, written, timings = (
        found if isinstance(found, dict) else {}
        for found in (
            usage.get("prompt_tokens_details"),
            usage.get("completion_tokens_details"),
            document.get("timings"),
        )
    )
    cached = as_token_count(read.get("cached_tokens"))
    if cached is None:  # DeepSeek, Mistral
        cached = as_token_count(
            usage.get("prompt_cache_hit_tokens", usage.get("num_cached_tokens"))
        )
    prompt, output = (
        as_seconds(timings.get(f"{name}_ms"), 1e-3) for name in ("prompt", "predicted")
    )
    return Usage(
        as_token_count(usage.get("prompt_tokens")),
        as_token_count(usage.get("completion_tokens")),
        cached,
        as_token_count(written.get("reasoning_tokens")),
        as_token_count(read.get("cache_write_tokens")),
        text_input_tokens=as_token_count(read.get("text_tokens")),
        image_input_tokens=as_token_count(read.get("image_tokens")),
        audio_input_tokens=as_token_count(read.get("audio_tokens")),
        text_output_tokens=as_token_count(written.get("text_tokens")),
        image_output_tokens=as_token_count(written.get("image_tokens")),
        audio_output_tokens=as_token_count(written.get("audio_tokens")),
        prompt_seconds=prompt if prompt is not None else as_seconds(usage.get("prompt_time")),
        output_seconds=output if output is not None else as_seconds(usage.get("completion_time")),
    )


def status_within(document: dict[str, Any]) -> int:
    """The status an error within a 200 names: OpenRouter and llama.cpp give it as a numeric code."""
    error = document.get("error")
    code = error.get("code", error.get("status_code")) if isinstance(error, dict) else None
    return (
        code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 200
    )


def without_images(value: Any) -> Any:
    """The answer with the text of its images elided."""
    if isinstance(value, dict):
        return {key: without_images(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_images(item) for item in value]
    if isinstance(value, str) and value.startswith("data:") and len(value) > 100:
        return f"<{value[5:].partition(';')[0]}, {len(value)} characters>"
    return value
