"""fal's dialect: requests, replies, URLs in results, and the model catalog."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo.dialects.errors import error_from_reply
from majordomo.dialects.fal.models import (
    ModelInput,
    decode_model_input,
    decode_models,
    models_path,
    schema_path,
)
from majordomo.dialects.fal.queue import FalQueueCodec
from majordomo.dialects.image_jobs import JobFiles, JobStatus
from majordomo.dialects.result_urls import read_result_url
from majordomo.imagegen import Request
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from tests.servers.fal_models import MODELS
from tests.support.hypothesis_effort import max_examples

LIMITS = Limits()
FLUX, FLUX_EDIT, SDXL = "fal-ai/flux/dev", "fal-ai/flux/dev/image-to-image", "fal-ai/fast-sdxl"
INPAINTING, BANANA = "fal-ai/flux-lora/inpainting", "fal-ai/nano-banana"
BANANA_EDIT = "fal-ai/nano-banana/edit"


def png(size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 1).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE, MASK = md.ImagePart(png()), md.ImagePart(png(mode="L"))
URL, MASK_URL = IMAGE.to_data_url(), MASK.to_data_url()


def catalog_entry(model: str) -> bytes:
    entry = {"endpoint_id": model, "metadata": {}, "openapi": MODELS[model].openapi(model)}
    return json.dumps({"models": [entry], "next_cursor": None, "has_more": False}).encode()


def codec_for(model: str, *, known: bool = True) -> FalQueueCodec:
    """Return the codec of a model, with or without its entry in the catalog."""
    accepted = decode_model_input(catalog_entry(model), LIMITS) if known else None
    return FalQueueCodec(model, accepted)


def sent(codec: FalQueueCodec, request: Request) -> tuple[str, dict[str, Any], list[str | None]]:
    """Return the path and the body of a request, and the fields that have a warning."""
    adapted, warnings = codec.adapt(codec.model, request)
    http_request = codec.encode_request(codec.model, adapted)
    body = http_request.body
    data = body if isinstance(body, bytes) else b"".join(body.chunks())
    assert (http_request.method, http_request.content_type) == ("POST", "application/json")
    return http_request.path, json.loads(data), [warning.field for warning in warnings]


ALL = {
    "n": 2,
    "size": "64x48",
    "steps": 8,
    "cfg_scale": 0.0,
    "negative_prompt": "b",
    "sampler": "euler",
    "scheduler": "karras",
    "seed": 0,
    "output_format": "png",
    "quality": "high",
    "background": "opaque",
    "previews": 2,
}
REQUESTS: dict[str, tuple[str, bool, Request, dict[str, Any], list[str]]] = {
    "only a prompt": (FLUX, True, Request("a"), {"prompt": "a"}, []),
    "all fields, known model": (
        FLUX,
        True,
        Request("a", **ALL),
        {
            "prompt": "a",
            "num_images": 2,
            "image_size": {"width": 64, "height": 48},
            "num_inference_steps": 8,
            "guidance_scale": 0.0,
            "seed": 0,
            "output_format": "png",
        },
        ["sampler", "scheduler", "previews", "negative_prompt", "quality", "background"],
    ),
    "all fields, unknown model": (
        FLUX,
        False,
        Request("a", **ALL),
        {
            "prompt": "a",
            "num_images": 2,
            "image_size": {"width": 64, "height": 48},
            "num_inference_steps": 8,
            "guidance_scale": 0.0,
            "negative_prompt": "b",
            "seed": 0,
            "output_format": "png",
            "quality": "high",
            "background": "opaque",
        },
        ["sampler", "scheduler", "previews"],
    ),
    "another name of the format": (
        SDXL,
        True,
        Request("a", output_format="jpeg"),
        {"prompt": "a", "format": "jpeg"},
        [],
    ),
    "a format that the model lacks": (
        FLUX,
        True,
        Request("a", output_format="webp"),
        {"prompt": "a"},
        ["output_format"],
    ),
    "an aspect becomes a size": (
        FLUX,
        True,
        Request("a", aspect="16:9", megapixels=0.5),
        {"prompt": "a", "image_size": {"width": 944, "height": 528}},
        [],
    ),
    "a size becomes an aspect": (
        BANANA,
        True,
        Request("a", size="1000x560"),
        {"prompt": "a", "aspect_ratio": "16:9"},
        [],
    ),
    "the nearest aspect": (
        BANANA,
        True,
        Request("a", aspect="7:10", megapixels=2),
        {"prompt": "a", "aspect_ratio": "2:3"},
        ["megapixels"],
    ),
    "no size of any kind": (
        "workflows/fal-ai/sdxl-sticker",
        True,
        Request("a", size="64x48", seed=1),
        {"prompt": "a"},
        ["seed", "size"],
    ),
    "one image": (
        FLUX_EDIT,
        True,
        Request("a", images=(IMAGE,), strength=0.5),
        {"prompt": "a", "image_url": URL, "strength": 0.5},
        [],
    ),
    "one image in a list": (
        BANANA_EDIT,
        True,
        Request("a", images=(IMAGE,), strength=0.5),
        {"prompt": "a", "image_urls": [URL]},
        ["strength"],
    ),
    "several images": (
        BANANA_EDIT,
        True,
        Request("a", images=(IMAGE, IMAGE)),
        {"prompt": "a", "image_urls": [URL, URL]},
        [],
    ),
    "one image, unknown model": (
        FLUX,
        False,
        Request("a", images=(IMAGE,), mask=MASK),
        {"prompt": "a", "image_url": URL, "mask_url": MASK_URL},
        [],
    ),
    "several images, unknown model": (
        FLUX,
        False,
        Request("a", images=(IMAGE, IMAGE)),
        {"prompt": "a", "image_urls": [URL, URL]},
        [],
    ),
    "a mask": (
        INPAINTING,
        True,
        Request("a", images=(IMAGE,), mask=MASK),
        {"prompt": "a", "image_url": URL, "mask_url": MASK_URL},
        [],
    ),
    "strength without an image": (
        INPAINTING,
        True,
        Request("a", strength=0.5),
        {"prompt": "a"},
        ["strength"],
    ),
    "extra is merged": (
        FLUX,
        True,
        Request("a", extra={"acceleration": "high", "prompt": "b"}),
        {"prompt": "b", "acceleration": "high"},
        [],
    ),
}


@pytest.mark.parametrize(
    ("model", "known", "request_", "body", "fields"), REQUESTS.values(), ids=REQUESTS.keys()
)
def test_requests(
    model: str, known: bool, request_: Request, body: dict[str, Any], fields: list[str]
) -> None:
    assert sent(codec_for(model, known=known), request_) == (f"/{model}", body, fields)


@pytest.mark.parametrize(
    ("model", "request_", "field"),
    [
        (FLUX, Request("a", images=(IMAGE,)), "images"),
        (FLUX_EDIT, Request("a", images=(IMAGE, IMAGE)), "images"),
        (BANANA_EDIT, Request("a", images=(IMAGE,), mask=MASK), "mask"),
    ],
)
def test_inputs_that_a_model_does_not_take_are_refused(
    model: str, request_: Request, field: str
) -> None:
    with pytest.raises(md.UnsupportedError) as caught:
        codec_for(model).adapt(model, request_)
    assert caught.value.field == field


@pytest.mark.parametrize(("model", "count"), [(FLUX, 1), (FLUX_EDIT, 2)])
def test_input_images_that_a_model_does_not_take_are_not_encoded(model: str, count: int) -> None:
    with pytest.raises(md.UnsupportedError, match="takes") as caught:
        codec_for(model).encode_request(model, Request("a", images=(IMAGE,) * count))
    assert caught.value.field == "images"


@pytest.mark.parametrize(
    "model", ["flux", "fal-ai/", "/flux", "fal-ai//dev", "workflows/fal-ai", "fal-ai/./dev", "/"]
)
def test_an_id_that_is_no_model_id_is_refused(model: str) -> None:
    with pytest.raises(md.InvalidRequestError, match="owner/app") as caught:
        FalQueueCodec(model).adapt(model, Request("a"))
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (FLUX, "/fal-ai/flux/requests/j-1"),
        ("fal-ai/flux", "/fal-ai/flux/requests/j-1"),
        ("workflows/me/flow/v2", "/workflows/me/flow/requests/j-1"),
        ("comfy/me/graph", "/comfy/me/graph/requests/j-1"),
        ("me/a b?c/d", "/me/a%20b%3Fc/requests/j-1"),
    ],
)
def test_the_routes_of_a_request_have_no_path_of_the_endpoint(model: str, path: str) -> None:
    codec = FalQueueCodec(model)
    assert [
        (request.method, request.path, request.body, request.origin)
        for request in (
            codec.encode_poll("j-1"),
            codec.encode_result("j-1"),
            codec.encode_cancel("j-1"),
        )
    ] == [
        ("GET", f"{path}/status", b"", ""),
        ("GET", path, b"", ""),
        ("PUT", f"{path}/cancel", b"", ""),
    ]


@pytest.mark.parametrize(
    "job", [None, "", 7, ".", "..", "a/b", "a?b", "a#b", "a b", "%2e", "a" * 201]
)
def test_an_id_that_is_unsafe_in_a_path_is_refused(job: Any) -> None:
    with pytest.raises(md.BadResponseError):
        FalQueueCodec(FLUX).decode_job_id(json.dumps({"request_id": job}).encode(), LIMITS)


def test_the_urls_of_the_reply_are_not_followed() -> None:
    reply = {
        "request_id": "80e732af-660e-45cd-bd63-580e4f2a94cc",
        "response_url": "https://evil.test/",
        "status_url": "https://evil.test/status",
        "cancel_url": "https://evil.test/cancel",
    }
    codec = FalQueueCodec(FLUX)
    job = codec.decode_job_id(json.dumps(reply).encode(), LIMITS)
    for request in (codec.encode_poll(job), codec.encode_result(job), codec.encode_cancel(job)):
        assert request.path.startswith(f"/fal-ai/flux/requests/{reply['request_id']}")


STATUSES: dict[str, tuple[dict[str, Any], JobStatus]] = {
    "next": ({"status": "IN_QUEUE", "queue_position": 0}, JobStatus(1)),
    "queued": ({"status": "IN_QUEUE", "queue_position": 4, "logs": None}, JobStatus(5)),
    "queued, no position": ({"status": "IN_QUEUE"}, JobStatus(1)),
    "queued, absurd position": ({"status": "IN_QUEUE", "queue_position": 10**30}, JobStatus(1)),
    "running": ({"status": "IN_PROGRESS", "logs": [{"message": "x"}]}, JobStatus()),
    "completed": ({"status": "COMPLETED", "metrics": {}}, JobStatus(ended=True)),
    "failed": (
        {"status": "COMPLETED", "error": "x", "error_type": "runner_server_error"},
        JobStatus(ended=True),
    ),
}


@pytest.mark.parametrize("chunk_size", [1, 7, 10_000])
@pytest.mark.parametrize(("document", "status"), STATUSES.values(), ids=STATUSES.keys())
def test_statuses_in_any_slicing(
    document: dict[str, Any], status: JobStatus, chunk_size: int
) -> None:
    codec, body = FalQueueCodec(FLUX), json.dumps(document).encode()
    reply = codec.reply_decoder(LIMITS)
    for start in range(0, len(body), chunk_size):
        reply.feed(body[start : start + chunk_size])
    assert codec.decode_status(reply, Request("a"), LIMITS) == status


@pytest.mark.parametrize("document", [{}, {"status": "FAILED"}, {"status": 1}, {"status": None}])
def test_an_unknown_status_is_an_error(document: dict[str, Any]) -> None:
    codec = FalQueueCodec(FLUX)
    reply = codec.reply_decoder(LIMITS)
    reply.feed(json.dumps(document).encode())
    with pytest.raises(md.BadResponseError, match="status"):
        codec.decode_status(reply, Request("a"), LIMITS)


def test_a_status_beyond_the_limit_is_an_error() -> None:
    reply = FalQueueCodec(FLUX).reply_decoder(Limits(max_reply_bytes=10))
    with pytest.raises(md.BadResponseError, match="larger"):
        reply.feed(b"x" * 11)


# Results

FILE = "https://v3.fal.media/files/a/b.png"
RESULT = {
    "images": [
        {"url": f"{FILE}?sig=secret", "width": 8, "height": 6, "content_type": "image/jpeg"},
        {"url": URL},
    ],
    "timings": {"inference": 1.5},
    "seed": 9,
    "has_nsfw_concepts": [False, False],
    "prompt": "a red fox",
}


def files_of(document: Any, request: Request | None = None, limits: Limits = LIMITS) -> JobFiles:
    return FalQueueCodec(FLUX).decode_files(
        json.dumps(document).encode(), request or Request("a red fox"), limits
    )


def test_a_result_names_requests_and_images() -> None:
    files = files_of(RESULT)
    assert files.images == (
        HTTPRequest(
            "GET",
            "/files/a/b.png?sig=secret",
            accept="image/*",
            from_origin=True,
            origin="https://v3.fal.media",
        ),
        IMAGE,
    )
    text = json.dumps(files.raw)
    assert "secret" not in text
    assert IMAGE.to_base64() not in text
    assert files.raw["images"][0]["url"] == FILE
    assert files.raw["timings"] == RESULT["timings"]


def test_a_result_is_completed_from_its_images() -> None:
    codec = FalQueueCodec(FLUX)
    result = codec.decode_result([IMAGE, IMAGE], files_of(RESULT), Request("a fox", seed=1))
    assert result.images == (IMAGE, IMAGE)
    assert [detail.seed for detail in result.details] == [9, 9]
    assert [detail.revised_prompt for detail in result.details] == ["a red fox", "a red fox"]
    assert result.usage.seconds == 1.5
    result = codec.decode_result([IMAGE], files_of(RESULT), Request("a red fox"))
    assert result.details[0].revised_prompt is None
    result = codec.decode_result([IMAGE], files_of({"images": [FILE]}), Request("a", seed=1))
    assert (result.details[0].seed, result.details[0].revised_prompt) == (1, None)
    assert result.usage.seconds is None


@pytest.mark.parametrize(
    "document",
    [
        {"images": [{"url": FILE}]},
        {"images": [FILE]},
        {"image": {"url": FILE}},
        {"images": None, "image": {"url": FILE}},
        {"images": [{"url": FILE}], "has_nsfw_concepts": [None]},
        {"images": [{"url": FILE}], "has_nsfw_concepts": "true"},
        {"images": [{"url": FILE}], "has_nsfw_concepts": []},
        {"images": [{"url": FILE}], "seed": True, "timings": [], "prompt": 5},
    ],
)
def test_results_of_other_shapes(document: dict[str, Any]) -> None:
    files = files_of(document)
    assert [getattr(image, "path", None) for image in files.images] == ["/files/a/b.png"]
    result = FalQueueCodec(FLUX).decode_result([IMAGE], files, Request("a"))
    assert (result.details[0].seed, result.usage.seconds) == (None, None)


@pytest.mark.parametrize(
    "document", [{}, {"images": []}, {"images": {}}, {"image": "x"}, {"video": {"url": FILE}}]
)
def test_a_result_without_an_image_is_an_error(document: dict[str, Any]) -> None:
    with pytest.raises(md.NoImageError):
        files_of(document)


def test_flagged_images_are_left_out() -> None:
    document = {
        "images": [{"url": f"{FILE}?{index}"} for index in range(3)],
        "has_nsfw_concepts": [True, False, True],
    }
    files = files_of(document)
    assert [image.path for image in files.images] == ["/files/a/b.png?1"]  # type: ignore[union-attr]
    assert [warning.code for warning in files.warnings] == ["IMAGE_REFUSED"]
    unchecked = Request("a", extra={"enable_safety_checker": False})
    assert len(files_of(document, unchecked).images) == 3


def test_a_result_of_flagged_images_only_is_a_refusal() -> None:
    with pytest.raises(md.ContentRefusedError):
        files_of({"images": [{"url": FILE}], "has_nsfw_concepts": [True]})


def test_no_more_images_are_named_than_the_limit_allows() -> None:
    files = files_of({"images": [FILE] * 1000})
    assert len(files.images) == LIMITS.max_images
    assert [warning.code for warning in files.warnings] == ["IMAGES_NOT_FETCHED"]


# URLs in results

PLAIN_URLS = {
    "https://fal.media": ("https://fal.media", "/"),
    "https://fal.media/": ("https://fal.media", "/"),
    "HTTPS://V3.FAL.Media/A?b=C&d=%2F": ("https://v3.fal.media", "/A?b=C&d=%2F"),
    "https://fal.media:8443/a": ("https://fal.media:8443", "/a"),
    "http://fal.media/a": ("http://fal.media", "/a"),
    "https://fal.media/a#b?c": ("https://fal.media", "/a"),
    "https://fal.media//evil.test/a": ("https://fal.media", "//evil.test/a"),
    "https://fal.media/@evil.test": ("https://fal.media", "/@evil.test"),
    "https://fal.media/../../etc": ("https://fal.media", "/../../etc"),
    "https://127.0.0.1/a": ("https://127.0.0.1", "/a"),
}
OTHER_URLS: list[Any] = [
    None,
    7,
    "",
    {"url": FILE},
    "https://",
    "https:///a",
    "https://fal.media@evil.test/a",
    "https://user:password@fal.media/a",
    "https://fal.media:pass@evil.test/",
    "https://fal.media\\@evil.test/a",
    "https://fal.media\\.evil.test/a",
    "https:\\\\fal.media/a",
    "https:/fal.media/a",
    "https:fal.media/a",
    "//fal.media/a",
    "/a",
    "fal.media/a",
    "file:///etc/passwd",
    "ftp://fal.media/a",
    "javascript:alert(1)",
    "https://fal.media./a",
    "https://-fal.media/a",
    "https://fal_media/a",
    "https://f%61l.media/a",
    "https://f\u0430l.media/a",
    "https://fal\u3002media/a",
    "https://\uff46al.media/a",
    "https://fal.media/\u00e9",
    "https://fal.media/a b",
    "https://fal.media/a\r\nHost: evil.test",
    "https://fal.media/a\x00",
    " https://fal.media/a",
    "https://fal.media/a\n",
    "https://fal.media?a",
    "https://fal.media:/a",
    "https://fal.media:123456/a",
    "https://[::1]/a",
    "https://fal.media/" + "a" * 8000,
    "data:image/png,abc",
    "data:,abc",
    "data:",
]


@pytest.mark.parametrize("url", PLAIN_URLS)
def test_a_plain_url_becomes_a_request(url: str) -> None:
    request = read_result_url(url, LIMITS)
    assert isinstance(request, HTTPRequest)
    assert (request.origin, request.path) == PLAIN_URLS[url]
    assert (request.method, request.body, request.from_origin) == ("GET", b"", True)


@pytest.mark.parametrize("url", OTHER_URLS, ids=ascii)
def test_any_other_url_is_refused_and_not_shown(url: Any) -> None:
    with pytest.raises(md.BadResponseError) as caught:
        read_result_url(url, LIMITS)
    assert caught.value.code == "BAD_URL"
    assert "evil" not in repr(caught.value.to_dict())


@given(st.text(max_size=40), st.sampled_from(["", "https://", "https://fal.media", "data:"]))
@settings(max_examples=max_examples(1000), deadline=None)
def test_any_text_is_a_plain_request_or_a_typed_error(text: str, beginning: str) -> None:
    try:
        request = read_result_url(beginning + text, LIMITS)
    except md.BadResponseError:
        return
    assert isinstance(request, HTTPRequest)
    scheme, _, host = request.origin.partition("://")
    assert scheme in ("http", "https")
    assert host.isascii()
    assert not set(host) & set("@/\\?#% \t\r\n*_")
    assert request.path.startswith("/")
    assert request.path.isascii()
    assert request.path.isprintable()
    assert " " not in request.path


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,aGVsbG8=", "NOT_AN_IMAGE"),
        ("data:image/png;base64,%%%", "NOT_AN_IMAGE"),
        ("data:image/png;base64," + base64.b64encode(png()[:-20]).decode(), "IMAGE_TRUNCATED"),
        ("data:image/png;base64," + "A" * 2000, "IMAGE_TOO_LARGE"),
    ],
)
def test_an_unusable_image_in_a_data_url_is_a_typed_error(url: str, code: str) -> None:
    with pytest.raises(md.BadResponseError) as caught:
        read_result_url(url, Limits(max_image_bytes=1000))
    assert caught.value.code == code


# Any bytes

RAW = json.dumps(RESULT).encode()


@given(st.integers(0, len(RAW)))
@settings(max_examples=max_examples(200), deadline=None)
def test_a_truncated_result_is_a_typed_error(cut: int) -> None:
    try:
        files = FalQueueCodec(FLUX).decode_files(RAW[:cut], Request("a"), LIMITS)
    except md.MajordomoError:
        return
    assert files == files_of(RESULT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "images",
                    "image",
                    "url",
                    "seed",
                    "has_nsfw_concepts",
                    "prompt",
                    "timings",
                    "inference",
                    "status",
                    "queue_position",
                    "request_id",
                    "models",
                    "openapi",
                    "endpoint_id",
                    "metadata",
                    "category",
                    "paths",
                    "post",
                    "schema",
                    "$ref",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
@settings(max_examples=max_examples(500), deadline=None)
def test_any_document_gives_a_value_or_a_typed_error(document: Any) -> None:
    codec, body, request = FalQueueCodec(FLUX), json.dumps(document).encode(), Request("a")

    def status() -> JobStatus:
        reply = codec.reply_decoder(LIMITS)
        reply.feed(body)
        return codec.decode_status(reply, request, LIMITS)

    def result() -> None:
        files = codec.decode_files(body, request, LIMITS)
        json.dumps(codec.decode_result([IMAGE], files, request).raw)

    for decode in (
        status,
        result,
        lambda: codec.decode_job_id(body, LIMITS),
        lambda: decode_models(body, LIMITS),
        lambda: decode_model_input(body, LIMITS),
    ):
        try:
            decode()
        except md.MajordomoError:
            continue


# Errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "message"),
    [
        (
            422,
            {
                "detail": [
                    {"loc": ["body", "prompt"], "msg": "x", "type": "content_policy_violation"}
                ]
            },
            md.ContentRefusedError,
            "content_policy_violation",
            "body.prompt: x",
        ),
        (
            422,
            {
                "detail": [
                    {"loc": ["body", "seed"], "msg": "y", "type": "integer_type", "input": "s"}
                ]
            },
            md.InvalidRequestError,
            "integer_type",
            "body.seed: y",
        ),
        (
            504,
            {"detail": "Request timed out", "error_type": "request_timeout"},
            md.BackendError,
            "request_timeout",
            "Request timed out",
        ),
        (
            503,
            {"detail": "no runner", "error_type": "runner_scheduling_failure"},
            md.OverloadedError,
            "runner_scheduling_failure",
            "no runner",
        ),
        (
            499,
            {"detail": "Request was cancelled", "error_type": "client_cancelled"},
            md.JobCancelledError,
            "client_cancelled",
            "Request was cancelled",
        ),
        (
            403,
            {"detail": "User is locked. Reason: Exhausted balance."},
            md.PermissionDeniedError,
            None,
            "Exhausted balance",
        ),
        (401, {"detail": "no key"}, md.AuthenticationError, None, "no key"),
    ],
)
def test_error_bodies(
    status: int, body: dict[str, Any], kind: type[Exception], code: str | None, message: str
) -> None:
    error = error_from_reply(status, {"x-fal-request-id": "j-1"}, json.dumps(body).encode())
    assert type(error) is kind
    assert message in error.message
    assert error.details.get("backend_code") == code
    assert error.details["request_id"] == "j-1"


@pytest.mark.parametrize(("header", "retryable"), [("true", True), ("False", False), ("x", True)])
def test_the_header_says_whether_an_error_is_retryable(header: str, retryable: bool) -> None:
    error = error_from_reply(500, {"x-fal-retryable": header}, b"")
    assert error.retryable is retryable


# The catalog


def test_the_fields_of_a_model_are_those_of_its_openapi_document() -> None:
    accepted = decode_model_input(catalog_entry(FLUX), LIMITS)
    assert accepted is not None
    assert accepted.names == set(MODELS[FLUX].fields)
    assert accepted.max_images == 4
    assert accepted.choices == {
        "output_format": ("jpeg", "png"),
        "acceleration": ("none", "regular", "high"),
    }


@pytest.mark.parametrize(
    "openapi",
    [
        None,
        {},
        {"paths": {}},
        {"paths": {"/a": {"get": {}}}},
        {"paths": {"/a": {"post": {"requestBody": {"content": {}}}}}},
        {
            "paths": {
                "/a": {
                    "post": {
                        "requestBody": {
                            "content": {"application/json": {"schema": {"properties": {}}}}
                        }
                    }
                }
            }
        },
        {
            "paths": {
                "/a": {
                    "post": {
                        "requestBody": {
                            "content": {
                                "application/json": {
                                    "schema": {"$ref": "#/components/schemas/None"}
                                }
                            }
                        }
                    }
                }
            }
        },
    ],
)
def test_a_document_without_the_fields_says_nothing(openapi: Any) -> None:
    page = {"models": [{"endpoint_id": FLUX, "openapi": openapi}]}
    assert decode_model_input(json.dumps(page).encode(), LIMITS) is None
    assert decode_model_input(b'{"models": []}', LIMITS) is None


def test_an_inline_schema_is_read_too() -> None:
    schema = {"properties": {"prompt": {}, "num_images": {"maximum": True}}}
    content = {"application/json": {"schema": schema}}
    openapi = {"paths": {"/a": {"post": {"requestBody": {"content": content}}}}}
    page = {"models": [{"endpoint_id": FLUX, "openapi": openapi}]}
    assert decode_model_input(json.dumps(page).encode(), LIMITS) == ModelInput(
        frozenset({"prompt", "num_images"})
    )


@pytest.mark.parametrize(
    ("model", "known", "count"),
    [(FLUX, True, 4), (FLUX, False, 4), ("workflows/fal-ai/sdxl-sticker", True, 1)],
)
def test_the_number_of_images_per_request(model: str, known: bool, count: int) -> None:
    assert codec_for(model, known=known).max_per_call(model, Request("a")) == count


@pytest.mark.parametrize("values", [["a", 1], ["a"] * 51, ["a" * 51], {"a": 1}, None])
def test_choices_that_are_no_short_list_of_texts_are_ignored(values: Any) -> None:
    schema = {"properties": {"prompt": {}, "quality": {"enum": values}}}
    content = {"application/json": {"schema": schema}}
    openapi = {"paths": {"/a": {"post": {"requestBody": {"content": content}}}}}
    page = {"models": [{"endpoint_id": FLUX, "openapi": openapi}]}
    accepted = decode_model_input(json.dumps(page).encode(), LIMITS)
    assert accepted is not None
    assert accepted.choices == {}


def test_a_model_without_a_prompt_is_sent_none() -> None:
    codec = FalQueueCodec(FLUX, ModelInput(frozenset({"image_url"})))
    _, body, fields = sent(codec, Request("a", images=(IMAGE,)))
    assert (body, fields) == ({"image_url": URL}, ["prompt"])


@pytest.mark.parametrize("name", ["image_urls", "input_image_urls", "reference_image_urls"])
def test_other_names_of_a_list_of_images(name: str) -> None:
    codec = FalQueueCodec(FLUX, ModelInput(frozenset({"prompt", name})))
    for images in ((IMAGE,), (IMAGE, IMAGE)):
        assert sent(codec, Request("a", images=images))[1] == {
            "prompt": "a",
            name: [URL] * len(images),
        }


def test_pages_of_the_catalog() -> None:
    page = {
        "models": [
            {
                "endpoint_id": FLUX,
                "metadata": {"category": "text-to-image", "description": "Fast."},
            },
            {"endpoint_id": FLUX_EDIT, "metadata": {"category": "image-to-image"}},
            {"endpoint_id": "x/video", "metadata": {"category": ["unhashable"]}},
            {"endpoint_id": 7},
            "x",
        ],
        "next_cursor": "Mg==",
        "has_more": True,
    }
    models, cursor = decode_models(json.dumps(page).encode(), LIMITS)
    assert [(model.id, model.capabilities, model.description) for model in models] == [
        (FLUX, {"image"}, "Fast."),
        (FLUX_EDIT, {"edit"}, ""),
        ("x/video", frozenset(), ""),
    ]
    assert cursor == "Mg=="
    assert decode_models(b'{"models": [], "next_cursor": null}', LIMITS) == ([], "")
    with pytest.raises(md.BadResponseError, match="models"):
        decode_models(b'{"models": {}}', LIMITS)


def test_paths_of_the_catalog() -> None:
    assert models_path("text-to-image", "M=") == (
        "/v1/models?category=text-to-image&status=active&limit=100&cursor=M%3D"
    )
    assert schema_path("me/a b&c") == "/v1/models?endpoint_id=me%2Fa%20b%26c&expand=openapi-3.0"
