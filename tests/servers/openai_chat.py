"""A strict server of OpenAI's chat completions, streaming and not, as in `openai-chat.md`.

server = OpenAIChat()
url = serve(server).url + "/v1"      # the key is "k"
server.script = [Turn([says("Hi")]), Turn([calls("look", {"at": "a fox"})])]
...
assert server.received_bodies[-1]["max_completion_tokens"] == 100

Not implemented: log probabilities, audio output, predictions, search and custom tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from tests.servers.openai_account import (
    CREATED,
    ClientLeft,
    Json,
    OpenAIServer,
    Turn,
    count_tokens,
    split_slices,
    split_words,
)
from tests.servers.openai_chat_request import Request
from tests.support.loopback import Peer

REASONS = {None: "stop", "length": "length", "content_filter": "content_filter"}


class OpenAIChat(OpenAIServer):
    """A handler for `serve()`; `OpenAIServer` documents the common settings.

    With `opening`, the first chunk of a stream contains the first call, as OpenAI's server was
    observed to send it.
    """

    path = "/v1/chat/completions"

    def __init__(self, key: str = "k") -> None:
        super().__init__(key)
        self.opening = False

    def respond(self, peer: Peer, body: Json, headers: dict[str, str]) -> Json | None:
        """Answer a chat completion request; None when the response was streamed."""
        request = Request(self, body)
        turn = self.next_turn(request.model_input)
        common = {
            "id": self.new_id("chatcmpl"),
            "created": CREATED,
            "model": f"{body['model']}-2026-08-01",
        }
        common |= {"service_tier": "default", "system_fingerprint": "fp_1"}
        messages = [self._message(turn) for _ in range(body.get("n", 1))]
        if body.get("stream"):
            peer.begin(headers=headers | {"content-type": "text/event-stream; charset=utf-8"})
            for event in self._events(peer, request, turn, common, messages):
                peer.chunk(event)
            peer.end()
            return None
        self.wait_for_release(peer)
        choices = [
            {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": _finish_reason(turn, message),
            }
            for index, message in enumerate(messages)
        ]
        return {
            "object": "chat.completion",
            **common,
            "choices": choices,
            "usage": _usage(request, turn),
        }

    def _message(self, turn: Turn) -> Json:
        """Return the message of a turn; this API does not show reasoning items."""
        text = "".join(item.get("text", "") for item in turn.items if item["type"] == "message")
        refusal = "".join(
            item.get("refusal", "") for item in turn.items if item["type"] == "message"
        )
        tool_calls = [
            {
                "id": item.get("id") or f"call_{self.next_number():019d}",
                "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]},
            }
            for item in turn.items
            if item["type"] == "function_call"
        ]
        content = None if (tool_calls or refusal) and not text else text
        calls = {"tool_calls": tool_calls} if tool_calls else {}
        return {
            "role": "assistant",
            "content": content,
            "refusal": refusal or None,
            "annotations": [],
        } | calls

    # Streams

    def _events(
        self, peer: Peer, request: Request, turn: Turn, common: Json, messages: list[Json]
    ) -> Iterator[bytes]:
        options = request.body.get("stream_options", {})
        include_usage = options.get("include_usage", False)
        extra: Json = {"usage": None} if include_usage else {}
        if options.get("include_obfuscation", True):
            extra["obfuscation"] = "xK3v9"
        head = {"object": "chat.completion.chunk", **common}

        def chunk(index: int, delta: Json, reason: str | None = None) -> bytes:
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            return _event({**head, "choices": [choice], **extra})

        pending = [_deltas(message) for message in messages]
        for index, message in enumerate(messages):
            first = (
                next(pending[index])
                if self.opening and message["content"] is None and "tool_calls" in message
                else {"content": ""}
            )
            yield chunk(index, {"role": "assistant", "refusal": None} | first)
        self.wait_for_release(peer)
        sent = 0
        # The deltas of several choices alternate.
        for deltas in zip_longest(*pending):
            for index, delta in enumerate(deltas):
                if delta is None:
                    continue
                yield chunk(index, delta)
                sent += 1
                if self.break_stream and sent == self.break_after:
                    yield from self._break_stream()
                    return
        for index, message in enumerate(messages):
            yield chunk(index, {}, _finish_reason(turn, message))
        if include_usage:
            yield _event({**head, "choices": [], **extra, "usage": _usage(request, turn)})
        yield b"data: [DONE]\n\n"

    def _break_stream(self) -> Iterator[bytes]:
        if self.break_stream == "drop":
            raise ClientLeft
        if self.break_stream == "error":
            message = "The server had an error while processing your request. Sorry about that!"
            yield _event(
                {
                    "error": {
                        "message": message,
                        "type": "server_error",
                        "param": None,
                        "code": "server_error",
                    }
                }
            )


def _event(document: Any) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


def _deltas(message: Json) -> Iterator[Json]:
    """Yield the deltas of a message; only the first delta of a call has its id, type and name."""
    for name in ("content", "refusal"):
        for text in split_words(message[name] or ""):
            yield {name: text}
    for index, call in enumerate(message.get("tool_calls", [])):
        function = call["function"]
        opening = {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": function["name"], "arguments": ""},
        }
        yield {"tool_calls": [opening]}
        for text in split_slices(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _finish_reason(turn: Turn, message: Json) -> str:
    return (
        "tool_calls" if message.get("tool_calls") and turn.finish is None else REASONS[turn.finish]
    )


def _usage(request: Request, turn: Turn) -> Json:
    """Return predictable token counts: every word is one token.

    The prompt and completion counts include the cached and the reasoning tokens.
    """
    output_tokens = max(1, count_tokens(turn.items))
    reasoning_tokens = count_tokens(turn.items, "reasoning")
    counts: Json = {
        "prompt_tokens": request.model_input.prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": request.model_input.prompt_tokens + output_tokens,
    }
    details = {
        "reasoning_tokens": reasoning_tokens,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    counts |= {
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": details,
    }
    return counts | turn.usage
