"""Decoders for server-sent events and newline-delimited JSON, from bytes in any slicing.

Text is not decoded here: U+2028 and U+0085 are ordinary characters of JSON, and line ends only for
Python's `splitlines`.
"""

from __future__ import annotations

from majordomo.errors import BadResponseError


class LineDecoder:
    """Splits bytes into lines without their ends. An incomplete line is kept, up to `limit` bytes.

    LF and CRLF end a line, and with `bare_cr` a lone CR too, as in event streams.
    """

    __slots__ = ("_bare_cr", "_limit", "_tail", "_tail_size", "_was_cr")

    def __init__(self, limit: int, *, bare_cr: bool = False) -> None:
        self._limit = limit
        self._bare_cr = bare_cr
        self._tail: list[bytes] = []
        self._tail_size = 0
        self._was_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes.

        Raises BadResponseError for a line longer than the limit.
        """
        if not chunk:
            return []
        if self._bare_cr:
            # "…lines end with CRLF, LF, or CR" (HTML standard, event stream format). An LF after a
            # CR that ended the last chunk belongs to that CR. A CR at the end of this chunk ends
            # its line at once, so that nothing waits forever.
            if self._was_cr and chunk[0] == 10:
                chunk = chunk[1:]
                self._was_cr = False
                if not chunk:
                    return []
            if b"\r" in chunk:
                self._was_cr = chunk[-1] == 13
                chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            else:
                self._was_cr = False
        lines = chunk.split(b"\n")
        last = lines.pop()
        if lines and self._tail:
            self._keep(lines[0])
            lines[0] = b"".join(self._tail)
            self._tail, self._tail_size = [], 0
        for line in lines:
            if len(line) > self._limit:
                raise self._too_long()
        if last:
            self._keep(last)
        if not self._bare_cr:
            return [line[:-1] if line.endswith(b"\r") else line for line in lines]
        return lines

    @property
    def empty(self) -> bool:
        """Whether no incomplete line is kept, and no CR whose LF may follow."""
        return not self._tail and not self._was_cr

    def finish(self) -> bytes:
        """Return the last line if it had no end, else b""."""
        rest = b"".join(self._tail)
        self._tail, self._tail_size = [], 0
        return rest

    def _keep(self, fragment: bytes) -> None:
        self._tail_size += len(fragment)
        if self._tail_size > self._limit:
            raise self._too_long()
        self._tail.append(fragment)

    def _too_long(self) -> BadResponseError:
        return BadResponseError(
            f"a line or event of the stream is larger than the limit of {self._limit:,} bytes",
            code="TOO_LARGE",
        )


class EventDecoder:
    """Decodes server-sent events into the `data` of each event, its lines joined by LF.

    Event names, ids, comments and retry times are ignored: in every supported dialect the JSON
    itself says what an event is.
    """

    __slots__ = ("_data", "_limit", "_lines", "_size", "stray")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines = LineDecoder(limit, bare_cr=True)
        self._data: list[bytes] = []
        self._size = 0
        self.stray: bytes = b""
        """Lines that are not a field of the format, at most 4 KiB.

        A proxy that fails in mid-stream writes its error there.
        """

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes.

        Raises BadResponseError for an event longer than the limit.
        """
        if (
            chunk.endswith(b"\n\n")
            and chunk.startswith(b"data: ")
            and not self._data
            and self._lines.empty
            and b"\r" not in chunk
        ):
            # Fast path: nearly every chunk is one or more complete events of one line each.
            events = chunk[6:-2].split(b"\n\ndata: ")
            if len(chunk) <= self._limit and not any(b"\n" in event for event in events):
                return events
        events = []
        data = self._data
        for line in self._lines.feed(chunk):
            line = line.removeprefix(_BOM)
            if not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._size = 0
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._size += len(value) + 1
                if self._size > self._limit + 1:
                    raise BadResponseError(
                        f"an event of the stream is larger than the limit of {self._limit:,} bytes",
                        code="TOO_LARGE",
                    )
                data.append(value)
            elif line.startswith(b":"):
                # A comment, used to keep the connection alive.
                continue
            elif line.partition(b":")[0] not in _FIELDS:
                self.stray = (self.stray + line)[:4096]
        return events

    def finish(self) -> list[bytes]:
        """End the stream and return its last event, if any.

        An event without the empty line that ends it is returned as well: some servers omit it.
        """
        last = self._lines.finish()
        return self.feed(last + b"\n\n") if last else self.feed(b"\n")


# Allowed before the first line (HTML standard); ignored before other lines too.
_BOM = b"\xef\xbb\xbf"
_FIELDS = frozenset((b"event", b"id", b"retry", b"data"))


class JSONLinesDecoder:
    """Splits newline-delimited JSON into the lines that are not blank."""

    __slots__ = ("_lines",)

    def __init__(self, limit: int) -> None:
        self._lines = LineDecoder(limit)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes.

        Raises BadResponseError for a line longer than the limit.
        """
        return [line for line in self._lines.feed(chunk) if line and not line.isspace()]

    def finish(self) -> list[bytes]:
        """Return the last line if it had no end and is not blank."""
        last = self._lines.finish()
        return [last] if last.strip() else []
