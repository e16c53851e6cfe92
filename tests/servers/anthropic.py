"""A strict server of both versions of Anthropic's Messages API.

It checks every field, the tool results and the signatures.

server = Anthropic()
url = serve(server).url      # the key is "k"
server.script = [
    Turn([{"type": "text", "text": "Hi"}]),
    Turn([{"type": "tool_use", "name": "look", "input": {}}]),
]
...
assert server.received_bodies[-1]["max_tokens"] == 100
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from tests.servers.anthropic_request import (
    EFFORTS,
    ERROR_TYPES,
    MAX_BODY_BYTES,
    NEW,
    OLD,
    Model,
    Refused,
    Request,
    target,
    thinking_and_calls,
)
from tests.servers.hashed_images import b64
from tests.servers.http_helpers import Gate, route
from tests.support.loopback import Peer, ReceivedRequest


@dataclass
class Turn:
    """One scripted reply."""

    content: list[dict[str, Any]]
    """Content blocks; ids and signatures that are absent are generated."""
    stop_reason: str | None = None
    """None for "tool_use" after calls and "end_turn" otherwise."""
    usage: dict[str, Any] = field(default_factory=dict)
    """Usage fields that replace the counted ones."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of the message: stop_sequence, stop_details, container."""


class _ClientLeft(Exception):
    """The client has disconnected, or the server drops the connection on purpose."""


class Anthropic(Gate):
    """A handler for `serve()`.

    `received_bodies` lists the parsed bodies of all POST requests, accepted or refused. `hold()`
    and `release()` delay a non-streaming response, or the first delta of a stream.

    Settings that tests change:

    * `script`: one `Turn` for each of the next valid requests; without one, `_default_turn`
      answers.
    * `models`: the models by id.
    * `files`: contents of uploaded files by id.
    * `failures`: each of the next requests fails with one of these: a status (413 has an HTML
      body), or "spend_limit", the 429 that must not be retried.
    * `retry_after`: value of the retry-after header of 429 and 529; None leaves it out.
    * `redacted`: add a redacted block to the thinking.
    * `refuse_limits`: refuse schemas that limit numbers or lengths.

    Settings for streams:

    * `break_stream`, `break_after`: after so many deltas a stream ends with an "error" event,
      with a regular end of the body ("cut"), or with a closed connection ("drop").
    * `pings`: send a ping after every event.
    * `padding`: add spaces before the last brace of the data.
    * `strange`: add unknown events and deltas.
    * `interleaved`: alternate between the blocks.
    * `late_input`: number of input tokens that are reported at the end only.
    * `bare_delta`: send only output_tokens in the last usage.

    `signed` and `thought` remember the thinking that was returned, see `ServerState`.
    """

    def __init__(self, key: str = "k") -> None:
        super().__init__()
        self.key = key
        self.models: dict[str, Model] = {
            "claude-sonnet-4-5": Model(),
            "claude-opus-4-8": Model(True, EFFORTS),
        }
        self.files: dict[str, bytes] = {}
        self.script: list[Turn] = []
        self.received_bodies: list[Any] = []
        self.failures: list[int | str] = []
        self.retry_after: str | None = "1"
        self.redacted = self.pings = self.padding = self.strange = self.interleaved = (
            self.bare_delta
        ) = False
        self.refuse_limits = True
        self.break_stream = ""
        self.break_after = 1
        self.late_input = 0
        self._numbers = 0
        self.signed: dict[str, str] = {}
        self.thought: dict[str, list[Any]] = {}

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            headers = {"request-id": f"req_{self._next_number():08x}"}
            try:
                response = self._answer(peer, request, headers)
            except _ClientLeft:
                return
            except Refused as refused:
                if (
                    refused.status in (429, 529)
                    and self.retry_after is not None
                    and "details" not in refused.error
                ):
                    headers["retry-after"] = self.retry_after
                if refused.status == 413:
                    peer.reply(
                        "<html><body>413 Request Entity Too Large</body></html>",
                        413,
                        headers | {"content-type": "text/html"},
                    )
                    continue
                peer.reply(
                    {"type": "error", "error": refused.error, "request_id": headers["request-id"]},
                    refused.status,
                    headers,
                )
                continue
            if response is not None:
                peer.reply(response, headers=headers)

    def _next_number(self) -> int:
        with self._changed:
            self._numbers += 1
            return self._numbers

    def _answer(
        self, peer: Peer, http_request: ReceivedRequest, headers: dict[str, str]
    ) -> dict[str, Any] | None:
        """Return the response body; None when it was streamed."""
        path, query = route(http_request)
        key = http_request.headers.get("x-api-key") or http_request.headers.get(
            "authorization", ""
        ).removeprefix("Bearer ")
        if key != self.key:
            raise Refused("invalid x-api-key" if key else "x-api-key header is required", 401)
        version = http_request.headers.get("anthropic-version")
        if version not in (OLD, NEW):
            raise Refused(
                "anthropic-version: header is required"
                if not version
                else f'anthropic-version: "{version}" is not a valid version'
            )
        if http_request.method == "GET" and path == "/v1/models":
            return self._list_models(query)
        if http_request.method == "GET" and path.startswith("/v1/models/"):
            return self._describe_model(path.removeprefix("/v1/models/"))
        if http_request.method != "POST" or path not in (
            "/v1/messages",
            "/v1/messages/count_tokens",
        ):
            raise Refused("Not Found", 404)
        if len(http_request.body) > MAX_BODY_BYTES:
            raise Refused("Request exceeds the maximum size", 413)
        try:
            body = http_request.json
        except ValueError:
            raise Refused("The request body is not valid JSON") from None
        with self._changed:
            self.received_bodies.append(body)
            failure = self.failures.pop(0) if self.failures else None
        if failure == "spend_limit":
            raise Refused(
                "You have reached your spend limit.", 429, error_code="enforced_spend_limit_reached"
            )
        if isinstance(failure, int):
            raise Refused(f"This is {ERROR_TYPES.get(failure, failure)}.", failure)
        request = Request(
            self,
            body,
            version,
            http_request.headers.get("anthropic-beta", ""),
            is_count=path.endswith("count_tokens"),
        )
        if request.is_count:
            return {"input_tokens": request.tokens}
        with self._changed:
            turn = self.script.pop(0) if self.script else self._default_turn(request)
        message = self._message(turn, request)
        # The real server sends its rate limits, and even retry-after, with successful responses.
        headers |= {
            "retry-after": "3",
            "anthropic-ratelimit-requests-remaining": "9",
            "anthropic-ratelimit-requests-limit": "10",
        }
        if body.get("stream"):
            peer.begin(headers=headers)
            for event in self._events(peer, message):
                peer.chunk(event)
            peer.end()
            return None
        if not self._wait(peer):
            raise _ClientLeft
        return message

    def _describe_model(self, name: str) -> dict[str, Any]:
        if name not in self.models:
            raise Refused(f"model: {name}", 404)
        fields = {
            "created_at": "2026-01-01T00:00:00Z",
            "lifecycle": "active",
            "max_input_tokens": 200_000,
            "max_tokens": 64_000,
        }
        return {
            "type": "model",
            "id": name,
            "display_name": name.replace("-", " ").title(),
        } | fields

    def _list_models(self, query: dict[str, str]) -> dict[str, Any]:
        names = list(self.models)
        start = names.index(query["after_id"]) + 1 if query.get("after_id") in names else 0
        page = names[start : start + int(query.get("limit", 20))]
        ends = {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
        return {
            "data": [self._describe_model(name) for name in page],
            "has_more": start + len(page) < len(names),
            **ends,
        }

    # Answers

    def _default_turn(self, request: Request) -> Turn:
        """Return the turn that is used without a script.

        In this order: call the tools that the last text names, return a value of the schema, or
        repeat the content of the last user message.
        """
        last_text = "\n".join(request.texts)
        content: list[dict[str, Any]] = []
        if request.thinking:
            content.append({"type": "thinking", "thinking": f"I think about: {last_text}"})
            if self.redacted:
                content.append(
                    {"type": "redacted_thinking", "data": b64(f"hidden {last_text}".encode())}
                )
        calls = request.calls(last_text)
        if calls:
            return Turn([*content, *calls])
        if request.schema is not None:
            return Turn(
                [
                    *content,
                    {
                        "type": "text",
                        "text": json.dumps(sample_value(request.schema, request.schema)),
                    },
                ]
            )
        text, reason, more = (
            "\n".join([*request.texts, *request.descriptions]) or "nothing",
            None,
            {},
        )
        cuts = [
            (text.find(stop), stop)
            for stop in request.body.get("stop_sequences", [])
            if stop in text
        ]
        if cuts:
            end, stop = min(cuts)
            text, reason, more = text[:end], "stop_sequence", {"stop_sequence": stop}
        words = re.findall(r"\s*\S+", text)
        if len(words) > request.body["max_tokens"]:
            text, reason, more = "".join(words[: request.body["max_tokens"]]), "max_tokens", {}
        return Turn(
            [*content, *([{"type": "text", "text": text}] if text else [])], reason, more=more
        )

    def _message(self, turn: Turn, request: Request) -> dict[str, Any]:
        """Return the message of a turn, and remember its signatures and calls for later checks."""
        content = json.loads(json.dumps(turn.content))
        for block in content:
            if block["type"] == "thinking":
                block.setdefault("signature", b64(f"signature {self._next_number()}".encode()))
                if request.omits_thinking:
                    block["thinking"] = ""
                self.signed[block["signature"]] = block["thinking"]
            elif block["type"] == "redacted_thinking":
                self.signed[block["data"]] = ""
            elif block["type"] in ("tool_use", "server_tool_use"):
                block.setdefault(
                    "id", f"{'srv' * (block['type'] != 'tool_use')}toolu_{self._next_number():08d}"
                )
        call_ids = [block["id"] for block in content if block["type"] == "tool_use"]
        self.thought |= dict.fromkeys(call_ids, thinking_and_calls(content))
        counts = {
            "input_tokens": request.tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        }
        usage = (
            counts
            | {"output_tokens": max(1, len(json.dumps(content).split()))}
            | {"service_tier": "standard"}
        )
        fields = {
            "id": f"msg_{self._next_number():08d}",
            "type": "message",
            "role": "assistant",
            "model": request.body["model"],
        }
        stop_fields = {
            "stop_reason": turn.stop_reason or ("tool_use" if call_ids else "end_turn"),
            "stop_sequence": None,
        }
        return (
            fields | {"content": content} | stop_fields | turn.more | {"usage": usage | turn.usage}
        )

    # Streams

    def _events(self, peer: Peer, message: dict[str, Any]) -> Iterator[bytes]:
        usage = message["usage"]
        first = usage | {
            "output_tokens": 1,
            "input_tokens": usage["input_tokens"] - self.late_input,
        }
        overrides = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": first}
        end_fields = {
            name: message[name]
            for name in ("stop_reason", "stop_sequence", "stop_details", "container")
            if name in message
        }
        yield self._event(
            "message_start",
            message={k: v for k, v in message.items() if k not in end_fields} | overrides,
        )
        if not self._wait(peer):
            raise _ClientLeft
        blocks = [
            [(index, *event) for event in _block_events(block)]
            for index, block in enumerate(message["content"])
        ]
        ordered = zip_longest(*blocks) if self.interleaved else blocks
        deltas = 0
        for index, name, body in (
            event for group in ordered for event in group if event is not None
        ):
            if self.strange and name == "content_block_stop":
                yield self._event(
                    "content_block_delta", index=index, delta={"type": "glow_delta", "glow": 1}
                )
            yield self._event(name, index=index, **body)
            if self.pings:
                yield self._event("ping")
            if self.strange:
                yield self._event("weather", sky=[{"type": "blue"}])
            deltas += name == "content_block_delta"
            if self.break_stream and deltas == self.break_after:
                break
        if self.break_stream == "drop":
            raise _ClientLeft
        if self.break_stream == "error":
            yield self._event(
                "error",
                error={"type": "overloaded_error", "message": "Overloaded"},
                request_id="req_midway",
            )
        if self.break_stream:
            return
        final_usage = (
            {"output_tokens": usage["output_tokens"]}
            if self.bare_delta
            else {k: v for k, v in usage.items() if k != "service_tier"}
        )
        yield self._event("message_delta", delta=end_fields, usage=final_usage)
        yield self._event("message_stop")

    def _event(self, name: str, **body: Any) -> bytes:
        data = json.dumps({"type": name} | body)
        padded_data = f"{data[:-1]}{' ' * 9}}}" if self.padding else data
        return f"event: {name}\ndata: {padded_data}\n\n".encode()


def sample_value(schema: Any, root: Any) -> Any:
    """Return a simple value that matches the schema."""
    if "$ref" in schema:
        return sample_value(target(schema, root), root)
    for name in ("enum", "anyOf", "allOf"):
        if name in schema:
            return schema[name][0] if name == "enum" else sample_value(schema[name][0], root)
    if "const" in schema:
        return schema["const"]
    schema_type = schema.get("type", "string")
    if schema_type == "object":
        return {
            name: sample_value(subschema, root)
            for name, subschema in schema.get("properties", {}).items()
        }
    if schema_type == "array":
        return [sample_value(schema.get("items", {}), root)]
    values = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}
    return values[schema_type[0] if isinstance(schema_type, list) else schema_type]


def _block_events(block: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of one block; a block without deltas is complete in its start event."""
    block_type = block["type"]
    deltas: list[dict[str, Any]] = []
    start = dict(block)
    if block_type in ("text", "thinking"):
        start[block_type] = ""
        deltas = [
            {"type": f"{block_type}_delta", block_type: text}
            for text in re.findall(r"\s*\S+\s*$|\s*\S+|\s+", block[block_type])
        ]
    if block_type == "thinking":
        start["signature"] = ""
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    if block_type == "text" and block.get("citations"):
        start["citations"] = []
        deltas += [
            {"type": "citations_delta", "citation": citation} for citation in block["citations"]
        ]
    if block_type in ("tool_use", "server_tool_use"):
        start["input"] = {}
        data = json.dumps(block["input"]) if block["input"] else ""
        slices = ["", *(data[at : at + 7] for at in range(0, len(data), 7))]
        deltas = [{"type": "input_json_delta", "partial_json": text} for text in slices]
    if block_type == "compaction":
        start["content"] = ""
        deltas = [{"type": "compaction_delta", "content": block["content"]}]
    yield "content_block_start", {"content_block": start}
    for delta in deltas:
        yield "content_block_delta", {"delta": delta}
    yield "content_block_stop", {}
