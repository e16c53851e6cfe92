"""Ollama's image dialect, byte by byte: what is sent, and what any bytes that come back may do."""

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
from tests.servers.hashed_images import b64, encoded, plain

LIMITS = Limits()
PNG = encoded(plain((1, 2, 3), (8, 8)))
BLANK = imagegen.Request("")
STEPS = b"".join(
    json.dumps(
        {"model": "m", "response": "", "done": False}
        | ({"completed": step} if step else {})
        | {"total": 3}
    ).encode()
    + b"\n"
    for step in range(4)
)
LAST = (
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
WHOLE = STEPS + LAST


def codec(version: tuple[int, int, int] | None = (0, 15, 4), *words: str) -> OllamaImagesCodec:
    server = OllamaServer(version, frozenset(words or ("image", "vision")))
    return OllamaImagesCodec(lambda model: server)


def sent(http_request: HTTPRequest) -> bytes:
    return (
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "bare": ({}, '"stream":true}'),
    "all": (
        {"size": "640x480", "steps": 9, "seed": 7},
        '"width":640,"height":480,"steps":9,"options":{"seed":7},"stream":true}',
    ),
    "shape": ({"aspect": "16:9"}, '"width":1360,"height":768,"stream":true}'),
    "area": ({"megapixels": 0.5}, '"width":704,"height":704,"stream":true}'),
    "both": ({"aspect": "1:2", "megapixels": 0.5}, '"width":496,"height":992,"stream":true}'),
    "png": ({"output_format": "png"}, '"stream":true}'),
    "n": ({"n": 3}, '"stream":true}'),
    "an odd size stays": ({"size": "641x479"}, '"width":641,"height":479,"stream":true}'),
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


@pytest.mark.parametrize(("fields", "tail"), REQUESTS.values(), ids=REQUESTS.keys())
def test_the_bytes_of_a_request(fields: dict[str, Any], tail: str) -> None:
    fitted, _ = codec().adapt("x/m", imagegen.Request("a «fox»", **fields))
    wire = codec().encode_stream("x/m", fitted)
    assert sent(wire).decode() == '{"model":"x/m","prompt":"a «fox»",' + tail
    assert (wire.method, wire.path, wire.stream, wire.content_type) == (
        "POST",
        "/api/generate",
        True,
        "application/json",
    )
    assert "application/x-ndjson" in wire.accept


def test_what_is_fitted_stays_fitted() -> None:
    request = imagegen.Request(
        "a", aspect="3:2", cfg_scale=1.0, seed=0, sampler="euler", output_format="webp", n=2
    )
    fitted, warnings = codec().adapt("m", request)
    assert [warning.field for warning in warnings] == [
        "seed",
        "cfg_scale",
        "sampler",
        "output_format",
    ]
    assert codec().adapt("m", fitted) == (fitted, [])


@pytest.mark.parametrize(
    ("version", "draws", "edits"),
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
def test_the_table_of_versions(
    version: tuple[int, int, int] | None, draws: bool, edits: bool
) -> None:
    server = OllamaServer(version)
    assert (server.generates_images, server.edits_images) == (draws, edits)
    if draws:
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
def test_versions_are_read(body: bytes, version: tuple[int, int, int] | None) -> None:
    assert decode_version(body, LIMITS) == version


def fed(data: bytes, cuts: list[int]) -> tuple[list[imagegen.ImageEvent], imagegen.Result]:
    decoder = OllamaImageStreamDecoder(imagegen.Request("a", seed=7), LIMITS)
    events: list[imagegen.ImageEvent] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        if end > start:
            events += decoder.feed(data[start:end])
    return events, decoder.finish()


@settings(deadline=None)
@given(
    st.lists(st.integers(0, len(WHOLE)), max_size=12),
    st.sampled_from([WHOLE, WHOLE[:-1], WHOLE.replace(b"\n", b"\r\n"), b"\n\n" + WHOLE]),
)
def test_any_slicing_gives_the_same(data_cuts: list[int], data: bytes) -> None:
    events, result = fed(data, data_cuts)
    assert events == [imagegen.Step(step, 3) for step in (1, 2, 3)]
    assert result.image.data == PNG
    assert (result.details[0].seed, result.usage, result.model) == (
        7,
        imagegen.Usage(seconds=1.5e-8),
        "m",
    )
    assert b64(PNG) not in json.dumps(result.raw)


def test_byte_by_byte() -> None:
    assert fed(WHOLE, list(range(len(WHOLE))))[1] == fed(WHOLE, [])[1]


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 2))
def test_a_stream_cut_anywhere_is_broken_and_never_a_result(length: int) -> None:
    with pytest.raises(md.StreamBrokenError):
        fed(WHOLE[:length], [])


ODD: dict[str, tuple[bytes, type[md.MajordomoError], str]] = {
    "nothing": (b"", md.StreamBrokenError, "STREAM_BROKEN"),
    "done without an image": (b'{"done":true,"done_reason":"stop"}\n', md.NoImageError, "NO_IMAGE"),
    "an empty image": (b'{"done":true,"image":""}\n', md.NoImageError, "NO_IMAGE"),
    "an image that is a number": (b'{"done":true,"image":5}\n', md.NoImageError, "NO_IMAGE"),
    "no base64": (b'{"done":true,"image":"%%%"}\n', md.BadResponseError, "NOT_AN_IMAGE"),
    "no image": (b'{"done":true,"image":"QUJD"}\n', md.BadResponseError, "NOT_AN_IMAGE"),
    "half an image": (
        b'{"done":true,"image":"' + b64(PNG[:60]).encode() + b'"}\n',
        md.BadResponseError,
        "IMAGE_TRUNCATED",
    ),
    "an error line": (
        STEPS + b'{"error":"mlx runner failed"}\n',
        md.BackendError,
        "BACKEND_FAILED",
    ),
    "an error line without its end": (
        STEPS + b'{"error":"mlx runner failed"}',
        md.BackendError,
        "BACKEND_FAILED",
    ),
    "a web page": (b"<html></html>\n", md.BadResponseError, "NOT_JSON"),
    "only steps": (STEPS, md.StreamBrokenError, "STREAM_BROKEN"),
    "no objects": (b'[]\n5\nnull\n"x"\n', md.StreamBrokenError, "STREAM_BROKEN"),
    "done that is no true": (
        b'{"done":"yes","image":"' + b64(PNG).encode() + b'"}\n',
        md.StreamBrokenError,
        "STREAM_BROKEN",
    ),
    "words": (
        b'{"response":"hello","done":false}\n{"response":"","done":true}\n',
        md.NoImageError,
        "NO_IMAGE",
    ),
}


@pytest.mark.parametrize(("data", "kind", "code"), ODD.values(), ids=ODD.keys())
def test_odd_ends(data: bytes, kind: type[md.MajordomoError], code: str) -> None:
    for cuts in ([], list(range(len(data)))):
        with pytest.raises(md.MajordomoError) as caught:
            fed(data, cuts)
        assert (type(caught.value), caught.value.code) == (kind, code)


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
def test_steps_nobody_can_count_are_no_news(frame: str) -> None:
    events, result = fed(b'{"done":false,' + frame.encode() + b"}\n" + LAST, [])
    assert events == []
    assert result.image.data == PNG


def test_what_follows_the_last_line_is_not_read() -> None:
    assert fed(WHOLE + b'{"error":"late"}\n', [])[1].image.data == PNG


@pytest.mark.parametrize(
    "limits", [Limits(max_image_event_bytes=100), Limits(max_image_reply_bytes=100)]
)
def test_limits_hold(limits: Limits) -> None:
    decoder = OllamaImageStreamDecoder(BLANK, limits)
    with pytest.raises(md.BadResponseError) as caught:
        list(decoder.feed(LAST))
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
    lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=5),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(JSON | st.dictionaries(KEYS, JSON), max_size=4), st.binary(max_size=50))
def test_any_answer_gives_a_result_or_a_typed_error(frames: list[Any], noise: bytes) -> None:
    lines = b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)
    for data in (lines, lines + noise, noise):
        try:
            fed(data, [])
        except md.MajordomoError as error:
            json.dumps(error.to_dict())


def everything(body: bytes) -> None:
    for item in decode_tags(body, LIMITS):
        model_info(item, OllamaServer((0, 15, 1)), frozenset())


READERS: list[Callable[[bytes], object]] = [
    lambda body: decode_version(body, LIMITS),
    lambda body: decode_show(body, LIMITS),
    lambda body: decode_loaded(body, LIMITS),
    everything,
]


@settings(deadline=None)
@given(
    st.dictionaries(KEYS, JSON).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
)
def test_any_catalogue_is_read_or_a_typed_error(body: bytes) -> None:
    for reader in READERS:
        try:
            reader(body)
        except md.BadResponseError:
            continue
