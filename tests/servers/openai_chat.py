"""A strict server of OpenAI's chat completions, streaming and not, as in `openai-chat.md`.

server = OpenAIChat()
url = serve(server).url + "/v1"      # the key is "k"
server.script = [Turn([says("Hi")]), Turn([calls("look", {"at": "a fox"})])]
...
assert server.seen[-1]["max_completion_tokens"] == 100

Not implemented: log probabilities, audio output, predictions, search and custom tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from tests.servers.openai_account import CREATED, Json, Left, Speech, Turn, count, pieces, sliced
from tests.servers.openai_chat_request import Request
from tests.support.loopback import Peer

REASONS = {None: "stop", "length": "length", "content_filter": "content_filter"}


class OpenAIChat(Speech):
    """A handler for `serve()`; `Speech` documents the common settings.

    With `opening`, the first chunk of a stream contains the first call, as OpenAI's server was
    observed to send it.
    """

    path = "/v1/chat/completions"

    def __init__(self, key: str = "k") -> None:
        super().__init__(key)
        self.opening = False

    def answer(self, peer: Peer, body: Json, headers: dict[str, str]) -> Json | None:
        """Answer a chat completion request; None when the response was streamed."""
        request = Request(self, body)
        turn = self.turn(request.wish)
        about = {
            "id": self.named("chatcmpl"),
            "created": CREATED,
            "model": f"{body['model']}-2026-08-01",
        }
        about |= {"service_tier": "default", "system_fingerprint": "fp_1"}
        made = [self._message(turn) for _ in range(body.get("n", 1))]
        if body.get("stream"):
            peer.begin(headers=headers | {"content-type": "text/event-stream; charset=utf-8"})
            for event in self._events(peer, request, turn, about, made):
                peer.chunk(event)
            peer.end()
            return None
        self.waited(peer)
        choices = [
            {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": _reason(turn, message),
            }
            for index, message in enumerate(made)
        ]
        return {
            "object": "chat.completion",
            **about,
            "choices": choices,
            "usage": _usage(request, turn),
        }

    def _message(self, turn: Turn) -> Json:
        """Return the message of a turn; this API does not show reasoning items."""
        said = "".join(item.get("text", "") for item in turn.items if item["type"] == "message")
        refused = "".join(
            item.get("refusal", "") for item in turn.items if item["type"] == "message"
        )
        made = [
            {
                "id": item.get("id") or f"call_{self.number():019d}",
                "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]},
            }
            for item in turn.items
            if item["type"] == "function_call"
        ]
        content = None if (made or refused) and not said else said
        called = {"tool_calls": made} if made else {}
        return {
            "role": "assistant",
            "content": content,
            "refusal": refused or None,
            "annotations": [],
        } | called

    # Streams

    def _events(
        self, peer: Peer, request: Request, turn: Turn, about: Json, made: list[Json]
    ) -> Iterator[bytes]:
        options = request.body.get("stream_options", {})
        counted = options.get("include_usage", False)
        more: Json = {"usage": None} if counted else {}
        if options.get("include_obfuscation", True):
            more["obfuscation"] = "xK3v9"
        head = {"object": "chat.completion.chunk", **about}

        def chunk(index: int, delta: Json, reason: str | None = None) -> bytes:
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            return _event({**head, "choices": [choice], **more})

        pending = [_deltas(message) for message in made]
        for index, message in enumerate(made):
            first = (
                next(pending[index])
                if self.opening and message["content"] is None and "tool_calls" in message
                else {"content": ""}
            )
            yield chunk(index, {"role": "assistant", "refusal": None} | first)
        self.waited(peer)
        told = 0
        # The deltas of several choices alternate.
        for deltas in zip_longest(*pending):
            for index, delta in enumerate(deltas):
                if delta is None:
                    continue
                yield chunk(index, delta)
                told += 1
                if self.break_stream and told == self.break_after:
                    yield from self._broken()
                    return
        for index, message in enumerate(made):
            yield chunk(index, {}, _reason(turn, message))
        if counted:
            yield _event({**head, "choices": [], **more, "usage": _usage(request, turn)})
        yield b"data: [DONE]\n\n"

    def _broken(self) -> Iterator[bytes]:
        if self.break_stream == "drop":
            raise Left
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
        for piece in pieces(message[name] or ""):
            yield {name: piece}
    for index, call in enumerate(message.get("tool_calls", [])):
        function = call["function"]
        opening = {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": function["name"], "arguments": ""},
        }
        yield {"tool_calls": [opening]}
        for piece in sliced(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _reason(turn: Turn, message: Json) -> str:
    return (
        "tool_calls" if message.get("tool_calls") and turn.finish is None else REASONS[turn.finish]
    )


def _usage(request: Request, turn: Turn) -> Json:
    """Return predictable token counts: every word is one token.

    The prompt and completion counts include the cached and the reasoning tokens.
    """
    made, thought = max(1, count(turn.items)), count(turn.items, "reasoning")
    counts: Json = {
        "prompt_tokens": request.wish.tokens,
        "completion_tokens": made,
        "total_tokens": request.wish.tokens + made,
    }
    written = {
        "reasoning_tokens": thought,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    counts |= {
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": written,
    }
    return counts | turn.usage
