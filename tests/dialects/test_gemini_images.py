"""Gemini's image requests byte by byte, and replies that are damaged in any way."""

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
from majordomo.dialects.gemini.images import MAX_BODY_BYTES, GeminiImagesCodec
from majordomo.dialects.gemini.models import decode_models
from majordomo.imagegen import Request, Result
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from tests.support.hypothesis_effort import max_examples

CODEC = GeminiImagesCodec()
FLASH = "gemini-2.5-flash-image"
PRO = "gemini-3-pro-image-preview"
LIMITS = Limits()


def png(width: int = 2, height: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(buffer, "PNG")
    return buffer.getvalue()


PNG = base64.b64encode(png()).decode()
INLINE = f'{{"inlineData":{{"mimeType":"image/png","data":"{PNG}"}}}}'
IMAGE = md.ImagePart(png())


def encode(request: Request, model: str = FLASH) -> HTTPRequest:
    adapted, _ = CODEC.adapt(model, request)
    return CODEC.encode_request(model, adapted)


def body_of(http_request: HTTPRequest) -> bytes:
    return (
        http_request.body
        if isinstance(http_request.body, bytes)
        else b"".join(http_request.body.chunks())
    )


BODIES: list[tuple[str, Request, str, str]] = [
    (FLASH, Request("a"), '[{"text":"a"}]', '{"responseModalities":["TEXT","IMAGE"]}'),
    (
        FLASH,
        Request('say "é"', size="1600x900", seed=0, steps=9, quality="high"),
        '[{"text":"say \\"é\\""}]',
        '{"responseModalities":["TEXT","IMAGE"],"imageConfig":{"aspectRatio":"16:9"},"seed":0}',
    ),
    (
        PRO,
        Request("a", size="2000x2000"),
        '[{"text":"a"}]',
        '{"responseModalities":["TEXT","IMAGE"],"imageConfig":{"aspectRatio":"1:1","imageSize":"2K"}}',
    ),
    (
        PRO,
        Request("a", megapixels=16),
        '[{"text":"a"}]',
        '{"responseModalities":["TEXT","IMAGE"],"imageConfig":{"imageSize":"4K"}}',
    ),
    (
        FLASH,
        Request("a", images=(IMAGE, IMAGE)),
        f'[{{"text":"a"}},{INLINE},{INLINE}]',
        '{"responseModalities":["TEXT","IMAGE"]}',
    ),
    (
        FLASH,
        Request("a", seed=1, extra={"generationConfig": {"temperature": 0.5}}),
        '[{"text":"a"}]',
        '{"responseModalities":["TEXT","IMAGE"],"seed":1,"temperature":0.5}',
    ),
]


@pytest.mark.parametrize(("model", "request_", "parts", "config"), BODIES)
def test_requests_are_encoded(model: str, request_: Request, parts: str, config: str) -> None:
    http_request = encode(request_, model)
    assert (http_request.method, http_request.path, http_request.content_type) == (
        "POST",
        f"/models/{model}:generateContent",
        "application/json",
    )
    assert (
        body_of(http_request).decode()
        == f'{{"contents":[{{"role":"user","parts":{parts}}}],"generationConfig":{config}}}'
    )


SHAPES: list[tuple[str, str, str]] = [
    (FLASH, "1:16", "9:16"),
    (FLASH, "16:1", "21:9"),
    ("gemini-2.5-flash-image-preview", "4:1", "21:9"),
    (PRO, "1:4", "9:16"),
    ("gemini-3.1-flash-image-preview", "1:4", "1:4"),
    ("gemini-3.1-flash-image-preview", "16:1", "8:1"),
    ("gemini-10-image", "4:1", "4:1"),
    ("nano-banana", "4:1", "21:9"),
]


@pytest.mark.parametrize(("model", "aspect", "expected"), SHAPES)
def test_the_nearest_aspect_is_sent_with_a_warning(model: str, aspect: str, expected: str) -> None:
    adapted, warnings = CODEC.adapt(model, Request("a", aspect=aspect))
    assert adapted.aspect == expected
    assert [warning.field for warning in warnings] == ([] if expected == aspect else ["aspect"])


@given(
    st.integers(1, 99_999),
    st.integers(1, 99_999),
    st.sampled_from([FLASH, PRO, "gemini-3.1-flash-image"]),
)
def test_any_size_gets_an_aspect_and_adapting_is_idempotent(
    width: int, height: int, model: str
) -> None:
    adapted, warnings = CODEC.adapt(model, Request("a", size=f"{width}x{height}"))
    assert adapted.aspect
    assert adapted.size == ""
    assert warnings == []
    assert CODEC.adapt(model, adapted) == (adapted, [])


def test_a_body_above_the_size_limit_is_refused() -> None:
    overhead = len(body_of(encode(Request("a", images=(md.ImagePart(png()),))))) - len(PNG)
    max_image_bytes = (MAX_BODY_BYTES - overhead) // 4 * 3
    data = png()
    largest_image = md.ImagePart(data + bytes(max_image_bytes - len(data)))
    http_request = encode(Request("a", images=(largest_image,)))
    assert MAX_BODY_BYTES - 4 < len(body_of(http_request)) <= MAX_BODY_BYTES
    for images in ((md.ImagePart(largest_image.data + b"\0"),), (largest_image, IMAGE)):
        with pytest.raises(md.InvalidRequestError) as caught:
            encode(Request("a", images=images))
        assert caught.value.field == "images"


def decode(document: Any, limits: Limits = LIMITS) -> Result:
    decoder = CODEC.reply_decoder(limits)
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    for start in range(0, len(raw), 1000):
        decoder.feed(raw[start : start + 1000])
    return CODEC.decode_reply(decoder, Request("a", seed=3), limits)


def part(data: Any = PNG, mime: Any = "image/png", **fields: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": data}, **fields}


def reply_document(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {
        "candidates": [
            {"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP"}
        ],
        **fields,
    }


def test_images_of_all_candidates_without_drafts_and_audio() -> None:
    document = reply_document(
        {"text": "Here."}, part(thought=True), part(mime="audio/wav"), part(thoughtSignature="c2ln")
    )
    document["candidates"] += [
        {"finishReason": "SAFETY"},
        *reply_document(part(thought=False, thoughtSignature=7))["candidates"],
    ]
    document["usageMetadata"] = {"promptTokenCount": 5, "thoughtsTokenCount": 2}
    result = decode(document)
    assert [image.data for image in result.images] == [png(), png()]
    assert [detail.settings for detail in result.details] == [
        {"thoughtSignature": "c2ln", "text": "Here."},
        {},
    ]
    assert result.details[1].seed == 3
    assert (result.usage.input_tokens, result.usage.output_tokens) == (5, 2)
    assert PNG not in json.dumps(result.raw)
    assert (
        result.raw["candidates"][0]["content"]["parts"][3]["inlineData"]["data"]
        == f"<image/png, {len(png())} bytes>"
    )


def test_a_reply_with_only_a_draft_raises_no_image_error() -> None:
    with pytest.raises(md.NoImageError):
        decode(reply_document(part(thought=True)))


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({}, md.BadResponseError),
        ({"candidates": []}, md.NoImageError),
        ({"promptFeedback": {}}, md.BadResponseError),
        (
            {"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "no\nfoxes"}},
            md.ContentRefusedError,
        ),
        (
            {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}},
            md.BackendError,
        ),
        (reply_document(part("aGVsbG8=")), md.BadResponseError),
        (reply_document(part("!")), md.BadResponseError),
        (reply_document(part(None)), md.BadResponseError),
        (reply_document(part(PNG[:-20])), md.BadResponseError),
        (reply_document(part(mime=7)), md.NoImageError),
    ],
)
def test_replies_without_an_image_raise_typed_errors(
    document: Any, error: type[md.MajordomoError]
) -> None:
    with pytest.raises(error):
        decode(document)


def test_a_reply_above_the_size_limit_raises_bad_response_error() -> None:
    with pytest.raises(md.BadResponseError) as caught:
        decode(reply_document(part()), Limits(max_image_reply_bytes=50))
    assert caught.value.code == "TOO_LARGE"


COMPLETE_REPLY = reply_document(
    {"text": "Here."},
    part(thoughtSignature="c2ln"),
    promptFeedback={"blockReason": ""},
    usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 1290},
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
    | st.just(PNG),
    lambda child: (
        st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=5), child, max_size=3)
    ),
    max_leaves=5,
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of a JSON value and of everything in it."""
    items: Any = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(inner for key, child in items for inner in paths_in(child, (*path, key)))]


def replace_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replace_at(value[path[0]], path[1:], new)
    return copy


@given(st.lists(st.tuples(st.integers(0), JSON), min_size=1, max_size=3))
def test_a_reply_with_any_changed_value_gives_a_result_or_a_typed_error(
    changes: list[tuple[int, Any]],
) -> None:
    document: Any = COMPLETE_REPLY
    for number, new in changes:
        paths = paths_in(document)
        document = replace_at(document, paths[number % len(paths)], new)
    try:
        result = decode(document)
    except md.MajordomoError as error:
        json.dumps(error.to_dict())
        assert not isinstance(error, md.InvalidRequestError)
    else:
        assert len(result.images) == len(result.details) > 0
        json.dumps(result.raw)


@settings(max_examples=max_examples(200))
@given(st.integers(0), st.integers(0, 255), st.integers(0))
def test_a_reply_with_any_changed_byte_gives_a_result_or_a_typed_error(
    index: int, byte: int, cut: int
) -> None:
    raw = bytearray(json.dumps(COMPLETE_REPLY).encode())
    raw[index % len(raw)] = byte
    for damaged in (bytes(raw), bytes(raw[: cut % len(raw)])):
        try:
            assert decode(damaged).images
        except md.MajordomoError as error:
            json.dumps(error.to_dict())
            assert not isinstance(error, md.InvalidRequestError)


def google_error(*details: Any, status: int = 400) -> md.MajordomoError:
    error = {
        "code": status,
        "message": "API key not valid.",
        "status": "INVALID_ARGUMENT",
        "details": list(details),
    }
    return error_from_reply(status, {}, json.dumps({"error": error}).encode())


def test_an_invalid_key_is_recognized_by_its_reason_not_its_message() -> None:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }
    assert (
        type(google_error(info))
        is type(google_error({"reason": 1}, "x", None, info))
        is md.AuthenticationError
    )
    assert (
        type(google_error())
        is type(google_error({"reason": ["API_KEY_INVALID"]}))
        is md.InvalidRequestError
    )
    assert google_error(info).details["backend_code"] == "INVALID_ARGUMENT"


@given(JSON)
def test_any_error_details_give_a_majordomo_error(details: Any) -> None:
    assert isinstance(google_error(details), md.MajordomoError)


@given(JSON)
def test_any_model_list_is_decoded_or_raises_a_typed_error(item: Any) -> None:
    for document in (
        item,
        {"models": item},
        {"models": [item, {"name": item}], "nextPageToken": item},
    ):
        try:
            models, token = decode_models(json.dumps(document).encode(), LIMITS)
        except md.BadResponseError:
            continue
        assert isinstance(token, str)
        assert all(isinstance(model.id, str) for model in models)


def test_text_with_images_is_kept_in_the_details() -> None:
    parts = (
        f'{{"text":"hm","thought":true}},{{"text":"Here "}},{INLINE},{{"text":"it is."}},{INLINE}'
    )
    reply = CODEC.reply_decoder(LIMITS)
    reply.feed(
        f'{{"candidates":[{{"content":{{"parts":[{parts}]}},"finishReason":"STOP"}}]}}'.encode()
    )
    result = CODEC.decode_reply(reply, Request("a"), LIMITS)
    assert result.images == (IMAGE, IMAGE)
    assert [detail.settings for detail in result.details] == [{"text": "Here it is."}, {}]
