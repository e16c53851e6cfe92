"""The head of a request, as bytes."""

from __future__ import annotations

import re

from majordomo.errors import InvalidRequestError
from majordomo.transport.base_url import Headers
from majordomo.transport_types import HTTPRequest

_METHOD = re.compile(r"[A-Z]+")
_TARGET = re.compile(r"[!-~]+")
_VALUE = re.compile(r"[!-~]+(?: [!-~]+)*")


def encode_header_lines(headers: Headers) -> bytes:
    """Return the lines of headers that were validated before."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def encode_request_head(request: HTTPRequest, target: str, header_lines: bytes) -> bytes:
    """Return the head of a request to `target`, with `header_lines` among its headers.

    Raises InvalidRequestError if a part of the request could end its line, and so add a header.
    """
    body = request.body
    length = len(body) if isinstance(body, bytes) else body.length
    lines = [b"Accept: %b\r\n" % _encode(_VALUE, request.accept, "its Accept header")]
    lines.append(b"Accept-Encoding: %b\r\n" % (b"identity" if request.stream else b"gzip"))
    if request.content_type:
        content_type = _encode(_VALUE, request.content_type, "its Content-Type header")
        lines.append(b"Content-Type: %b\r\n" % content_type)
    # sd-server delays its response to a POST without Content-Length by 5 s.
    if length or request.method not in ("GET", "HEAD"):
        lines.append(b"Content-Length: %d\r\n" % length)
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
        _encode(_METHOD, request.method, "its method"),
        _encode(_TARGET, target, "its path"),
        header_lines,
        b"".join(lines),
    )


def _encode(pattern: re.Pattern[str], text: str, name: str) -> bytes:
    if pattern.fullmatch(text) is None:
        # The path may contain a key.
        raise InvalidRequestError(
            f"the request cannot be encoded as HTTP: {name} has characters that are not allowed;"
            " use printable ASCII characters without spaces around them",
            field="headers",
        )
    return text.encode("ascii")
