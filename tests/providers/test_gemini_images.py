"""Gemini's images against a server that refuses everything invalid for a model."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio import to_thread

import majordomo as md
from tests.servers.gemini import MODELS, Gemini, Model, color, pixels
from tests.servers.hashed_images import fingerprint
from tests.support.loopback import Handler, Loopback
from tests.support.sample_images import rgb_pixel

Serve = Callable[[Handler], Loopback]
Image = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio
QUICK = md.Retries(attempts=1)
FLASH = "gemini-2.5-flash-image"
PRO = "gemini-3-pro-image-preview"
NEWEST = "gemini-3.1-flash-image-preview"
IMAGE_MODELS = [name for name, model in MODELS.items() if model.ratios]


@pytest.fixture
def server() -> Iterator[Gemini]:
    server = Gemini()
    yield server
    server.release()


@pytest.fixture
def loopback(server: Gemini, serve: Serve) -> Loopback:
    return serve(server)


@pytest.fixture
def provider(loopback: Loopback) -> Iterator[md.Gemini]:
    with md.Gemini("k", base_url=loopback.url + "/v1beta", retries=QUICK) as provider:
        yield provider


def requested_shape(server: Gemini) -> tuple[str, str]:
    return server.jobs[-1]["aspectRatio"], server.jobs[-1]["imageSize"]


EVERYTHING: dict[str, dict[str, Any]] = {
    "n": {"n": 3},
    "an odd size": {"size": "640x360"},
    "a long size": {"size": "100x3000"},
    "shape": {"aspect": "16:9"},
    "a shape of none": {"aspect": "16:1"},
    "area": {"megapixels": 0.3},
    "both": {"aspect": "1:1", "megapixels": 12},
    "steps": {"steps": 9},
    "cfg": {"cfg_scale": 0.0},
    "negative": {"negative_prompt": "rain"},
    "sampler": {"sampler": "euler", "scheduler": "karras"},
    "seed": {"seed": 0},
    "a large seed": {"seed": 2**31},
    "strength": {"strength": 0.5},
    "png": {"output_format": "png"},
    "quality": {"quality": "high"},
    "background": {"background": "transparent"},
    "previews": {"previews": 9},
}


@pytest.mark.parametrize("model", IMAGE_MODELS)
@pytest.mark.parametrize("fields", EVERYTHING.values(), ids=EVERYTHING.keys())
@pytest.mark.slow
async def test_only_supported_fields_are_sent_and_others_are_warnings(
    provider: md.Gemini, server: Gemini, model: str, fields: dict[str, Any]
) -> None:
    result = await provider.image_model(model).generate("a red fox", **fields)
    assert len(result.images) == fields.get("n", 1)
    warned = {warning.field for warning in result.warnings}
    for name, value in fields.items():
        honored = (
            name == "n"
            or server.jobs[-1].get(name) == value
            or (name == "aspect" and server.jobs[-1]["aspectRatio"] == value)
            or (name == "megapixels" and MODELS[model].sizes)
        )
        assert honored or name in warned, f"{name} was lost silently"


RATIOS: list[tuple[str, dict[str, Any], tuple[str, str], set[str | None]]] = [
    (FLASH, {}, ("1:1", "1K"), set()),
    (FLASH, {"aspect": "21:9"}, ("21:9", "1K"), set()),
    (FLASH, {"aspect": "1.78:1"}, ("16:9", "1K"), set()),
    (FLASH, {"aspect": "1:4"}, ("9:16", "1K"), {"aspect"}),
    (FLASH, {"size": "1024x1024"}, ("1:1", "1K"), set()),
    (FLASH, {"size": "1200x800"}, ("3:2", "1K"), {"size"}),
    (FLASH, {"size": "4096x4096"}, ("1:1", "1K"), {"size"}),
    (FLASH, {"megapixels": 4}, ("1:1", "1K"), {"megapixels"}),
    (PRO, {"size": "2048x2048"}, ("1:1", "2K"), set()),
    (PRO, {"aspect": "1:4"}, ("9:16", "1K"), {"aspect"}),
    (PRO, {"aspect": "9:16", "megapixels": 3.5}, ("9:16", "2K"), set()),
    (NEWEST, {"aspect": "1:8"}, ("1:8", "1K"), set()),
    (NEWEST, {"aspect": "4:1"}, ("4:1", "1K"), set()),
]


@pytest.mark.parametrize(("model", "fields", "expected", "warned"), RATIOS)
async def test_aspect_and_megapixels_select_a_supported_size(
    provider: md.Gemini,
    server: Gemini,
    model: str,
    fields: dict[str, Any],
    expected: tuple[str, str],
    warned: set[str | None],
) -> None:
    result = await provider.image_model(model).generate("a red fox", **fields)
    assert requested_shape(server) == expected
    assert {warning.field for warning in result.warnings} == warned
    detail = result.details[0]
    assert detail.actual_size == (result.image.width, result.image.height) == pixels(*expected)
    assert detail.sent_size is None, "no pixels are sent"
    assert detail.requested_size == (
        tuple(map(int, fields["size"].split("x"))) if "size" in fields else None
    )


async def test_the_reply_is_decoded_completely(provider: md.Gemini, server: Gemini) -> None:
    server.drafts = 1
    result = await provider.image_model(PRO).generate("a red fox", seed=7)
    assert rgb_pixel(result.image) == color({"model": PRO, "prompt": "a red fox", "seed": 7})
    assert len(result.images) == 1, "a draft is none of the images"
    assert result.details[0].seed == 7
    assert result.details[0].settings["thoughtSignature"]
    assert (result.usage.input_tokens, result.usage.output_tokens) == (3, 1290 + 4 + 1290 + 2)
    assert len(json.dumps(result.raw)) < 2000, "no image's bytes, drafts included"
    assert result.warnings == ()
    assert (result.provider, result.model) == ("gemini", PRO)


@pytest.mark.parametrize("model", IMAGE_MODELS)
async def test_image_to_image(
    provider: md.Gemini, server: Gemini, image: Image, loopback: Loopback, model: str
) -> None:
    input_images = [
        image(64, 48, "red"),
        image(32, 32, "blue", "JPEG"),
        image(16, 16, "green", "WEBP"),
    ]
    result = await provider.image_model(model).generate("a hat", images=input_images, seed=1)
    names = [fingerprint(image.data) for image in input_images]
    assert server.jobs[0]["images"] == names
    assert requested_shape(server)[0] == "4:3", "the first image decides the shape"
    assert rgb_pixel(result.image) == color(
        {"model": model, "prompt": "a hat", "seed": 1, "aspectRatio": "4:3", "images": names}
    )
    parts = loopback.requests[0].json["contents"][0]["parts"]
    assert [next(iter(part)) for part in parts] == [
        "text",
        "inlineData",
        "inlineData",
        "inlineData",
    ]


async def test_a_generated_image_can_be_edited(provider: md.Gemini, server: Gemini) -> None:
    model = provider.image_model(PRO)
    first = await model.generate("a red fox")
    await model.generate("with a hat", images=[first.image])
    assert server.jobs[1]["images"] == [fingerprint(first.image.data)]


async def test_several_images_are_several_calls(provider: md.Gemini, server: Gemini) -> None:
    result = await provider.image_model(FLASH).generate("a red fox", n=2, seed=5)
    assert sorted(job["seed"] for job in server.jobs) == [5, 6]
    assert [detail.seed for detail in result.details] == [5, 6]
    assert [rgb_pixel(image) for image in result.images] == [
        color({"prompt": "a red fox", "seed": seed}) for seed in (5, 6)
    ]
    assert result.usage.input_tokens == 6


@pytest.mark.parametrize(
    ("seed", "n", "sent"),
    [(0, 1, True), (2**31 - 1, 1, True), (2**31 - 1, 2, False), (2**31, 1, False)],
)
async def test_a_seed_is_sent_or_gives_a_warning(
    provider: md.Gemini, loopback: Loopback, seed: int, n: int, sent: bool
) -> None:
    result = await provider.image_model(FLASH).generate("a", seed=seed, n=n)
    assert [request.json["generationConfig"].get("seed") for request in loopback.requests] == [
        seed if sent else None
    ] * n
    assert [warning.field for warning in result.warnings] == ([] if sent else ["seed"])
    assert result.details[0].seed == (seed if sent else None)


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "OTHER"])
async def test_a_refused_prompt_raises_content_refused_error(
    provider: md.Gemini, server: Gemini, reason: str
) -> None:
    server.blocked = reason
    with pytest.raises(md.ContentRefusedError, match=reason) as caught:
        await provider.image_model(FLASH).generate("a")
    assert caught.value.details["reason"] == reason
    assert not caught.value.retryable


REFUSING = [
    "SAFETY",
    "PROHIBITED_CONTENT",
    "BLOCKLIST",
    "SPII",
    "RECITATION",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
]


@pytest.mark.parametrize("reason", REFUSING)
async def test_a_refused_image_raises_content_refused_error(
    provider: md.Gemini, server: Gemini, reason: str
) -> None:
    server.finish = reason
    with pytest.raises(md.ContentRefusedError) as caught:
        await provider.image_model(FLASH).generate("a")
    assert caught.value.details == {
        "reason": reason,
        "message": "Unable to show the generated image.",
    }


@pytest.mark.parametrize("reason", ["NO_IMAGE", "IMAGE_OTHER", "MAX_TOKENS"])
async def test_a_reply_without_an_image_raises_no_image_error(
    provider: md.Gemini, server: Gemini, reason: str
) -> None:
    server.finish = reason
    with pytest.raises(md.NoImageError, match=reason) as caught:
        await provider.image_model(FLASH).generate("a")
    assert caught.value.details == {"reason": reason}


async def test_a_text_reply_raises_no_image_error(provider: md.Gemini, server: Gemini) -> None:
    server.only_words = "I would rather\ntalk. " + "x" * 5000
    with pytest.raises(md.NoImageError, match="I would rather talk") as caught:
        await provider.image_model(FLASH).generate("a")
    assert caught.value.details == {"reason": "STOP", "text": server.only_words[:2000]}


FAILURES = {
    "INVALID_ARGUMENT": md.InvalidRequestError,
    "FAILED_PRECONDITION": md.InvalidRequestError,
    "PERMISSION_DENIED": md.PermissionDeniedError,
    "NOT_FOUND": md.NotFoundError,
    "INTERNAL": md.BackendError,
    "UNAVAILABLE": md.OverloadedError,
    "DEADLINE_EXCEEDED": md.BackendError,
}


@pytest.mark.parametrize("status", FAILURES)
async def test_failures_are_typed(provider: md.Gemini, server: Gemini, status: str) -> None:
    server.failures = [status]
    with pytest.raises(FAILURES[status]) as caught:
        await provider.image_model(FLASH).generate("a")
    assert caught.value.details["backend_code"] == status


async def test_retry_info_is_read(provider: md.Gemini, server: Gemini) -> None:
    server.failures = ["RESOURCE_EXHAUSTED"]
    with pytest.raises(md.RateLimitError) as caught:
        await provider.image_model(FLASH).generate("a")
    assert caught.value.retry_after == 34


async def test_retry_info_is_honored(loopback: Loopback, server: Gemini) -> None:
    server.failures, server.retry_delay = ["RESOURCE_EXHAUSTED"], "0.2s"
    async with md.Gemini("k", base_url=loopback.url + "/v1beta") as provider:
        started_at = anyio.current_time()
        await provider.image_model(FLASH).generate("a")
    assert anyio.current_time() - started_at >= 0.2
    assert len(loopback.requests) == 2


async def test_an_unknown_model_raises_not_found_error(
    provider: md.Gemini, loopback: Loopback
) -> None:
    with pytest.raises(md.NotFoundError):
        await provider.image_model("a/b c?d#e").generate("a")
    assert loopback.requests[0].path == "/v1beta/models/a%2Fb%20c%3Fd%23e:generateContent"


SECRET = "AIza+not/a-real=key"


async def test_a_wrong_key_raises_authentication_error_and_is_redacted(loopback: Loopback) -> None:
    async with md.Gemini(SECRET, base_url=loopback.url + "/v1beta") as provider:
        with pytest.raises(md.AuthenticationError) as caught:
            await provider.image_model(FLASH).generate("a")
        health = await provider.health()
        with pytest.raises(md.AuthenticationError):
            await provider.models()
    assert caught.value.status == 400
    assert not health.ok
    assert all(request.headers["x-goog-api-key"] == SECRET for request in loopback.requests)
    assert all(
        "authorization" not in request.headers and SECRET not in request.path
        for request in loopback.requests
    )
    error = caught.value
    text = (
        repr(provider)
        + repr(error)
        + json.dumps(error.to_dict())
        + health.message
        + "".join(traceback.format_exception(error))
    )
    assert SECRET not in text
    assert SECRET.encode() not in pickle.dumps(error)


def test_a_missing_key_raises_configuration_error(
    monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(md.ConfigurationError, match="GEMINI_API_KEY"):
        md.Gemini()
    for key in ("ä", "a\r\nb"):
        with pytest.raises(md.ConfigurationError):
            md.Gemini(key)
    server = serve(Gemini())
    expected = []
    for name, value in (("GOOGLE_API_KEY", "second"), ("GEMINI_API_KEY", "first")):
        monkeypatch.setenv(name, value)
        expected.append(value)
        with md.Gemini(base_url=server.url + "/v1beta") as provider:
            provider.health_sync()
            assert value not in repr(provider)
    assert [request.headers["x-goog-api-key"] for request in server.requests] == expected


async def test_imagen_models_raise_unsupported_error(
    provider: md.Gemini, loopback: Loopback
) -> None:
    with pytest.raises(md.UnsupportedError, match="Google has shut Imagen down"):
        await provider.image_model("imagen-4.0-generate-001").generate("a")
    assert loopback.requests == []


async def test_a_mask_is_refused(provider: md.Gemini, loopback: Loopback, image: Image) -> None:
    with pytest.raises(md.UnsupportedError) as caught:
        await provider.image_model(FLASH).generate("a", images=[image()], mask=image())
    assert caught.value.field == "mask"
    assert loopback.requests == []


async def test_strict_refuses_an_unsupported_field(loopback: Loopback) -> None:
    async with md.Gemini("k", base_url=loopback.url + "/v1beta", strict=True) as provider:
        with pytest.raises(md.UnsupportedError) as caught:
            await provider.image_model(FLASH).generate("a", steps=20)
    assert caught.value.field == "steps"
    assert loopback.requests == []


async def test_models_are_listed_from_all_pages(
    provider: md.Gemini, server: Gemini, loopback: Loopback
) -> None:
    server.models |= {f"other-{number}": Model() for number in range(1500)} | {
        "imagen-4.0": Model()
    }
    models = await provider.models()
    assert [model.id for model in models] == list(server.models)
    assert {model.id for model in models if "image" in model.capabilities} == set(IMAGE_MODELS)
    assert len(loopback.requests) == 2
    assert (await provider.health()).ok


async def test_cancelling_closes_the_connection(provider: md.Gemini, server: Gemini) -> None:
    server.hold()
    async with anyio.create_task_group() as group:
        group.start_soon(provider.image_model(FLASH).generate, "a")
        assert await to_thread.run_sync(server.holding, 1)
        group.cancel_scope.cancel()
    assert await to_thread.run_sync(server.left, 1)


def test_sync_methods_work_like_async_ones(
    provider: md.Gemini, server: Gemini, image: Image
) -> None:
    result = provider.image_model(FLASH).generate_sync("a red fox", n=2, images=[image()])
    assert (len(result.images), len(server.jobs)) == (2, 2)
    with provider.image_model(FLASH).stream_sync("a red fox", seed=7) as stream:
        assert [type(event).__name__ for event in stream] == ["Done"]
    assert rgb_pixel(stream.result.image) == color({"prompt": "a red fox", "seed": 7})
    assert provider.models_sync()
