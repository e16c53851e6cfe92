"""Ollama's image dialect: requests byte by byte, and replies of any bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.ollama.images import (
    OllamaImagesCodec,
    OllamaImageStreamDecoder,
    OllamaServer,
    decode_loaded,
    decode_show,
    decode_tags,
    decode_version,
    model_info,
)
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from tests.servers.hashed_images import b64, encode_image, solid_image

LIMITS = Limits()
PNG = encode_image(solid_image((1, 2, 3), (8, 8)))
EMPTY_REQUEST = imagegen.Request("")
STEPS = b"".join(
    json.dumps(
        {"model": "m", "response": "", "done": False}
        | ({"completed": step} if step else {})
        | {"total": 3}
    ).encode()
    + b"\n"
    for step in range(4)
)
LAST_LINE = (
    json.dumps(
        {
            "model": "m",
            "response": "",
            "done": True,
            "done_reason": "stop",
            "total_duration": 15,
            "image": b64(PNG),
        }
    ).encode()
    + b"\n"
)
STREAM = STEPS + LAST_LINE


def codec(
    version: tuple[int, int, int] | None = (0, 15, 4), *capabilities: str
) -> OllamaImagesCodec:
    server = OllamaServer(version, frozenset(capabilities or ("image", "vision")))
    return OllamaImagesCodec(lambda model: server)


def body_bytes(http_request: HTTPRequest) -> bytes:
    return (
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "only a prompt": ({}, '"stream":true}'),
    "all": (
        {"size": "640x480", "steps": 9, "seed": 7},
        '"width":640,"height":480,"steps":9,"options":{"seed":7},"stream":true}',
    ),
    "aspect": ({"aspect": "16:9"}, '"width":1360,"height":768,"stream":true}'),
    "megapixels": ({"megapixels": 0.5}, '"width":704,"height":704,"stream":true}'),
    "aspect and megapixels": (
        {"aspect": "1:2", "megapixels": 0.5},
        '"width":496,"height":992,"stream":true}',
    ),
    "png": ({"output_format": "png"}, '"stream":true}'),
    "n": ({"n": 3}, '"stream":true}'),
    "a size of odd numbers is kept": (
        {"size": "641x479"},
        '"width":641,"height":479,"stream":true}',
    ),
    "seed of 0": ({"seed": 0}, '"stream":true}'),
    "extra": (
        {"seed": 1, "extra": {"options": {"seed": 2}, "keep_alive": 0}},
        '"options":{"seed":2},"stream":true,"keep_alive":0}',
    ),
    "images": (
        {"images": (md.ImagePart(PNG), md.ImagePart(PNG))},
        f'"images":["{b64(PNG)}","{b64(PNG)}"],"stream":true}}',
    ),
}


@pytest.mark.parametrize(("fields", "expected_end"), REQUESTS.values(), ids=REQUESTS.keys())
def test_requests_are_encoded(fields: dict[str, Any], expected_end: str) -> None:
    adapted, _ = codec().adapt("x/m", imagegen.Request("a «fox»", **fields))
    http_request = codec().encode_stream("x/m", adapted)
    assert body_bytes(http_request).decode() == '{"model":"x/m","prompt":"a «fox»",' + expected_end
    assert (
        http_request.method,
        http_request.path,
        http_request.stream,
        http_request.content_type,
    ) == (
        "POST",
        "/api/generate",
        True,
        "application/json",
    )
    assert "application/x-ndjson" in http_request.accept


def test_adapting_is_idempotent() -> None:
    request = imagegen.Request(
        "a", aspect="3:2", cfg_scale=1.0, seed=0, sampler="euler", output_format="webp", n=2
    )
    adapted, warnings = codec().adapt("m", request)
    assert [warning.field for warning in warnings] == [
        "seed",
        "cfg_scale",
        "sampler",
        "output_format",
    ]
    assert codec().adapt("m", adapted) == (adapted, [])


@pytest.mark.parametrize(
    ("version", "generates", "edits"),
    [
        (None, True, False),
        ((0, 14, 2), False, False),
        ((0, 14, 3), True, False),
        ((0, 15, 0), True, True),
        ((0, 15, 4), True, True),
        ((0, 15, 5), True, False),
        ((0, 32, 5), True, False),
        ((0, 32, 6), False, False),
        ((1, 0, 0), False, False),
    ],
)
def test_the_version_determines_what_is_supported(
    version: tuple[int, int, int] | None, generates: bool, edits: bool
) -> None:
    server = OllamaServer(version)
    assert (server.generates_images, server.edits_images) == (generates, edits)
    if generates:
        server.check_version()
    else:
        with pytest.raises(md.UnsupportedError, match=server.version_text):
            server.check_version()
    image = imagegen.Request("a", images=(md.ImagePart(PNG),))
    if edits:
        assert codec(version).adapt("m", image) == (image, [])
    else:
        with pytest.raises(md.UnsupportedError, match="silently ignored"):
            codec(version).adapt("m", image)


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b'{"version":"0.32.5"}', (0, 32, 5)),
        (b'{"version":"0.15.5-rc0"}', (0, 15, 5)),
        (b'{"version":"v0.20.1-3-gabc"}', (0, 20, 1)),
        (b'{"version":"0.0.0"}', None),
        (b'{"version":"latest"}', None),
        (b'{"version":null}', None),
        (b"{}", None),
    ],
)
def test_versions_are_decoded(body: bytes, version: tuple[int, int, int] | None) -> None:
    assert decode_version(body, LIMITS) == version


def decode_stream(
    data: bytes, cuts: list[int]
) -> tuple[list[imagegen.ImageEvent], imagegen.Result]:
    decoder = OllamaImageStreamDecoder(imagegen.Request("a", seed=7), LIMITS)
    events: list[imagegen.ImageEvent] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        if end > start:
            events += decoder.feed(data[start:end])
    return events, decoder.finish()


@settings(deadline=None)
@given(
    st.lists(st.integers(0, len(STREAM)), max_size=12),
    st.sampled_from([STREAM, STREAM[:-1], STREAM.replace(b"\n", b"\r\n"), b"\n\n" + STREAM]),
)
def test_any_slicing_gives_the_same_events_and_result(cuts: list[int], data: bytes) -> None:
    events, result = decode_stream(data, cuts)
    assert events == [imagegen.Step(step, 3) for step in (1, 2, 3)]
    assert result.image.data == PNG
    assert (result.details[0].seed, result.usage, result.model) == (
        7,
        imagegen.Usage(seconds=1.5e-8),
        "m",
    )
    assert b64(PNG) not in json.dumps(result.raw)


def test_single_bytes_give_the_same_result() -> None:
    assert decode_stream(STREAM, list(range(len(STREAM))))[1] == decode_stream(STREAM, [])[1]


@settings(deadline=None)
@given(st.integers(0, len(STREAM) - 2))
def test_a_truncated_stream_raises_stream_broken_error(length: int) -> None:
    with pytest.raises(md.StreamBrokenError):
        decode_stream(STREAM[:length], [])


INVALID_STREAMS: dict[str, tuple[bytes, type[md.MajordomoError], str]] = {
    "an empty stream": (b"", md.StreamBrokenError, "STREAM_BROKEN"),
    "done without an image": (b'{"done":true,"done_reason":"stop"}\n', md.NoImageError, "NO_IMAGE"),
    "an empty image": (b'{"done":true,"image":""}\n', md.NoImageError, "NO_IMAGE"),
    "an image that is a number": (b'{"done":true,"image":5}\n', md.NoImageError, "NO_IMAGE"),
    "invalid base64": (b'{"done":true,"image":"%%%"}\n', md.BadResponseError, "NOT_AN_IMAGE"),
    "invalid image": (b'{"done":true,"image":"QUJD"}\n', md.BadResponseError, "NOT_AN_IMAGE"),
    "a truncated image": (
        b'{"done":true,"image":"' + b64(PNG[:60]).encode() + b'"}\n',
        md.BadResponseError,
        "IMAGE_TRUNCATED",
    ),
    "an error line": (
        STEPS + b'{"error":"mlx runner failed"}\n',
        md.BackendError,
        "BACKEND_FAILED",
    ),
    "an error line without a newline": (
        STEPS + b'{"error":"mlx runner failed"}',
        md.BackendError,
        "BACKEND_FAILED",
    ),
    "a web page": (b"<html></html>\n", md.BadResponseError, "NOT_JSON"),
    "only steps": (STEPS, md.StreamBrokenError, "STREAM_BROKEN"),
    "lines that are not objects": (b'[]\n5\nnull\n"x"\n', md.StreamBrokenError, "STREAM_BROKEN"),
    "done that is not a boolean": (
        b'{"done":"yes","image":"' + b64(PNG).encode() + b'"}\n',
        md.StreamBrokenError,
        "STREAM_BROKEN",
    ),
    "text instead of an image": (
        b'{"response":"hello","done":false}\n{"response":"","done":true}\n',
        md.NoImageError,
        "NO_IMAGE",
    ),
}


@pytest.mark.parametrize(
    ("data", "error_type", "code"), INVALID_STREAMS.values(), ids=INVALID_STREAMS.keys()
)
def test_invalid_streams_raise_typed_errors(
    data: bytes, error_type: type[md.MajordomoError], code: str
) -> None:
    for cuts in ([], list(range(len(data)))):
        with pytest.raises(md.MajordomoError) as caught:
            decode_stream(data, cuts)
        assert (type(caught.value), caught.value.code) == (error_type, code)


@pytest.mark.parametrize(
    "frame",
    [
        '"completed":-1,"total":3',
        '"completed":"1","total":3',
        '"completed":4,"total":3',
        '"completed":true,"total":3',
        '"completed":1',
        '"completed":1e300,"total":1e300',
    ],
)
def test_invalid_step_counts_are_ignored(frame: str) -> None:
    events, result = decode_stream(b'{"done":false,' + frame.encode() + b"}\n" + LAST_LINE, [])
    assert events == []
    assert result.image.data == PNG


def test_data_after_the_last_line_is_ignored() -> None:
    assert decode_stream(STREAM + b'{"error":"late"}\n', [])[1].image.data == PNG


@pytest.mark.parametrize(
    "limits", [Limits(max_image_event_bytes=100), Limits(max_image_reply_bytes=100)]
)
def test_size_limits_raise_bad_response_error(limits: Limits) -> None:
    decoder = OllamaImageStreamDecoder(EMPTY_REQUEST, limits)
    with pytest.raises(md.BadResponseError) as caught:
        list(decoder.feed(LAST_LINE))
    assert caught.value.code == "TOO_LARGE"


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
)
KEYS = st.sampled_from(
    [
        "done",
        "image",
        "error",
        "completed",
        "total",
        "model",
        "total_duration",
        "version",
        "models",
        "name",
        "capabilities",
    ]
)
JSON = st.recursive(
    LEAVES,
    lambda child: st.lists(child, max_size=4) | st.dictionaries(KEYS, child, max_size=5),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(JSON | st.dictionaries(KEYS, JSON), max_size=4), st.binary(max_size=50))
def test_any_reply_gives_a_result_or_a_typed_error(frames: list[Any], noise: bytes) -> None:
    lines = b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)
    for data in (lines, lines + noise, noise):
        try:
            decode_stream(data, [])
        except md.MajordomoError as error:
            json.dumps(error.to_dict())


def read_model_infos(body: bytes) -> None:
    for item in decode_tags(body, LIMITS):
        model_info(item, OllamaServer((0, 15, 1)), frozenset())


READERS: list[Callable[[bytes], object]] = [
    lambda body: decode_version(body, LIMITS),
    lambda body: decode_show(body, LIMITS),
    lambda body: decode_loaded(body, LIMITS),
    read_model_infos,
]


@settings(deadline=None)
@given(
    st.dictionaries(KEYS, JSON).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
)
def test_any_model_list_is_decoded_or_raises_a_typed_error(body: bytes) -> None:
    for reader in READERS:
        try:
            reader(body)
        except md.BadResponseError:
            continue
