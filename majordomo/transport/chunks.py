"""Decoder for the chunks of a streamed body. It bypasses h11, whose cost per chunk is constant.

Servers send every event of a stream in a chunk of its own (RFC 9112, 7.1). The protocol library
(h11) sees the head and, from the first chunk on that is not plainly well-formed, everything as it
was received: the last chunk and its trailers, extensions, and errors. There is one error that it
cannot detect: a chunk with a wrong end whose beginning was delivered before the end arrived
(`BadChunkError`).
"""

from __future__ import annotations

import re

from majordomo.errors import BadResponseError

HEX = b"0123456789abcdefABCDEF"
LINE_END = b"\r\n"
# Digits of a chunk size. h11 handles longer sizes, and those with extensions.
MAX_SIZE_DIGITS = 8
# h11 refuses a longer head.
MAX_HEAD_BYTES = 128 * 1024
# Informational (1xx) responses before the final response. It takes h11 seconds to parse a single
# read that is full of them.
MAX_INFORMATIONAL_RESPONSES = 1000
_CHUNKED = re.compile(rb"\r?\ntransfer-encoding:[ \t]*chunked[ \t]*\r?\n", re.IGNORECASE)
# The end of a head as h11 recognizes it: a bare line feed ends a line too.
_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})[ \r\n]")


class BadChunkError(Exception):
    """A chunk is longer than its size says, detected after its beginning was delivered."""


class Chunks:
    """Splits the bytes of one response, in any slicing, between h11 and the body.

    What `feed` and `release` return is for h11; what `take` returns is content of the body. All of
    the body may go either way: without a call of `take`, `feed` and `release` return everything.
    """

    __slots__ = ("_chunk_remaining", "_head", "_informational", "_pending", "plain")

    def __init__(self) -> None:
        # The head as received so far; None once it is complete.
        self._head: bytearray | None = bytearray()
        self._informational = 0
        # True while `take` may return content: the body is chunked, and no chunk was irregular or
        # released.
        self.plain: bool = False
        # Bytes of the current chunk, including its line end, that have not arrived.
        self._chunk_remaining = 0
        # Bytes that arrived after the head and were not returned.
        self._pending = b""

    @property
    def has_pending(self) -> bool:
        """Whether bytes have arrived that were not returned."""
        return bool(self._pending)

    def feed(self, data: bytes) -> bytes:
        """Return what h11 must see at once: the head, and a body that is not chunked.

        The result is empty only if `data` is.

        Raises:
            BadResponseError: For an endless sequence of informational responses.
        """
        at = 0
        # There may be thousands of informational responses.
        while self._head is not None:
            end = self._find_head_end(data, at)
            if end is None:
                return data
            at = end
        if not self.plain:
            return data
        self._pending = data[at:]
        return data[:at]

    def release(self) -> bytes:
        """Return the pending bytes as they arrived. From now on nothing is kept back."""
        self.plain = False
        pending, self._pending = self._pending, b""
        return pending

    def take(self, data: bytes = b"") -> bytes:
        """Return the content of the chunks in the pending bytes and `data`.

        b"" means that more bytes must arrive, or that the rest must be released.

        Raises:
            BadChunkError: After everything before the error was returned.
        """
        if self._pending:
            data, self._pending = self._pending + data, b""
        contents: list[bytes] = []
        at, size = 0, len(data)
        if self._chunk_remaining:
            content_end = max(0, self._chunk_remaining - 2)
            at = min(self._chunk_remaining, size)
            if content_end:
                contents.append(data[:content_end])
            if (
                content_end < at
                and data[content_end:at]
                != LINE_END[-min(self._chunk_remaining, 2) :][: at - content_end]
            ):
                if not content_end:
                    raise BadChunkError
                self._chunk_remaining, self._pending = 2, data[content_end:]
                return contents[0]
            self._chunk_remaining -= at
        while at < size:
            end = data.find(LINE_END, at, at + MAX_SIZE_DIGITS + 2)
            if end < 0:
                self._pending = data[at:]
                self.plain = len(
                    self._pending
                ) <= MAX_SIZE_DIGITS + 1 and not self._pending.removesuffix(b"\r").strip(HEX)
                break
            line = data[at:end]
            length = int(line, 16) if line and not line.strip(HEX) else 0
            chunk_end = end + 2 + length
            # This is the last chunk, or a line that only resembles one, or a chunk that is longer
            # than its size says.
            if not length or not (
                data.startswith(LINE_END, chunk_end)
                or (chunk_end + 2 > size and LINE_END.startswith(data[chunk_end:]))
            ):
                self.plain, self._pending = False, data[at:]
                break
            contents.append(data[end + 2 : chunk_end])
            at = chunk_end + 2
        if at > size:
            self._chunk_remaining = at - size
        return contents[0] if len(contents) == 1 else b"".join(contents)

    def _find_head_end(self, data: bytes, at: int) -> int | None:
        """Return where in `data` the head ends that continues at `at`; None if it does not end."""
        head = self._head
        assert head is not None
        before = len(head) - at
        head += memoryview(data)[at:]
        end = _HEAD_END.search(head, max(0, before + at - 2))
        if end is None:
            if len(head) > MAX_HEAD_BYTES:
                self._head = None
            return None
        complete_head = bytes(head[: end.end()])
        status = _STATUS.match(complete_head)
        if status is not None and status[1].startswith(b"1") and status[1] != b"101":
            # The final response follows.
            self._head = bytearray()
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL_RESPONSES:
                raise BadResponseError(
                    "the server sent more than"
                    f" {MAX_INFORMATIONAL_RESPONSES:,} informational (1xx) responses",
                    code="NOT_HTTP",
                )
        else:
            self._head = None
            self.plain = (
                status is not None
                and status[1] not in (b"101", b"204", b"304")
                and _CHUNKED.search(complete_head) is not None
            )
        return end.end() - before
