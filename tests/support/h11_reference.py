"""Reference for `Chunks`: how h11 decodes a response, alone and together with `Chunks`."""

from __future__ import annotations

from collections.abc import Iterable

import h11

from majordomo.transport.chunks import BadChunkError, Chunks

Outcome = tuple[bytes, str]
"""The body, and how it ended: "open", "error", or "whole" with the trailers."""


class H11Client:
    """The client side of one exchange in h11."""

    def __init__(self, method: str = "GET") -> None:
        self.connection = h11.Connection(h11.CLIENT)
        self.connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        self.connection.send(h11.EndOfMessage())
        self.body = b""
        self.has_response = False
        self.end = "open"
        self.bytes_received = 0
        """Number of bytes of the response that it received."""

    def receive(self, data: bytes) -> bool:
        """Receive `data`; return whether the response continues after it."""
        self.bytes_received += len(data)
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
                    self.has_response = True
                elif isinstance(event, h11.Data):
                    self.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.end = f"whole {event.headers!r}"
        except h11.RemoteProtocolError:
            self.end = "error"
        return self.end == "open"

    @property
    def outcome(self) -> Outcome:
        return self.body, self.end


def decode_with_h11(slices: Iterable[bytes], method: str = "GET") -> Outcome:
    """Return how h11 alone decodes a response."""
    client = H11Client(method)
    for data in [*slices, b""]:
        if not client.receive(data):
            break
    return client.outcome


def decode_with_chunks(slices: Iterable[bytes], method: str = "GET") -> tuple[Outcome, int]:
    """Return how `Chunks` and h11 decode a response, and how many bytes of it h11 received."""
    client, chunks = H11Client(method), Chunks()
    remaining = iter(slices)
    try:
        while (
            client.receive(data_for_h11 := chunks.release() or chunks.feed(next(remaining, b"")))
            and data_for_h11
        ):
            data = b""
            while client.has_response and chunks.plain:
                if content := chunks.take(data):
                    client.body += content
                    data = b""
                elif chunks.plain and not (data := next(remaining, b"")):
                    break
    except BadChunkError:
        client.end = "error"
    return client.outcome, client.bytes_received
