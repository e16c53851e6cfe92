"""Servers behind the addresses that pages name, and the way to them: connections are led to this machine by host and port, nowhere else."""

from __future__ import annotations

import copy
import json
import re
import ssl
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import certifi
import pytest
import trustme

from majordomo.queueing import resource_group as group
from majordomo.transport import tls
from tests.servers.anthropic import Anthropic, _filled
from tests.servers.automatic1111 import Automatic1111
from tests.servers.comfyui import ComfyUI
from tests.servers.gemini_chat import GeminiChat
from tests.servers.http_helpers import Answer, said, text
from tests.servers.llamaswap import LlamaSwap
from tests.servers.ollama import Ollama as OllamaImages
from tests.servers.ollama_account import Service
from tests.servers.ollama_chat import OllamaChat
from tests.servers.openai_account import Model
from tests.servers.openai_chat import OpenAIChat
from tests.servers.openai_images import OpenAIImages
from tests.servers.openai_responses import OpenAIResponses
from tests.servers.openai_shapes import objects
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback, Peer, Seen

KEY = "k"  # what all these servers want to see
IMAGE_MODELS = ("sdxl", "flux", "z-image", "qwen-image")
CHAT_MODELS = ("qwen3-vl", "qwen3", "gemma3")


class LlamaCpp:
    """llama.cpp's server, as far as pages go: it answers by a rule, whole and streamed. `script` holds texts to say first; `seen` what came."""

    def __init__(self, model: str = "gemma3") -> None:
        self.model = model
        self.script: list[str] = []
        self.seen: list[Any] = []

    def __call__(self, peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            peer.send(self.answer(seen).sent)

    def lose_jobs(self) -> None:
        """It has none."""

    def answer(self, seen: Seen) -> Answer:
        path = seen.path.partition("?")[0]
        if path == "/health":
            return said({"status": "ok"})
        if path.endswith("/models"):  # hosted services have it below paths of their own
            return said(
                {
                    "object": "list",
                    "data": [
                        {"id": self.model, "object": "model", "created": 1, "owned_by": "llamacpp"}
                    ],
                }
            )
        if path.endswith("/embeddings"):
            texts = (
                seen.json["input"] if isinstance(seen.json["input"], list) else [seen.json["input"]]
            )
            vectors = [
                {"object": "embedding", "index": index, "embedding": [float(len(one)), 1.0]}
                for index, one in enumerate(texts)
            ]
            return said(
                {
                    "object": "list",
                    "data": vectors,
                    "model": self.model,
                    "usage": {"prompt_tokens": 3, "total_tokens": 3},
                }
            )
        if not path.endswith("/chat/completions"):
            return said(
                {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
                404,
            )
        self.seen.append(seen.json)
        return self._chat(seen.json)

    def _chat(self, body: dict[str, Any]) -> Answer:
        message, finish = self._message(body)
        about = {"id": f"chatcmpl-{len(self.seen)}", "created": 1, "model": self.model}
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        if not body.get("stream"):
            choice = {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", **message},
            }
            return said({**about, "object": "chat.completion", "choices": [choice], "usage": usage})
        words = re.findall(r"\s*\S+|\s+$", message["content"] or "")
        calls = [
            {"index": index, **call} for index, call in enumerate(message.get("tool_calls", []))
        ]
        deltas: list[dict[str, Any]] = [
            {"role": "assistant", "content": None},
            *({"content": word} for word in words),
        ]
        deltas += [{"tool_calls": calls}] if calls else []
        choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
        choices += [[{"index": 0, "delta": {}, "finish_reason": finish}]]
        told = [
            {**about, "object": "chat.completion.chunk", "choices": choice} for choice in choices
        ]
        told.append({**about, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in told) + "data: [DONE]\n\n"
        return text(lines, content_type="text/event-stream")

    def _message(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Calls the tools that the text names, else fills the schema, else says what it was told and shown."""
        if self.script:
            return {"content": self.script.pop(0)}, "stop"
        last = body["messages"][-1]
        pieces = (
            [{"type": "text", "text": last["content"]}]
            if isinstance(last["content"], str)
            else last["content"] or []
        )
        words = "\n".join(piece["text"] for piece in pieces if piece["type"] == "text")
        sights = sum(piece["type"] == "image_url" for piece in pieces)
        offered = (
            [tool["function"]["name"] for tool in body.get("tools", [])]
            if last["role"] == "user"
            else []
        )
        if named := [name for name in offered if re.search(rf"\b{re.escape(name)}\b", words)]:
            arguments = json.dumps(next(iter(objects(words)), {}))
            calls = [
                {
                    "id": f"call_{name}",
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
                for name in named
            ]
            return {"content": None, "tool_calls": calls}, "tool_calls"
        wanted = body.get("response_format") or {}
        if schema := wanted.get("json_schema", {}).get("schema"):
            return {"content": json.dumps(_filled(schema, schema))}, "stop"
        return {"content": words + f"\nand {sights} images" * bool(sights)}, "stop"


class Shared:
    """Several servers on one address: which one answers, the path decides. Each is an attribute, and `[path prefix]` chooses it."""

    def __init__(self, by_path: dict[str, Any]) -> None:
        self.by_path = by_path

    def __call__(self, peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            server = next(
                server for prefix, server in self.by_path.items() if seen.path.startswith(prefix)
            )
            waiting = [seen]
            turn = copy.copy(peer)
            turn.request = lambda waiting=waiting: waiting.pop() if waiting else None  # type: ignore[method-assign]
            server(turn)


class OpenAI(Shared):
    """`responses`, `images` and `chat`."""

    def __init__(self) -> None:
        self.responses, self.images, self.chat = OpenAIResponses(), OpenAIImages(), OpenAIChat()
        for speech in (self.responses, self.chat):
            speech.models |= {"gpt-5-mini": Model(("low", "medium", "high"))}
        self.chat.models |= dict.fromkeys(
            ("gpt-image-1.5", "gpt-image-2", "text-embedding-3-small"), Model()
        )  # the list has all
        embeddings = LlamaCpp("text-embedding-3-small")
        super().__init__(
            {
                "/v1/responses": self.responses,
                "/v1/images": self.images,
                "/v1/embeddings": embeddings,
                "/": self.chat,
            }
        )


def _swap() -> LlamaSwap:
    image_models = {name: StableDiffusion(size=(64, 64)) for name in IMAGE_MODELS}
    return LlamaSwap(
        {**image_models, **{name: LlamaCpp(name) for name in CHAT_MODELS}}, declared=IMAGE_MODELS
    )


def _ollama() -> OllamaChat:
    server = OllamaChat()
    server.models |= {"qwen3:latest": ("completion", "tools", "thinking")}
    return server


def _ollama_hosted() -> OllamaChat:
    server = _ollama()
    server.service = Service(hosted=True, key=KEY)
    return server


# what a page may run with -> where it stands if the page says nothing else, and what makes it
SERVERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "llama-swap": ("localhost:8080", _swap),
    "llama-cpp": ("localhost:8080", LlamaCpp),
    "ollama": ("localhost:11434", _ollama),
    "ollama-hosted": ("ollama.com:443", _ollama_hosted),
    "ollama-images": ("localhost:11434", OllamaImages),
    "sd-server": ("localhost:1234", lambda: StableDiffusion(size=(64, 64))),
    "automatic1111": ("localhost:7860", Automatic1111),
    "comfyui": ("localhost:8188", ComfyUI),
    "openai": ("api.openai.com:443", OpenAI),
    "anthropic": ("api.anthropic.com:443", Anthropic),
    "gemini": ("generativelanguage.googleapis.com:443", GeminiChat),
}
VARIABLES = [
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "OPENROUTER_API_KEY",
    "GROQ_API_KEY",
    "MISTRAL_API_KEY",
    "DEEPSEEK_API_KEY",
    "XAI_API_KEY",
    "TOGETHER_API_KEY",
]


class Town:
    """All servers of one page. `servers` has them by name, `lead` is the way to them."""

    def __init__(self, authority: trustme.CA) -> None:
        self.servers: dict[str, Any] = {}
        self.refused: list[str] = []  # who was asked and does not exist
        self._authority = authority
        self._running: list[Loopback] = []
        self._ports: dict[tuple[str, int], int] = {}

    def build(self, name: str, address: str = "") -> None:
        usual, make = SERVERS[name]
        host, _, port = (address or usual).rpartition(":")
        handler: Handler = make()
        secured = None
        if port == "443":
            secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._authority.issue_cert(host).configure_cert(secured)
        server = Loopback(handler, secured)
        self._running.append(server)
        self.servers[name] = handler
        self._ports[host, int(port)] = server.port
        if host == "localhost":
            self._ports["127.0.0.1", int(port)] = server.port

    def port(self, host: str, port: int) -> int:
        """Where this address really is. What does not exist refuses connections, as a machine that is off."""
        found = self._ports.get((host, port))
        if found is None:
            self.refused.append(f"{host}:{port}")
            raise ConnectionRefusedError(f"{host}:{port}: nobody is there")
        return found

    def close(self) -> None:
        for server in self._running:
            server.close()


@contextmanager
def town(authority: trustme.CA, certificates: str) -> Iterator[Town]:
    """While inside, every connection of the library goes to a server of the town, or is refused."""
    made = Town(authority)
    connect = anyio.connect_tcp

    async def led(host: Any, port: int, **more: Any) -> Any:
        return await connect("127.0.0.1", made.port(str(host), port), **more)

    tls._create_context.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "connect_tcp", led)
        patch.setattr(certifi, "where", lambda: certificates)
        patch.setattr(
            group, "_groups", weakref.WeakValueDictionary()
        )  # each page is a process of its own, as far as it can tell
        for name in VARIABLES:
            patch.setenv(name, KEY)
        try:
            yield made
        finally:
            made.close()
            tls._create_context.cache_clear()
