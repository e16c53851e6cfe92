"""The head of a response, parsed by httptools where it is installed (extra `fast`), else by h11.

httptools (llhttp, the parser of Node.js) is ten times faster, and stricter: it refuses, for
example, bare line feeds, folded lines and repeated lengths. h11 decides about every head that
httptools refuses, so that a server works with both or with neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h11
try:
    import httptools
except ImportError:
    httptools = None

MAX_LENGTH_DIGITS = 20

RawHeaders = list[tuple[bytes, bytes]]


class InvalidHeadError(Exception):
    """The bytes are not the head of a response."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The status line and the headers of a response."""

    status: int
    """The status code: 100 to 999, but never 101."""
    headers: Mapping[str, str]
    """The headers, see `header_map`."""
    length: int | None
    """The Content-Length."""
    chunked: bool
    """Whether the body is chunked."""
    keep_alive: bool
    """Whether the server keeps the connection open after this response."""


def parse_head(head: bytes) -> ResponseHead:
    """Parse all lines of a head, including the empty one.

    Raises InvalidHeadError, also for a length or transfer coding that leaves open where the body
    ends.
    """
    parse = _parse_with_h11 if httptools is None else _parse_with_httptools
    status, http_version, raw_headers = parse(head)
    headers = header_map(raw_headers)
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and not (length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS):
        raise InvalidHeadError
    if coding is not None:
        if coding.lower() != "chunked":
            raise InvalidHeadError
        headers["transfer-encoding"] = "chunked"
    connection = headers.get("connection")
    return ResponseHead(
        status,
        headers,
        None if length is None else int(length),
        coding is not None,
        http_version >= "1.1"
        and (connection is None or not _is_closing(connection))
        # Transfer-Encoding overrides Content-Length, but a server that sends both may take
        # something else for the end of the body (RFC 9112, 6.3).
        and (length is None or coding is None),
    )


def header_map(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers with lower-case names; join the values of a repeated one by commas."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _is_closing(connection: str) -> bool:
    return "close" in (option.strip() for option in connection.lower().split(","))


@cache
def _any_request() -> tuple[h11.Event, ...]:
    import h11

    return h11.Request(method="GET", target="/", headers=[("Host", "x")]), h11.EndOfMessage()


def _parse_with_h11(head: bytes) -> tuple[int, str, RawHeaders]:
    # With httptools, hardly any server makes this import necessary.
    import h11

    connection = h11.Connection(h11.CLIENT)
    # h11 accepts a 1xx response only after a request.
    for event in _any_request():
        connection.send(event)
    connection.receive_data(head)
    try:
        response = connection.next_event()
    except h11.RemoteProtocolError:
        # h11 quotes the invalid line, and that may contain a key.
        raise InvalidHeadError from None
    if not isinstance(response, (h11.Response, h11.InformationalResponse)):
        raise InvalidHeadError
    return response.status_code, response.http_version.decode(), response.headers.raw_items()


class _Headers:
    """Collects the headers that httptools finds."""

    __slots__ = ("complete", "items")

    def __init__(self) -> None:
        self.items: RawHeaders = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.items.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


# httptools accepts other protocols, and any character after the status code.
_STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9] [1-9][0-9]{2}(?: [^\x00\n-\r]*)?\r\n")


def _parse_with_httptools(head: bytes) -> tuple[int, str, RawHeaders]:
    if _STATUS_LINE.match(head) is None:
        return _parse_with_h11(head)
    headers = _Headers()
    parser: Any = httptools.HttpResponseParser(headers)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return _parse_with_h11(head)
    if not headers.complete:
        return _parse_with_h11(head)
    return parser.get_status_code(), parser.get_http_version(), headers.items
