from __future__ import annotations

import base64
import json
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from majordomo import BadResponseError, ImagePart, InvalidRequestError
from majordomo.framing.base64 import Base64Body, Base64Sink
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.image_reply import ImageReplyDecoder
from majordomo.framing.json import decode_json, decode_object, encode_json

BYTES = random.Random(1).randbytes(5000)
TEXT = base64.b64encode(BYTES).decode()


def decode_slices(data: bytes, size: int, **limits: int) -> tuple[dict[str, object], list[bytes]]:
    decoder = ImageReplyDecoder(**{"limit": 1 << 30, "image_limit": 1 << 29, **limits})
    for at in range(0, len(data), size):
        decoder.feed(data[at : at + size])
    return decoder.finish(), decoder.images


DOCUMENTS: dict[str, tuple[str, object, list[bytes]]] = {
    "plain": (f'{{"data":[{{"b64_json":"{TEXT}"}}]}}', {"data": [{"b64_json": 0}]}, [BYTES]),
    "white space": (
        f'{{"data": [ {{ "b64_json" :\n "{TEXT}" }} ] }}',
        {"data": [{"b64_json": 0}]},
        [BYTES],
    ),
    "two": (
        f'[{{"b64_json":"{TEXT}"}},{{"b64_json":"QUJD"}}]',
        [{"b64_json": 0}, {"b64_json": 1}],
        [BYTES, b"ABC"],
    ),
    "escaped slashes": (
        f'{{"b64_json":"{TEXT.replace("/", chr(92) + "/")}"}}',
        {"b64_json": TEXT},
        [],
    ),
    "no base64": ('{"b64_json":"%%%%"}', {"b64_json": "%%%%"}, []),
    "cut group": ('{"b64_json":"QUJ"}', {"b64_json": "QUJ"}, []),
    "padding inside": ('{"b64_json":"QQ==QUJD"}', {"b64_json": "QQ==QUJD"}, []),
    "empty": ('{"b64_json":""}', {"b64_json": ""}, []),
    "null": ('{"b64_json":null}', {"b64_json": None}, []),
    "the key in a text": (
        json.dumps({"a": '"b64_json": "QUJD"', "b": "b64_json"}),
        {"a": '"b64_json": "QUJD"', "b": "b64_json"},
        [],
    ),
    "a key that ends with the key": (r'{"\"b64_json":"QUJD"}', {'"b64_json': "QUJD"}, []),
    "a little white space": (
        '{"b64_json"' + " " * 16 + ":" + "\n" * 16 + '"QUJD"}',
        {"b64_json": 0},
        [b"ABC"],
    ),
    "much white space": ('{"b64_json"' + " " * 80 + ':"QUJD"}', {"b64_json": "QUJD"}, []),
    **{
        f"a key that ends with the key, and {count} spaces": (
            r'{"\"b64_json"' + " " * count + ':"QUJD"}',
            {'"b64_json': "QUJD"},
            [],
        )
        for count in (15, 16, 17, 52, 53, 54)
    },
    "no image at all": ('{"url":"x"}', {"url": "x"}, []),
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1 << 20])
@pytest.mark.parametrize(("text", "document", "images"), DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_images_are_extracted_in_any_slicing(
    text: str, document: object, images: list[bytes], size: int
) -> None:
    wrapped = f'{{"response":{text}}}'.encode()
    assert decode_slices(wrapped, size) == ({"response": document}, images)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_any_bytes_decode_to_an_object_or_raise_a_typed_error(garbage: bytes, size: int) -> None:
    for data in (
        garbage,
        b'{"b64_json":"' + garbage,
        b'{"b64_json":"' + base64.b64encode(garbage) + b'"' + garbage,
    ):
        try:
            document, _ = decode_slices(data, size)
        except BadResponseError:
            continue
        assert isinstance(document, dict)


def test_decoding_holds_neither_the_text_nor_a_second_copy() -> None:
    data = random.Random(2).randbytes(4 << 20)
    body = b'{"data":[{"b64_json":"' + base64.b64encode(data) + b'"}]}'
    chunks = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    del body
    tracemalloc.start()
    decoder = ImageReplyDecoder(limit=1 << 30, image_limit=1 << 29)
    for chunk in chunks:
        decoder.feed(chunk)
    decoder.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoder.images == [data]
    assert peak < 1.3 * len(data)


@pytest.mark.parametrize(
    ("limits", "code"), [({"limit": 1000}, "TOO_LARGE"), ({"image_limit": 1000}, "IMAGE_TOO_LARGE")]
)
def test_size_limits_are_enforced(limits: dict[str, int], code: str) -> None:
    with pytest.raises(BadResponseError) as caught:
        decode_slices(DOCUMENTS["plain"][0].encode(), 64, **limits)
    assert caught.value.code == code


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_base64_decodes_to_the_same_bytes_in_any_slicing(data: bytes, size: int) -> None:
    text = base64.b64encode(data)
    sink = Base64Sink(10_000)
    for at in range(0, len(text), size):
        sink.write(text[at : at + size])
    assert sink.text() == text
    assert sink.close() == data


def test_an_upload_is_encoded_while_it_is_sent() -> None:
    data = (
        b"\x89PNG\r\n\x1a\n"  # noqa: ISC003
        + b"\0\0\0\rIHDR"
        + b"\0\0\0\x05\0\0\0\x05"
        + random.Random(3).randbytes(1_200_000)
    )
    part = ImagePart(data)
    placeholders = Base64Placeholders()
    body = {"a": [placeholders.data_url(part), "text", placeholders.data_url(part)], "b": 1}
    streaming_body = Base64Body(
        placeholders.split(encode_json(body, placeholders.encode_placeholder))
    )
    chunks = list(streaming_body.chunks())
    sent = b"".join(chunks)
    assert len(sent) == streaming_body.length
    assert max(map(len, chunks)) <= 512 * 1024 < len(data) * 4 // 3
    assert json.loads(sent) == {"a": [part.to_data_url(), "text", part.to_data_url()], "b": 1}
    assert b"".join(streaming_body.chunks()) == sent, "the body can be sent again"


def test_text_that_imitates_a_placeholder_is_refused() -> None:
    placeholders = Base64Placeholders()
    part = ImagePart(b"GIF89a\x01\0\x01\0")
    body = {"a": placeholders.data_url(part), "b": "\0placeholder:0\0"}
    with pytest.raises(InvalidRequestError):
        placeholders.split(encode_json(body, placeholders.encode_placeholder))


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", object(), {"a": [float("-inf")]}],
    ids=["nan", "inf", "surrogate", "object", "inf within"],
)
def test_values_that_json_cannot_represent_are_refused_before_sending(value: object) -> None:
    with pytest.raises(InvalidRequestError):
        encode_json({"x": value}, Base64Placeholders().encode_placeholder)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"<html>",
        b"{",
        b'{"a":' * 100_000,
        b"[" * 100,
        b'"text"',
        b"\xff\xfe",
        b'{"a":1}x',
        b"nul",
        b"1" * 10_000,
    ],
)
def test_invalid_json_raises_only_bad_response_error(raw: bytes) -> None:
    with pytest.raises(BadResponseError):
        decode_object(raw)


def test_the_nesting_depth_is_limited() -> None:
    assert decode_json(b"[" * 64 + b"]" * 64)
    with pytest.raises(BadResponseError, match="64"):
        decode_json(b"[" * 65 + b"]" * 65)
