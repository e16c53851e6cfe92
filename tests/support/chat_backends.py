"""Every provider that chats over a wire, each with its dialect's bytes: who adds a provider adds a line here, or a test is red."""

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
    name: str
    dialect: Dialect
    connect: Callable[..., Any]
    path: str
    streamed: str
    header: tuple[str, str] = ("authorization", f"Bearer {KEY}")
    kind: str = "text/event-stream"
    model: str = "m"


def _dialect(name: str) -> Dialect:
    return next(dialect for dialect in DIALECTS if dialect.name == name)


def _openai(url: str, **common: Any) -> md.OpenAI:
    return md.OpenAI(KEY, url + "/v1", api="responses", **common)


BACKENDS = [
    Backend(
        "anthropic",
        _dialect("anthropic"),
        lambda url, **common: md.Anthropic(KEY, url + "/v1", **common),
        "/v1/messages",
        "/v1/messages",
        ("x-api-key", KEY),
    ),
    Backend(
        "ollama",
        _dialect("ollama"),
        lambda url, **c: md.Ollama(url, KEY, **c),
        "/api/chat",
        "/api/chat",
        kind="application/x-ndjson",
    ),
    Backend(
        "gemini",
        _dialect("gemini"),
        lambda url, **common: md.Gemini(KEY, url + "/v1beta", **common),
        "/v1beta/models/gemini-3-pro:generateContent",
        "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse",
        ("x-goog-api-key", KEY),
        model="gemini-3-pro",
    ),
    Backend("openai", _dialect("responses"), _openai, "/v1/responses", "/v1/responses"),
    Backend(
        "openai chat",
        _dialect("chat"),
        lambda url, **c: md.OpenAI(KEY, url + "/v1", **c),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
    Backend(
        "openaicompatible",
        _dialect("chat"),
        lambda url, **c: md.OpenAICompatible(url + "/v1", KEY, **c),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
    Backend(
        "llamaswap",
        _dialect("chat"),
        lambda url, **c: md.LlamaSwap(url, KEY, **c),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
]


def answering(backend: Backend, *, size: int = 7, cut: int | None = None) -> Handler:
    """Whole answers whole, streams in pieces of `size` bytes, up to `cut`."""

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if seen.method == "GET":
                peer.reply({"running": []})
            elif seen.path == backend.streamed and (
                seen.json.get("stream") is True or backend.path != backend.streamed
            ):
                peer.begin(headers={"content-type": backend.kind})
                data = backend.dialect.stream[:cut]
                for at in range(0, len(data), size):
                    peer.chunk(data[at : at + size])
                peer.end()
            else:
                peer.reply(backend.dialect.whole)

    return handler
