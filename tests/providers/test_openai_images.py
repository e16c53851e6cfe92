"""OpenAI's images against a server that refuses everything invalid for a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio import to_thread
from PIL import Image

import majordomo as md
from majordomo import imagegen
from tests.servers.hashed_images import fingerprint
from tests.servers.openai_images import FAMILIES, OpenAIImages, color
from tests.servers.plain_client import halves
from tests.support.loopback import Handler, Loopback, http_response, images_reply, reply_with
from tests.support.sample_images import rgb_pixel

Serve = Callable[[Handler], Loopback]
ImageFactory = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio
QUICK = md.Retries(attempts=1)
GPT = [model for model in FAMILIES if model.startswith("gpt")]


@pytest.fixture
def server() -> Iterator[OpenAIImages]:
    server = OpenAIImages()
    yield server
    server.release()


@pytest.fixture
def loopback(server: OpenAIImages, serve: Serve) -> Loopback:
    return serve(server)


@pytest.fixture
def provider(loopback: Loopback) -> Iterator[md.OpenAI]:
    with md.OpenAI("k", base_url=loopback.url + "/v1", retries=QUICK) as provider:
        yield provider


EVERYTHING: dict[str, dict[str, Any]] = {
    "n": {"n": 3},
    "an odd size": {"size": "640x360"},
    "a size of none": {"size": "100x3000"},
    "shape": {"aspect": "16:9"},
    "area": {"aspect": "1:1", "megapixels": 0.3},
    "steps": {"steps": 9},
    "cfg": {"cfg_scale": 0.0},
    "negative": {"negative_prompt": "rain"},
    "sampler": {"sampler": "euler", "scheduler": "karras"},
    "seed": {"seed": 0},
    "strength": {"strength": 0.5},
    "png": {"output_format": "png"},
    "webp": {"output_format": "webp"},
    "jpeg": {"output_format": "jpeg", "background": "transparent"},
    "quality": {"quality": "high"},
    "hd": {"quality": "hd"},
    "background": {"background": "transparent"},
    "previews": {"previews": 9},
}


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("fields", EVERYTHING.values(), ids=EVERYTHING.keys())
@pytest.mark.slow
async def test_only_supported_fields_are_sent_and_others_are_warnings(
    provider: md.OpenAI, server: OpenAIImages, model: str, fields: dict[str, Any]
) -> None:
    result = await provider.image_model(model).generate("a red fox", **fields)
    async with provider.image_model(model).stream("a red fox", **fields) as stream:
        async for _ in stream:
            pass
    assert len(result.images) == fields.get("n", 1)
    warned = {warning.field for warning in result.warnings}
    for name, value in fields.items():
        honored = name in ("aspect", "megapixels", "previews", "n") or (
            name in server.jobs[-1] and str(server.jobs[-1][name]) == str(value)
        )
        native = name == "output_format" and value == "png"
        assert honored or name in warned or native, f"{name} was lost silently"


async def test_the_reply_is_decoded_completely(provider: md.OpenAI, server: OpenAIImages) -> None:
    result = await provider.image_model("gpt-image-1.5").generate(
        "a red fox", size="1536x1024", quality="low", output_format="webp"
    )
    assert all(
        abs(actual - expected) < 4
        for actual, expected in zip(rgb_pixel(result.image), color(server.jobs[0]), strict=True)
    ), "WebP loses a little"
    assert result.image.mime == "image/webp"
    assert result.usage.output_tokens
    assert result.warnings == ()
    assert result.details[0].seed is None
    assert server.jobs[0]["model"] == result.model == "gpt-image-1.5"


async def test_a_model_limited_to_one_image_gets_several_calls(
    provider: md.OpenAI, server: OpenAIImages
) -> None:
    result = await provider.image_model("dall-e-3").generate("a", n=3)
    assert (len(result.images), len(server.jobs)) == (3, 3)
    assert result.details[2].revised_prompt
    result = await provider.image_model("gpt-image-1").generate("a", n=12)
    assert (len(result.images), len(server.jobs)) == (12, 5)


async def test_failed_images_do_not_lose_the_others(
    provider: md.OpenAI, server: OpenAIImages
) -> None:
    server.failures = [(500, "server_error")]
    result = await provider.image_model("dall-e-3").generate("a", n=3)
    assert len(result.images) == 2
    assert [(w.code, w.field) for w in result.warnings] == [
        ("IMAGE_FAILED", "n"),
        ("COUNT_DIFFERS", "n"),
    ]
    server.failures = [(500, "server_error")] * 3
    with pytest.raises(md.BackendError):
        await provider.image_model("dall-e-3").generate("a", n=3)


async def test_a_permanent_failure_stops_the_remaining_calls(
    loopback: Loopback, server: OpenAIImages
) -> None:
    async with md.OpenAI("wrong", base_url=loopback.url + "/v1", max_concurrency=1) as provider:
        with pytest.raises(md.AuthenticationError):
            await provider.image_model("dall-e-3").generate("a", n=5)
    assert len(loopback.requests) == 1


@pytest.mark.parametrize("edits", ["multipart", "json"])
@pytest.mark.parametrize("model", GPT)
async def test_edits_with_images_and_a_mask(
    loopback: Loopback, server: OpenAIImages, image: ImageFactory, model: str, edits: Any
) -> None:
    async with md.OpenAI(
        "k", base_url=loopback.url + "/v1", edits=edits, retries=QUICK
    ) as provider:
        one, other = image(64, 64, "red"), image(64, 48, "blue", kind="JPEG")
        await provider.image_model(model).generate("a hat", images=[one])
        await provider.image_model(model).generate("a hat", images=[one, other], n=2)
        mask = md.ImagePart(halves(0, 255, (32, 32)))
        result = await provider.image_model(model).generate("a hat", images=[one], mask=mask)
    assert [len(job["images"]) for job in server.jobs] == [1, 2, 1]
    assert server.jobs[0]["images"] == [fingerprint(Image.new("RGB", (64, 64), "red"))]
    width = result.image.width
    assert rgb_pixel(result.image, (width // 8, 8)) == (255, 0, 0), "black keeps"
    assert rgb_pixel(result.image, (width - 8, 8)) == color(server.jobs[2]), "white is repainted"


async def test_dall_e_2_edits_only_one_square_image(
    provider: md.OpenAI, server: OpenAIImages, image: ImageFactory
) -> None:
    model = provider.image_model("dall-e-2")
    assert (
        len((await model.generate("a", images=[image(64, 64, kind="JPEG")], size="256x256")).images)
        == 1
    )
    for input_images in ([image(64, 48)], [image(64, 64), image(64, 64)]):
        with pytest.raises(md.UnsupportedError) as caught:
            await model.generate("a", images=input_images)
        assert caught.value.field == "images"
    with pytest.raises(md.UnsupportedError):
        await provider.image_model("dall-e-3").generate("a", images=[image(64, 64)])
    assert len(server.jobs) == 1


async def test_an_overlong_prompt_is_refused_before_sending(
    provider: md.OpenAI, server: OpenAIImages
) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await provider.image_model("dall-e-2").generate("x" * 1001)
    assert caught.value.field == "prompt"
    assert server.jobs == []


async def test_strict_refuses_an_unsupported_field(
    loopback: Loopback, server: OpenAIImages
) -> None:
    async with md.OpenAI("k", base_url=loopback.url + "/v1", strict=True) as provider:
        with pytest.raises(md.UnsupportedError) as caught:
            await provider.image_model("gpt-image-2").generate("a", seed=1)
    assert caught.value.field == "seed"
    assert loopback.requests == []


async def test_previews_are_requested_only_by_streams(
    provider: md.OpenAI, server: OpenAIImages, loopback: Loopback
) -> None:
    model = provider.image_model("gpt-image-1")
    async with model.stream("a red fox", previews=2) as stream:
        events = [event async for event in stream]
    assert [type(event).__name__ for event in events] == ["Preview", "Preview", "Done"]
    assert rgb_pixel(events[0].image) == color(server.jobs[0], 0, 0)
    assert rgb_pixel(stream.result.image) == color(server.jobs[0])
    await model.generate("a red fox", previews=2)
    assert "stream" not in loopback.requests[-1].json, (
        "generate() requests no previews: each costs tokens"
    )


async def test_a_server_that_ignores_streaming_still_returns_the_result(
    provider: md.OpenAI, server: OpenAIImages
) -> None:
    server.ignore_stream = True
    async with provider.image_model("gpt-image-1").stream("a", previews=2) as stream:
        assert [type(event).__name__ async for event in stream] == ["Done"]


async def test_a_truncated_stream_raises_stream_broken_error(
    provider: md.OpenAI, server: OpenAIImages
) -> None:
    server.cut_stream = True
    with pytest.raises(md.StreamBrokenError):
        async with provider.image_model("gpt-image-1").stream("a", previews=2) as stream:
            async for _ in stream:
                pass


async def test_refusals_are_typed_in_replies_and_streams(
    provider: md.OpenAI, server: OpenAIImages
) -> None:
    model = provider.image_model("gpt-image-1")
    with pytest.raises(md.ContentRefusedError):
        await model.generate("a forbidden thing")
    with pytest.raises(md.ContentRefusedError):
        async with model.stream("refused midway", previews=2) as stream:
            async for _ in stream:
                pass
    result = None
    with pytest.raises(md.ContentRefusedError):
        result = await provider.image_model("dall-e-3").generate("a forbidden thing", n=2)
    assert result is None


async def test_a_cancelled_stream_closes_its_connection(
    provider: md.OpenAI, server: OpenAIImages
) -> None:
    server.hold()
    with anyio.move_on_after(10) as scope:
        async with anyio.create_task_group() as group:

            async def follow() -> None:
                async with provider.image_model("gpt-image-1").stream("a", previews=1) as stream:
                    async for _ in stream:
                        pass

            group.start_soon(follow)
            assert await to_thread.run_sync(server.holding, 1)
            group.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert await to_thread.run_sync(server.left, 1)


async def test_leaving_a_stream_early_stops_it(provider: md.OpenAI, server: OpenAIImages) -> None:
    server.hold()
    async with provider.image_model("gpt-image-1").stream("a", previews=3) as stream:
        async for event in stream:
            assert isinstance(event, imagegen.Preview)
            break
    assert await to_thread.run_sync(server.left, 1)
    with pytest.raises(RuntimeError, match="no result yet"):
        _ = stream.result


async def test_a_compatible_server_gets_all_fields(serve: Serve, image: ImageFactory) -> None:
    server = serve(reply_with(http_response(images_reply(image().data))))
    async with md.OpenAICompatible(server.url + "/v1") as provider:
        await provider.image_model("some-model").generate("a", size="123x45", seed=1, quality="odd")
    assert server.requests[0].path == "/v1/images/generations"
    assert server.requests[0].json == {
        "model": "some-model",
        "prompt": "a",
        "size": "123x45",
        "quality": "odd",
        "seed": 1,
        "response_format": "b64_json",
    }


def test_sync_methods_work_like_async_ones(provider: md.OpenAI, server: OpenAIImages) -> None:
    with provider.image_model("gpt-image-1").stream_sync("a red fox", previews=1) as stream:
        assert [type(event).__name__ for event in stream] == ["Preview", "Done"]
    assert len(provider.image_model("dall-e-2").generate_sync("a", n=2).images) == 2


def test_a_missing_key_raises_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(md.ConfigurationError, match="OPENAI_API_KEY"):
        md.OpenAI()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    assert "sk-from" not in repr(md.OpenAI())
