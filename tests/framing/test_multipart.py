from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo.framing.multipart import FormField, MultipartBody


def parse_with_email(body: MultipartBody) -> list[tuple[str, str | None, str, bytes]]:
    raw = b"".join(body.chunks())
    assert len(raw) == body.length
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + body.content_type.encode() + b"\r\n\r\n" + raw
    )
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    ]


def test_fields_and_files_are_encoded() -> None:
    body = MultipartBody(
        [
            FormField("prompt", "ein Fuchs äöü".encode()),
            FormField("image[]", b"\x89PNG\r\n--x", "a.png", "image/png"),
        ]
    )
    assert parse_with_email(body) == [
        ("prompt", None, "text/plain", "ein Fuchs äöü".encode()),
        ("image[]", "a.png", "image/png", b"\x89PNG\r\n--x"),
    ]
    assert b"".join(body.chunks()) == b"".join(body.chunks()), "the body can be sent again"


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_the_boundary_does_not_occur_in_any_field(contents: list[bytes]) -> None:
    body = MultipartBody(
        [FormField(f"f{number}", content) for number, content in enumerate(contents)]
    )
    boundary = body.content_type.partition("boundary=")[2].encode()
    assert b"".join(body.chunks()).count(boundary) == len(contents) + 1
    assert not any(boundary in content for content in contents)


def test_a_large_file_is_sent_in_chunks() -> None:
    body = MultipartBody([FormField("f", bytes(600_000), "f.bin", "image/png")])
    assert max(map(len, body.chunks())) == 256 * 1024


@pytest.mark.parametrize("name", ['a"b', "a\r\nb", "a\\b", "a\0"])
def test_a_field_name_with_special_characters_is_refused(name: str) -> None:
    with pytest.raises(md.InvalidRequestError):
        MultipartBody([FormField(name, b"")])
