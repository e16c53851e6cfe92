"""Requests and answers of the image dialects, byte by byte, both ways; and streams in any slicing."""

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
from tests.support.hypothesis_effort import tries

LIMITS = Limits()


def png(color: str = "navy") -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(held, "PNG")
    return held.getvalue()


IMAGE = md.ImagePart(png())
B64 = base64.b64encode(png()).decode()


def sent(body: Any) -> bytes:
    return body if isinstance(body, bytes) else b"".join(body.chunks())


NATIVE: dict[str, tuple[Request, dict[str, Any]]] = {
    "nothing": (Request("a"), {"prompt": "a"}),
    "zeros": (
        Request("a", seed=0, cfg_scale=0),
        {"prompt": "a", "seed": 0, "sample_params": {"guidance": {"txt_cfg": 0.0}}},
    ),
    "all": (
        Request("a", n=2, size="64x48", steps=8, cfg_scale=4.5, negative_prompt="b", sampler="dpmpp_2m", scheduler="normal", seed=7, output_format="webp"),
        {
            "prompt": "a", "width": 64, "height": 48, "negative_prompt": "b", "seed": 7, "batch_count": 2, "output_format": "webp",
            "sample_params": {"sample_steps": 8, "sample_method": "dpm++2m", "scheduler": "discrete", "guidance": {"txt_cfg": 4.5}},
        },
    ),
    "an edit": (
        Request("a", images=(IMAGE, IMAGE), mask=IMAGE, strength=0.5),
        {"prompt": "a", "width": 8, "height": 6, "strength": 0.5, "init_image": B64, "ref_images": [B64], "mask_image": B64},
    ),
    "a tag is text here": (Request("<sd_cpp_extra_args>{}</sd_cpp_extra_args>a"), {"prompt": "<sd_cpp_extra_args>{}</sd_cpp_extra_args>a"}),
    "extra": (
        Request("a", steps=5, extra={"sample_params": {"eta": 0.5}, "lora": [{"path": "x", "multiplier": 1}]}),
        {"prompt": "a", "sample_params": {"sample_steps": 5, "eta": 0.5}, "lora": [{"path": "x", "multiplier": 1}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "body"), NATIVE.values(), ids=NATIVE.keys())
def test_a_job_of_sd_server(request_: Request, body: dict[str, Any]) -> None:
    codec = SdcppJobsCodec()
    wire = codec.encode_request("m", codec.adapt("m", request_)[0])
    assert (wire.method, wire.path) == ("POST", "/sdcpp/v1/img_gen")
    assert json.loads(sent(wire.body)) == body
    assert b"null" not in sent(wire.body)


VISITS: dict[str, tuple[dict[str, Any], JobStatus | type[MajordomoError]]] = {
    "waiting": ({"status": "queued", "queue_position": 3}, JobStatus(3)),
    "waiting, unsaid where": ({"status": "queued"}, JobStatus(1)),
    "drawn": ({"status": "generating", "result": None}, JobStatus()),
    "a word of tomorrow": ({"status": "warming"}, JobStatus()),
    "failed": (
        {
            "status": "failed",
            "error": {"code": "generation_failed", "message": "generate_image returned no results"},
        },
        md.BackendError,
    ),
    "failed without a word": ({"status": "failed", "error": None}, md.BackendError),
    "cancelled": ({"status": "cancelled", "error": {"code": "cancelled"}}, md.JobCancelledError),
    "finished without an image": (
        {"status": "completed", "result": {"images": []}},
        md.NoImageError,
    ),
    "finished without a result": ({"status": "completed"}, md.NoImageError),
    "no image": (
        {"status": "completed", "result": {"images": [{"b64_json": "aGVsbG8="}]}},
        md.BadResponseError,
    ),
}


@pytest.mark.parametrize(("answer", "expected"), VISITS.values(), ids=VISITS.keys())
def test_a_visit_to_a_job(
    answer: dict[str, Any], expected: JobStatus | type[MajordomoError]
) -> None:
    codec = SdcppJobsCodec()
    reply = codec.reply_decoder(LIMITS)
    reply.feed(json.dumps({"id": "job_1", **answer}).encode())
    if isinstance(expected, JobStatus):
        assert codec.decode_status(reply, Request("a"), LIMITS) == expected
    else:
        with pytest.raises(expected):
            codec.decode_status(reply, Request("a"), LIMITS)


@given(st.integers(1, 50))
def test_a_finished_job_however_sliced(size: int) -> None:
    codec = SdcppJobsCodec()
    reply = codec.reply_decoder(LIMITS)
    raw = json.dumps(
        {
            "status": "completed",
            "result": {"output_format": "png", "images": [{"index": 0, "b64_json": B64}]},
        }
    ).encode()
    for at in range(0, len(raw), size):
        reply.feed(raw[at : at + size])
    result = codec.decode_status(reply, Request("a", seed=4), LIMITS).result
    assert result is not None
    assert result.image == IMAGE
    assert result.details[0].seed == 4
    assert B64 not in json.dumps(result.raw)


def test_job_ids_are_encoded_into_paths() -> None:
    codec = SdcppJobsCodec()
    assert codec.encode_poll("../x?y").path == "/sdcpp/v1/jobs/..%2Fx%3Fy"
    assert codec.encode_cancel("j").path == "/sdcpp/v1/jobs/j/cancel"
    for body in (b"{}", b'{"id": 5}', b'{"id": ""}'):
        with pytest.raises(md.BadResponseError):
            codec.decode_job_id(body, LIMITS)


def test_capabilities_name_the_model_and_its_lists() -> None:
    lists, info = decode_capabilities(
        b'{"model":{"stem":"sdxl"},"samplers":["euler"],"schedulers":["discrete",5],"loras":[{"name":"x","path":"x.st"}]}',
        LIMITS,
    )
    assert (lists.samplers, lists.schedulers, info.id) == (("euler",), ("discrete",), "sdxl")
    assert info.raw["loras"]
    assert decode_capabilities(b"{}", LIMITS)[0].samplers is None


OPENAI: dict[str, tuple[str, Request, dict[str, Any]]] = {
    "gpt": (
        "gpt-image-1", Request("a", n=2, size="1024x1024", quality="low", background="opaque", output_format="jpeg", seed=1),
        {"model": "gpt-image-1", "prompt": "a", "n": 2, "size": "1024x1024", "quality": "low", "background": "opaque", "output_format": "jpeg"},
    ),
    "dall-e": ("dall-e-3", Request("a", quality="hd"), {"model": "dall-e-3", "prompt": "a", "quality": "hd", "response_format": "b64_json"}),
    "an id nobody knows": ("gpt-image-9", Request("a", size="640x640"), {"model": "gpt-image-9", "prompt": "a", "size": "640x640"}),
}  # fmt: skip


@pytest.mark.parametrize(("model", "request_", "body"), OPENAI.values(), ids=OPENAI.keys())
def test_a_request_to_openai(model: str, request_: Request, body: dict[str, Any]) -> None:
    codec = OpenAIImagesCodec(hosted_family, path="/images", tag=False)
    wire = codec.encode_request(model, codec.adapt(model, request_)[0])
    assert (wire.method, wire.path) == ("POST", "/images/generations")
    assert json.loads(sent(wire.body)) == body


def test_an_edit_for_openai_is_these_bytes() -> None:
    codec = OpenAIImagesCodec(hosted_family, path="/images", tag=False)
    request = Request(
        "add a hat",
        images=(IMAGE,),
        mask=IMAGE,
        extra={"input_fidelity": "high", "user_data": {"a": 1}},
    )
    wire = codec.encode_request("gpt-image-1", request)
    boundary = wire.content_type.partition("boundary=")[2]
    lines = [
        b'name="model"\r\n\r\ngpt-image-1', b'name="prompt"\r\n\r\nadd a hat', b'name="input_fidelity"\r\n\r\nhigh',
        b'name="user_data"\r\n\r\n{"a":1}',
        b'name="image"; filename="image0.png"\r\nContent-Type: image/png\r\n\r\n' + IMAGE.data,
        b'name="mask"; filename="mask.png"\r\nContent-Type: image/png\r\n\r\n' + IMAGE.data,
    ]  # fmt: skip
    parts = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + line + b"\r\n"
        for line in lines
    )
    assert sent(wire.body) == parts + f"--{boundary}--\r\n".encode()


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


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


@settings(max_examples=tries(40))
@given(st.integers(1, len(STREAM)))
def test_a_stream_gives_the_same_however_sliced(size: int) -> None:
    decoder = OpenAIImagesCodec(compatible_family, tag=False).stream_decoder(Request("a"), LIMITS)
    events = [e for at in range(0, len(STREAM), size) for e in decoder.feed(STREAM[at : at + size])]
    result = decoder.finish()
    assert events == [imagegen.Preview(md.ImagePart(png("red")), 0)]
    assert result.image == IMAGE
    assert result.usage == imagegen.Usage(5, 9)


@settings(max_examples=tries(60))
@given(st.integers(0, len(STREAM)))
@example(len(STREAM) - 9)  # within the farewell
def test_a_stream_cut_anywhere_is_whole_or_a_typed_error(cut: int) -> None:
    decoder = OpenAIImagesCodec(compatible_family, tag=False).stream_decoder(Request("a"), LIMITS)
    try:
        list(decoder.feed(STREAM[:cut]))
        result = decoder.finish()
    except MajordomoError:
        assert cut < len(STREAM) - len(b"data: [DONE]\n\n")
    else:
        assert result.image == IMAGE


@settings(max_examples=tries(60))
@given(st.binary(min_size=1, max_size=4), st.integers(0, len(STREAM) - 1))
def test_a_stream_with_any_change_is_whole_or_a_typed_error(change: bytes, at: int) -> None:
    decoder = OpenAIImagesCodec(compatible_family, tag=False).stream_decoder(Request("a"), LIMITS)
    try:
        list(decoder.feed(STREAM[:at] + change + STREAM[at + len(change) :]))
        decoder.finish()
    except MajordomoError:
        pass
