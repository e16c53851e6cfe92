"""Responses for tests of the parser, valid and not, in any slicing."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

STATUS_LINES = [
    *("HTTP/1.1 200 OK", "HTTP/1.1 404", "HTTP/1.1 200 ", "HTTP/1.0 200 OK", "HTTP/1.1 204 No"),
    *("HTTP/1.1 304 N", "HTTP/1.1 101 S", "HTTP/1.1 099 x", "HTTP/1.1 2000 x", "HTTP/1.1 20x"),
    *("HTTP/2.0 200 x", "HTTP/1.2 200 x", "HTTP/0.9 200 x", "HTTP/3.7 200 x", "HTTP/11 200 x"),
    *("HTTP/1.1  200 x", "http/1.1 200 x", "HTTP/1.1\t200 x", "HTTP/1.1 200\tx", "ICY 200 OK"),
    *("HTTP/1.1 200 \xff\x01", "HTTP/1.1 200 a\0b", "HTTP/1.1 200 a\rb", "", "RTSP/1.0 200 OK"),
    *("HTTP/1.1 200\xa0OK", "HTTP/1.1 200 a\x7fb", "HTTP/1.1 200 a\x0bb", "HTTP/1.1 999 x"),
]
INFORMATIONAL = [
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 103 Early Hints",
    "HTTP/1.0 199",
    "HTTP/1.1 101",
]
FRAMING = [
    *("content-length: 3", "Content-Length: 10", "content-length: 0", "content-length: 003"),
    *(
        "transfer-encoding: chunked",
        "Transfer-Encoding: Chunked",
        "transfer-encoding: \tchunked \t",
    ),
]
HEADERS = [
    *("content-length: 3, 3", "content-length: 3,4", "content-length:", "content-length: +3"),
    *("content-length: 0x3", "content-length: 3 3", "content-length: -1", "content-length: 3;"),
    *("content-length: 18446744073709551616", "content-length: 999999999999999999999"),
    *("content-length: \xb2", "content-length : 3", " content-length: 3", "content-length: 3\0"),
    *("transfer-encoding: gzip", "transfer-encoding: gzip, chunked", "transfer-encoding:"),
    *("transfer-encoding: chunked, chunked", "transfer-encoding: identity"),
    *("transfer-encoding: chunked\x0b", "transfer-encoding: xchunked", "transfer-encoding: c;q=1"),
    *("connection: close", "connection: keep-alive", "Connection: a, Close", "connection: closed"),
    *("connection: upgrade", "upgrade: websocket", "connection: ,close,", "connection: close\x0b"),
    *("a: b", "a:b", "a:", "a", "a b: c", ": x", " folded", "\tfolded", "a: \x01", "a: \x7f"),
    *("a: \0", "a: b\rc", "a: \xff\xfe", "a\xff: b", "a:  b  c  ", "a: \x0b", "a(: b", ""),
]
CHUNKS = [
    *("3\r\nabc\r\n", "A\r\n0123456789\r\n", "03\r\nabc\r\n", "3;x=1\r\nabc\r\n"),
    *("3 \r\nabc\r\n", "3;a\rb \t\r\nabc\r\n", "3;\0\xff\r\nabc\r\n"),
]
BAD_CHUNKS = [
    *(
        " 3\r\nabc\r\n",
        "3\nabc\n",
        "3\r\nabcd\r\n",
        "3\r\nab\r\n",
        "+3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
    ),
    *("1_0\r\nabc\r\n", "-1\r\n", "\r\n", "3;a\nb\r\nabc\r\n", "3\r\nabc\r", "3\r\nabc\n", "g\r\n"),
    *(
        "000000000000000000003\r\nabc\r\n",
        "ffffffffffffffff\r\nabc\r\n",
        "3\r\rabc\r\n",
        "3\x0b\r\n",
    ),
]
ENDS = [
    *("0\r\n\r\n", "00;x\r\n\r\n", "0\r\nx: 1\r\n\r\n", "0\r\nx: 1\n\n", "0\r\n\n"),
    *(
        "",
        "0\r\n",
        "0\n\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nx: 1\r\n folded\r\n\r\n",
        "0\r\nbad\r\n\r\n",
    ),
    *("0\r\ntransfer-encoding: gzip\r\n\r\n", "0\r\ncontent-length: 1,2\r\n\r\n", "0\r\n\rx"),
    *("0\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "0\r\nx: 1\r\n\r\nexcess"),
    *("0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "0\r\n\r\n\r\n"),
]
BODIES = ["", "ab", "abc", "abcd", "0123456789", "abcHTTP/1.1 200 OK\r\n\r\n"]
LINE_ENDS = ["\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n", "\n\r"]


@st.composite
def any_response(draw: st.DrawFn) -> bytes:
    """Return a response of common and of uncommon parts; one in three has changed bytes."""
    line_ends = st.sampled_from(LINE_ENDS) if draw(st.booleans()) else st.just("\r\n")

    def head(status_lines: list[str]) -> str:
        lines = [draw(st.sampled_from(status_lines))]
        lines += draw(st.lists(st.sampled_from(FRAMING), max_size=2))
        lines += draw(st.lists(st.sampled_from(HEADERS), max_size=2))
        return "".join(line + draw(line_ends) for line in [*lines, ""])

    text = "".join(head(INFORMATIONAL) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))))
    text += head(draw(st.sampled_from([STATUS_LINES[:1], STATUS_LINES])))
    if draw(st.booleans()):
        chunks = st.sampled_from(draw(st.sampled_from([CHUNKS, CHUNKS + BAD_CHUNKS])))
        text += "".join(draw(st.lists(chunks, max_size=4))) + draw(st.sampled_from(ENDS))
    else:
        text += draw(st.sampled_from(BODIES))
    data = bytearray(text.encode("latin-1"))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


SIZES = st.lists(st.integers(1, 60), max_size=60)
"""Sizes of slices."""


def slice_bytes(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Return the slices of these sizes, and the rest."""
    slices, at = [], 0
    for size in sizes:
        slices.append(data[at : at + size])
        at += size
    return [part for part in [*slices, data[at:]] if part]
