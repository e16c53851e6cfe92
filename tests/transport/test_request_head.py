"""The head of a request: what is sent, and that no value can add a header."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo.redaction import Secret
from majordomo.transport import BaseURL
from majordomo.transport.base_url import encode_headers
from majordomo.transport.request_head import encode_header_lines, encode_request_head
from majordomo.transport_types import HTTPRequest

HEADERS = encode_headers(BaseURL.parse("http://a:1"), {"Authorization": Secret("Bearer sk-key")})
LINES = encode_header_lines(HEADERS)


def decode_request(head: bytes) -> tuple[str, str, list[tuple[bytes, bytes]]]:
    """Return method, target and headers as h11, as a server, reads them."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    return request.method.decode(), request.target.decode(), request.headers.raw_items()


VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
WORDS = st.lists(st.text(VISIBLE, min_size=1, max_size=8), min_size=1, max_size=3).map(" ".join)


@given(
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    target=st.text(VISIBLE, min_size=1),
    body=st.binary(max_size=3),
    content_type=WORDS | st.just(""),
    accept=WORDS,
    stream=st.booleans(),
)
def test_a_server_reads_what_was_encoded(
    method: str, target: str, body: bytes, content_type: str, accept: str, stream: bool
) -> None:
    request = HTTPRequest(method, "/", body, content_type, accept, stream)
    headers = [
        *HEADERS,
        (b"Accept", accept.encode()),
        (b"Accept-Encoding", b"identity" if stream else b"gzip"),
    ]
    if content_type:
        headers.append((b"Content-Type", content_type.encode()))
    if body or method != "GET":
        headers.append((b"Content-Length", str(len(body)).encode()))
    assert decode_request(encode_request_head(request, target, LINES)) == (method, target, headers)


TEXT = st.text("AZ/ :\r\n\t\0é", max_size=4)


@given(st.tuples(TEXT, TEXT, TEXT, TEXT))
def test_any_text_is_encoded_or_refused(texts: tuple[str, str, str, str]) -> None:
    method, target, content_type, accept = texts
    request = HTTPRequest(method, "/", b"x", content_type, accept)
    try:
        head = encode_request_head(request, target, LINES)
    except md.InvalidRequestError:
        return
    assert decode_request(head)[:2] == (method, target)
    assert head.count(b"\r\n") == LINES.count(b"\r\n") + 5 + bool(content_type)


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/a b"},
        {"path": "/a\r\nx: y"},
        {"path": "/a\0"},
        {"path": "/é"},
        {"path": ""},
        {"method": "GET\r\nx: y"},
        {"method": "GET /"},
        {"method": ""},
        {"content_type": "a\r\nx: y"},
        {"content_type": "a\n"},
        {"content_type": " a"},
        {"accept": "a\r"},
        {"accept": ""},
    ],
)
def test_a_value_that_could_end_its_line_is_refused_and_not_quoted(changes: dict[str, str]) -> None:
    fields = {"method": "POST", "path": "/sk-secret", **changes}
    with pytest.raises(md.InvalidRequestError, match="cannot be encoded as HTTP") as caught:
        encode_request_head(HTTPRequest(**fields), fields["path"], LINES)
    assert "sk-secret" not in str(caught.value) and "x: y" not in str(caught.value)
