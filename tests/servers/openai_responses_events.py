"""The stream of a response: numbered events for each item, in the order of `openai-responses.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

from tests.servers.openai_account import Json, pieces, sliced
from tests.servers.openai_responses_request import Request

Named = tuple[str, Json]
OPEN = {
    "status": "in_progress",
    "output": [],
    "usage": None,
    "error": None,
    "incomplete_details": None,
}


class Habits(Protocol):
    """The stream settings of a server; `OpenAIResponses` documents them."""

    break_stream: str
    break_after: int
    sentinel: bool
    reversed_lines: bool
    strange: bool


class Events:
    """The events of one response, with consecutive sequence numbers."""

    def __init__(self, habits: Habits, request: Request, response: Json, drafts: list[str]) -> None:
        self._habits, self._response, self._drafts = habits, response, drafts
        self._obfuscated = request.body.get("stream_options", {}).get("include_obfuscation", True)
        self._number = 0
        self._deltas = 0

    def before(self) -> Iterator[bytes]:
        """Yield the events before the model generates any output."""
        begun = {
            name: value for name, value in self._response.items() if name != "completed_at"
        } | OPEN
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)

    def after(self) -> Iterator[bytes]:
        """Yield the events of the output and of the end, or of a failure."""
        for index, item in enumerate(self._response["output"]):
            for name, more in self._item(item):
                if self._habits.strange:
                    yield self._event("response.weather.delta", output_index=index, delta="sun")
                yield self._event(name, output_index=index, **more)
                self._deltas += name.endswith(".delta")
                if self._habits.break_stream and self._deltas == self._habits.break_after:
                    yield from self._broken()
                    return
        yield self._event(f"response.{self._response['status']}", response=self._response)
        if self._habits.sentinel:
            yield b"data: [DONE]\n\n"

    def _broken(self) -> Iterator[bytes]:
        fault = {
            "code": "server_error",
            "message": "The server had an error while processing your request.",
        }
        if self._habits.break_stream == "error":
            yield self._event("error", **fault, param=None)
        if self._habits.break_stream == "wrapped":
            yield self._event("error", error=fault | {"type": "server_error", "param": None})
        if self._habits.break_stream == "failed":
            yield self._event(
                "response.failed",
                response=self._response | OPEN | {"status": "failed", "error": fault},
            )

    def _event(self, name: str, **more: Any) -> bytes:
        document = {"type": name, "sequence_number": self._number, **more}
        self._number += 1
        if self._obfuscated and name.endswith(".delta"):
            document["obfuscation"] = "xK3v9"
        lines = [f"event: {name}\n", f"data: {json.dumps(document)}\n"]
        return ("".join(lines[::-1] if self._habits.reversed_lines else lines) + "\n").encode()

    def _item(self, item: Json) -> Iterator[Named]:
        opened = {
            "message": {"content": []},
            "function_call": {"arguments": ""},
            "reasoning": {"summary": []},
        }.get(item["type"], {})
        shown = {
            name: value
            for name, value in item.items()
            if name not in ("result", "revised_prompt", "encrypted_content")
        }
        state = {"status": "in_progress"} if "status" in item else {}
        yield "response.output_item.added", {"item": shown | opened | state}
        inner = {
            "message": _message,
            "function_call": _call,
            "reasoning": _reasoning,
            "web_search_call": _search,
        }.get(item["type"], self._image)
        for name, more in inner(item):
            yield name, {"item_id": item["id"], **more}
        yield "response.output_item.done", {"item": item}

    def _image(self, item: Json) -> Iterator[Named]:
        name = "response.image_generation_call"
        yield f"{name}.in_progress", {}
        yield f"{name}.generating", {}
        about = {key: item[key] for key in ("size", "quality", "background", "output_format")}
        for number, draft in enumerate(self._drafts):
            yield (
                f"{name}.partial_image",
                {"partial_image_index": number, "partial_image_b64": draft, **about},
            )
        yield f"{name}.completed", {}


def _message(item: Json) -> Iterator[Named]:
    for index, part in enumerate(item["content"]):
        kind = "refusal" if part["type"] == "refusal" else "text"
        event = "response.refusal" if kind == "refusal" else "response.output_text"
        more: Json = {} if kind == "refusal" else {"logprobs": []}
        yield "response.content_part.added", {"content_index": index, "part": part | {kind: ""}}
        for piece in pieces(part[kind]):
            yield f"{event}.delta", {"content_index": index, "delta": piece, **more}
        yield f"{event}.done", {"content_index": index, kind: part[kind], **more}
        yield "response.content_part.done", {"content_index": index, "part": part}


def _call(item: Json) -> Iterator[Named]:
    for piece in sliced(item["arguments"]):
        yield "response.function_call_arguments.delta", {"delta": piece}
    # There is no name: "name was absent in recordings" (openai-responses.md).
    yield "response.function_call_arguments.done", {"arguments": item["arguments"]}


def _search(item: Json) -> Iterator[Named]:
    for state in ("in_progress", "searching", "completed"):
        yield f"response.{item['type']}.{state}", {}


def _reasoning(item: Json) -> Iterator[Named]:
    for index, part in enumerate(item["summary"]):
        yield (
            "response.reasoning_summary_part.added",
            {"summary_index": index, "part": part | {"text": ""}},
        )
        for piece in pieces(part["text"]):
            yield "response.reasoning_summary_text.delta", {"summary_index": index, "delta": piece}
        yield "response.reasoning_summary_text.done", {"summary_index": index, "text": part["text"]}
        yield "response.reasoning_summary_part.done", {"summary_index": index, "part": part}
