"""The Ollama chat test server: what it accepts, ignores and refuses, and what it sends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.ollama_chat import OllamaChat, Reply
from tests.servers.plain_client import Response as HTTPReply
from tests.servers.plain_client import b64, png, send_request
from tests.support.loopback import Handler, Loopback


@pytest.fixture
def server() -> OllamaChat:
    return OllamaChat()


@pytest.fixture
def url(server: OllamaChat, serve: Callable[[Handler], Loopback]) -> str:
    return serve(server).url


def chat(url: str, content: Any = "hi", model: str = "llama3.2", **fields: Any) -> HTTPReply:
    return send_request(
        url,
        "POST",
        "/api/chat",
        {"model": model, "messages": [{"role": "user", "content": content}], **fields},
    )


def lines(reply: HTTPReply) -> list[Any]:
    return [json.loads(line) for line in reply.body.splitlines()]


def test_a_stream_is_the_default(url: str, server: OllamaChat) -> None:
    server.script = [Reply("a b", thinking="hm", tool_calls=[{"name": "f", "arguments": {"x": 1}}])]
    frames = lines(reply := chat(url))
    assert reply.content_type == "application/x-ndjson"
    assert [frame["message"]["content"] for frame in frames] == ["", "a", " b", "", ""]
    assert frames[0]["message"]["thinking"] == "hm"
    assert frames[3]["message"]["tool_calls"] == [
        {"id": "call_00000001", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}
    ]
    assert frames[-1]["done"] and frames[-1]["done_reason"] == "stop"
    assert server.received_bodies[0]["model"] == "llama3.2"


def test_thinking_and_formatted_answers(url: str) -> None:
    assert chat(url, model="qwen3-vl", stream=False).json["message"]["thinking"]
    assert "thinking" not in chat(url, model="qwen3-vl", stream=False, think=False).json["message"]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"enum": ["x"]}}}
    assert json.loads(chat(url, stream=False, format=schema).json["message"]["content"]) == {
        "n": 1,
        "s": "x",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"content": [{"type": "text", "text": "hi"}]},
        {"think": "extreme"},
        {"think": True},
        {"model": "gemma3", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"model": "nomic-embed-text"},
        {
            "messages": [
                {"role": "user", "content": "x", "images": ["data:image/png;base64," + b64(png())]}
            ]
        },
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
                }
            ]
        },
    ],
)
def test_invalid_requests_are_refused(url: str, body: dict[str, Any]) -> None:
    reply = chat(url, **body)
    assert reply.status == 400 and isinstance(reply.json["error"], str)


@pytest.mark.parametrize(
    "body",
    [
        {"format": "xml"},
        {"options": {"stop": "x"}},
        {"options": {"temperature": "hot"}},
        {"options": {"num_ctx": True}},
    ],
)
def test_invalid_options_have_status_500_as_on_the_real_server(
    url: str, body: dict[str, Any]
) -> None:
    reply = chat(url, **body)
    assert reply.status == 500 and isinstance(reply.json["error"], str)


def test_unknown_options_and_unseen_images_are_ignored(url: str) -> None:
    assert chat(url, options={"unknown": []}, tool_choice="none").status == 200
    image = {"role": "user", "content": "look", "images": [b64(png())]}
    assert (
        chat(url, messages=[image], stream=False).json["message"]["content"] == "I saw: [img-0]look"
    )


def test_missing_models_broken_streams_and_a_busy_server(url: str, server: OllamaChat) -> None:
    assert (chat(url, model="none").status, chat(url, model="").status) == (404, 400)
    server.script = [Reply("a", error="boom"), Reply("a", cut=True), Reply("a", done_reason=None)]
    assert lines(chat(url))[-1] == {"error": "boom"}
    assert not lines(chat(url))[-1]["done"]
    assert "done_reason" not in lines(chat(url))[-1]
    server.busy = True
    assert chat(url).status == 503


def test_pulls_and_pushes_have_the_configured_outcome(url: str, server: OllamaChat) -> None:
    for outcome, status, last in (
        ("error", 200, "error"),
        ("refused", 500, "error"),
        ("interrupted", 200, "digest"),
        ("success", 200, "status"),
    ):
        server.pull = outcome
        reply = send_request(url, "POST", "/api/pull", {"model": "phi4"})
        assert reply.status == status and last in lines(reply)[-1]
        assert ("phi4:latest" in server.models) == (outcome == "success")
    assert lines(send_request(url, "POST", "/api/push", {"model": "phi4"}))[-1] == {
        "status": "success"
    }


def test_generate_loads_unloads_and_checks_raw(url: str, server: OllamaChat) -> None:
    body = {"model": "llama3.2", "prompt": ""}
    assert (
        send_request(url, "POST", "/api/generate", body).json["done_reason"] == "load"
        and server.loaded
    )
    assert (
        send_request(url, "POST", "/api/generate", body | {"keep_alive": 0}).json["done_reason"]
        == "unload"
        and not server.loaded
    )
    assert (
        send_request(
            url, "POST", "/api/generate", body | {"prompt": "x", "raw": True, "template": "t"}
        ).status
        == 400
    )


def test_blobs_copies_and_deletions(url: str) -> None:
    path = "/api/blobs/sha256:" + hashlib.sha256(b"x").hexdigest()
    statuses = [
        send_request(url, *request).status
        for request in (
            ("HEAD", path),
            ("POST", path, b"y"),
            ("POST", path, b"x"),
            ("POST", path, b"x"),
            ("HEAD", path),
        )
    ]
    assert statuses == [404, 400, 201, 200, 200]
    reply = send_request(url, "POST", "/api/copy", {"source": "llama3.2", "destination": "mine"})
    assert (reply.status, reply.body) == (200, b"")
    assert send_request(url, "DELETE", "/api/delete", {"model": "mine"}).body == b""
    assert send_request(url, "DELETE", "/api/delete", {"model": "mine"}).status == 404
