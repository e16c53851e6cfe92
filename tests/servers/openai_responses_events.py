"""The stream of a response: numbered events for every item, ordered as in openai-responses.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

from tests.servers.openai_account import Json, split_slices, split_words
from tests.servers.openai_responses_request import Request

NamedEvent = tuple[str, Json]
IN_PROGRESS: Json = {
    "status": "in_progress",
    "output": [],
    "usage": None,
    "error": None,
    "incomplete_details": None,
}


class StreamSettings(Protocol):
    """The stream settings of a server; `OpenAIResponses` documents them."""

    break_stream: str
    break_after: int
    sentinel: bool
    reversed_lines: bool
    strange: bool


class Events:
    """The events of one response, with consecutive sequence numbers."""

    def __init__(
        self, settings: StreamSettings, request: Request, response: Json, partial_images: list[str]
    ) -> None:
        self._settings, self._response, self._partial_images = settings, response, partial_images
        self._obfuscated = request.body.get("stream_options", {}).get("include_obfuscation", True)
        self._number = 0
        self._deltas = 0

    def before(self) -> Iterator[bytes]:
        """Yield the events before the model generates any output."""
        started = {
            name: value for name, value in self._response.items() if name != "completed_at"
        } | IN_PROGRESS
        yield self._event("response.created", response=started)
        yield self._event("response.in_progress", response=started)

    def after(self) -> Iterator[bytes]:
        """Yield the events of the output and of the end, or of a failure."""
        for index, item in enumerate(self._response["output"]):
            for name, fields in self._item(item):
                if self._settings.strange:
                    yield self._event("response.weather.delta", output_index=index, delta="sun")
                yield self._event(name, output_index=index, **fields)
                self._deltas += name.endswith(".delta")
                if self._settings.break_stream and self._deltas == self._settings.break_after:
                    yield from self._break_stream()
                    return
        yield self._event(f"response.{self._response['status']}", response=self._response)
        if self._settings.sentinel:
            yield b"data: [DONE]\n\n"

    def _break_stream(self) -> Iterator[bytes]:
        failure = {
            "code": "server_error",
            "message": "The server had an error while processing your request.",
        }
        if self._settings.break_stream == "error":
            yield self._event("error", **failure, param=None)
        if self._settings.break_stream == "wrapped":
            yield self._event("error", error=failure | {"type": "server_error", "param": None})
        if self._settings.break_stream == "failed":
            yield self._event(
                "response.failed",
                response=self._response | IN_PROGRESS | {"status": "failed", "error": failure},
            )

    def _event(self, name: str, **fields: Any) -> bytes:
        document = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        if self._obfuscated and name.endswith(".delta"):
            document["obfuscation"] = "xK3v9"
        lines = [f"event: {name}\n", f"data: {json.dumps(document)}\n"]
        return ("".join(lines[::-1] if self._settings.reversed_lines else lines) + "\n").encode()

    def _item(self, item: Json) -> Iterator[NamedEvent]:
        empty = {
            "message": {"content": []},
            "function_call": {"arguments": ""},
            "reasoning": {"summary": []},
        }.get(item["type"], {})
        visible = {
            name: value
            for name, value in item.items()
            if name not in ("result", "revised_prompt", "encrypted_content")
        }
        status = {"status": "in_progress"} if "status" in item else {}
        yield "response.output_item.added", {"item": visible | empty | status}
        inner_events = {
            "message": _message,
            "function_call": _call,
            "reasoning": _reasoning,
            "web_search_call": _search,
        }.get(item["type"], self._image)
        for name, fields in inner_events(item):
            yield name, {"item_id": item["id"], **fields}
        yield "response.output_item.done", {"item": item}

    def _image(self, item: Json) -> Iterator[NamedEvent]:
        name = "response.image_generation_call"
        yield f"{name}.in_progress", {}
        yield f"{name}.generating", {}
        settings = {key: item[key] for key in ("size", "quality", "background", "output_format")}
        for index, image in enumerate(self._partial_images):
            yield (
                f"{name}.partial_image",
                {"partial_image_index": index, "partial_image_b64": image, **settings},
            )
        yield f"{name}.completed", {}


def _message(item: Json) -> Iterator[NamedEvent]:
    for index, part in enumerate(item["content"]):
        text_field = "refusal" if part["type"] == "refusal" else "text"
        event_name = "response.refusal" if text_field == "refusal" else "response.output_text"
        extra: Json = {} if text_field == "refusal" else {"logprobs": []}
        yield (
            "response.content_part.added",
            {"content_index": index, "part": part | {text_field: ""}},
        )
        for delta in split_words(part[text_field]):
            yield f"{event_name}.delta", {"content_index": index, "delta": delta, **extra}
        yield f"{event_name}.done", {"content_index": index, text_field: part[text_field], **extra}
        yield "response.content_part.done", {"content_index": index, "part": part}


def _call(item: Json) -> Iterator[NamedEvent]:
    for delta in split_slices(item["arguments"]):
        yield "response.function_call_arguments.delta", {"delta": delta}
    # There is no name: "name was absent in recordings" (openai-responses.md).
    yield "response.function_call_arguments.done", {"arguments": item["arguments"]}


def _search(item: Json) -> Iterator[NamedEvent]:
    for status in ("in_progress", "searching", "completed"):
        yield f"response.{item['type']}.{status}", {}


def _reasoning(item: Json) -> Iterator[NamedEvent]:
    for index, part in enumerate(item["summary"]):
        yield (
            "response.reasoning_summary_part.added",
            {"summary_index": index, "part": part | {"text": ""}},
        )
        for delta in split_words(part["text"]):
            yield "response.reasoning_summary_text.delta", {"summary_index": index, "delta": delta}
        yield "response.reasoning_summary_text.done", {"summary_index": index, "text": part["text"]}
        yield "response.reasoning_summary_part.done", {"summary_index": index, "part": part}
