"""Many small HTTP chunks made into one, before the protocol library sees them: it costs the same for each, however small.

Servers send every event of a stream in a chunk of its own (RFC 9112, 7.1), and several of them arrive with one read. Only what is plainly
well-formed is gathered; from the first byte that is not, everything goes on as it came, for the protocol library to judge.
"""

from __future__ import annotations

import re

from majordomo.errors import BadResponseError

HEX = b"0123456789abcdefABCDEF"
LONGEST_LINE = 8  # digits of a chunk's size; extensions and longer ones are left alone
LONGEST_HEAD = 128 * 1024  # the protocol library refuses a longer one
MOST_PROVISIONAL = 1000  # answers before the answer; it takes the protocol library seconds to read a piece of network that is full of them
_CHUNKED = re.compile(rb"\r?\ntransfer-encoding:[ \t]*chunked[ \t]*\r?\n", re.IGNORECASE)
_END = re.compile(rb"\n\r?\n")  # of a head, as the protocol library sees it: a bare line feed ends a line too
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})[ \r\n]")


class Gatherer:
    """The bytes of one answer, in any slicing: what `feed` returns means the same as what it took."""

    __slots__ = ("_gathers", "_head", "_held", "_left", "_provisional")

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()  # None once the head is over
        self._provisional = 0
        self._gathers = False
        self._left = 0  # bytes of a chunk, with its line end, that are still to come
        self._held = b""  # the beginning of a chunk's first line

    @property
    def holds(self) -> bool:
        """Whether bytes have come that were not handed on."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """Raises BadResponseError for provisional answers without end."""
        at = 0
        while self._head is not None:  # there may be thousands of provisional answers
            end = self._end_of_head(data, at)
            if end is None:
                return data
            at = end
        return data[:at] + self._chunks(data[at:]) if self._gathers and at < len(data) else data

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
                raise BadResponseError("thousands of provisional answers, and no answer", code="NOT_HTTP")
        else:
            self._head = None
            self._gathers = status is not None and status[1] not in (b"101", b"204", b"304") and _CHUNKED.search(whole) is not None
        return end.end() - before

    def _chunks(self, data: bytes) -> bytes:
        at = 0
        if self._left:
            at = min(self._left, len(data))
            self._left -= at
            if self._left or at == len(data):
                return data
        head, data = data[:at], self._held + data[at:]
        self._held = b""
        gathered: list[bytes] = []
        at, size = 0, len(data)
        while at < size:
            end = data.find(b"\r\n", at, at + LONGEST_LINE + 2)
            if end < 0:
                line = data[at:]
                if len(line) > LONGEST_LINE + 1 or line.removesuffix(b"\r").strip(HEX):
                    self._gathers = False
                else:
                    self._held, size = line, at
                break
            line = data[at:end]
            length = int(line, 16) if line and not line.strip(HEX) else 0
            if not length:  # the last chunk, or something that only looks like one
                self._gathers = False
                break
            stop = end + 2 + length
            if stop + 2 > size:
                self._left = stop + 2 - size
                break
            if data[stop : stop + 2] != b"\r\n":
                self._gathers = False
                break
            gathered.append(data[end + 2 : stop])
            at = stop + 2
        if len(gathered) < 2:
            return head + data[:size]
        body = b"".join(gathered)
        return b"%b%x\r\n%b\r\n%b" % (head, len(body), body, data[at:size])
