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
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.image_reply import ImageReplyDecoder
from majordomo.framing.json import decode_json, decode_object, encode_json

BYTES = random.Random(1).randbytes(5000)
TEXT = base64.b64encode(BYTES).decode()


def decoded(data: bytes, size: int, **limits: int) -> tuple[dict[str, object], list[bytes]]:
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
def test_images_are_cut_out_however_sliced(
    text: str, document: object, images: list[bytes], size: int
) -> None:
    wrapped = f'{{"whole":{text}}}'.encode()
    assert decoded(wrapped, size) == ({"whole": document}, images)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_any_bytes_give_an_object_or_a_typed_error(noise: bytes, size: int) -> None:
    for data in (
        noise,
        b'{"b64_json":"' + noise,
        b'{"b64_json":"' + base64.b64encode(noise) + b'"' + noise,
    ):
        try:
            document, _ = decoded(data, size)
        except BadResponseError:
            continue
        assert isinstance(document, dict)


def test_it_holds_neither_the_text_nor_a_second_copy() -> None:
    data = random.Random(2).randbytes(4 << 20)
    body = b'{"data":[{"b64_json":"' + base64.b64encode(data) + b'"}]}'
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    del body
    tracemalloc.start()
    decoder = ImageReplyDecoder(limit=1 << 30, image_limit=1 << 29)
    for piece in pieces:
        decoder.feed(piece)
    decoder.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoder.images == [data]
    assert peak < 1.3 * len(data)


@pytest.mark.parametrize(
    ("limits", "code"), [({"limit": 1000}, "TOO_LARGE"), ({"image_limit": 1000}, "IMAGE_TOO_LARGE")]
)
def test_limits_hold(limits: dict[str, int], code: str) -> None:
    with pytest.raises(BadResponseError) as caught:
        decoded(DOCUMENTS["plain"][0].encode(), 64, **limits)
    assert caught.value.code == code


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_base64_in_any_slicing_is_the_same_bytes(data: bytes, size: int) -> None:
    text = base64.b64encode(data)
    sink = Base64Sink(10_000)
    for at in range(0, len(text), size):
        sink.write(text[at : at + size])
    assert sink.text() == text
    assert sink.close() == data


def test_an_upload_is_encoded_while_it_leaves() -> None:
    data = (
        b"\x89PNG\r\n\x1a\n"  # noqa: ISC003
        + b"\0\0\0\rIHDR"
        + b"\0\0\0\x05\0\0\0\x05"
        + random.Random(3).randbytes(1_200_000)
    )
    part = ImagePart(data)
    splices = Splices()
    body = {"a": [splices.data_url(part), "text", splices.data_url(part)], "b": 1}
    spliced = Base64Body(splices.cut(encode_json(body, splices.fallback)))
    pieces = list(spliced.chunks())
    sent = b"".join(pieces)
    assert len(sent) == spliced.length
    assert max(map(len, pieces)) <= 512 * 1024 < len(data) * 4 // 3
    assert json.loads(sent) == {"a": [part.to_data_url(), "text", part.to_data_url()], "b": 1}
    assert b"".join(spliced.chunks()) == sent, "it can be sent again"


def test_a_text_that_imitates_the_mark_is_refused() -> None:
    splices = Splices()
    part = ImagePart(b"GIF89a\x01\0\x01\0")
    body = {"a": splices.data_url(part), "b": "\0splice:0\0"}
    with pytest.raises(InvalidRequestError):
        splices.cut(encode_json(body, splices.fallback))


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", object(), {"a": [float("-inf")]}],
    ids=["nan", "inf", "surrogate", "object", "inf within"],
)
def test_what_json_cannot_hold_is_refused_before_sending(value: object) -> None:
    with pytest.raises(InvalidRequestError):
        encode_json({"x": value}, Splices().fallback)


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
def test_no_bytes_escape_as_anything_but_a_bad_response(raw: bytes) -> None:
    with pytest.raises(BadResponseError):
        decode_object(raw)


def test_nesting_is_limited() -> None:
    assert decode_json(b"[" * 64 + b"]" * 64)
    with pytest.raises(BadResponseError, match="64"):
        decode_json(b"[" * 65 + b"]" * 65)
