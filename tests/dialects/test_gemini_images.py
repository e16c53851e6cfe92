"""Gemini's bodies byte by byte, and answers that anything may have happened to."""

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
from tests.support.hypothesis_effort import tries

DOOR = GeminiImagesCodec()
FLASH = "gemini-2.5-flash-image"
PRO = "gemini-3-pro-image-preview"
LIMITS = Limits()


def png(width: int = 2, height: int = 1) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(held, "PNG")
    return held.getvalue()


PNG = base64.b64encode(png()).decode()
INLINE = f'{{"inlineData":{{"mimeType":"image/png","data":"{PNG}"}}}}'
IMAGE = md.ImagePart(png())


def sent(request: Request, model: str = FLASH) -> HTTPRequest:
    fitted, _ = DOOR.adapt(model, request)
    return DOOR.encode_request(model, fitted)


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
def test_bodies(model: str, request_: Request, parts: str, config: str) -> None:
    wire = sent(request_, model)
    assert (wire.method, wire.path, wire.content_type) == (
        "POST",
        f"/models/{model}:generateContent",
        "application/json",
    )
    assert (
        body_of(wire).decode()
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


@pytest.mark.parametrize(("model", "aspect", "taken"), SHAPES)
def test_the_nearest_shape_is_taken_and_said(model: str, aspect: str, taken: str) -> None:
    fitted, warnings = DOOR.adapt(model, Request("a", aspect=aspect))
    assert fitted.aspect == taken
    assert [warning.field for warning in warnings] == ([] if taken == aspect else ["aspect"])


@given(
    st.integers(1, 99_999),
    st.integers(1, 99_999),
    st.sampled_from([FLASH, PRO, "gemini-3.1-flash-image"]),
)
def test_any_size_has_a_shape_and_is_fitted_once(width: int, height: int, model: str) -> None:
    fitted, warnings = DOOR.adapt(model, Request("a", size=f"{width}x{height}"))
    assert fitted.aspect
    assert fitted.size == ""
    assert warnings == []
    assert DOOR.adapt(model, fitted) == (fitted, [])


def test_a_body_may_have_so_many_bytes_and_no_more() -> None:
    bare = len(body_of(sent(Request("a", images=(md.ImagePart(png()),))))) - len(PNG)
    room = (MAX_BODY_BYTES - bare) // 4 * 3
    data = png()
    fits = md.ImagePart(data + bytes(room - len(data)))
    wire = sent(Request("a", images=(fits,)))
    assert MAX_BODY_BYTES - 4 < len(body_of(wire)) <= MAX_BODY_BYTES
    for images in ((md.ImagePart(fits.data + b"\0"),), (fits, IMAGE)):
        with pytest.raises(md.InvalidRequestError) as caught:
            sent(Request("a", images=images))
        assert caught.value.field == "images"


def decode(document: Any, limits: Limits = LIMITS) -> Result:
    decoder = DOOR.reply_decoder(limits)
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    for at in range(0, len(raw), 1000):
        decoder.feed(raw[at : at + 1000])
    return DOOR.decode_reply(decoder, Request("a", seed=3), limits)


def part(data: Any = PNG, mime: Any = "image/png", **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": data}, **more}


def answer(*parts: Any, **more: Any) -> dict[str, Any]:
    return {
        "candidates": [
            {"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP"}
        ],
        **more,
    }


def test_images_of_all_candidates_but_drafts_and_sounds() -> None:
    document = answer(
        {"text": "Here."}, part(thought=True), part(mime="audio/wav"), part(thoughtSignature="c2ln")
    )
    document["candidates"] += [
        {"finishReason": "SAFETY"},
        *answer(part(thought=False, thoughtSignature=7))["candidates"],
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


def test_only_a_draft_is_no_image() -> None:
    with pytest.raises(md.NoImageError):
        decode(answer(part(thought=True)))


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
        (answer(part("aGVsbG8=")), md.BadResponseError),
        (answer(part("!")), md.BadResponseError),
        (answer(part(None)), md.BadResponseError),
        (answer(part(PNG[:-20])), md.BadResponseError),
        (answer(part(mime=7)), md.NoImageError),
    ],
)
def test_answers_without_an_image(document: Any, error: type[md.MajordomoError]) -> None:
    with pytest.raises(error):
        decode(document)


def test_an_answer_larger_than_the_limit_is_not_read_on() -> None:
    with pytest.raises(md.BadResponseError) as caught:
        decode(answer(part()), Limits(max_image_reply_bytes=50))
    assert caught.value.code == "TOO_LARGE"


WHOLE = answer(
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
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps: Any = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for step, below in steps for place in places(below, (*path, step)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@given(st.lists(st.tuples(st.integers(0), JSON), min_size=1, max_size=3))
def test_an_answer_with_anything_in_any_place_gives_a_result_or_a_typed_error(
    changes: list[tuple[int, Any]],
) -> None:
    document: Any = WHOLE
    for number, new in changes:
        spots = places(document)
        document = replaced(document, spots[number % len(spots)], new)
    try:
        result = decode(document)
    except md.MajordomoError as error:
        json.dumps(error.to_dict())
        assert not isinstance(error, md.InvalidRequestError)
    else:
        assert len(result.images) == len(result.details) > 0
        json.dumps(result.raw)


@settings(max_examples=tries(200))
@given(st.integers(0), st.integers(0, 255), st.integers(0))
def test_an_answer_with_broken_bytes_gives_a_result_or_a_typed_error(
    at: int, byte: int, cut: int
) -> None:
    raw = bytearray(json.dumps(WHOLE).encode())
    raw[at % len(raw)] = byte
    for damaged in (bytes(raw), bytes(raw[: cut % len(raw)])):
        try:
            assert decode(damaged).images
        except md.MajordomoError as error:
            json.dumps(error.to_dict())
            assert not isinstance(error, md.InvalidRequestError)


def google(*details: Any, status: int = 400) -> md.MajordomoError:
    error = {
        "code": status,
        "message": "API key not valid.",
        "status": "INVALID_ARGUMENT",
        "details": list(details),
    }
    return error_from_reply(status, {}, json.dumps({"error": error}).encode())


def test_a_wrong_key_is_told_by_its_reason_never_by_its_message() -> None:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }
    assert (
        type(google(info)) is type(google({"reason": 1}, "x", None, info)) is md.AuthenticationError
    )
    assert type(google()) is type(google({"reason": ["API_KEY_INVALID"]})) is md.InvalidRequestError
    assert google(info).details["backend_code"] == "INVALID_ARGUMENT"


@given(JSON)
def test_any_list_of_details_is_an_error_all_the_same(details: Any) -> None:
    assert isinstance(google(details), md.MajordomoError)


@given(JSON)
def test_any_model_list_is_a_list_or_a_typed_error(item: Any) -> None:
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


def test_what_a_chat_answer_says_beside_its_images_is_kept() -> None:
    parts = (
        f'{{"text":"hm","thought":true}},{{"text":"Here "}},{INLINE},{{"text":"it is."}},{INLINE}'
    )
    reply = DOOR.reply_decoder(LIMITS)
    reply.feed(
        f'{{"candidates":[{{"content":{{"parts":[{parts}]}},"finishReason":"STOP"}}]}}'.encode()
    )
    result = DOOR.decode_reply(reply, Request("a"), LIMITS)
    assert result.images == (IMAGE, IMAGE)
    assert [detail.settings for detail in result.details] == [{"text": "Here it is."}, {}]
