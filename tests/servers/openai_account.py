"""The parts shared by both OpenAI chat servers.

These are the account with its models and files, the HTTP routes, and the scripted model that
produces the answers of both APIs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.servers.anthropic import sample_value
from tests.servers.http_helpers import Gate, route
from tests.servers.openai_images import Refused
from tests.servers.openai_shapes import json_objects
from tests.support.loopback import Peer, ReceivedRequest

Json = dict[str, Any]
CREATED = 1_780_000_000


@dataclass(frozen=True)
class Model:
    """A chat model of the account."""

    efforts: Sequence[str] = ()
    """Reasoning efforts that the model accepts; empty for a model without reasoning."""
    roles: Sequence[str] = ()
    """Message roles that the model refuses (chat completions only)."""

    def is_reasoning(self, effort: str | None) -> bool:
        """Return whether reasoning is active with this effort."""
        return bool(self.efforts) and effort != "none"


@dataclass
class Turn:
    """One scripted answer."""

    items: list[Json]
    """Output items in order.

    They are built with `says`, `calls`, `thinks`, `refuses`, `generates` and `searches`.
    """
    finish: str | None = None
    """None for a complete answer, "length", "content_filter", or "failed".

    "failed" exists in the Responses API only: status failed with HTTP 200.
    """
    usage: Json = field(default_factory=dict)
    """Usage fields that replace the counted ones."""


def says(text: str, **fields: Any) -> Json:
    """Return a message item with this text."""
    return {"type": "message", "text": text, **fields}


def refuses(text: str) -> Json:
    """Return a message item with a refusal."""
    return {"type": "message", "refusal": text}


def thinks(*texts: str) -> Json:
    """Return a reasoning item; each text is one part of its summary."""
    return {"type": "reasoning", "text": " ".join(texts), "parts": list(texts)}


def calls(name: str, arguments: Any = None, **fields: Any) -> Json:
    """Return a function call item; arguments that are a string are sent unchanged."""
    return {
        "type": "function_call",
        "name": name,
        "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
        **fields,
    }


def generates(prompt: str) -> Json:
    """Return an image generation item."""
    return {"type": "image_generation_call", "prompt": prompt}


def searches(query: str) -> Json:
    """Return a web search item of the hosted tool."""
    return {"type": "web_search_call", "query": query}


class ClientLeft(Exception):
    """The client has disconnected, or the server drops the connection on purpose."""


@dataclass
class ModelInput:
    """What a valid request gives to the model: the latest input, the tools, the output limits."""

    model: str
    user_texts: list[str] = field(default_factory=list)
    """Texts of the user after the last assistant message."""
    descriptions: list[str] = field(default_factory=list)
    """Descriptions of the other input after the last assistant message: images, files, results."""
    has_tool_results: bool = False
    """Whether tool results follow the last assistant message."""
    tools: list[str] = field(default_factory=list)
    """Names of the functions that the model may call."""
    tool_choice: str = "auto"
    """"none", "auto", "required", or the name of a tool."""
    parallel_calls: bool = True
    """Whether one answer may contain several calls."""
    schema: Any = None
    """JSON schema of the answer; None for free text."""
    max_tokens: int | None = None
    """Output limit in tokens (words here); None for no limit."""
    stop_sequences: list[str] = field(default_factory=list)
    """Texts at which the answer ends; they are not part of it."""
    reasoning: bool = False
    """Whether the answer starts with a reasoning item."""
    generates_image: bool = False
    """Whether the model generates an image."""
    prompt_tokens: int = 1
    """Number of prompt tokens for the usage."""

    def clear(self) -> None:
        """Forget the input before an assistant message."""
        self.user_texts, self.descriptions, self.has_tool_results = [], [], False

    def calls(self, text: str) -> list[Json]:
        """Return one call for each tool that the text names.

        The JSON objects in the text become the arguments, in order. When no tool is named but
        the request forces a call, the forced or first tool is called.
        """
        if (
            not self.tools
            or self.tool_choice == "none"
            or (self.has_tool_results and self.tool_choice == "auto")
        ):
            return []
        names = [
            name for name in self.tools if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
        ]
        if self.tool_choice != "auto":
            names = (
                [self.tool_choice] if self.tool_choice in self.tools else names or self.tools[:1]
            )
        arguments = json_objects(text) or [{}]
        items = [
            calls(name, arguments[min(index, len(arguments) - 1)])
            for index, name in enumerate(names)
        ]
        return items if self.parallel_calls else items[:1]


class OpenAIServer(Gate):
    """Base of the OpenAI chat servers; a handler for `serve()`. The default API key is "k".

    `received_bodies` lists the parsed bodies of all POST requests with a valid key, accepted or
    refused. `hold()` and `release()` delay a non-streaming response, or the first delta of a
    stream.

    Settings that tests change:

    * `script`: one `Turn` for each of the next valid requests. Without one, `default_turn` answers.
    * `models`: the models of the account by id.
    * `files`: contents of uploaded files by id.
    * `failures`: each of the next requests fails with one of these `(status, code)` or
      `(status, code, headers)`.
    * `largest`: maximum size of a request body in bytes.
    * `break_stream`, `break_after`: after so many deltas a stream ends with an "error" event,
      with a regular end of the body ("cut"), or with a closed connection ("drop").
    """

    path = ""

    def __init__(self, key: str = "k") -> None:
        super().__init__()
        self.key = key
        self.models: dict[str, Model] = {
            "gpt-4.1": Model(),
            "gpt-5.4": Model(("none", "low", "medium", "high", "xhigh")),
            "o3": Model(("low", "medium", "high")),
            "o1-mini": Model(("low", "medium", "high"), roles=("developer", "system")),
        }
        self.files: dict[str, bytes] = {}
        self.script: list[Turn] = []
        self.received_bodies: list[Any] = []
        self.failures: list[tuple[Any, ...]] = []
        self.largest = 64 << 20
        self.break_stream = ""
        self.break_after = 1
        self._numbers = 0

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            headers = {
                "x-request-id": f"req_{self.next_number():08x}",
                "openai-version": "2020-10-01",
            }
            try:
                response = self._answer(peer, request, headers)
            except ClientLeft:
                return
            except Refused as refused:
                peer.reply({"error": refused.error}, refused.status, headers)
                continue
            if response is not None:
                peer.reply(response, headers=headers)

    def next_number(self) -> int:
        """Return the next number of the server's counter."""
        with self._changed:
            self._numbers += 1
            return self._numbers

    def new_id(self, prefix: str) -> str:
        """Return a new object id with this prefix."""
        return f"{prefix}_{self.next_number():024d}"

    def _answer(self, peer: Peer, request: ReceivedRequest, headers: dict[str, str]) -> Json | None:
        """Return the response body; None when it was streamed."""
        path, _ = route(request)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or key != self.key:
            raise Refused(
                "Incorrect API key provided." if key else "You didn't provide an API key.",
                "invalid_api_key",
                status=401,
            )
        if request.method == "GET" and path == "/v1/models":
            models = [
                {"id": name, "object": "model", "created": CREATED, "owned_by": "openai"}
                for name in self.models
            ]
            return {"object": "list", "data": models}
        if request.method != "POST" or path != self.path:
            return self.other_route(request.method, path)
        if len(request.body) > self.largest:
            raise Refused("Request body is too large.", "request_too_large", status=413)
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise Refused("Unsupported content type.", "unsupported_content_type")
        try:
            body = request.json
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused("We could not parse the JSON body of your request.", None)
        with self._changed:
            self.received_bodies.append(body)
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            headers |= failure[2] if len(failure) > 2 else {}
            error_types = {
                "rate_limit_exceeded": "requests",
                "insufficient_quota": "insufficient_quota",
                "server_error": "server_error",
            }
            raise Refused(
                f"This is a {failure[1]}.",
                failure[1],
                None,
                failure[0],
                error_types.get(failure[1], "invalid_request_error"),
            )
        return self.respond(peer, body, headers)

    def other_route(self, method: str, path: str) -> Json:
        """Answer a further route of the API; 404 by default."""
        raise Refused(f"Invalid URL ({method} {path})", None, status=404)

    def respond(self, peer: Peer, body: Json, headers: dict[str, str]) -> Json | None:
        """Answer a POST request to `path`; None when the response was streamed."""
        raise NotImplementedError

    def next_turn(self, model_input: ModelInput) -> Turn:
        """Return the next scripted answer, or the answer of the default rule."""
        with self._changed:
            if self.script:
                return self.script.pop(0)
        return default_turn(model_input)

    def wait_for_release(self, peer: Peer) -> None:
        """Wait while responses are held; raise `ClientLeft` when the client disconnects."""
        if not self._wait(peer):
            raise ClientLeft


def default_turn(model_input: ModelInput) -> Turn:
    """Return the answer that is used without a script.

    In this order: call the tools that the last texts name, generate an image, return a value of
    the schema, or repeat the latest input.
    """
    text = "\n".join(model_input.user_texts)
    items = [thinks(f"I think about: {text}")] if model_input.reasoning else []
    if tool_calls := model_input.calls(text):
        return Turn([*items, *tool_calls])
    if model_input.generates_image and not model_input.has_tool_results:
        return Turn([*items, generates(text), says("")])
    if model_input.schema is not None:
        return Turn(
            [*items, says(json.dumps(sample_value(model_input.schema, model_input.schema)))]
        )
    text = "\n".join([*model_input.user_texts, *model_input.descriptions]) or "nothing"
    positions = [text.find(stop) for stop in model_input.stop_sequences if stop in text]
    text = text[: min(positions)] if positions else text
    words = split_words(text)
    if model_input.max_tokens is not None and len(words) > model_input.max_tokens:
        return Turn([*items, says("".join(words[: model_input.max_tokens]))], "length")
    return Turn([*items, says(text)])


def split_words(text: str) -> list[str]:
    """Split a text into words, each with the whitespace before it."""
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)


def split_slices(text: str, size: int = 7) -> list[str]:
    """Split a text into slices of `size` characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def count_tokens(items: list[Json], kind: str | None = None) -> int:
    """Count the tokens of these items; every word is one token."""
    texts = [item for item in items if kind is None or item["type"] == kind]
    return sum(
        len(str(item.get("text") or item.get("refusal") or item.get("arguments", "")).split())
        for item in texts
    )
