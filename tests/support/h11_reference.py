"""What HTTP's protocol library makes of an answer's bytes: of all of them, and of what `Chunks` shows it."""

from __future__ import annotations

from collections.abc import Iterable

import h11

from majordomo.transport.chunks import BadChunkError, Chunks

Heard = tuple[bytes, str]  # the body, and how it ended


class Judge:
    """The library's side of one exchange. Its end is "open", "error", or "whole" with the trailers."""

    def __init__(self, method: str = "GET") -> None:
        self.connection = h11.Connection(h11.CLIENT)
        self.connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        self.connection.send(h11.EndOfMessage())
        self.body = b""
        self.answered = False
        self.end = "open"
        self.shown = 0
        """Bytes of the answer that it saw."""

    def see(self, data: bytes) -> bool:
        """Whether the answer goes on behind `data`."""
        self.shown += len(data)
        try:
            self.connection.receive_data(data)
            while self.end == "open":
                event = self.connection.next_event()
                if (
                    event is h11.NEED_DATA
                    or event is h11.PAUSED
                    or isinstance(event, h11.ConnectionClosed)
                ):
                    break
                if isinstance(event, h11.Response):
                    self.answered = True
                elif isinstance(event, h11.Data):
                    self.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.end = f"whole {event.headers!r}"
        except h11.RemoteProtocolError:
            self.end = "error"
        return self.end == "open"

    @property
    def heard(self) -> Heard:
        return self.body, self.end


def alone(pieces: Iterable[bytes], method: str = "GET") -> Heard:
    judge = Judge(method)
    for piece in [*pieces, b""]:
        if not judge.see(piece):
            break
    return judge.heard


def past(pieces: Iterable[bytes], method: str = "GET") -> tuple[Heard, int]:
    """The same with the chunks read past it, and how much of the answer it saw."""
    judge, chunks = Judge(method), Chunks()
    rest = iter(pieces)
    try:
        while judge.see(shown := chunks.release() or chunks.feed(next(rest, b""))) and shown:
            data = b""
            while judge.answered and chunks.plain:
                if text := chunks.take(data):
                    judge.body += text
                    data = b""
                elif chunks.plain and not (data := next(rest, b"")):
                    break
    except BadChunkError:
        judge.end = "error"
    return judge.heard, judge.shown
