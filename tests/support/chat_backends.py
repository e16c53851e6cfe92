"""Every provider that sends chat requests over HTTP, each with the bytes of its dialect.

A new provider needs a row in `BACKENDS`; a test fails without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import majordomo as md
from tests.support.chat_dialects import DIALECTS, Dialect
from tests.support.loopback import Handler, Peer

KEY = "sk-chat/key+1"


@dataclass
class Backend:
    """A provider and what its server does."""

    name: str
    dialect: Dialect
    connect: Callable[..., Any]
    """Returns the provider for the server at a URL."""
    path: str
    """Path of requests for a complete response."""
    streamed: str
    """Path of requests for a stream."""
    header: tuple[str, str] = ("authorization", f"Bearer {KEY}")
    """The header with the key."""
    kind: str = "text/event-stream"
    """Content type of streams."""
    model: str = "m"


def _dialect(name: str) -> Dialect:
    return next(dialect for dialect in DIALECTS if dialect.name == name)


def _openai(url: str, **common: Any) -> md.OpenAI:
    return md.OpenAI(KEY, base_url=url + "/v1", api="responses", **common)


BACKENDS = [
    Backend(
        "anthropic",
        _dialect("anthropic"),
        lambda url, **common: md.Anthropic(KEY, base_url=url + "/v1", **common),
        "/v1/messages",
        "/v1/messages",
        ("x-api-key", KEY),
    ),
    Backend(
        "ollama",
        _dialect("ollama"),
        lambda url, **common: md.Ollama(url, api_key=KEY, **common),
        "/api/chat",
        "/api/chat",
        kind="application/x-ndjson",
    ),
    Backend(
        "gemini",
        _dialect("gemini"),
        lambda url, **common: md.Gemini(KEY, base_url=url + "/v1beta", **common),
        "/v1beta/models/gemini-3-pro:generateContent",
        "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse",
        ("x-goog-api-key", KEY),
        model="gemini-3-pro",
    ),
    Backend("openai", _dialect("responses"), _openai, "/v1/responses", "/v1/responses"),
    Backend(
        "openai chat",
        _dialect("chat"),
        lambda url, **common: md.OpenAI(KEY, base_url=url + "/v1", **common),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
    Backend(
        "openaicompatible",
        _dialect("chat"),
        lambda url, **common: md.OpenAICompatible(url + "/v1", api_key=KEY, **common),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
    Backend(
        "llamaswap",
        _dialect("chat"),
        lambda url, **common: md.LlamaSwap(url, api_key=KEY, **common),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
]


def answering(backend: Backend, *, size: int = 7, cut: int | None = None) -> Handler:
    """Return a handler that sends the reply of the backend's dialect.

    Streams are sent in chunks of `size` bytes, and end after `cut` bytes if it is set.
    """

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.method == "GET":
                peer.reply({"running": []})
            elif request.path == backend.streamed and (
                request.json.get("stream") is True or backend.path != backend.streamed
            ):
                peer.begin(headers={"content-type": backend.kind})
                data = backend.dialect.stream[:cut]
                for at in range(0, len(data), size):
                    peer.chunk(data[at : at + size])
                peer.end()
            else:
                peer.reply(backend.dialect.complete_response)

    return handler
