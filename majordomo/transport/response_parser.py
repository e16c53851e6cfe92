"""Parser of one response, from bytes in any slicing.

Theory of operation:

* The head, and each informational (1xx) head before it, is collected up to its empty line and then
  parsed by a library (`response_head`).
* The end of the body is found here (RFC 9112, 6.3): by Content-Length, by its last chunk, or at the
  end of the connection. The libraries would copy a long body, and cost much for each chunk. `feed`
  returns the content as it arrives; a piece without framing is returned as it is.
* A response ends when it is `complete` or has `failed`. Content before an error is returned all the
  same.
* The connection can serve another request only if the response is complete, nothing follows it, and
  the server did not announce that it closes the connection (`reusable`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from majordomo.transport.response_head import InvalidHeadError, ResponseHead, parse_head

# Of each head, and of the trailers.
MAX_HEAD_BYTES = 100 * 1024
# Of the line with the size of a chunk, which may have extensions.
MAX_CHUNK_LINE_BYTES = 16 * 1024
# Before the final response.
MAX_INFORMATIONAL_RESPONSES = 1000

# "A recipient MAY recognize a single LF as a line terminator" (RFC 9112, 2.2).
_BLANK_LINE = re.compile(rb"\n\r?\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})(?:;[^\n]*)?[ \t]*\r\n")
_START = b"HTTP/"
_LINE_END = b"\r\n"
# Trailers are checked as if they were headers below this line.
_STATUS_LINE = b"HTTP/1.1 200 OK\r\n"

_HEAD, _LENGTH, _CHUNKS, _TRAILERS, _UNTIL_CLOSE, _ENDED = range(6)


class ResponseParser:
    """The parser of the response to one request with the given method."""

    __slots__ = (
        "_buffer",
        "_informational",
        "_keep_alive",
        "_method",
        "_remaining",
        "_state",
        "failed",
        "headers",
        "status",
    )

    def __init__(self, method: str = "GET") -> None:
        self._method = method
        self._state = _HEAD
        # Lines that are not complete: of a head, a chunk or the trailers.
        self._buffer: bytearray | None = None
        # Bytes that have not arrived: of the body, or of the current chunk and its line end.
        self._remaining = 0
        self._keep_alive = True
        self._informational = 0
        # The status code; 0 until the head of the final response is complete.
        self.status: int = 0
        # The headers of the final response, see `header_map`.
        self.headers: Mapping[str, str] = {}
        # Why the response is not valid; empty if it is.
        self.failed: str = ""

    @property
    def complete(self) -> bool:
        """Whether the message has ended."""
        return self._state == _ENDED and not self.failed

    @property
    def reusable(self) -> bool:
        """Whether the connection can serve another request."""
        return self._keep_alive and self.complete

    def feed(self, data: bytes) -> bytes:
        """Return the content in the received bytes, of which there is at least one.

        Check `complete` and `failed` afterwards.
        """
        state = self._state
        if state == _CHUNKS:
            return self._feed_chunks(data)
        if state == _LENGTH:
            self._remaining -= len(data)
            if self._remaining > 0:
                return data
            end = len(data) + self._remaining
            self._end(data, end)
            return data[:end]
        if state == _UNTIL_CLOSE:
            return data
        if state == _HEAD:
            return self._feed_head(data)
        if state == _TRAILERS:
            self._feed_trailers(data)
        else:
            self._end(data, 0)
        return b""

    def feed_end(self) -> None:
        """Process the end of the connection."""
        self._keep_alive = False
        if self._state == _UNTIL_CLOSE:
            self._state = _ENDED
        elif self._state != _ENDED:
            self._fail("the connection ended before it was complete")

    def _end(self, data: bytes, end: int) -> None:
        """End the message, whose last byte in `data` precedes `end`."""
        self._state = _ENDED
        if end < len(data):
            # No request asked for what follows.
            self._keep_alive = False

    def _fail(self, reason: str) -> None:
        self._state, self.failed = _ENDED, reason

    def _feed_head(self, data: bytes) -> bytes:
        at = 0
        # There may be many informational responses.
        while True:
            lines, at = self._read_lines(data, at)
            if lines is None:
                return b""
            try:
                head = parse_head(lines)
            except InvalidHeadError:
                self._fail("its head is malformed")
                return b""
            if head.status >= 200:
                break
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL_RESPONSES:
                self._fail(
                    f"more than {MAX_INFORMATIONAL_RESPONSES:,} informational (1xx) responses"
                )
                return b""
        self._begin_body(head)
        return self.feed(data[at:]) if at < len(data) else b""

    def _read_lines(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """Return the lines up to an empty one, and where in `data` they end.

        None instead of the lines means that they are incomplete or too long.
        """
        buffer = self._buffer
        if buffer is None:
            end = _BLANK_LINE.search(data, at)
            if end is not None and end.end() - at <= MAX_HEAD_BYTES:
                return data[at : end.end()], end.end()
            self._buffer = buffer = bytearray(data[at:])
        else:
            before = len(buffer)
            buffer += data
            # The beginning was searched before.
            end = _BLANK_LINE.search(buffer, max(0, before - 2))
            if end is not None and end.end() <= MAX_HEAD_BYTES:
                self._buffer = None
                return bytes(buffer[: end.end()]), end.end() - before
        if len(buffer) > MAX_HEAD_BYTES:
            self._fail(f"its head or trailers have more than {MAX_HEAD_BYTES // 1024} KiB")
        elif not buffer.startswith(_START[: len(buffer)]):
            # It may have no end.
            self._fail(f"it does not begin with {_START.decode()}")
        return None, len(data)

    def _begin_body(self, head: ResponseHead) -> None:
        self.status, self.headers = head.status, head.headers
        self._keep_alive = head.keep_alive
        if self._method == "HEAD" or head.status in (204, 304):
            self._state = _ENDED
        elif head.chunked:
            self._state = _CHUNKS
        elif head.length is None:
            self._state = _UNTIL_CLOSE
        else:
            self._state, self._remaining = (_LENGTH if head.length else _ENDED), head.length

    def _feed_chunks(self, data: bytes) -> bytes:
        if self._buffer is not None:
            data, self._buffer = bytes(self._buffer + data), None
        contents: list[bytes] = []
        at, size, remaining = 0, len(data), self._remaining
        while at < size or remaining:
            if remaining:
                content_end, chunk_end = at + remaining - 2, at + remaining
                if content_end > at:
                    contents.append(data[at:content_end])
                    at = content_end
                if not _LINE_END[content_end - at :].startswith(data[at:chunk_end]):
                    self._fail("a chunk is longer than its size")
                    break
                remaining = max(0, chunk_end - size)
                if remaining:
                    break
                at = chunk_end
                continue
            line = _CHUNK_LINE.match(data, at)
            if line is None:
                self._buffer = bytearray(data[at:])
                if b"\n" in self._buffer or len(self._buffer) > MAX_CHUNK_LINE_BYTES:
                    self._fail("the size of a chunk is malformed")
                break
            if line.end() - at > MAX_CHUNK_LINE_BYTES:
                self._fail("the size of a chunk is malformed")
                break
            at, length = line.end(), int(line[1], 16)
            if not length:
                self._begin_trailers(data, at)
                break
            remaining = length + 2
        self._remaining = remaining
        return b"".join(contents)

    def _begin_trailers(self, data: bytes, at: int) -> None:
        if data.startswith(_LINE_END, at):
            self._end(data, at + 2)
            return
        self._state = _TRAILERS
        self._buffer = bytearray(_STATUS_LINE)
        self._feed_trailers(data[at:])

    def _feed_trailers(self, data: bytes) -> None:
        lines, end = self._read_lines(data, 0)
        if lines is None:
            return
        try:
            parse_head(lines)
        except InvalidHeadError:
            self._fail("its trailers are malformed")
        else:
            self._end(data, end)
