"""How all test servers handle HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.servers.gemini import Gemini
from tests.servers.http_helpers import Part, parse_form
from tests.servers.llamaswap import LlamaSwap
from tests.servers.ollama import Ollama
from tests.servers.openai_images import OpenAIImages
from tests.servers.plain_client import png
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback

SMALL = StableDiffusion(size=(64, 64))
TEXT = {"prompt": "x", "model": "m"}
GEMINI = {
    "contents": [{"parts": [{"text": "x"}]}],
    "generationConfig": {"responseModalities": ["IMAGE"]},
}


@pytest.mark.parametrize(
    ("handler", "path", "body"),
    [
        (SMALL, "/v1/images/generations", TEXT),
        (LlamaSwap({"m": SMALL}), "/v1/images/generations", TEXT),
        (
            OpenAIImages(),
            "/v1/images/generations",
            TEXT | {"model": "gpt-image-1", "stream": True, "partial_images": 1},
        ),
        (OpenAIImages(), "/v1/images/generations", TEXT | {"model": "dall-e-2"}),
        (
            Ollama(),
            "/api/generate",
            {"model": "x/z-image-turbo", "prompt": "x", "width": 64, "height": 64},
        ),
        (Gemini(), "/v1beta/models/gemini-2.5-flash-image:streamGenerateContent?alt=sse", GEMINI),
    ],
)
def test_a_connection_is_reused_after_a_complete_response(
    serve: Callable[[Handler], Loopback], handler: Handler, path: str, body: dict[str, Any]
) -> None:
    """After a complete response, streamed or not, the next request may use the connection."""
    server = serve(handler)
    headers = {
        "Content-Type": "application/json",
        "Authorization": "Bearer k",
        "x-goog-api-key": "k",
    }
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for _ in range(3):
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
    assert (server.connections, len(server.requests)) == (1, 3)


def test_form_parts_keep_their_bytes() -> None:
    data = png() + b"\r\n--front\n\r\r\n"
    head = (
        b'--frontier\r\nContent-Disposition: form-data; name="image[]"; filename="a b.png"\r\n'
        b"Content-Type: image/png\r\n\r\n"
    )
    text = (
        b'\r\n--frontier\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
        b"the prompt\r\n--frontier--\r\n"
    )
    parts = parse_form('multipart/form-data; boundary="frontier"', head + data + text)
    assert parts == [Part("image[]", data, "a b.png", "image/png"), Part("prompt", b"the prompt")]


@pytest.mark.parametrize(
    "body", [b"", b"--frontier\r\n", b"--frontier\r\nno head\r\n--frontier--", b"junk"]
)
def test_an_invalid_form_is_rejected(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"part|body"):
        parse_form("multipart/form-data; boundary=frontier", body)
