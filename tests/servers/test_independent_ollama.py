"""Ollama's own SDK against the test server.

The server accepts what the SDK sends, and the SDK understands what the server returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.ollama_chat import OllamaChat, Reply
from tests.servers.plain_client import png
from tests.servers.vendor_sdks import require
from tests.support.loopback import Handler, Loopback

ollama = require("ollama")
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


@pytest.fixture
def server() -> OllamaChat:
    return OllamaChat()


@pytest.fixture
def client(server: OllamaChat, serve: Callable[[Handler], Loopback]) -> Iterator[Any]:
    with ollama.Client(serve(server).url, trust_env=False) as sdk_client:
        yield sdk_client


def user(content: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **fields}]


def test_an_image_in_a_chat_is_received(client: Any) -> None:
    response = client.chat("qwen3-vl", user("look", images=[png()]))
    assert (
        response.message.content == "I saw: look 64x48 #0a141e"
        and response.message.thinking == "I think about it."
    )
    assert (response.done_reason, response.eval_count, response.total_duration) == (
        "stop",
        5,
        90_000_000,
    )


def test_a_stream_and_an_error_in_it(client: Any, server: OllamaChat) -> None:
    frames = list(client.chat("llama3.2", user("hi there"), stream=True))
    assert (
        "".join(frame.message.content for frame in frames) == "I saw: hi there" and frames[-1].done
    )
    server.script = [Reply("begun", error="boom")]
    with pytest.raises(ollama.ResponseError, match="boom"):
        list(client.chat("llama3.2", user("hi"), stream=True))


def test_a_tool_loop(client: Any) -> None:
    first = client.chat("llama3.2", user('add {"a": 2}'), tools=[TOOL])
    assert first.message.tool_calls[0].function.arguments == {"a": 2}
    history = [*user("add"), first.message, {"role": "tool", "content": "4", "tool_name": "add"}]
    assert client.chat("llama3.2", history, tools=[TOOL]).message.content == "I saw: add"


def test_generate_and_embed(client: Any) -> None:
    assert client.generate("llama3.2", "hi").response == "I saw: hi"
    assert len(client.embed("nomic-embed-text", ["a", "b"]).embeddings) == 2
    assert len(client.embeddings("nomic-embed-text", "a").embedding) == 8


def test_models_are_managed(client: Any, server: OllamaChat, tmp_path: Path) -> None:
    assert client.show("gemma3").modelinfo["llama.context_length"] == 131072
    client.generate("gemma3", "")
    assert [row.model for row in client.ps().models] == ["gemma3:latest"]
    frames = list(client.pull("phi4", stream=True))
    assert (frames[2].completed, frames[2].total, frames[-1].status) == (1000, 2000, "success")
    assert client.create("mine", from_="phi4", system="be kind").status == "success"
    assert client.copy("mine", "yours").status == client.delete("mine").status == "success"
    assert "yours:latest" in [row.model for row in client.list().models]
    (tmp_path / "file").write_bytes(b"weights")
    assert client.create_blob(tmp_path / "file") in server.blobs


def test_errors_are_raised(client: Any, server: OllamaChat) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'none' not found") as caught:
        client.chat("none", user("hi"))
    assert caught.value.status_code == 404
    server.pull = "error"
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("phi4", stream=True))
