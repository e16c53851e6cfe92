"""The chunks of a streamed body, read past the protocol library: it costs the same for each, however small.

Servers send every event of a stream in a chunk of its own (RFC 9112, 7.1). The protocol library sees the head and, from the first chunk on
that is not plainly well-formed, everything as it came: the last chunk and its trailers, extensions, and what is wrong. One thing it cannot
judge: a wrong end of a chunk whose beginning was handed on before it came (`BadChunkError`).
"""

from __future__ import annotations

import re

from majordomo.errors import BadResponseError

HEX = b"0123456789abcdefABCDEF"
LINE_END = b"\r\n"
LONGEST_LINE = 8  # digits of a chunk's size; extensions and longer ones are left alone
LONGEST_HEAD = 128 * 1024  # the protocol library refuses a longer one
MOST_PROVISIONAL = 1000  # answers before the answer; it takes the protocol library seconds to read a piece of network that is full of them
_CHUNKED = re.compile(rb"\r?\ntransfer-encoding:[ \t]*chunked[ \t]*\r?\n", re.IGNORECASE)
_END = re.compile(
    rb"\n\r?\n"
)  # of a head, as the protocol library sees it: a bare line feed ends a line too
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})[ \r\n]")


class BadChunkError(Exception):
    """A chunk that is longer than it says, which was noticed when its beginning had been handed on."""


class Chunks:
    """One answer's bytes, in any slicing. What `feed` and `release` give is for the protocol library, what `take` gives is the body's.

    All of the body may go either way: whoever never calls `take` gets everything from the other two.
    """

    __slots__ = ("_head", "_kept", "_left", "_provisional", "plain")

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()  # None once the head is over
        self._provisional = 0
        self.plain: bool = False  # whether there may be chunks to take: the body is one of chunks, and none was odd or released
        self._left = 0  # bytes of a chunk, with its line end, that are still to come
        self._kept = b""  # what has come behind the head and was not handed on

    @property
    def holds(self) -> bool:
        """Whether bytes have come that were not handed on."""
        return bool(self._kept)

    def feed(self, data: bytes) -> bytes:
        """What the protocol library is to see at once: the head, and a body that is not one of chunks. Never empty unless `data` is.

        Raises BadResponseError for provisional answers without end.
        """
        at = 0
        while self._head is not None:  # there may be thousands of provisional answers
            end = self._end_of_head(data, at)
            if end is None:
                return data
            at = end
        if not self.plain:
            return data
        self._kept = data[at:]
        return data[:at]

    def release(self) -> bytes:
        """What was kept, as it came. From now on nothing is."""
        self.plain = False
        kept, self._kept = self._kept, b""
        return kept

    def take(self, data: bytes = b"") -> bytes:
        """What the chunks hold in `data`, and before it in what was kept; b"" when more must come, or the rest be released.

        Raises BadChunkError, not before all that stood before it was given.
        """
        if self._kept:
            data, self._kept = self._kept + data, b""
        found: list[bytes] = []
        at, size = 0, len(data)
        if self._left:
            text, at = max(0, self._left - 2), min(self._left, size)
            if text:
                found.append(data[:text])
            if text < at and data[text:at] != LINE_END[-min(self._left, 2) :][: at - text]:
                if not text:
                    raise BadChunkError
                self._left, self._kept = 2, data[text:]
                return found[0]
            self._left -= at
        while at < size:
            end = data.find(LINE_END, at, at + LONGEST_LINE + 2)
            if end < 0:
                self._kept = data[at:]
                self.plain = len(self._kept) <= LONGEST_LINE + 1 and not self._kept.removesuffix(
                    b"\r"
                ).strip(HEX)
                break
            line = data[at:end]
            length = int(line, 16) if line and not line.strip(HEX) else 0
            ends = end + 2 + length
            # the last chunk, or something that only looks like one, or one that is longer than it says
            if not length or not (
                data.startswith(LINE_END, ends)
                or (ends + 2 > size and LINE_END.startswith(data[ends:]))
            ):
                self.plain, self._kept = False, data[at:]
                break
            found.append(data[end + 2 : ends])
            at = ends + 2
        if at > size:
            self._left = at - size
        return found[0] if len(found) == 1 else b"".join(found)

    def _end_of_head(self, data: bytes, at: int) -> int | None:
        """Where in `data` the head ends that goes on at `at`; None when it does not."""
        head = self._head
        assert head is not None
        before = len(head) - at
        head += memoryview(data)[at:]
        end = _END.search(head, max(0, before + at - 2))
        if end is None:
            if len(head) > LONGEST_HEAD:
                self._head = None
            return None
        whole = bytes(head[: end.end()])
        status = _STATUS.match(whole)
        if status is not None and status[1].startswith(b"1") and status[1] != b"101":
            self._head = bytearray()  # the real answer follows
            self._provisional += 1
            if self._provisional > MOST_PROVISIONAL:
                raise BadResponseError(
                    "thousands of provisional answers, and no answer", code="NOT_HTTP"
                )
        else:
            self._head = None
            self.plain = (
                status is not None
                and status[1] not in (b"101", b"204", b"304")
                and _CHUNKED.search(whole) is not None
            )
        return end.end() - before
