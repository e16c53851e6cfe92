"""The parser of responses, alone: it does no I/O."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from majordomo.transport import response_head
from majordomo.transport.response_parser import (
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    MAX_INFORMATIONAL_RESPONSES,
    ResponseParser,
)
from tests.support.h11_reference import PARSERS, Outcome, decode, decode_with_h11, use_parser
from tests.support.http_responses import SIZES, any_response, slice_bytes

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EACH_PARSER = pytest.mark.parametrize("parser", PARSERS)
EACH_SLICING = pytest.mark.parametrize("sizes", [[], [1] * 300], ids=["whole", "bytes"])
METHODS = st.sampled_from(["GET", "GET", "HEAD"])


def chunk(data: bytes, size_format: str = "%x") -> bytes:
    return (size_format % len(data)).encode() + b"\r\n" + data + b"\r\n"


def response(lines: str, body: bytes = b"", status_line: str = "HTTP/1.1 200 OK") -> bytes:
    return f"{status_line}\r\n{lines}\r\n\r\n".encode("latin-1") + body


@EACH_PARSER
@given(data=any_response(), sizes=SIZES, method=METHODS)
@example(data=response("content-length: 3\r\ntransfer-encoding: chunked"), sizes=[], method="GET")
@example(data=response("content-length: 3 \t\r\na: b \t", b"abc"), sizes=[], method="GET")
@example(data=response("Transfer-Encoding: Chunked \t", b"0\r\n\r\n"), sizes=[], method="GET")
def test_any_response_in_any_slicing_is_decoded_as_by_h11(
    parser: str, data: bytes, sizes: list[int], method: str
) -> None:
    slices = slice_bytes(data, sizes)
    outcome, expected = decode(slices, method, parser=parser), decode_with_h11(slices, method)
    if {"content-length", "transfer-encoding"} <= expected.headers.keys():
        # h11 would keep the connection.
        expected = expected._replace(reusable=False)
    assert outcome == expected


@EACH_PARSER
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=12),
    sizes=SIZES,
    size_format=st.sampled_from(["%x", "%X", "%04x", "%x;name=value"]),
    end=st.sampled_from([b"0\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n"]),
)
def test_a_chunked_body_is_decoded_in_any_slicing(
    parser: str, chunks: list[bytes], sizes: list[int], size_format: str, end: bytes
) -> None:
    data = HEAD + b"".join(chunk(content, size_format) for content in chunks) + end
    headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
    assert decode(slice_bytes(data, sizes), parser=parser) == Outcome(
        200, headers, b"".join(chunks), valid=True, reusable=True
    )


@EACH_PARSER
@given(data=st.binary(max_size=200), sizes=SIZES)
@example(data=b"5\r\nhello!\r\n", sizes=[len(HEAD) + 5])
@example(data=b"5\r\nhello\r!", sizes=[1] * 200)
@example(data=b"5\r\nhello\r\n5\r\nhello\r\n1\r", sizes=[])
def test_any_bytes_after_the_head_are_decoded_as_by_h11(
    parser: str, data: bytes, sizes: list[int]
) -> None:
    for body in (data, chunk(b"one") + chunk(b"two") + data):
        slices = slice_bytes(HEAD + body, sizes)
        assert decode(slices, parser=parser) == decode_with_h11(slices)


# Each response, and its body if it is valid, and whether the connection can be used again.
RESPONSES: dict[str, tuple[bytes, bytes | None, bool]] = {
    "length": (response("content-length: 3", b"abc"), b"abc", True),
    "no body": (response("content-length: 0"), b"", True),
    "chunks": (response("transfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"), b"abc", True),
    "until close": (response("a: b", b"abc"), b"abc", False),
    "no header": (b"HTTP/1.1 200\r\n\r\nabc", b"abc", False),
    "close": (response("connection: a, Close\r\ncontent-length: 3", b"abc"), b"abc", False),
    "HTTP/1.0": (response("content-length: 3", b"abc", "HTTP/1.0 200 OK"), b"abc", False),
    "HTTP/1.0 keep-alive": (
        response("connection: keep-alive\r\ncontent-length: 3", b"abc", "HTTP/1.0 200 OK"),
        *(b"abc", False),
    ),
    "204": (response("transfer-encoding: chunked", b"", "HTTP/1.1 204 No Content"), b"", True),
    "304": (response("content-length: 3", b"", "HTTP/1.1 304 Not Modified"), b"", True),
    "excess": (response("content-length: 3", b"abcd"), b"abc", False),
    "excess after 204": (response("a: b", b"x", "HTTP/1.1 204 No Content"), b"", False),
    "excess after chunks": (HEAD + b"0\r\n\r\n\r\n", b"", False),
    "second response": (response("content-length: 3", b"abc") + HEAD, b"abc", False),
    "same length twice": (
        response("content-length: 3\r\nContent-Length: 3, 3", b"abc"),
        *(b"abc", True),
    ),
    "length and chunks": (
        response("content-length: 9\r\ntransfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
        *(b"abc", False),
    ),
    "folded": (response("a: b\r\n c\r\ncontent-length: 3", b"abc"), b"abc", True),
    "bare LF": (b"HTTP/1.1 200 OK\ncontent-length: 3\n\nabc", b"abc", True),
    "control character": (response("a: \x01\r\ncontent-length: 3", b"abc"), b"abc", True),
    "1xx": (response("a: b", b"", "HTTP/1.1 103 Early Hints") + HEAD + b"0\r\n\r\n", b"", True),
    "conflicting lengths": (
        response("content-length: 3\r\ncontent-length: 4", b"abcd"),
        None,
        False,
    ),
    "list of lengths": (response("content-length: 3, 4", b"abcd"), None, False),
    "signed length": (response("content-length: +3", b"abc"), None, False),
    "long length": (response("content-length: " + "9" * 21, b"abc"), None, False),
    "unknown coding": (response("transfer-encoding: gzip, chunked", b"0\r\n\r\n"), None, False),
    "coding twice": (response("transfer-encoding: chunked\r\n" * 2, b"0\r\n\r\n"), None, False),
    "NUL": (response("a: \0\r\ncontent-length: 0"), None, False),
    "NUL in the reason": (response("a: b", b"", "HTTP/1.1 200 O\0K"), None, False),
    "bare CR": (response("a: b\rcontent-length: 3\r\ncontent-length: 0"), None, False),
    "space before colon": (response("content-length : 3", b"abc"), None, False),
    "no name": (response(": b\r\ncontent-length: 0"), None, False),
    "no colon": (response("content-length 3"), None, False),
    "101": (
        response("upgrade: x", response("content-length: 3", b"abc"), "HTTP/1.1 101 X"),
        *(None, False),
    ),
    "099": (response("content-length: 0", b"", "HTTP/1.1 099 X"), None, False),
    "another protocol": (response("content-length: 0", b"", "RTSP/1.0 200 OK"), None, False),
    "empty line first": (b"\r\n" + response("content-length: 0"), None, False),
    "cut head": (b"HTTP/1.1 200 OK\r\ncontent-le", None, False),
    "cut body": (response("content-length: 3", b"ab"), None, False),
    "cut chunk": (HEAD + b"3\r\nab", None, False),
    "cut trailers": (HEAD + b"0\r\na: b\r\n", None, False),
    "malformed trailers": (HEAD + b"0\r\na\r\n\r\n", None, False),
    "nothing": (b"", None, False),
}


@EACH_PARSER
@EACH_SLICING
@pytest.mark.parametrize(("data", "body", "reusable"), RESPONSES.values(), ids=RESPONSES)
def test_response(
    data: bytes, body: bytes | None, reusable: bool, sizes: list[int], parser: str
) -> None:
    outcome = decode(slice_bytes(data, sizes), parser=parser)
    assert outcome.valid is (body is not None)
    assert outcome.reusable is reusable
    if body is not None:
        assert outcome.body == body


@EACH_PARSER
def test_a_response_to_head_has_no_body(parser: str) -> None:
    for lines in ("content-length: 3", "transfer-encoding: chunked", "a: b"):
        outcome = decode([response(lines)], "HEAD", parser=parser)
        assert (outcome.body, outcome.valid, outcome.reusable) == (b"", True, True)
        assert not decode([response(lines, b"abc")], "HEAD", parser=parser).reusable


@EACH_PARSER
@EACH_SLICING
@pytest.mark.parametrize("excess", [0, 1])
def test_a_head_larger_than_its_limit_is_refused(
    sizes: list[int], excess: int, parser: str
) -> None:
    lines = "content-length: 0\r\na: "
    padding = MAX_HEAD_BYTES + excess - len(response(lines))
    data = response(lines + "b" * padding)
    trailers = b"0\r\na: " + b"b" * MAX_HEAD_BYTES * excess + b"\r\n\r\n"
    for slices in (slice_bytes(data, sizes), slice_bytes(HEAD + trailers, sizes)):
        assert decode(slices, parser=parser).valid is not bool(excess)


@EACH_SLICING
@pytest.mark.parametrize("excess", [0, 1])
def test_a_chunk_line_longer_than_its_limit_is_refused(sizes: list[int], excess: int) -> None:
    line = b"3;" + b"x" * (MAX_CHUNK_LINE_BYTES + excess - 4) + b"\r\n"
    outcome = decode(slice_bytes(HEAD + line + b"abc\r\n0\r\n\r\n", sizes))
    assert outcome.valid is not bool(excess)


def test_what_has_no_end_is_refused_early() -> None:
    """The parser does not wait for an end that may never arrive."""
    for data in (
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * MAX_HEAD_BYTES,
        HEAD + b"5" + b";" * MAX_CHUNK_LINE_BYTES,
    ):
        parser = ResponseParser()
        parser.feed(data)
        assert parser.failed


@EACH_PARSER
def test_more_than_a_thousand_informational_responses_are_refused(parser: str) -> None:
    informational = b"HTTP/1.1 100 \r\n\r\n" * MAX_INFORMATIONAL_RESPONSES
    assert decode([informational + HEAD + b"0\r\n\r\n"], parser=parser).valid
    with use_parser(parser):
        response = ResponseParser()
        response.feed(informational)
        assert not response.failed
        response.feed(b"HTTP/1.1 100 \r\n\r\n")
    assert "informational" in response.failed


def test_a_piece_of_a_long_body_is_returned_without_a_copy() -> None:
    for lines in ("content-length: 10", "a: b"):
        parser = ResponseParser()
        parser.feed(response(lines))
        pieces = [b"01234", b"56789"]
        assert all(parser.feed(piece) is piece for piece in pieces)


def test_chunks_of_one_read_are_joined_and_a_partial_chunk_is_returned_at_once() -> None:
    parser = ResponseParser()
    assert parser.feed(HEAD + chunk(b"one")) == b"one"
    assert parser.feed(chunk(b"two") + b"a\r\n01234") == b"two01234"
    assert parser.feed(b"56789") == b"56789"
    assert parser.feed(b"\r\n" + chunk(b"three") + chunk(b"four") + b"1") == b"threefour"
    assert parser.feed(b"2\r\n") == b""
    assert parser.feed(b"x" * 18 + b"\r") == b"x" * 18
    assert (parser.feed(b"\n0\r\n\r"), parser.complete) == (b"", False)
    assert (parser.feed(b"\n"), parser.complete, parser.reusable) == (b"", True, True)


@pytest.mark.parametrize("excess", [b"!", b"\r!", b"\n\r"])
@EACH_SLICING
def test_content_before_an_error_is_returned(excess: bytes, sizes: list[int]) -> None:
    parser = ResponseParser()
    assert parser.feed(HEAD + b"5\r\nhe") == b"he"
    content = b"".join(parser.feed(part) for part in slice_bytes(b"llo" + excess, sizes))
    assert content == b"llo"
    assert (parser.complete, parser.failed) == (False, "a chunk is longer than its size")


def test_bytes_after_the_end_make_the_connection_unusable() -> None:
    parser = ResponseParser()
    parser.feed(response("content-length: 0"))
    assert parser.reusable
    assert parser.feed(b"x") == b""
    assert (parser.complete, parser.reusable) == (True, False)


class LaxParser:
    """A parser like that of httptools that accepts any line, as versions of it once did."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def feed_data(self, head: bytes) -> None:
        for line in head.split(b"\r\n")[1:-2]:
            self._protocol.on_header(*line.split(b": "))
        if b"incomplete" not in head:
            self._protocol.on_headers_complete()

    def get_status_code(self) -> int:
        return 200

    def get_http_version(self) -> str:
        return "1.1"


@pytest.mark.parametrize(
    ("line", "valid"),
    [
        ("content-length: 0", True),
        ("content-length: +0", False),
        ("content-length: 0_0", False),
        ("content-length: \xb2", False),
        ("content-length: 0, 0", False),
        ("content-length: " + "0" * 21, False),
        ("transfer-encoding: gzip", False),
        ("a: incomplete\r\na: \0", False),
    ],
)
def test_a_library_that_accepts_everything_does_not_decide_where_the_body_ends(
    line: str, valid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(
        HttpResponseParser=LaxParser, HttpParserError=ValueError, HttpParserUpgrade=ValueError
    )
    monkeypatch.setattr(response_head, "httptools", library)
    parser = ResponseParser()
    parser.feed(response(line))
    assert (parser.complete, bool(parser.failed)) == (valid, not valid)


@pytest.mark.skipif("httptools" not in PARSERS, reason="needs httptools")
def test_httptools_parses_a_common_head_without_h11(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h11", None)
    outcome = decode([HEAD + chunk(b"one") + b"0\r\n\r\n"], parser="httptools")
    assert (outcome.status, outcome.body, outcome.reusable) == (200, b"one", True)
