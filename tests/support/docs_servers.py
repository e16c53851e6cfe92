"""Test servers for the addresses that pages name.

Connections are redirected to servers on this machine by host and port; all others are refused.
"""

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
from tests.servers.anthropic import Anthropic, sample_value
from tests.servers.automatic1111 import Automatic1111
from tests.servers.comfyui import ComfyUI
from tests.servers.fal import Fal
from tests.servers.gemini_chat import GeminiChat
from tests.servers.http_helpers import Response, json_response, text_response
from tests.servers.llamaswap import LlamaSwap
from tests.servers.ollama import Ollama as OllamaImages
from tests.servers.ollama_account import Service
from tests.servers.ollama_chat import OllamaChat
from tests.servers.openai_account import Model
from tests.servers.openai_chat import OpenAIChat
from tests.servers.openai_images import OpenAIImages
from tests.servers.openai_responses import OpenAIResponses
from tests.servers.openai_shapes import json_objects
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback, Peer, ReceivedRequest

# The API key that all these servers accept.
KEY = "k"
IMAGE_MODELS = ("sdxl", "flux", "z-image", "qwen-image")
CHAT_MODELS = ("qwen3-vl", "qwen3", "gemma3")


class LlamaCpp:
    """The part of llama.cpp's server that the pages need; it answers by rules.

    `script` has replies to give first, `received_bodies` the bodies of received chat requests.
    """

    def __init__(self, model: str = "gemma3") -> None:
        self.model = model
        self.script: list[str] = []
        self.received_bodies: list[Any] = []

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.send(self.answer(request).sent)

    def lose_jobs(self) -> None:
        """Do nothing: this server has no jobs."""

    def answer(self, request: ReceivedRequest) -> Response:
        path = request.path.partition("?")[0]
        if path == "/health":
            return json_response({"status": "ok"})
        # Hosted services have the list below paths of their own.
        if path.endswith("/models"):
            return json_response(
                {
                    "object": "list",
                    "data": [
                        {"id": self.model, "object": "model", "created": 1, "owned_by": "llamacpp"}
                    ],
                }
            )
        if path.endswith("/embeddings"):
            texts = (
                request.json["input"]
                if isinstance(request.json["input"], list)
                else [request.json["input"]]
            )
            vectors = [
                {"object": "embedding", "index": index, "embedding": [float(len(one)), 1.0]}
                for index, one in enumerate(texts)
            ]
            return json_response(
                {
                    "object": "list",
                    "data": vectors,
                    "model": self.model,
                    "usage": {"prompt_tokens": 3, "total_tokens": 3},
                }
            )
        if not path.endswith("/chat/completions"):
            return json_response(
                {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
                404,
            )
        self.received_bodies.append(request.json)
        return self._chat(request.json)

    def _chat(self, body: dict[str, Any]) -> Response:
        message, finish = self._message(body)
        common = {"id": f"chatcmpl-{len(self.received_bodies)}", "created": 1, "model": self.model}
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        if not body.get("stream"):
            choice = {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", **message},
            }
            return json_response(
                {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
            )
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
        events = [
            {**common, "object": "chat.completion.chunk", "choices": choice} for choice in choices
        ]
        events.append({**common, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return text_response(lines, content_type="text/event-stream")

    def _message(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Call the tools that the text names, else fill the schema, else repeat the input."""
        if self.script:
            return {"content": self.script.pop(0)}, "stop"
        last = body["messages"][-1]
        parts = (
            [{"type": "text", "text": last["content"]}]
            if isinstance(last["content"], str)
            else last["content"] or []
        )
        words = "\n".join(part["text"] for part in parts if part["type"] == "text")
        image_count = sum(part["type"] == "image_url" for part in parts)
        offered = (
            [tool["function"]["name"] for tool in body.get("tools", [])]
            if last["role"] == "user"
            else []
        )
        if named := [name for name in offered if re.search(rf"\b{re.escape(name)}\b", words)]:
            arguments = json.dumps(next(iter(json_objects(words)), {}))
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
            return {"content": json.dumps(sample_value(schema, schema))}, "stop"
        return {"content": words + f"\nand {image_count} images" * bool(image_count)}, "stop"


class PathRouter:
    """Several servers at one address; the prefix of the path selects one."""

    def __init__(self, by_path: dict[str, Any]) -> None:
        self.by_path = by_path

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            server = next(
                server for prefix, server in self.by_path.items() if request.path.startswith(prefix)
            )
            pending = [request]
            single_request_peer = copy.copy(peer)
            single_request_peer.request = lambda pending=pending: pending.pop() if pending else None  # type: ignore[method-assign]
            server(single_request_peer)


class OpenAI(PathRouter):
    """`responses`, `images` and `chat`."""

    def __init__(self) -> None:
        self.responses, self.images, self.chat = OpenAIResponses(), OpenAIImages(), OpenAIChat()
        for server in (self.responses, self.chat):
            server.models |= {"gpt-5-mini": Model(("low", "medium", "high"))}
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


def _llama_swap() -> LlamaSwap:
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


# The servers that a page can run with: default address and constructor. A service with several
# hosts has an address for each.
SERVERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "llama-swap": ("localhost:8080", _llama_swap),
    "llama-cpp": ("localhost:8080", LlamaCpp),
    "ollama": ("localhost:11434", _ollama),
    "ollama-hosted": ("ollama.com:443", _ollama_hosted),
    "ollama-images": ("localhost:11434", OllamaImages),
    "sd-server": ("localhost:1234", lambda: StableDiffusion(size=(64, 64))),
    "automatic1111": ("localhost:7860", Automatic1111),
    "comfyui": ("localhost:8188", ComfyUI),
    "openai": ("api.openai.com:443", OpenAI),
    "anthropic": ("api.anthropic.com:443", Anthropic),
    "fal": (
        "queue.fal.run:443 api.fal.ai:443 v3.fal.media:443",
        lambda: Fal(positions=(1, 0), media_url="https://v3.fal.media"),
    ),
    "gemini": ("generativelanguage.googleapis.com:443", GeminiChat),
}
VARIABLES = [
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "FAL_KEY",
    "GEMINI_API_KEY",
    "OPENROUTER_API_KEY",
    "GROQ_API_KEY",
    "MISTRAL_API_KEY",
    "DEEPSEEK_API_KEY",
    "XAI_API_KEY",
    "TOGETHER_API_KEY",
]


class PageServers:
    """The servers of one page, by name, and the ports that connections are redirected to."""

    def __init__(self, authority: trustme.CA) -> None:
        self.servers: dict[str, Any] = {}
        # Addresses without a server to which a connection was attempted.
        self.refused: list[str] = []
        self._authority = authority
        self._running: list[Loopback] = []
        self._ports: dict[tuple[str, int], int] = {}

    def build(self, name: str, address: str = "") -> None:
        default_address, make = SERVERS[name]
        addresses = [one.rpartition(":") for one in (address or default_address).split()]
        handler: Handler = make()
        tls_context = None
        if addresses[0][2] == "443":
            tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            hosts = [host for host, _, _ in addresses]
            self._authority.issue_cert(*hosts).configure_cert(tls_context)
        server = Loopback(handler, tls_context)
        self._running.append(server)
        self.servers[name] = handler
        for host, _, port in addresses:
            self._ports[host, int(port)] = server.port
            if host == "localhost":
                self._ports["127.0.0.1", int(port)] = server.port

    def port(self, host: str, port: int) -> int:
        """Return the local port for an address; refuse connections to an unknown address."""
        local_port = self._ports.get((host, port))
        if local_port is None:
            self.refused.append(f"{host}:{port}")
            raise ConnectionRefusedError(f"{host}:{port}: no server")
        return local_port

    def close(self) -> None:
        for server in self._running:
            server.close()


@contextmanager
def page_servers(authority: trustme.CA, certificates: str) -> Iterator[PageServers]:
    """Redirect every connection of the library to the page's servers, or refuse it."""
    running = PageServers(authority)
    connect = anyio.connect_tcp

    async def connect_locally(host: Any, port: int, **options: Any) -> Any:
        return await connect("127.0.0.1", running.port(str(host), port), **options)

    tls._create_context.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "connect_tcp", connect_locally)
        patch.setattr(certifi, "where", lambda: certificates)
        # Each page gets resource groups of its own, as a separate process would.
        patch.setattr(group, "_groups", weakref.WeakValueDictionary())
        for name in VARIABLES:
            patch.setenv(name, KEY)
        try:
            yield running
        finally:
            running.close()
            tls._create_context.cache_clear()
