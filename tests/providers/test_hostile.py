"""Hostile input and broken backends, with the default limits; and the next call works."""

from __future__ import annotations

import gzip
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)
from tests.support.tracebacks import library_locals

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
Image = Callable[..., md.ImagePart]
KEY = "sk-very/secret+key="


def once_then(first: Callable[[Peer], None], fine: bytes) -> Handler:
    """Handle the first request with `first`, and answer every later one with `fine`."""

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            if len(peer.server.requests) == 1:
                first(peer)
            else:
                peer.send(fine)

    return handler


def chunk_of(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge_png(width: int = 50_000, height: int = 50_000) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk_of(b"IHDR", header)
        + chunk_of(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk_of(b"IEND", b"")
    )


async def test_n_of_zero_is_not_sent(serve: Serve, image: Image) -> None:
    server = serve(reply_with(http_response(images_reply(image().data))))
    async with md.LlamaSwap(server.url) as provider:
        await provider.image_model("sdxl").generate("a", n=0, seed=2**63 - 1)
    assert "n" not in server.requests[0].json
    assert server.requests[0].json["seed"] == 2**63 - 1


async def test_an_oversized_image_is_refused_before_sending(serve: Serve) -> None:
    server = serve(reply_with(http_response(b"never")))
    part = md.ImagePart(huge_png())
    assert (part.width, part.height) == (50_000, 50_000)
    async with md.OpenAICompatible(server.url + "/v1") as provider:
        with pytest.raises(md.InvalidRequestError, match="50000x50000"):
            await provider.model("m").generate(md.user("look", part))
    with pytest.raises(md.InvalidRequestError, match="50000x50000"):
        part.to_pil()
    assert server.requests == []


async def test_a_gif_is_refused_as_an_input_image(serve: Serve, image: Image) -> None:
    server = serve(reply_with(http_response(b"never")))
    async with md.LlamaSwap(server.url) as provider:
        with pytest.raises(md.InvalidRequestError, match="image/gif") as caught:
            await provider.image_model("m").generate("a", images=[image(kind="GIF")])
    assert caught.value.field == "images"
    assert server.requests == []


def test_a_configuration_error_does_not_reveal_the_key() -> None:
    secrets: dict[str, Any] = {"api_key": KEY, "headers": {"x-key": KEY}}
    invalid_settings: list[tuple[Any, dict[str, Any]]] = [
        (md.StableDiffusion, {"api": "x"}),
        (md.LlamaSwap, {"images": "x"}),
        (md.OpenAI, {"api": "x"}),
        (md.OpenAI, {"base_url": "x"}),
        (md.OpenAICompatible, {"preset": "x"}),
        (md.Anthropic, {"version": "x"}),
        (md.ComfyUI, {"workflow": {"a": "b"}}),
        (md.Fal, {"result_origins": ["x"]}),
        (md.Fal, {"base_url": "x"}),
    ]
    for make, settings in invalid_settings:
        with pytest.raises(md.ConfigurationError) as caught:
            make(**secrets, **settings)
        assert KEY not in library_locals(caught.value), make


def bodies(image: Image) -> dict[str, tuple[bytes, type[md.MajordomoError]]]:
    good = image().data
    return {
        "empty": (b"", md.BadResponseError),
        "web page": (
            http_response("<html>hi</html>", headers={"content-type": "text/html"}),
            md.BadResponseError,
        ),
        "truncated JSON": (http_response(json.dumps(images_reply(good))[:-3]), md.BadResponseError),
        "invalid base64": (http_response({"data": [{"b64_json": "%%%"}]}), md.BadResponseError),
        "base64 of a web page": (
            http_response({"data": [{"b64_json": "PGh0bWw+"}]}),
            md.BadResponseError,
        ),
        "truncated image": (http_response(images_reply(good[:-20])), md.BadResponseError),
        "GIF": (http_response(images_reply(image(kind="GIF").data)), md.BadResponseError),
        "huge dimensions": (http_response(images_reply(huge_png())), md.BadResponseError),
        "empty list": (http_response({"data": []}), md.NoImageError),
        "no list": (http_response({"created": 1}), md.BadResponseError),
        "null": (http_response(b"null"), md.BadResponseError),
        "a url": (http_response({"data": [{"url": "http://127.0.0.1:9/x.png"}]}), md.NoImageError),
        "entries of other kinds": (http_response({"data": [1, None, "x", {}]}), md.NoImageError),
        "a number for an image": (http_response({"data": [{"b64_json": 7}]}), md.BadResponseError),
        "an error with status 200": (
            http_response({"error": {"message": "boom"}}),
            md.BackendError,
        ),
        "deep JSON": (http_response(b'{"data":' * 3000 + b"1" + b"}" * 3000), md.BadResponseError),
    }


@pytest.mark.parametrize("name", list(bodies(lambda *a, **k: md.ImagePart(huge_png(2, 2)))))
async def test_an_invalid_image_reply_is_a_typed_error_and_the_next_call_works(
    serve: Serve, image: Image, name: str
) -> None:
    answer, error = bodies(image)[name]
    server = serve(
        once_then(
            lambda peer: peer.send(answer or http_response(b"")),
            http_response(images_reply(image().data)),
        )
    )
    async with md.LlamaSwap(server.url) as provider:
        model = provider.image_model("sdxl")
        with pytest.raises(error) as caught:
            await model.generate("a")
        assert type(caught.value) is error
        assert len(server.requests) == 1, "an image job is never sent twice"
        assert (await model.generate("a")).image == image()


async def test_fewer_images_and_another_size_are_warnings(serve: Serve, image: Image) -> None:
    data = images_reply(image().data)
    data["data"].append({"url": "http://127.0.0.1:9/x.png"})
    async with md.LlamaSwap(serve(reply_with(http_response(data))).url) as provider:
        result = await provider.image_model("sdxl").generate("a", n=3, size="512x512", seed=1)
    assert len(result.images) == 1
    assert [warning.code for warning in result.warnings] == [
        "IMAGE_MISSING",
        "COUNT_DIFFERS",
        "SIZE_DIFFERS",
    ]
    assert (result.details[0].requested_size, result.details[0].actual_size) == (
        (512, 512),
        (64, 48),
    )


async def test_a_200_mb_reply_is_refused_in_bounded_memory(serve: Serve, image: Image) -> None:
    def flood(peer: Peer) -> None:
        peer.send(
            b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n"
            b'content-length: 209715200\r\n\r\n{"data":[{"b64_json":"'
        )
        for _ in range(200):
            peer.send(b"A" * (1 << 20))

    async with md.LlamaSwap(
        serve(once_then(flood, http_response(images_reply(image().data)))).url
    ) as provider:
        model = provider.image_model("sdxl")
        tracemalloc.start()
        with pytest.raises(md.BadResponseError) as caught:
            await model.generate("a")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert caught.value.code == "IMAGE_TOO_LARGE"
        assert peak < 100 << 20
        assert (await model.generate("a")).image == image()


@pytest.mark.parametrize("kind", ["chat", "image"])
@pytest.mark.slow
async def test_a_decompression_bomb_is_refused_in_bounded_memory(
    serve: Serve, image: Image, kind: str
) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = (
        b"".join(compressor.compress(b"{" + b" " * (1 << 20)) for _ in range(256))
        + compressor.flush()
    )
    fine = http_response(images_reply(image().data) if kind == "image" else chat_completion("ok"))
    server = serve(
        once_then(
            lambda peer: peer.send(http_response(bomb, headers={"content-encoding": "gzip"})), fine
        )
    )
    async with md.LlamaSwap(server.url) as provider:
        model: Any = provider.image_model("m") if kind == "image" else provider.model("m")
        tracemalloc.start()
        started_at = time.monotonic()
        with pytest.raises(md.BadResponseError, match="larger than the limit"):
            await model.generate("a")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.monotonic() - started_at < 20
        assert peak < (200 << 20 if kind == "image" else 64 << 20)
        assert await model.generate("a")


async def test_gzip_is_decoded(serve: Serve) -> None:
    compressed = gzip.compress(json.dumps(chat_completion("small")).encode())
    async with md.OpenAICompatible(
        serve(reply_with(http_response(compressed, headers={"content-encoding": "gzip"}))).url
        + "/v1"
    ) as provider:
        assert (await provider.model("m").generate("hi")).text == "small"


async def test_a_stalled_image_reply_times_out_and_is_not_retried(
    serve: Serve, image: Image
) -> None:
    def stall(peer: Peer) -> None:
        peer.send(b'HTTP/1.1 200 X\r\ncontent-length: 1000\r\n\r\n{"data"')
        peer.wait_for_close()

    server = serve(once_then(stall, http_response(images_reply(image().data))))
    async with md.LlamaSwap(server.url, timeout=md.Timeout(idle=0.3)) as provider:
        model = provider.image_model("sdxl")
        with pytest.raises(md.DeadlineExceededError) as caught:
            await model.generate("a")
        assert (caught.value.phase, caught.value.provider, len(server.requests)) == (
            "idle",
            "llamaswap",
            1,
        )
        assert (await model.generate("a")).image == image()


STREAM_FAULTS: dict[str, tuple[Callable[[Peer], None], type[md.MajordomoError], str]] = {
    "cut": (
        lambda peer: (peer.begin(), peer.chunk(delta("Good ")), peer.close()),
        md.StreamBrokenError,
        "Good ",
    ),
    "reset": (
        lambda peer: (peer.begin(), peer.chunk(delta("Good ")), time.sleep(0.1), peer.reset()),
        md.StreamBrokenError,
        "Good ",
    ),
    "ended early": (
        lambda peer: (peer.begin(), peer.chunk(delta("Good ")), peer.end()),
        md.StreamBrokenError,
        "Good ",
    ),
    "DONE without a finish reason": (
        lambda peer: (peer.begin(), peer.chunk(delta("Good ") + DONE), peer.close()),
        md.StreamBrokenError,
        "Good ",
    ),
    "stalled": (
        lambda peer: (peer.begin(), peer.chunk(delta("Good ")), peer.wait_for_close()),
        md.DeadlineExceededError,
        "Good ",
    ),
    "endless comments": (
        lambda peer: (peer.begin(), _repeat(peer, b": still here\n\n")),
        md.DeadlineExceededError,
        "",
    ),
    "endless line": (
        lambda peer: (peer.begin(), _repeat(peer, b"data: " + b"x" * (1 << 20), 0)),
        md.BadResponseError,
        "",
    ),
    "web page": (
        lambda peer: peer.send(http_response("<html>", headers={"content-type": "text/html"})),
        md.BadResponseError,
        "",
    ),
}


def _repeat(peer: Peer, data: bytes, pause: float = 0.02) -> None:
    for _ in range(200):
        peer.chunk(data)
        if peer.closed_by_client.wait(pause):
            return


@pytest.mark.parametrize(
    ("fault", "error", "partial"), STREAM_FAULTS.values(), ids=STREAM_FAULTS.keys()
)
async def test_a_broken_stream_is_a_typed_error_and_the_next_call_works(
    serve: Serve, fault: Callable[[Peer], None], error: type[md.MajordomoError], partial: str
) -> None:
    server = serve(once_then(fault, http_response(chat_completion("fine"))))
    async with md.OpenAICompatible(
        server.url + "/v1", timeout=md.Timeout(idle=0.4, total=1.5)
    ) as provider:
        model = provider.model("m")
        with pytest.raises(error) as caught:
            async with model.stream("hi") as stream:
                async for _ in stream:
                    pass
        assert type(caught.value) is error
        assert stream.reply.text == partial
        if isinstance(caught.value, md.StreamBrokenError):
            assert caught.value.partial.text == partial
            assert caught.value.partial.provider == "openaicompatible"
        assert (await model.generate("hi")).text == "fine"


async def test_a_stream_with_a_finish_reason_is_complete_even_if_reset(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta("Good evening") + delta({}, "stop"))
        time.sleep(0.1)
        peer.reset()

    async with (
        md.OpenAICompatible(serve(handler).url + "/v1") as provider,
        provider.model("m").stream("hi") as stream,
    ):
        events = [event async for event in stream]
    assert stream.reply.text == "Good evening"
    assert len(events) == 2


async def test_a_server_that_ignores_streaming_still_yields_events(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("all at once"))))
    async with (
        md.OpenAICompatible(server.url + "/v1") as provider,
        provider.model("m").stream("hi") as stream,
    ):
        events = [type(event).__name__ async for event in stream]
    assert events == ["TextDelta", "Done"]
    assert stream.reply.text == "all at once"
