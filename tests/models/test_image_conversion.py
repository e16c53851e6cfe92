"""What each chat backend is shown: images as they are where it reads them, else converted, and said so."""

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
SEES = {"capabilities": ["completion", "vision"]}  # asked by Ollama's models before an image goes
READS_WEBP = {"openai", "openai chat", "anthropic", "gemini"}
ANSWERS = {dialect.name: dialect.whole for dialect in DIALECTS}


def encoded(
    kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **settings: Any
) -> md.ImagePart:
    held = BytesIO()
    image = Image.merge("RGB", [Image.effect_noise(size, 90) for _ in range(3)]).convert(mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (255, 0, 0, 0))
    image.save(held, kind, **settings)
    return md.ImagePart(held.getvalue())


def sent(body: bytes) -> list[md.ImagePart]:
    """Every image in a request, in whatever way its dialect holds it."""
    found = re.findall(
        rb'"(?:data:[a-z/]+;base64,)?((?:iVBOR|/9j/|R0lG|UklG)[A-Za-z0-9+/=]+)"', body
    )
    return [md.ImagePart(base64.b64decode(text)) for text in found]


def answering(name: str) -> Handler:
    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            peer.reply(SEES if seen.path == "/api/show" else ANSWERS[name])

    return handler


def asked(server: Loopback) -> list[bytes]:
    """The bodies of the chat requests."""
    return [seen.body for seen in server.seen if seen.body and seen.path != "/api/show"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_every_backend_gets_what_it_reads(serve: Serve, name: str, kind: str) -> None:
    make, dialect = PROVIDERS[name]
    server = serve(answering(dialect))
    image = encoded(kind, "P" if kind == "GIF" else "RGB")
    call = llm.ToolCallPart("c1", "look", "{}")
    turns = [
        md.user("look", image),
        llm.assistant(call),
        llm.tool_result(call, "here", image),
        llm.user("well?"),
    ]
    async with make(server.url) as provider:
        reply = await provider.model("m").generate(turns)
    (body,) = asked(server)
    images = sent(body)
    assert len(images) == 2, "one of the user, one of the tool"
    assert {(one.width, one.height) for one in images} == {(40, 30)}
    changed = [warning for warning in reply.warnings if warning.code == "IMAGE_CONVERTED"]
    if kind in ("PNG", "JPEG") or (kind == "WEBP" and name in READS_WEBP):
        assert images == [image, image]
        assert not changed
    else:
        assert {one.mime for one in images} == {"image/png" if kind == "GIF" else "image/jpeg"}
        assert [warning.field for warning in changed] == ["messages"]
        assert image.mime in changed[0].message


@pytest.mark.parametrize("strict", [False, True])
async def test_a_stream_converts_too_and_strictness_does_not_forbid_it(
    serve: Serve, strict: bool
) -> None:
    (dialect,) = [one for one in DIALECTS if one.name == "ollama"]

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None and seen.path == "/api/show":
            peer.reply(SEES)
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
    assert sent(asked(server)[0])[0].mime == "image/png"


async def test_an_old_image_is_converted_once_in_a_conversation(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(answering("ollama"))
    turns = [md.user("look", encoded("WEBP"))]
    async with md.Ollama(server.url) as provider:
        model = provider.model("m")
        first = await model.generate(turns)
        await model.generate([*turns, first.message, llm.user("and?")])
        kept = model._sight._made
    one, two = (sent(body)[0] for body in asked(server))
    assert one == two
    assert list(kept.values()) == [one]


async def test_what_is_remembered_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [encoded("GIF", "P") for _ in range(4)]
    sight = ImageConverter(PNG_AND_JPEG, md.Limits())
    for one in images:
        await sight.convert(llm.Request((md.user(one),)))
    assert len(sight._made) == 4
    most = sum(len(one.data) + len(sight._made[one.data].data) for one in images[2:])
    monkeypatch.setattr("majordomo.models.image_conversion.CACHE_BYTES", most)
    sight = ImageConverter(PNG_AND_JPEG, md.Limits())
    for one in images:
        await sight.convert(llm.Request((md.user(one),)))
    assert list(sight._made) == [one.data for one in images[2:]]


async def test_an_image_that_is_none_is_said_before_anything_is_sent(serve: Serve) -> None:
    server = serve(answering("ollama"))
    whole = encoded("GIF", "P")
    async with md.Ollama(server.url) as provider:
        with pytest.raises(md.InvalidRequestError) as caught:
            await provider.model("m").generate(md.user("look", md.ImagePart(whole.data[:40])))
    assert (caught.value.field, caught.value.provider) == ("messages", "ollama")
    assert asked(server) == []


async def test_an_image_too_large_for_a_backend_is_made_small_enough(serve: Serve) -> None:
    server = serve(answering("anthropic"))
    large = encoded("PNG", size=(1300, 1300))
    assert len(large.data) > 3_932_160
    async with md.Anthropic("k", base_url=server.url) as provider:
        reply = await provider.model("m").generate(md.user("look", large))
    (image,) = sent(server.seen[0].body)
    assert len(image.to_base64()) <= 5_242_880
    assert image.width == 1300, "a photograph of this size fits as a JPEG without losing a pixel"
    assert "IMAGE_CONVERTED" in [warning.code for warning in reply.warnings]
    assert (
        json.loads(server.seen[0].body)["messages"][0]["content"][1]["source"]["media_type"]
        == "image/jpeg"
    )


def test_exact_pixels_stay_exact_and_photographs_stay_photographs() -> None:
    limits = md.Limits()
    exact = encoded("WEBP", "RGBA", lossless=True, exact=True)
    made = readable(exact, PNG_AND_JPEG, limits)
    assert made.mime == "image/png"
    assert made.to_pil().tobytes() == exact.to_pil().convert("RGBA").tobytes()
    assert readable(encoded("WEBP"), PNG_AND_JPEG, limits).mime == "image/jpeg"
    assert (
        readable(
            encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (40, 30))]),
            PNG_AND_JPEG,
            limits,
        ).mime
        == "image/png"
    )


def test_it_is_shrunk_only_as_far_as_it_must_be() -> None:
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
