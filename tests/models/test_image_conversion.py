"""Images in chat requests: sent unchanged where the backend reads them, else converted."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

import majordomo as md
from majordomo import llm
from majordomo.imaging.prepare import readable
from majordomo.media.image_limits import PNG_AND_JPEG, ImageSupport
from majordomo.models.image_conversion import ImageConverter
from tests.support.chat_dialects import DIALECTS
from tests.support.loopback import Handler, Loopback, Peer

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio
PROVIDERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "openai": (lambda url: md.OpenAI("k", base_url=url, api="responses"), "responses"),
    "openai chat": (lambda url: md.OpenAI("k", base_url=url, api="chat"), "chat"),
    "openaicompatible": (md.OpenAICompatible, "chat"),
    "llamaswap": (md.LlamaSwap, "chat"),
    "ollama": (md.Ollama, "ollama"),
    "anthropic": (lambda url: md.Anthropic("k", base_url=url), "anthropic"),
    "gemini": (lambda url: md.Gemini("k", base_url=url), "gemini"),
}
# Ollama's models are queried for vision before an image is sent.
VISION = {"capabilities": ["completion", "vision"]}
READS_WEBP = {"openai", "openai chat", "anthropic", "gemini"}
ANSWERS = {dialect.name: dialect.complete_response for dialect in DIALECTS}


def encoded(
    kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **settings: Any
) -> md.ImagePart:
    buffer = BytesIO()
    image = Image.merge("RGB", [Image.effect_noise(size, 90) for _ in range(3)]).convert(mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (255, 0, 0, 0))
    image.save(buffer, kind, **settings)
    return md.ImagePart(buffer.getvalue())


def sent(body: bytes) -> list[md.ImagePart]:
    """Return every image in a request body of any dialect."""
    matches = re.findall(
        rb'"(?:data:[a-z/]+;base64,)?((?:iVBOR|/9j/|R0lG|UklG)[A-Za-z0-9+/=]+)"', body
    )
    return [md.ImagePart(base64.b64decode(text)) for text in matches]


def answering(name: str) -> Handler:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.reply(VISION if request.path == "/api/show" else ANSWERS[name])

    return handler


def chat_bodies(server: Loopback) -> list[bytes]:
    """Return the bodies of the chat requests."""
    return [
        request.body for request in server.requests if request.body and request.path != "/api/show"
    ]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_images_are_converted_to_formats_that_the_backend_reads(
    serve: Serve, name: str, kind: str
) -> None:
    make, dialect = PROVIDERS[name]
    server = serve(answering(dialect))
    image = encoded(kind, "P" if kind == "GIF" else "RGB")
    call = llm.ToolCallPart("c1", "look", "{}")
    messages = [
        md.user("look", image),
        llm.assistant(call),
        llm.tool_result(call, "here", image),
        llm.user("well?"),
    ]
    async with make(server.url) as provider:
        reply = await provider.model("m").generate(messages)
    (body,) = chat_bodies(server)
    images = sent(body)
    assert len(images) == 2, "one of the user, one of the tool"
    assert {(image.width, image.height) for image in images} == {(40, 30)}
    conversion_warnings = [
        warning for warning in reply.warnings if warning.code == "IMAGE_CONVERTED"
    ]
    if kind in ("PNG", "JPEG") or (kind == "WEBP" and name in READS_WEBP):
        assert images == [image, image]
        assert not conversion_warnings
    else:
        assert {image.mime for image in images} == {"image/png" if kind == "GIF" else "image/jpeg"}
        assert [warning.field for warning in conversion_warnings] == ["messages"]
        assert image.mime in conversion_warnings[0].message


@pytest.mark.parametrize("strict", [False, True])
async def test_a_stream_converts_images_even_when_strict(serve: Serve, strict: bool) -> None:
    (dialect,) = [one for one in DIALECTS if one.name == "ollama"]

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None and request.path == "/api/show":
            peer.reply(VISION)
        peer.begin(headers={"content-type": "application/x-ndjson"})
        peer.chunk(dialect.stream)
        peer.end()

    server = serve(handler)
    async with (
        md.Ollama(server.url, strict=strict) as provider,
        provider.model("m").stream(md.user("look", encoded("GIF", "P"))) as stream,
    ):
        async for _ in stream:
            pass
    assert [warning.code for warning in stream.reply.warnings] == ["IMAGE_CONVERTED"]
    assert sent(chat_bodies(server)[0])[0].mime == "image/png"


async def test_an_image_is_converted_once_per_conversation(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(answering("ollama"))
    messages = [md.user("look", encoded("WEBP"))]
    async with md.Ollama(server.url) as provider:
        model = provider.model("m")
        first = await model.generate(messages)
        await model.generate([*messages, first.message, llm.user("and?")])
        cache = model._image_converter._cache
    one, two = (sent(body)[0] for body in chat_bodies(server))
    assert one == two
    assert list(cache.values()) == [one]


async def test_the_cache_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [encoded("GIF", "P") for _ in range(4)]
    converter = ImageConverter(PNG_AND_JPEG, md.Limits())
    for image in images:
        await converter.convert(llm.Request((md.user(image),)))
    assert len(converter._cache) == 4
    max_bytes = sum(
        len(image.data) + len(converter._cache[image.data].data) for image in images[2:]
    )
    monkeypatch.setattr("majordomo.models.image_conversion.MAX_CACHE_BYTES", max_bytes)
    converter = ImageConverter(PNG_AND_JPEG, md.Limits())
    for image in images:
        await converter.convert(llm.Request((md.user(image),)))
    assert list(converter._cache) == [image.data for image in images[2:]]


async def test_an_image_that_cannot_be_decoded_is_refused_before_sending(serve: Serve) -> None:
    server = serve(answering("ollama"))
    complete = encoded("GIF", "P")
    async with md.Ollama(server.url) as provider:
        with pytest.raises(md.InvalidRequestError) as caught:
            await provider.model("m").generate(md.user("look", md.ImagePart(complete.data[:40])))
    assert (caught.value.field, caught.value.provider) == ("messages", "ollama")
    assert chat_bodies(server) == []


async def test_an_image_too_large_for_a_backend_is_reduced(serve: Serve) -> None:
    server = serve(answering("anthropic"))
    large = encoded("PNG", size=(1300, 1300))
    assert len(large.data) > 3_932_160
    async with md.Anthropic("k", base_url=server.url) as provider:
        reply = await provider.model("m").generate(md.user("look", large))
    (image,) = sent(server.requests[0].body)
    assert len(image.to_base64()) <= 5_242_880
    assert image.width == 1300, "a photograph of this size fits as a JPEG without losing a pixel"
    assert "IMAGE_CONVERTED" in [warning.code for warning in reply.warnings]
    assert (
        json.loads(server.requests[0].body)["messages"][0]["content"][1]["source"]["media_type"]
        == "image/jpeg"
    )


def test_lossless_images_become_png_and_photographs_become_jpeg() -> None:
    limits = md.Limits()
    exact = encoded("WEBP", "RGBA", lossless=True, exact=True)
    converted = readable(exact, PNG_AND_JPEG, limits)
    assert converted.mime == "image/png"
    assert converted.to_pil().tobytes() == exact.to_pil().convert("RGBA").tobytes()
    assert readable(encoded("WEBP"), PNG_AND_JPEG, limits).mime == "image/jpeg"
    assert (
        readable(
            encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (40, 30))]),
            PNG_AND_JPEG,
            limits,
        ).mime
        == "image/png"
    )


def test_an_image_is_shrunk_no_more_than_needed() -> None:
    limits = md.Limits()
    image = encoded("PNG", size=(400, 300))
    assert (
        readable(image, ImageSupport(max_side=100), limits).width,
        readable(image, ImageSupport(max_side=100), limits).height,
    ) == (
        100,
        75,
    )
    small = readable(image, ImageSupport(max_bytes=20_000), limits)
    assert len(small.data) <= 20_000
    assert 64 <= small.width < 400
    with pytest.raises(md.InvalidRequestError) as caught:
        readable(image, ImageSupport(max_bytes=100), limits)
    assert caught.value.code == "IMAGE_TOO_LARGE"
