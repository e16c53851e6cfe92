"""Server-sent events and newline-delimited JSON, from bytes in any slicing.

Text is not decoded here: U+2028 and U+0085 are ordinary characters of JSON, and line ends only for Python's `splitlines`.
"""

from __future__ import annotations

from majordomo.errors import BadResponseError


class LineDecoder:
    """Bytes in, complete lines out, without their ends; half a line waits for its other half, up to `limit` bytes.

    With `bare_cr` a lone CR ends a line too, as in event streams; else only LF and CRLF do.
    """

    __slots__ = ("_bare_cr", "_held", "_limit", "_tail", "_was_cr")

    def __init__(self, limit: int, *, bare_cr: bool = False) -> None:
        self._limit = limit
        self._bare_cr = bare_cr
        self._tail: list[bytes] = []
        self._held = 0
        self._was_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes. Raises BadResponseError for a line longer than the limit."""
        if not chunk:
            return []
        if self._bare_cr:
            # "…lines end with CRLF, LF, or CR" (HTML standard, event stream format). An LF after a CR that ended the
            # last chunk belongs to that CR; a CR at the end of this one ends its line at once, so nothing waits for ever.
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
        pieces = chunk.split(b"\n")
        last = pieces.pop()
        if pieces and self._tail:
            self._hold(pieces[0])
            pieces[0] = b"".join(self._tail)
            self._tail, self._held = [], 0
        for line in pieces:
            if len(line) > self._limit:
                raise self._too_long()
        if last:
            self._hold(last)
        if not self._bare_cr:
            return [line[:-1] if line.endswith(b"\r") else line for line in pieces]
        return pieces

    @property
    def empty(self) -> bool:
        """Whether nothing of the bytes so far is held back, or waits to be told what it was."""
        return not self._tail and not self._was_cr

    def finish(self) -> bytes:
        """The last line, when it had no end."""
        rest = b"".join(self._tail)
        self._tail, self._held = [], 0
        return rest

    def _hold(self, piece: bytes) -> None:
        self._held += len(piece)
        if self._held > self._limit:
            raise self._too_long()
        self._tail.append(piece)

    def _too_long(self) -> BadResponseError:
        return BadResponseError(
            f"one line or event of the stream is longer than the limit of {self._limit:,} bytes",
            code="TOO_LARGE",
        )


class EventDecoder:
    """Server-sent events: the `data` of each event, its lines joined by LF. Names, ids, comments and retry hints are left out:
    every dialect we speak says in its JSON what an event is.

    Lines that are no field of the format are kept in `stray` (at most 4 KiB): a proxy that fails in mid-stream writes its error there.
    """

    __slots__ = ("_data", "_limit", "_lines", "_size", "stray")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines = LineDecoder(limit, bare_cr=True)
        self._data: list[bytes] = []
        self._size = 0
        self.stray: bytes = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes. Raises BadResponseError for an event longer than the limit."""
        if (
            chunk.endswith(b"\n\n")
            and chunk.startswith(b"data: ")
            and not self._data
            and self._lines.empty
            and b"\r" not in chunk
        ):
            # Nearly every piece of network is one or more whole events of one line each
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
                        f"one event of the stream is longer than the limit of {self._limit:,} bytes",
                        code="TOO_LARGE",
                    )
                data.append(value)
            elif line[0] == 58:  # ":" a comment, used as a sign of life
                continue
            elif line.partition(b":")[0] not in _FIELDS:
                self.stray = (self.stray + line)[:4096]
        return events

    def finish(self) -> list[bytes]:
        """The end of the bytes. An event whose empty line never came is given out as well: servers do forget it."""
        last = self._lines.finish()
        return self.feed(last + b"\n\n") if last else self.feed(b"\n")


_BOM = b"\xef\xbb\xbf"  # may stand before the first line (HTML standard); before another one nobody has a use for it
_FIELDS = frozenset((b"event", b"id", b"retry", b"data"))


class JSONLinesDecoder:
    """Newline-delimited JSON: each line that is not blank."""

    __slots__ = ("_lines",)

    def __init__(self, limit: int) -> None:
        self._lines = LineDecoder(limit)

    def feed(self, chunk: bytes) -> list[bytes]:
        return [line for line in self._lines.feed(chunk) if line and not line.isspace()]

    def finish(self) -> list[bytes]:
        last = self._lines.finish()
        return [last] if last.strip() else []
