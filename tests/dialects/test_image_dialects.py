"""Requests and replies of the image dialects, byte by byte, and streams in any slicing."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.image_jobs import JobStatus
from majordomo.dialects.openai.image_families import compatible_family, hosted_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.stable_diffusion_cpp.jobs import SdcppJobsCodec, decode_capabilities
from majordomo.errors import MajordomoError
from majordomo.imagegen import Request
from majordomo.settings import Limits
from tests.support.hypothesis_effort import max_examples

LIMITS = Limits()


def png(color: str = "navy") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = md.ImagePart(png())
B64 = base64.b64encode(png()).decode()


def body_bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else b"".join(body.chunks())


SDCPP_REQUESTS: dict[str, tuple[Request, dict[str, Any]]] = {
    "only a prompt": (Request("a"), {"prompt": "a"}),
    "zeros": (
        Request("a", seed=0, cfg_scale=0),
        {"prompt": "a", "seed": 0, "sample_params": {"guidance": {"txt_cfg": 0.0}}},
    ),
    "all": (
        Request(
            "a",
            n=2,
            size="64x48",
            steps=8,
            cfg_scale=4.5,
            negative_prompt="b",
            sampler="dpmpp_2m",
            scheduler="normal",
            seed=7,
            output_format="webp",
        ),
        {
            "prompt": "a",
            "width": 64,
            "height": 48,
            "negative_prompt": "b",
            "seed": 7,
            "batch_count": 2,
            "output_format": "webp",
            "sample_params": {
                "sample_steps": 8,
                "sample_method": "dpm++2m",
                "scheduler": "discrete",
                "guidance": {"txt_cfg": 4.5},
            },
        },
    ),
    "an edit": (
        Request("a", images=(IMAGE, IMAGE), mask=IMAGE, strength=0.5),
        {
            "prompt": "a",
            "width": 8,
            "height": 6,
            "strength": 0.5,
            "init_image": B64,
            "ref_images": [B64],
            "mask_image": B64,
        },
    ),
    "a tag is plain text": (
        Request("<sd_cpp_extra_args>{}</sd_cpp_extra_args>a"),
        {"prompt": "<sd_cpp_extra_args>{}</sd_cpp_extra_args>a"},
    ),
    "extra": (
        Request(
            "a",
            steps=5,
            extra={"sample_params": {"eta": 0.5}, "lora": [{"path": "x", "multiplier": 1}]},
        ),
        {
            "prompt": "a",
            "sample_params": {"sample_steps": 5, "eta": 0.5},
            "lora": [{"path": "x", "multiplier": 1}],
        },
    ),
}


@pytest.mark.parametrize(("request_", "body"), SDCPP_REQUESTS.values(), ids=SDCPP_REQUESTS.keys())
def test_sd_server_job_requests(request_: Request, body: dict[str, Any]) -> None:
    codec = SdcppJobsCodec()
    http_request = codec.encode_request("m", codec.adapt("m", request_)[0])
    assert (http_request.method, http_request.path) == ("POST", "/sdcpp/v1/img_gen")
    assert json.loads(body_bytes(http_request.body)) == body
    assert b"null" not in body_bytes(http_request.body)


STATUS_REPLIES: dict[str, tuple[dict[str, Any], JobStatus | type[MajordomoError]]] = {
    "waiting with a position": ({"status": "queued", "queue_position": 3}, JobStatus(3)),
    "waiting without a position": ({"status": "queued"}, JobStatus(1)),
    "running": ({"status": "generating", "result": None}, JobStatus()),
    "an unknown status": ({"status": "warming"}, JobStatus()),
    "failed": (
        {
            "status": "failed",
            "error": {"code": "generation_failed", "message": "generate_image returned no results"},
        },
        md.BackendError,
    ),
    "failed without a message": ({"status": "failed", "error": None}, md.BackendError),
    "cancelled": ({"status": "cancelled", "error": {"code": "cancelled"}}, md.JobCancelledError),
    "finished without an image": (
        {"status": "completed", "result": {"images": []}},
        md.NoImageError,
    ),
    "finished without a result": ({"status": "completed"}, md.NoImageError),
    "invalid image": (
        {"status": "completed", "result": {"images": [{"b64_json": "aGVsbG8="}]}},
        md.BadResponseError,
    ),
}


@pytest.mark.parametrize(
    ("document", "expected"), STATUS_REPLIES.values(), ids=STATUS_REPLIES.keys()
)
def test_job_status_replies(
    document: dict[str, Any], expected: JobStatus | type[MajordomoError]
) -> None:
    codec = SdcppJobsCodec()
    reply = codec.reply_decoder(LIMITS)
    reply.feed(json.dumps({"id": "job_1", **document}).encode())
    if isinstance(expected, JobStatus):
        assert codec.decode_status(reply, Request("a"), LIMITS) == expected
    else:
        with pytest.raises(expected):
            codec.decode_status(reply, Request("a"), LIMITS)


@given(st.integers(1, 50))
def test_a_finished_job_is_decoded_for_any_chunk_size(chunk_size: int) -> None:
    codec = SdcppJobsCodec()
    reply = codec.reply_decoder(LIMITS)
    raw = json.dumps(
        {
            "status": "completed",
            "result": {"output_format": "png", "images": [{"index": 0, "b64_json": B64}]},
        }
    ).encode()
    for start in range(0, len(raw), chunk_size):
        reply.feed(raw[start : start + chunk_size])
    result = codec.decode_status(reply, Request("a", seed=4), LIMITS).result
    assert result is not None
    assert result.image == IMAGE
    assert result.details[0].seed == 4
    assert B64 not in json.dumps(result.raw)


def test_job_ids_are_percent_encoded_in_paths() -> None:
    codec = SdcppJobsCodec()
    assert codec.encode_poll("../x?y").path == "/sdcpp/v1/jobs/..%2Fx%3Fy"
    assert codec.encode_cancel("j").path == "/sdcpp/v1/jobs/j/cancel"
    for body in (b"{}", b'{"id": 5}', b'{"id": ""}'):
        with pytest.raises(md.BadResponseError):
            codec.decode_job_id(body, LIMITS)


def test_capabilities_give_the_catalog_and_the_model() -> None:
    catalog, info = decode_capabilities(
        b'{"model":{"stem":"sdxl"},"samplers":["euler"],"schedulers":["discrete",5],"loras":[{"name":"x","path":"x.st"}]}',
        LIMITS,
    )
    assert (catalog.samplers, catalog.schedulers, info.id) == (("euler",), ("discrete",), "sdxl")
    assert info.raw["loras"]
    assert decode_capabilities(b"{}", LIMITS)[0].samplers is None


OPENAI_REQUESTS: dict[str, tuple[str, Request, dict[str, Any]]] = {
    "gpt": (
        "gpt-image-1",
        Request(
            "a",
            n=2,
            size="1024x1024",
            quality="low",
            background="opaque",
            output_format="jpeg",
            seed=1,
        ),
        {
            "model": "gpt-image-1",
            "prompt": "a",
            "n": 2,
            "size": "1024x1024",
            "quality": "low",
            "background": "opaque",
            "output_format": "jpeg",
        },
    ),
    "dall-e": (
        "dall-e-3",
        Request("a", quality="hd"),
        {"model": "dall-e-3", "prompt": "a", "quality": "hd", "response_format": "b64_json"},
    ),
    "an unknown model": (
        "gpt-image-9",
        Request("a", size="640x640"),
        {"model": "gpt-image-9", "prompt": "a", "size": "640x640"},
    ),
}


@pytest.mark.parametrize(
    ("model", "request_", "body"), OPENAI_REQUESTS.values(), ids=OPENAI_REQUESTS.keys()
)
def test_openai_image_requests(model: str, request_: Request, body: dict[str, Any]) -> None:
    codec = OpenAIImagesCodec(hosted_family, path="/images", tag=False)
    http_request = codec.encode_request(model, codec.adapt(model, request_)[0])
    assert (http_request.method, http_request.path) == ("POST", "/images/generations")
    assert json.loads(body_bytes(http_request.body)) == body


def test_an_openai_edit_has_the_expected_bytes() -> None:
    codec = OpenAIImagesCodec(hosted_family, path="/images", tag=False)
    request = Request(
        "add a hat",
        images=(IMAGE,),
        mask=IMAGE,
        extra={"input_fidelity": "high", "user_data": {"a": 1}},
    )
    http_request = codec.encode_request("gpt-image-1", request)
    boundary = http_request.content_type.partition("boundary=")[2]
    lines = [
        b'name="model"\r\n\r\ngpt-image-1',
        b'name="prompt"\r\n\r\nadd a hat',
        b'name="input_fidelity"\r\n\r\nhigh',
        b'name="user_data"\r\n\r\n{"a":1}',
        b'name="image"; filename="image0.png"\r\nContent-Type: image/png\r\n\r\n' + IMAGE.data,
        b'name="mask"; filename="mask.png"\r\nContent-Type: image/png\r\n\r\n' + IMAGE.data,
    ]
    parts = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + line + b"\r\n"
        for line in lines
    )
    assert body_bytes(http_request.body) == parts + f"--{boundary}--\r\n".encode()


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


PARTIAL = base64.b64encode(png("red")).decode()
STREAM = (
    event("image_generation.partial_image", b64_json=PARTIAL, partial_image_index=0)
    + b": a comment\n\n"
    + event("image_generation.something_new", b64_json="x")
    + event("image_generation.partial_image", b64_json="broken")
    + event(
        "image_generation.completed", b64_json=B64, usage={"input_tokens": 5, "output_tokens": 9}
    )
    + b"data: [DONE]\n\n"
)


@settings(max_examples=max_examples(40))
@given(st.integers(1, len(STREAM)))
def test_any_slicing_of_a_stream_gives_the_same_result(chunk_size: int) -> None:
    decoder = OpenAIImagesCodec(compatible_family, tag=False).stream_decoder(Request("a"), LIMITS)
    events = [
        event
        for start in range(0, len(STREAM), chunk_size)
        for event in decoder.feed(STREAM[start : start + chunk_size])
    ]
    result = decoder.finish()
    assert events == [imagegen.Preview(md.ImagePart(png("red")), 0)]
    assert result.image == IMAGE
    assert result.usage == imagegen.Usage(5, 9)


@settings(max_examples=max_examples(60))
@given(st.integers(0, len(STREAM)))
# Inside the end marker.
@example(len(STREAM) - 9)
def test_a_truncated_stream_gives_a_result_or_a_typed_error(cut: int) -> None:
    decoder = OpenAIImagesCodec(compatible_family, tag=False).stream_decoder(Request("a"), LIMITS)
    try:
        list(decoder.feed(STREAM[:cut]))
        result = decoder.finish()
    except MajordomoError:
        assert cut < len(STREAM) - len(b"data: [DONE]\n\n")
    else:
        assert result.image == IMAGE


@settings(max_examples=max_examples(60))
@given(st.binary(min_size=1, max_size=4), st.integers(0, len(STREAM) - 1))
def test_a_changed_stream_gives_a_result_or_a_typed_error(change: bytes, start: int) -> None:
    decoder = OpenAIImagesCodec(compatible_family, tag=False).stream_decoder(Request("a"), LIMITS)
    try:
        list(decoder.feed(STREAM[:start] + change + STREAM[start + len(change) :]))
        decoder.finish()
    except MajordomoError:
        pass
