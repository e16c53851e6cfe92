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


def _by(name: str) -> Dialect:
    return next(dialect for dialect in DIALECTS if dialect.name == name)


def _openai(url: str, **common: Any) -> md.OpenAI:
    return md.OpenAI(KEY, base_url=url + "/v1", api="responses", **common)


BACKENDS = [
    Backend(
        "anthropic",
        _by("anthropic"),
        lambda url, **common: md.Anthropic(KEY, base_url=url + "/v1", **common),
        "/v1/messages",
        "/v1/messages",
        ("x-api-key", KEY),
    ),
    Backend(
        "ollama",
        _by("ollama"),
        lambda url, **c: md.Ollama(url, api_key=KEY, **c),
        "/api/chat",
        "/api/chat",
        kind="application/x-ndjson",
    ),
    Backend(
        "gemini",
        _by("gemini"),
        lambda url, **common: md.Gemini(KEY, base_url=url + "/v1beta", **common),
        "/v1beta/models/gemini-3-pro:generateContent",
        "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse",
        ("x-goog-api-key", KEY),
        model="gemini-3-pro",
    ),
    Backend("openai", _by("responses"), _openai, "/v1/responses", "/v1/responses"),
    Backend(
        "openai chat",
        _by("chat"),
        lambda url, **c: md.OpenAI(KEY, base_url=url + "/v1", **c),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
    Backend(
        "openaicompatible",
        _by("chat"),
        lambda url, **c: md.OpenAICompatible(url + "/v1", api_key=KEY, **c),
        "/v1/chat/completions",
        "/v1/chat/completions",
    ),
    Backend(
        "llamaswap",
        _by("chat"),
        lambda url, **c: md.LlamaSwap(url, api_key=KEY, **c),
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
